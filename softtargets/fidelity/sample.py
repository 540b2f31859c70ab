"""Windows with the teacher's hidden states: every selection is captured from the same numbers.

Shapes: N positions of all windows, one window after another; C of them in a chunk; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from softtargets.capture.build import hidden_state_parts
from softtargets.capture.draws import uniforms
from softtargets.capture.estimate import shard_size
from softtargets.capture.score import plan_batches
from softtargets.capture.segments import hidden_states, segments_of
from softtargets.capture.select import select
from softtargets.capture.selected import Selected
from softtargets.capture.selection import Selection, TopK, Values, schema_parts
from softtargets.capture.teacher import Teacher
from softtargets.kinds import TargetSchema
from softtargets.store.schema import Compression
from softtargets.targets import pack
from softtargets.train.full import OutputHead
from softtargets.window import TokenWindow, Window

_CHUNK_ELEMENTS = 1 << 24
"""Logits that are held at once, in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSample:
    """What a teacher said of some windows, whole."""

    teacher: Teacher
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
            TeacherError: the model cannot be run.
        """
        segments = [segment for window in windows for segment in segments_of(window)]
        found: list[torch.Tensor] = [torch.empty(0)] * len(segments)
        with torch.inference_mode():
            for batch in plan_batches([len(one) for one in segments], batch_tokens):
                members = [segments[place] for place in batch]
                lengths = [len(one.positions_T) for one in members]
                parts = hidden_states(teacher, members).split(lengths)
                for place, part in zip(batch, parts, strict=True):
                    found[place] = part
            return cls(
                teacher=teacher,
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
        labels = [one.input_ids_L[one.target_positions_T + 1] for one in self.windows]
        return torch.from_numpy(np.concatenate(labels).astype(np.int64))

    def chunks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield rows and their float32 logits [C, V] on the teacher's device."""
        size = max(1, _CHUNK_ELEMENTS // self.teacher.vocab_size)
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            # Not in inference mode, which a generator would leave switched on for its caller.
            yield rows, self.teacher.logits(self.hidden_ND[rows]).float()

    def schema(
        self, selection: Selection, temperatures: tuple[float, ...], values: Values
    ) -> TargetSchema:
        """Return what targets of a selection are."""
        return TargetSchema(
            vocab_size=self.teacher.vocab_size,
            tokenizer_vocab_size=self.teacher.tokenizer.vocab_size,
            temperatures=temperatures,
            **schema_parts(selection, values, temperatures),
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
        parts: dict[str, list[Selected]] = {name: [] for name in selections}
        draws = {name: self._uniforms(selection) for name, selection in selections.items()}
        labels_N = self.labels_N.to(self.teacher.device)
        workspace: tuple[torch.Tensor, ...] = ()
        for rows, logits_CV in self.chunks():
            # Always the same memory: the system maps a new tensor's pages one by one.
            workspace = workspace or (torch.empty_like(logits_CV), torch.empty_like(logits_CV))
            own_CV, scratch_CV = (one[: len(logits_CV)] for one in workspace)
            for name, selection in selections.items():
                uniforms_ND = draws[name]
                with torch.inference_mode():
                    found = select(
                        own_CV.copy_(logits_CV),
                        labels_N[rows],
                        selection,
                        temperatures,
                        uniforms_ND=None if uniforms_ND is None else uniforms_ND[rows],
                        label_logits=self.label_logits,
                        scratch_NV=scratch_CV,
                    )
                parts[name].append(found.cpu())
                parts[name][-1].check()
        return {name: Selected.concatenate(own) for name, own in parts.items()}

    def _uniforms(self, selection: Selection) -> torch.Tensor | None:
        if selection.draws is None:
            return None
        num, seed = selection.draws.num, selection.draws.seed
        found = [
            uniforms(segment.window.window_id, segment.start, len(segment.positions_T), num, seed)
            for window in self.windows
            for segment in segments_of(window)
        ]
        return torch.from_numpy(np.concatenate(found)).to(self.teacher.device)

    def _pack(self, selected: Selected, schema: TargetSchema) -> list[Window]:
        packed, start = [], 0
        for window in self.windows:
            stop = start + len(window.target_positions_T)
            targets = selected.slice(start, stop).numpy(schema)
            packed.append(Window.of(window, pack(targets, schema)))
            start = stop
        return packed


def bytes_per_token(windows: Sequence[Window], compression: Compression = "zstd") -> float:
    """Return the size of these windows in a shard, every column of them, for each token.

    The footer is left out: a shard of the default size has one for many times as many.
    """
    return shard_size(windows, compression).bytes_per_token
