"""Encoder-decoders of transformers, whose body is their decoder.

Shapes: B pairs in a batch, M tokens of a source, L of a target, D width of the hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from softtargets.capture.segments import Segment, check_ids
from softtargets.capture.teachers.model_files import TeacherConfig
from softtargets.capture.teachers.taken_apart import TakenApartTeacher
from softtargets.errors import InputError, TeacherError
from softtargets.targets import Int32
from softtargets.tasks.seq2seq.pair_tokenizer import PairTokenizer

_LEAK = 0.1
"""Most that what a token must not see may move its hidden state, as a share of how its own does."""


class Seq2SeqTeacher(TakenApartTeacher):
    """An encoder-decoder of transformers.

    Raises:
        TeacherError: there is no such model, it cannot be loaded, or it does not say what its
            decoder begins with.
    """

    auto_class = "AutoModelForSeq2SeqLM"
    kind = "an encoder-decoder of text"
    body_name = "decoder"
    options: ClassVar[dict[str, Any]] = {"use_cache": False}

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__(config)
        own = self._model_config
        if not own.is_encoder_decoder:
            raise self._unlike("an encoder-decoder", "a model with one stack of layers")
        if getattr(own, "share_encoder_decoder_embeddings", True) is False:
            raise self._unlike("one vocabulary of source and target", "two")
        self.longest_sequence = self.num_positions
        self.start_id = self._known_id("decoder_start_token_id")
        self.pad_token_id = self._known_id("pad_token_id")

    @cached_property
    def tokenizer(self) -> PairTokenizer:
        """Return the model's own tokenizer, which knows what targets begin with."""
        return PairTokenizer(
            self._directory,
            start_id=self.start_id,
            num_positions=self.longest_sequence,
            trust_remote_code=self.config.trust_remote_code,
        )

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states [B, L, D] of targets that are their own sources."""
        return self._decoded(input_ids_BL, torch.ones_like(input_ids_BL), input_ids_BL)

    def _known_id(self, name: str) -> int:
        found = getattr(self._model_config, name, None)
        if not isinstance(found, int) or not 0 <= found < self.vocab_size:
            raise self._unlike(f"a {name} from 0 to {self.vocab_size - 1}", f"{found}")
        return found

    def _unlike(self, expected: str, found: str) -> TeacherError:
        next_step = "Correct the model's config.json, or pass another model."
        return TeacherError(self.name, expected=expected, found=found, next_step=next_step)

    @property
    def _body(self) -> torch.nn.Module:
        decoder: torch.nn.Module = self._model.get_decoder()
        return decoder

    def _inputs(self, input_ids_BL: torch.Tensor) -> dict[str, Any]:
        return {"input_ids": input_ids_BL, "decoder_input_ids": input_ids_BL}

    def _placeholders(self, hidden_1ND: torch.Tensor) -> dict[str, Any]:
        # What an encoder returned is handed in too, so that it does not run.
        ids_1N = torch.zeros(hidden_1ND.shape[:2], dtype=torch.long, device=self.device)
        return {"encoder_outputs": (hidden_1ND[:, :1],), "decoder_input_ids": ids_1N}

    def _read_batch(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Return the decoder's last hidden states [B, L, D] of segments, given their sources."""
        sources = [replace(one, input_ids_L=source_of(one)) for one in segments]
        # On a GPU an id without an embedding ends the whole process.
        check_ids([*segments, *sources], self.vocab_size, self.name)
        source_BM, mask_BM = self.padded([one.input_ids_L for one in sources])
        target_BL, _ = self.padded([one.input_ids_L for one in segments])
        return self._decoded(source_BM, mask_BM, target_BL)

    def padded(self, texts: Sequence[Int32]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids padded on the right, and which are tokens."""
        shape = len(texts), self._padded_length(max(map(len, texts)))
        ids, is_token = np.full(shape, self.pad_token_id, np.int64), np.zeros(shape, np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            is_token[row, : len(text)] = 1
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(is_token).to(self.device)

    @torch.inference_mode()
    def _decoded(
        self, source_BM: torch.Tensor, mask_BM: torch.Tensor, target_BL: torch.Tensor
    ) -> torch.Tensor:
        """Return the decoder's last hidden states [B, L, D].

        Targets are padded on the right and have no mask: a token sees nothing to its right.
        """
        encoder: Any = self._model.get_encoder()
        encoded_BMD = encoder(input_ids=source_BM, attention_mask=mask_BM).last_hidden_state
        return self._last_hidden(
            input_ids=target_BL, encoder_hidden_states=encoded_BMD, encoder_attention_mask=mask_BM
        )

    @torch.inference_mode()
    def _check_reading(self, input_ids_1L: torch.Tensor) -> None:
        """Check that no token of a target sees what follows it, or what pads its source."""
        ids_1L = input_ids_1L[:, : self.longest_sequence]
        ones_1L = torch.ones_like(ids_1L)
        own_1LD = self._decoded(ids_1L, ones_1L, ids_1L)
        changed_1L = ids_1L.clone()
        changed_1L[:, -1] = 0
        later_L = (self._decoded(ids_1L, ones_1L, changed_1L) - own_1LD).abs().mean(dim=-1)[0]
        other = (self._decoded(changed_1L, ones_1L, ids_1L) - own_1LD).abs().mean()
        padded_1P = torch.cat([ids_1L, ids_1L[:, :1]], dim=1)
        mask_1P = torch.cat([ones_1L, torch.zeros_like(ids_1L[:, :1])], dim=1)
        padding = (self._decoded(padded_1P, mask_1P, ids_1L) - own_1LD).abs().mean()
        if (later_L[:-1] > _LEAK * later_L[-1]).any() or padding > _LEAK * other:
            raise TeacherError(
                self.name,
                expected="an encoder-decoder in which no token of a target sees what follows it, "
                "or what pads its source",
                found=f"one in which it does ({type(self._model).__name__})",
                next_step="This architecture is not supported yet; please report it.",
            )


def source_of(segment: Segment) -> Int32:
    """Return what the encoder reads for a segment."""
    source_M = segment.window.encoder_ids_M
    assert source_M is not None
    return source_M


def check_translator(teacher: Any) -> Seq2SeqTeacher:
    """Return a teacher that is an encoder-decoder.

    Raises:
        InputError: it is not.
    """
    if not isinstance(teacher, Seq2SeqTeacher):
        raise InputError(
            "teacher",
            expected="an encoder-decoder, as the task seq2seq makes it",
            found=f"{type(teacher).__name__}",
            next_step="Make it with softtargets.tasks.seq2seq.seq2seq_teacher.Seq2SeqTeacher.",
        )
    return teacher
