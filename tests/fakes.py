"""A fake teacher and a byte tokenizer, so that unit tests take milliseconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softtargets.capture import BuildConfig, Corpus, LocalTeacher, TopK, Windowing, build
from softtargets.capture.documents import Conversation
from softtargets.capture.teacher_tokenizer import Tokenizer
from softtargets.store import Store
from softtargets.targets import HeadWeights
from softtargets.tokenizer import Vocabulary

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
    end_of_text_id = 0

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def encode_conversation(
        self, conversation: Conversation, where: str
    ) -> tuple[list[int], list[bool] | None]:
        """Every message on a line after its role; the assistant's lines are targets."""
        ids: list[int] = []
        is_target: list[bool] = []
        for message in conversation.messages:
            role, content = f"{message['role']}: ".encode(), f"{message['content']}\n".encode()
            ids += [*role, *content]
            is_target += [False] * len(role) + [message["role"] == "assistant"] * len(content)
        return ids, None if conversation.train_on == "all" else is_target

    def describe(self) -> dict[str, Any]:
        return {"sha256": "b" * 64, "vocab_size": self.vocab_size}

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(
            ids_N=np.arange(256, dtype=np.int32),
            tokens=tuple(f"<0x{byte:02X}>" for byte in range(256)),
            utf8=tuple(bytes([byte]) for byte in range(256)),
        )

    def describe_chat(self) -> dict[str, Any]:
        return {"chat_template_sha256": "d" * 64}


def byte_tokenizer() -> Any:
    """Return a tokenizer of transformers with a token for each byte, and nothing else."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


class FakeTeacher(LocalTeacher):
    """A causal function with random weights: the mean of what was read so far, times a head."""

    name = "fake"
    device = torch.device("cpu")
    tokenizer: Tokenizer = ByteTokenizer()

    def __init__(self, vocab_size: int = 300, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.vocab_size = vocab_size
        self.seed = seed
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

    def for_worker(self, worker: int) -> FakeTeacher:
        return self

    def load(self) -> None:
        self.num_loads += 1

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        read_BLD = self._embedding_VD[input_ids_BL]
        counts_L1 = torch.arange(1, input_ids_BL.shape[1] + 1)[:, None]
        return read_BLD.cumsum(dim=1) / counts_L1.sqrt()

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        return hidden_ND @ self._head_DV

    def output_head(self) -> HeadWeights:
        weight_VD = np.ascontiguousarray(self._head_DV.T.numpy())
        return HeadWeights(weight_VD=weight_VD, bias_V=None, dtype="float32")


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
