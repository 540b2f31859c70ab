"""Teachers whose logits are tensors of this process, made in two steps so that they come in chunks.

Shapes: B segments in a batch, L their tokens, N targets of all of them, one segment after another,
C of these in a chunk, D width of the hidden states, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from softtargets.capture.abilities import ALL_LOGITS
from softtargets.capture.keep.keeper import Keeper, Workspace
from softtargets.capture.keep.layer_states import WatchedStates
from softtargets.capture.keep.logit_chunks import SELECTING, ChunkSize, logit_chunks
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Keep
from softtargets.capture.segments import Segment, check_ids
from softtargets.capture.teacher import Teacher
from softtargets.errors import InputError
from softtargets.targets import FeatureSchema


class LocalTeacher(Teacher):
    """A teacher that has hidden states and the logits of its whole vocabulary.

    What it adds to `Teacher`, rescoring and fidelity need: the whole distribution.
    """

    abilities = ALL_LOGITS

    @abstractmethod
    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states [B, L, D] of sequences padded on the right."""

    def masked_hidden_states(
        self, input_ids_BL: torch.Tensor, num_tokens_B: torch.Tensor
    ) -> torch.Tensor:
        """Return `hidden_states` of sequences whose padding must not be seen.

        A teacher in which no token sees what follows it needs no mask. One that reads in both
        directions makes it of the number of tokens of each sequence.
        """
        del num_tokens_B
        return self.hidden_states(input_ids_BL)

    @abstractmethod
    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, V] of hidden states, in the teacher's number format."""

    @torch.inference_mode()
    def capture(self, segments: Sequence[Segment], keep: Keep) -> Selected:
        """Return the targets of a batch of segments, one after another, on the host.

        There they wait for the end of their unit, and not in the device's memory. The copy waits
        for the device, which takes no time beside the batch.
        """
        with self._watching(keep.layers) as watched:
            hidden_BLD = self._read_batch(segments)
        hidden_ND = self._at_targets(segments, hidden_BLD)
        # Other devices have allocators that give the same memory again.
        workspace = self._workspace if self.device.type == "cpu" else None
        keeper = Keeper(keep, segments, self.device, workspace)
        for rows, logits_CV in self.chunks(hidden_ND, SELECTING):
            keeper.add(rows, logits_CV)
        selected = keeper.selected()
        if keep.of_all_tokens:
            tokens = [hidden_BLD[row, : len(segment)] for row, segment in enumerate(segments)]
            selected = replace(selected, token_hidden_MD=torch.cat(tokens))
        elif keep.hidden_states:
            selected = replace(selected, hidden_ND=hidden_ND)
        return watched.add_to(selected, segments).cpu()

    def _watching(self, layers: Sequence[FeatureSchema]) -> AbstractContextManager[WatchedStates]:
        """Watch layers while a batch is read within; a teacher without layers is asked for none."""
        return nullcontext(WatchedStates(layers))

    @cached_property
    def _workspace(self) -> Workspace:
        return Workspace()

    @torch.inference_mode()
    def read(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Return the last hidden states [N, D] at the targets of segments, read in one batch.

        Raises:
            TeacherError: a segment has an id that the teacher does not know.
        """
        return self._at_targets(segments, self._read_batch(segments))

    def _read_batch(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Return the last hidden states [B, L, D] of segments.

        Raises:
            TeacherError: a segment has an id that the teacher does not know.
        """
        # On a GPU an id without an embedding ends the whole process.
        check_ids(segments, self.vocab_size, self.name)
        lengths = [len(segment) for segment in segments]
        shape = len(segments), self._padded_length(max(lengths))
        input_ids_BL = np.zeros(shape, np.int64)
        for row, segment in enumerate(segments):
            input_ids_BL[row, : len(segment)] = segment.input_ids_L
        return self.masked_hidden_states(
            torch.from_numpy(input_ids_BL).to(self.device),
            torch.tensor(lengths, device=self.device),
        )

    def _padded_length(self, length: int) -> int:
        """Return to how many tokens a batch is padded, whose longest sequence has `length`."""
        return length

    def _at_targets(self, segments: Sequence[Segment], hidden_BLD: torch.Tensor) -> torch.Tensor:
        """Return the hidden states [N, D] at the targets of segments."""
        return torch.cat(
            [
                hidden_BLD[row, torch.from_numpy(segment.positions_T).to(self.device)]
                for row, segment in enumerate(segments)
            ]
        )

    def chunks(
        self, hidden_ND: torch.Tensor, size: ChunkSize
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Return rows of hidden states and their logits [C, V], in order."""
        return logit_chunks(hidden_ND, self.logits, self.vocab_size, size)


def check_local(teacher: Teacher, where: str) -> LocalTeacher:
    """Return a teacher that tells the logits of its whole vocabulary.

    Raises:
        InputError: it does not; `where` says who needs them.
    """
    if not isinstance(teacher, LocalTeacher):
        raise InputError(
            where,
            expected="a teacher that runs in this process, for the logits of its whole vocabulary",
            found=teacher.name,
            next_step="Pass the directory of its model with --teacher.",
        )
    return teacher
