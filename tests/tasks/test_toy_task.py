"""A task that the package knows nothing of: texts with a class, from records to a trained student.

Each record is a text and the name of its class. A window is the text, and has one target, which is
about all of it: the logits of every class. All of the task is in this file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.nn import functional

from softtargets import (
    Batch,
    SoftTargetDataset,
    collate,
    fused_distillation_loss,
    repack,
    student_inputs,
    verify,
)
from softtargets.capture import (
    BuildConfig,
    BuildResult,
    CaptureTask,
    Corpus,
    Teacher,
    Windowing,
    build,
)
from softtargets.capture.documents import Document, OnInvalid, Records
from softtargets.capture.identity import describe_build
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Keep
from softtargets.capture.records import RecordFields
from softtargets.capture.repeats import each_once
from softtargets.capture.segments import Segment, check_ids
from softtargets.capture.teacher_tokenizer import Tokenizer
from softtargets.capture.windows import OnUnused
from softtargets.errors import CorpusError, InputError, StoreError, TeacherError
from softtargets.runs import TrainSettings, prepare
from softtargets.store import Store
from softtargets.store.derivation import merge_stores
from softtargets.store.fingerprint import fingerprint_of
from softtargets.targets import WINDOW, HeadWeights, TargetSchema
from softtargets.task_registry import REGISTERED
from softtargets.tasks import Task, find_task, register_task, task_of
from softtargets.train import Objective, StudentOutputs, StudentWithObjective
from softtargets.train.student_task import StudentTask
from softtargets.window import TokenWindow, hash_window
from tests.fakes import ByteTokenizer
from tests.tasks.conformance import TaskTests

NAMES = ("question", "answer", "remark")
TEXTS = tuple(f"{word} {number} of {NAMES[number % 3]}s" for number, word in enumerate("abcdefgh"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled(Document):
    """A text, and the number of its class."""

    label: int


@dataclass(frozen=True, slots=True)
class LabelledRecords(Records):
    """Records that name the class of their text."""

    corpus: RecordFields
    label_field: str

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.corpus.fields, self.label_field)

    def parse_record(self, record: Any, source: str, where: str, number: int) -> Document:
        document = self.corpus.parse_record(record, source, where, number)
        name = record.get(self.label_field)
        if name not in NAMES:
            raise CorpusError(
                where, expected=f"one of {NAMES}", found=f"{name!r}", next_step="Mend the record."
            )
        own = {one.name: getattr(document, one.name) for one in fields(Document)}
        return Labelled(**own, label=NAMES.index(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextClasses(Task, CaptureTask, StudentTask):
    """The task; `label_field` is an option of its own."""

    name: ClassVar[str] = "text-classes"
    label_field: str = "class"

    def owns(self, schema: TargetSchema) -> bool:
        return schema.convention == WINDOW and schema.num_classes > 0

    def capture(self) -> TextClasses:
        return self

    def student(self) -> TextClasses:
        return self

    def describe(self, config: BuildConfig) -> dict[str, Any]:
        return {"task": {"name": self.name, "label_field": self.label_field}}

    def schema(
        self, config: BuildConfig, teacher: Teacher, head: HeadWeights | None
    ) -> TargetSchema:
        return TargetSchema(
            vocab_size=teacher.vocab_size,
            tokenizer_vocab_size=teacher.tokenizer.vocab_size,
            temperatures=(),
            predicts=WINDOW.name,
            num_classes=len(NAMES),
            label_ids=True,
        )

    def records(self, corpus: RecordFields) -> Records:
        return LabelledRecords(corpus, self.label_field)

    def windows(
        self,
        documents: Iterable[Document],
        config: BuildConfig,
        tokenizer: Tokenizer,
        counts: Counter[str],
        on_invalid: OnInvalid,
        on_unused: OnUnused,
    ) -> Iterator[TokenWindow]:
        return each_once(self._windows(documents, tokenizer, counts), counts)

    def _windows(
        self, documents: Iterable[Document], tokenizer: Tokenizer, counts: Counter[str]
    ) -> Iterator[TokenWindow]:
        for document in documents:
            assert isinstance(document, Labelled)
            assert isinstance(document.content, str)
            (ids,) = tokenizer.encode_batch([document.content])
            counts["documents"] += 1
            arrays: dict[str, Any] = {
                "input_ids_L": np.array(ids, np.int32),
                "segment_lengths_S": np.array([len(ids)], np.int32),
                "mask_T": np.array([True]),
                "label_ids_T": np.array([document.label], np.int32),
            }
            yield TokenWindow(
                window_id=hash_window(**arrays),
                **arrays,
                document_ids=(document.document_id,),
                offset=0,
                source=document.source,
            )

    def segments(self, *windows: TokenWindow) -> list[Segment]:
        return [
            Segment(
                window=window,
                document_id=window.document_ids[0],
                start=0,
                input_ids_L=window.input_ids_L,
                positions_T=np.array([len(window) - 1], np.int32),
                label_ids_T=window.labels_T,
            )
            for window in windows
        ]

    def inputs(self, batch: Batch) -> dict[str, Any]:
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    def objective(self) -> Objective:
        return ClassObjective()


class ClassObjective(Objective):
    """The KL of class logits, at temperature 1."""

    def loss(
        self, outputs: StudentOutputs, batch: Batch, num_targets: float | torch.Tensor | None
    ) -> torch.Tensor:
        assert outputs.logits is not None
        is_target_B = batch["target_mask"]
        log_s_BC = outputs.logits.log_softmax(dim=1)[is_target_B]
        log_t_BC = batch["class_logits"].log_softmax(dim=1)[is_target_B]
        kl: torch.Tensor = functional.kl_div(log_s_BC, log_t_BC, log_target=True, reduction="sum")
        return kl / (is_target_B.sum() if num_targets is None else num_targets)


class CountingTeacher(Teacher):
    """It goes by how often each byte occurs up to a target, times random weights."""

    name = "counting"
    vocab_size = 256
    device = torch.device("cpu")
    tokenizer: Tokenizer = ByteTokenizer()

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight_VC = torch.randn((256, len(NAMES)), generator=generator)

    def describe(self) -> dict[str, Any]:
        return {
            "architecture": "Counting",
            "weights_sha256": "a" * 64,
            "config_sha256": "c" * 64,
            "revision": None,
            "dtype": "float32",
            "attention": "none",
        }

    def for_worker(self, worker: int) -> CountingTeacher:
        return self

    def check(self, keep: Keep) -> None:
        raise AssertionError("there is nothing to select from")

    def load(self) -> None:
        pass

    def logits_C(self, input_ids_L: torch.Tensor) -> torch.Tensor:
        return self.weight_VC[input_ids_L].mean(dim=0)

    def capture(self, segments: Sequence[Segment], keep: Keep) -> Selected:
        check_ids(segments, self.vocab_size, self.name)
        rows = []
        for segment in segments:
            (position,) = segment.positions_T.tolist()
            rows.append(self.logits_C(torch.from_numpy(segment.input_ids_L[: position + 1])))
        return Selected.of_classes(torch.stack(rows))

    def output_head(self) -> HeadWeights:
        raise AssertionError("nothing of it is stored")


class MeanStudent(torch.nn.Module):
    """The teacher's own architecture, with weights to be learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_VC = torch.nn.Parameter(torch.zeros((256, len(NAMES))))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        mask_BL1 = attention_mask[..., None]
        summed_BC = (self.weight_VC[input_ids] * mask_BL1).sum(dim=1)
        return SimpleNamespace(logits=summed_BC / mask_BL1.sum(dim=1))


class TestTextClasses(TaskTests):
    def task(self) -> Task:
        return TextClasses()

    def config(self, directory: Path) -> BuildConfig:
        return toy_config(directory)

    def teacher(self) -> Teacher:
        return CountingTeacher()

    def student(self, teacher: Teacher) -> torch.nn.Module:
        assert isinstance(teacher, CountingTeacher)
        student = MeanStudent()
        student.weight_VC.data.copy_(teacher.weight_VC)
        return student


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    register_task(TextClasses())
    yield
    del REGISTERED[TextClasses.name]


def toy_config(directory: Path, **changes: Any) -> BuildConfig:
    path = directory / "corpus.jsonl"
    records = [{"text": text, "kind": NAMES[place % 3]} for place, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    defaults: dict[str, Any] = {
        "corpus": Corpus(paths=(path,)),
        "output": directory / "store",
        "task": TextClasses(label_field="kind"),
        "windowing": Windowing(kind="truncate"),
        "unit_tokens": 60,
        "batch_tokens": 64,
    }
    return BuildConfig(**(defaults | changes))


def build_toy(directory: Path, **changes: Any) -> BuildResult:
    return build(toy_config(directory, **changes), CountingTeacher())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return build_toy(tmp_path).store


def test_it_is_built_and_verified(store: Store) -> None:
    assert verify(store.root).is_sound
    assert store.manifest.identity["task"] == {"name": "text-classes", "label_field": "kind"}
    assert "selection" not in store.manifest.identity
    assert len(store.manifest.shards) > 1
    assert [bytes(window.input_ids_L.tolist()).decode() for window in store] == list(TEXTS)
    teacher = CountingTeacher()
    for place, window in enumerate(store):
        assert window.labels_T.tolist() == [place % 3]
        expected = teacher.logits_C(torch.from_numpy(window.input_ids_L.copy()))
        assert window.targets.class_logits_TC is not None
        np.testing.assert_array_equal(window.targets.class_logits_TC, expected.numpy()[None])


def test_it_is_found_by_what_its_stores_hold(store: Store, tmp_path: Path) -> None:
    found = task_of(store.targets)
    assert found is find_task("text-classes")
    assert isinstance(found.student(), TextClasses)
    by_name = toy_config(tmp_path, task="text-classes").capture_task
    assert by_name == TextClasses()
    del REGISTERED[TextClasses.name]
    try:
        assert task_of(store.targets).name == "classification"
        with pytest.raises(InputError, match=r"task: expected one of .*; found text-classes"):
            find_task("text-classes")
    finally:
        register_task(TextClasses())


def test_options_of_its_own_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    found, other = (
        describe_build(one, CountingTeacher())
        for one in (config, replace(config, task=TextClasses(label_field="text")))
    )
    assert found["task"] != other["task"]
    assert fingerprint_of(found) != fingerprint_of(other)
    with pytest.raises(CorpusError, match="line 1: expected one of"):
        build_toy(tmp_path, task=TextClasses(), output=tmp_path / "other")


@pytest.mark.slow
def test_workers_build_the_same_store(store: Store, tmp_path: Path) -> None:
    other = build_toy(tmp_path, workers=2, output=tmp_path / "other").store
    assert [one.sha256 for one in other.manifest.shards] == [
        one.sha256 for one in store.manifest.shards
    ]


@pytest.mark.parametrize("as_rows", [True, False])
def test_batches_have_a_target_for_each_window(store: Store, as_rows: bool) -> None:
    if as_rows:
        [batch] = SoftTargetDataset(store, batch_size=len(store))
    else:
        batch = collate(list(store))
    batch.check()
    assert batch["class_logits"].shape == (len(TEXTS), len(NAMES))
    assert batch["labels"].tolist() == [place % 3 for place in range(len(TEXTS))]
    assert batch["target_mask"].all()
    assert torch.equal(batch.target_labels(), batch["labels"])
    assert list(student_inputs(batch)) == ["input_ids", "attention_mask"]
    with pytest.raises(InputError, match="Batch, class_logits: expected 8 rows"):
        type(batch)({**batch, "class_logits": batch["class_logits"][:-1]}).check()


def test_rows_that_fill_a_batch_up_have_no_label(store: Store) -> None:
    dataset = SoftTargetDataset(store, batch_size=5, world_size=2, rank=1)
    batches = list(dataset)
    for batch in batches:
        is_own_B = torch.tensor([bool(one) for one in batch["window_id"]])
        assert torch.equal(batch["target_mask"], is_own_B)
        assert torch.equal(batch["labels"] == -100, ~is_own_B)
    assert sum(batch["num_targets"] for batch in batches) == 4


@pytest.mark.slow
def test_a_student_learns_from_it(store: Store) -> None:
    student = MeanStudent()
    trained = StudentWithObjective(student, task_of(store.targets).student().objective())
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=4)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.5)
    losses = []
    for epoch in range(40):
        dataset.set_epoch(epoch)
        for batch in dataset:
            loss = trained(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[0] > 1e-3
    assert losses[-1] < losses[0] / 20


def test_the_command_says_that_it_does_not_train_for_it(store: Store, tmp_path: Path) -> None:
    settings = TrainSettings(store=store.root, student="any", output=tmp_path / "run")
    with pytest.raises(InputError, match="task TextClasses: expected one that softtargets train"):
        prepare(settings)
    assert not (tmp_path / "run").exists()


def test_what_is_about_tokens_refuses_it(store: Store) -> None:
    batch = collate(list(store))
    with pytest.raises(InputError, match="repack: expected targets that are about tokens"):
        repack(batch, 64)
    logits = torch.zeros((*batch["input_ids"].shape, 256))
    with pytest.raises(InputError, match="expected a batch with targets of a vocabulary"):
        fused_distillation_loss(logits, torch.zeros(256, 256), batch)


def test_logits_that_are_no_numbers_are_refused_with_the_document(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    teacher.weight_VC[ord("c"), 1] = torch.nan
    texts = [text for text in TEXTS if "c" in text]
    assert 0 < len(texts) < len(TEXTS)
    with pytest.raises(StoreError, match=r"logits of document.*corpus.jsonl:2"):
        build(toy_config(tmp_path), teacher)
    with pytest.raises(TeacherError, match="at 1 of 2 positions"):
        Selected.of_classes(torch.tensor([[0.0, 1.0], [-torch.inf, -torch.inf]])).check()
    Selected.of_classes(torch.tensor([[-torch.inf, 1.0]])).check()


def test_stores_of_it_are_merged(store: Store, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    config = toy_config(tmp_path / "b")
    path = Path(config.corpus.files[0]) if isinstance(config.corpus, Corpus) else tmp_path
    path.write_text(path.read_text().replace(" of ", " or "))
    other = build(config, CountingTeacher()).store
    merged = merge_stores([store.root, other.root], tmp_path / "merged")
    assert len(merged) == 2 * len(TEXTS)
    assert verify(merged.root).is_sound
