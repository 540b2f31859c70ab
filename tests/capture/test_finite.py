"""Logits that are no numbers are refused, whatever is kept of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from softtargets.capture import (
    Corpus,
    Draws,
    Hybrid,
    Pins,
    Sampled,
    TopK,
    TopP,
    Windowing,
    build,
)
from softtargets.capture.documents import Document
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Selection
from softtargets.capture.keep.selector import select
from softtargets.capture.score import Scorer
from softtargets.errors import StoreError, TeacherError
from softtargets.fidelity.sample import TeacherSample
from tests.capture.test_score import token_windows
from tests.fakes import ByteTokenizer, FakeTeacher, build_config, write_corpus
from tests.windows import topk_schema

VOCAB_SIZE = 1000
GRIDS = ((1.0,), (1.0, 2.0), (0.5, 3.0))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def selections(grid: tuple[float, ...]) -> Mapping[str, Selection]:
    """Return every selection, at a temperature of the grid."""
    at = grid[0]
    return {
        "topk": TopK(k=8),
        "all": TopK(k=VOCAB_SIZE),
        "topk, pinned": TopK(k=8, pins=Pins(ids=(3, 999), label=True)),
        "topp": TopP(k=8, temperature=at),
        "topp, pinned": TopP(k=8, temperature=at, pins=Pins(ids=(0,))),
        "sampled": Sampled(draws=Draws(num=4, temperature=at)),
        "hybrid": Hybrid(k=8, draws=Draws(num=4, temperature=at)),
        "hybrid, half kept": Hybrid(k=500, draws=Draws(num=4, temperature=at)),
        "hybrid, pinned": Hybrid(k=8, draws=Draws(num=4, temperature=at), pins=Pins(label=True)),
    }


def _nan_in_the_tail(logits_V: torch.Tensor) -> None:
    logits_V[logits_V.argmin()] = torch.nan


def _nan_at_the_top(logits_V: torch.Tensor) -> None:
    logits_V[logits_V.argmax()] = torch.nan


def _negative_nan(logits_V: torch.Tensor) -> None:
    logits_V[700] = -torch.tensor(torch.nan)


def _infinite(logits_V: torch.Tensor) -> None:
    logits_V[5] = torch.inf


def _all_infinite(logits_V: torch.Tensor) -> None:
    logits_V.fill_(torch.inf)


def _nothing(logits_V: torch.Tensor) -> None:
    logits_V.fill_(-torch.inf)


def _all_nan(logits_V: torch.Tensor) -> None:
    logits_V.fill_(torch.nan)


DAMAGES = (
    _nan_in_the_tail,
    _nan_at_the_top,
    _negative_nan,
    _infinite,
    _all_infinite,
    _nothing,
    _all_nan,
)


def take(
    logits_NV: torch.Tensor, selection: Selection, grid: tuple[float, ...], label_logits: bool
) -> Selected:
    uniforms_ND = torch.rand((len(logits_NV), 4), dtype=torch.float64)
    labels_N = torch.arange(len(logits_NV))
    return select(
        logits_NV.float(), labels_N, selection, grid, uniforms_ND=uniforms_ND,
        label_logits=label_logits,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", selections((1.0,)))
def test_every_selection_refuses_them(
    name: str, grid: tuple[float, ...], damage: Callable[[torch.Tensor], None]
) -> None:
    selection = selections(grid)[name]
    for dtype, label_logits in itertools.product(DTYPES, (True, False)):
        logits_NV = (3 * torch.randn((6, VOCAB_SIZE))).to(dtype)
        # Single logits of -inf are what a teacher rules out.
        logits_NV[:, 400:440] = -torch.inf
        take(logits_NV, selection, grid, label_logits).check()
        for row in (1, 4):
            damage(logits_NV[row])
        selected = take(logits_NV, selection, grid, label_logits)
        with pytest.raises(TeacherError, match=r"^logits of \[1, 4\]: .* at 2 of 6 positions"):
            selected.check(str)


class Damaged(FakeTeacher):
    """A teacher whose logits are damaged wherever it has just read one letter."""

    def __init__(self, damage: Callable[[torch.Tensor], None], letter: str, dtype: torch.dtype):
        super().__init__(vocab_size=VOCAB_SIZE)
        self.damage = damage
        self.letter = letter
        self.dtype = dtype

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        hidden_BLD = super().hidden_states(input_ids_BL)
        # One more number says where.
        is_there_BL1 = (input_ids_BL == ord(self.letter))[..., None].float()
        return torch.cat([hidden_BLD, is_there_BL1], dim=2)

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        logits_NV = super().logits(hidden_ND[:, :-1]).to(self.dtype)
        for row in hidden_ND[:, -1].nonzero()[:, 0].tolist():
            self.damage(logits_NV[row])
        return logits_NV


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["topk", "topp", "sampled", "hybrid", "hybrid, pinned"])
def test_a_build_names_the_documents_and_stores_nothing_of_them(
    name: str, damage: Callable[[torch.Tensor], None], dtype: torch.dtype, tmp_path: Path
) -> None:
    """The last of four documents, each of which is a unit, is damaged at some positions."""
    texts = tuple(f"{letter}, a line to be re{letter}." for letter in "wxyz")
    corpus = Corpus(paths=(write_corpus(tmp_path / "corpus.jsonl", texts),))
    config = build_config(
        tmp_path,
        corpus=corpus,
        selection=selections((1.0,))[name],
        temperatures=(1.0,),
        windowing=Windowing(sequence_length=64),
        unit_tokens=10,
    )
    with pytest.raises(StoreError, match=r"units 3\)\. .*logits of document corpus\.jsonl:3: "):
        build(config, Damaged(damage, "z", dtype))
    stored = [path.name for path in (tmp_path / "store").glob("**/shards/*.parquet")]
    assert sorted(stored) == [f"unit-{unit:06d}.parquet" for unit in range(3)]
    # Once the teacher is mended, the same command goes on.
    assert len(build(config, Damaged(lambda _: None, "z", dtype)).store) == 4


@pytest.mark.parametrize("damage", DAMAGES)
def test_in_a_packed_window_the_damaged_document_is_named(
    damage: Callable[[torch.Tensor], None],
) -> None:
    documents = [
        Document(content=text, document_id=text[0], source="s") for text in ("abc", "xyz", "pqr")
    ]
    packed = Windowing(sequence_length=64, kind="pack").windows(
        documents, ByteTokenizer(), Counter()
    )
    schema = topk_schema(lossless=True)
    teacher = Damaged(damage, "y", torch.float32)
    scorer = Scorer(teacher, TopK(k=8), schema, 100)
    with pytest.raises(TeacherError, match=r"^logits of document s:x: "):
        list(scorer.score(list(packed)))


def test_fidelity_refuses_them_too() -> None:
    teacher = Damaged(_all_nan, "e", torch.float32)
    sample = TeacherSample.read(teacher, token_windows())
    with pytest.raises(TeacherError, match="NaN, infinity"):
        sample.capture({"hybrid": Hybrid(k=8)})
