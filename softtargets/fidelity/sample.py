"""Windows with the teacher's hidden states: every selection is captured from the same numbers.

Shapes: N positions of all windows, one window after another; C of them in a chunk; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from softtargets.capture.batches import Batches
from softtargets.capture.estimate import shard_size
from softtargets.capture.identity import hidden_state_parts
from softtargets.capture.keep.keeper import Keeper, Workspace
from softtargets.capture.keep.logit_chunks import MEASURING
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Keep, Selection, TopK, Values
from softtargets.capture.keep.stored_form import schema_parts
from softtargets.capture.score import check_selected, pack_window
from softtargets.capture.segments import segments_of
from softtargets.capture.teacher import Teacher
from softtargets.capture.teachers.local import LocalTeacher, check_local
from softtargets.store.schema import Compression
from softtargets.targets import TargetSchema
from softtargets.train.full import OutputHead
from softtargets.window import TokenWindow, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSample:
    """What a teacher said of some windows, whole."""

    teacher: LocalTeacher
    windows: Sequence[TokenWindow]
    hidden_ND: torch.Tensor
    """Its last hidden states at all targets."""
    label_logits: bool = False
    """Whether what is captured has the label's logit and rank, as a store may have."""
    metadata: tuple[str, ...] = ()
    """Names of what is known about each document."""

    @classmethod
    def read(
        cls,
        teacher: Teacher,
        windows: Sequence[TokenWindow],
        batch_tokens: int = 4096,
        *,
        label_logits: bool = False,
        metadata: tuple[str, ...] = (),
    ) -> TeacherSample:
        """Run a loaded teacher over windows.

        Raises:
            InputError: it does not tell the logits of its whole vocabulary.
            TeacherError: the model cannot be run.
        """
        local = check_local(teacher, "fidelity")
        segments = segments_of(*windows)
        found: list[torch.Tensor] = [torch.empty(0)] * len(segments)
        for places, hidden_ND in Batches(batch_tokens, local.device).run(segments, local.read):
            lengths = [len(segments[place].positions_T) for place in places]
            for place, part in zip(places, hidden_ND.split(lengths), strict=True):
                found[place] = part
        with torch.inference_mode():
            return cls(
                teacher=local,
                windows=windows,
                hidden_ND=torch.cat(found),
                label_logits=label_logits,
                metadata=metadata,
            )

    def first(self, num_positions: int) -> TeacherSample:
        """Return the first windows, as many as have so many targets; all if there are fewer."""
        ends = np.cumsum([len(window.target_positions_T) for window in self.windows])
        return self.first_windows(int(np.searchsorted(ends, num_positions)) + 1)

    def first_windows(self, count: int) -> TeacherSample:
        """Return the first windows; all if there are fewer."""
        windows = self.windows[:count]
        num_positions = sum(len(window.target_positions_T) for window in windows)
        return replace(self, windows=windows, hidden_ND=self.hidden_ND[:num_positions])

    def __len__(self) -> int:
        return len(self.hidden_ND)

    @property
    def labels_N(self) -> torch.Tensor:
        """Return the ids that follow, int64."""
        labels = np.concatenate([window.labels_T for window in self.windows])
        return torch.from_numpy(labels.astype(np.int64))

    def chunks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield rows and their float32 logits [C, V] on the teacher's device."""
        for rows, logits_CV in self.teacher.chunks(self.hidden_ND, MEASURING):
            yield rows, logits_CV.float()

    def schema(
        self, selection: Selection, temperatures: tuple[float, ...], values: Values
    ) -> TargetSchema:
        """Return what targets of a selection are."""
        return TargetSchema(
            vocab_size=self.teacher.vocab_size,
            tokenizer_vocab_size=self.teacher.tokenizer.vocab_size,
            temperatures=temperatures,
            **schema_parts(
                selection,
                values,
                temperatures,
                self.teacher.vocab_size,
                label_logits=self.label_logits,
            ),
            label_logits=self.label_logits,
            positions="all" if self.windows[0].positions_T is None else "listed",
            metadata=self.metadata,
        )

    def capture(
        self,
        selections: Mapping[str, Selection],
        temperatures: tuple[float, ...] = (1.0,),
        values: Values = "steps",
    ) -> dict[str, list[Window]]:
        """Return the windows with the targets of every selection, as stores of them would have."""
        return {
            name: self._pack(found, self.schema(selections[name], temperatures, values))
            for name, found in self._select(selections, temperatures).items()
        }

    def capture_hidden_states(self) -> tuple[list[Window], OutputHead]:
        """Return the windows as a store with hidden states would have them, and its output head.

        Raises:
            TeacherError: the model's head cannot be stored.
        """
        head = self.teacher.output_head()
        parts = hidden_state_parts(head, self.teacher)
        schema = replace(self.schema(TopK(k=1), (1.0,), "steps"), **parts)
        selected = self._select({"": TopK(k=1)}, (1.0,))[""]
        windows = self._pack(replace(selected, hidden_ND=self.hidden_ND.cpu()), schema)
        sha256 = parts["output_head"].sha256
        return windows, OutputHead.of_weights(head, sha256, device=self.teacher.device)

    def _select(
        self, selections: Mapping[str, Selection], temperatures: tuple[float, ...]
    ) -> dict[str, Selected]:
        segments, workspace = segments_of(*self.windows), Workspace()
        keepers = {}
        for name, selection in selections.items():
            keep = Keep(
                selection=selection, temperatures=temperatures, label_logits=self.label_logits
            )
            keepers[name] = Keeper(keep, segments, self.teacher.device, workspace)
        with torch.inference_mode():
            for rows, logits_CV in self.teacher.chunks(self.hidden_ND, MEASURING):
                for keeper in keepers.values():
                    keeper.add(rows, logits_CV)
        found = {name: keeper.selected().cpu() for name, keeper in keepers.items()}
        for selected in found.values():
            check_selected(selected, segments)
        return found

    def _pack(self, selected: Selected, schema: TargetSchema) -> list[Window]:
        packed, start = [], 0
        for window in self.windows:
            stop = start + len(window.mask_T)
            packed.append(pack_window(window, selected.slice(start, stop), schema))
            start = stop
        return packed


def bytes_per_token(windows: Sequence[Window], compression: Compression = "zstd") -> float:
    """Return the size of these windows in a shard, every column of them, for each token.

    The footer is left out: a shard of the default size has one for many times as many.
    """
    return shard_size(windows, compression).bytes_per_token
