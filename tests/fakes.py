"""A fake teacher and a byte tokenizer, so that unit tests take milliseconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softtargets.capture import BuildConfig, Corpus, TopK, Windowing, build
from softtargets.packing import pack
from softtargets.store import Store
from softtargets.targets import SoftTargets
from softtargets.window import TokenWindow, Window, hash_window

TEXTS = (
    "Alice was beginning to get very tired of sitting by her sister on the bank.",
    "So she was considering in her own mind, as well as she could, whether to get up.",
    "There was nothing so very remarkable in that; nor did Alice think it so very much out.",
    "In another moment down went Alice after it, never once considering how to get out again.",
    "Either the well was very deep, or she fell very slowly, for she had plenty of time.",
)


class ByteTokenizer:
    """A token for each byte."""

    vocab_size = 256

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def describe(self) -> dict[str, Any]:
        return {"sha256": "b" * 64, "vocab_size": self.vocab_size}


class FakeTeacher:
    """A causal function with random weights: the mean of what was read so far, times a head."""

    name = "fake"
    device = torch.device("cpu")

    def __init__(self, vocab_size: int = 300, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.vocab_size = vocab_size
        self.seed = seed
        self.tokenizer = ByteTokenizer()
        self._embedding_VD = torch.randn((vocab_size, 16), generator=generator)
        self._head_DV = 2 * torch.randn((16, vocab_size), generator=generator)
        self.num_loads = 0

    def describe(self) -> dict[str, Any]:
        return {
            "architecture": "Fake",
            "weights_sha256": f"{self.seed:064x}",
            "config_sha256": "c" * 64,
            "revision": None,
            "dtype": "float32",
            "attention": "none",
        }

    def load(self) -> None:
        self.num_loads += 1

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        read_BLD = self._embedding_VD[input_ids_BL]
        counts_L1 = torch.arange(1, input_ids_BL.shape[1] + 1)[:, None]
        return read_BLD.cumsum(dim=1) / counts_L1.sqrt()

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        return hidden_ND @ self._head_DV


def write_corpus(path: Path, texts: Sequence[str] = TEXTS) -> Path:
    """Write texts as JSON lines."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def build_config(directory: Path, **changes: Any) -> BuildConfig:
    """Return a small build of `TEXTS` into `directory / "store"`; several units and row groups."""
    if "corpus" not in changes:
        changes["corpus"] = Corpus(paths=(write_corpus(directory / "corpus.jsonl"),))
    defaults: dict[str, Any] = {
        "output": directory / "store",
        "windowing": Windowing(sequence_length=16),
        "selection": TopK(k=8),
        "temperatures": (1.0, 2.0),
        "unit_tokens": 100,
        "batch_tokens": 64,
    }
    return BuildConfig(**(defaults | changes))


def build_store(directory: Path, **changes: Any) -> Store:
    """Build a small store with the fake teacher."""
    return build(build_config(directory, **changes), FakeTeacher()).store


def shard_bytes(store: Path) -> dict[str, bytes]:
    """Return the content of every file among the shards by name."""
    return {path.name: path.read_bytes() for path in sorted((store / "shards").glob("*"))}


def select_in_numpy(
    logits_TV: np.ndarray, labels_T: np.ndarray, k: int, temperatures: tuple[float, ...]
) -> SoftTargets:
    """Return top-k targets by sorting everything in float64: the reference of `TopK.select`."""
    wide_TV = logits_TV.astype(np.float64)
    ids_TV = np.argsort(-wide_TV, axis=1, kind="stable")
    ids_TK = ids_TV[:, :k]
    tails = []
    for temperature in temperatures:
        weights_TV = np.exp((wide_TV - wide_TV.max(axis=1, keepdims=True)) / temperature)
        tail_T = np.take_along_axis(weights_TV, ids_TV[:, k:], axis=1).sum(axis=1)
        tails.append(tail_T / weights_TV.sum(axis=1))
    label_logit_T = np.take_along_axis(logits_TV, labels_T[:, None], axis=1)[:, 0]
    logits_TK = np.take_along_axis(logits_TV, ids_TK, axis=1)
    return SoftTargets(
        ids_TK=ids_TK.astype(np.int32),
        logits_TK=logits_TK,
        num_entries_T=np.isfinite(logits_TK).sum(axis=1).astype(np.int32),
        tail_mass_TG=np.stack(tails, axis=1).astype(np.float32),
        label_logit_T=label_logit_T,
        label_rank_T=(logits_TV > label_logit_T[:, None]).sum(axis=1).astype(np.int32),
        temperatures=temperatures,
    )


def make_window(
    rng: np.random.Generator,
    *,
    num_tokens: int = 6,
    vocab_size: int = 300,
    k: int = 8,
    step: float | None = 1 / 16,
    temperatures: tuple[float, ...] = (1.0, 2.0),
    scale: float = 3.0,
) -> tuple[Window, SoftTargets]:
    """Return a window with random targets, and the targets as they were before packing."""
    input_ids_L = rng.integers(0, vocab_size, num_tokens).astype(np.int32)
    logits_TV = (scale * rng.standard_normal((num_tokens - 1, vocab_size))).astype(np.float32)
    targets = select_in_numpy(logits_TV, input_ids_L[1:], k, temperatures)
    mask_T = np.ones(num_tokens - 1, np.bool_)
    segment_lengths_S = np.array([num_tokens], np.int32)
    tokens = TokenWindow(
        window_id=hash_window(input_ids_L, segment_lengths_S, mask_T),
        input_ids_L=input_ids_L,
        segment_lengths_S=segment_lengths_S,
        mask_T=mask_T,
        document_ids=("0",),
        offset=0,
        source="random",
    )
    packed = pack(targets, vocab_size=vocab_size, step=step)
    return Window.of(tokens, packed), targets
