"""What a window itself has: where it is from, its tokens, and which of them have targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from softtargets.targets.arrays import Columns, Offsets
from softtargets.targets.conventions import Convention
from softtargets.targets.part import FINITE, LARGEST_INT, Column, Fault, Part, Range, outside
from softtargets.targets.promises import Promise, Promises

METADATA_PREFIX = "metadata_"
"""What the names of columns with the documents' metadata begin with."""


@dataclass(frozen=True, slots=True)
class WindowColumns(Part):
    """The columns that say what was scored, which are no part of `SoftTargets`."""

    num_input_ids: int
    num_labels: int
    convention: Convention
    are_listed: bool
    has_label_ids: bool
    has_label_values: bool
    is_partly_labelled: bool
    has_encoder: bool
    has_token_types: bool
    metadata: tuple[str, ...]

    def columns(self) -> Sequence[Column]:
        """Return texts, tokens and places of targets."""
        last, lengths = self.num_input_ids - 1, Range(1, LARGEST_INT, "lengths of at least 1")
        ids = Range(0, last, f"ids from 0 to {last}")
        words = "hash of tokens, segments and mask, by which targets are looked up"
        columns = [
            Column("window_id", "string", "window", words),
            Column("source", "string", "window", "name of the input file"),
            Column("document_ids", "string", "any", "ids of the documents in the window"),
        ]
        words = "what the corpus says about each of these documents"
        names = [METADATA_PREFIX + name for name in self.metadata]
        columns += [Column(name, "string", "any", words) for name in names]
        words = "how many tokens each of them has here"
        columns.append(Column("segment_lengths", "int32", "any", words, within=lengths))
        words = "place of the first token in its document"
        columns.append(Column("offset", "int64", "window", words))
        columns.append(Column("input_ids", "int32", "tokens", "the tokens", within=ids))
        columns.append(Column("mask", "bool", "targets", "which targets a student is trained on"))
        if self.are_listed:
            words = "which positions have a target"
            columns.append(Column("target_positions", "int32", "targets", words))
        if self.has_label_ids:
            last, words = self.num_labels - 1, "the label of each target"
            first = -1 if self.is_partly_labelled else 0
            labels = Range(first, last, f"labels from {first} to {last}")
            columns.append(Column("label_ids", "int32", "targets", words, within=labels))
        if self.has_encoder:
            words = "what the encoder read"
            columns.append(Column("encoder_input_ids", "int32", "any", words, within=ids))
        if self.has_token_types:
            words = "which text of a pair each token is of"
            types = Range(0, LARGEST_INT, "token types of at least 0")
            columns.append(Column("token_type_ids", "int32", "tokens", words, within=types))
        if self.has_label_values:
            words = "the label of each class as a number, target after target"
            within = None if self.is_partly_labelled else FINITE
            columns.append(Column("label_values", "float32", "classes", words, within=within))
        return columns

    def fits(self) -> Promises:
        """Yield what windows may have together."""
        is_sound = len(set(self.metadata)) == len(self.metadata)
        yield Promise("metadata whose names differ", is_sound)
        yield Promise(
            "label ids only where the label is not the next input id",
            not (self.has_label_ids and self.convention.labels_are_inputs),
        )
        yield Promise(
            "listed positions only where a target is about a token",
            not (self.are_listed and self.convention.is_of_windows),
        )
        words = "labels, of ids or of values, where they are known in part"
        has_labels = self.has_label_ids or self.has_label_values
        yield Promise(words, has_labels or not self.is_partly_labelled)

    def for_batches(
        self, columns: Columns, offsets: Offsets, where: str
    ) -> tuple[Columns, Offsets]:
        """Return values of labels as [T, C]."""
        if not self.has_label_values:
            return columns, offsets
        values = columns["label_values"].reshape(-1, self.num_labels)
        return {**columns, "label_values": values}, {**offsets, "label_values": offsets["mask"]}

    def faults(self, columns: Columns, offsets: Offsets) -> Iterator[Fault]:
        """Find segments that are not the window's tokens, and positions that do not rise."""
        yield from _segment_faults(columns, offsets)
        if self.are_listed:
            yield from self._position_faults(columns, offsets)
        if self.has_label_values:
            values = columns["label_values"]
            words = "finite numbers, or NaN where the label is not known"
            yield from outside(values, ~np.isinf(values), offsets, "label_values", words)

    def _position_faults(self, columns: Columns, offsets: Offsets) -> Iterator[Fault]:
        positions = columns["target_positions"]
        starts = np.asarray(offsets["target_positions"])
        most = np.diff(offsets["input_ids"]) - self.convention.shift
        before = np.append(-1, positions[:-1])[: len(positions)]
        before[starts[:-1][starts[:-1] < len(positions)]] = -1
        holds = (positions > before) & (positions < np.repeat(most, np.diff(starts)))
        words = "places that rise within the window"
        yield from outside(positions, holds, offsets, "target_positions", words)


def _segment_faults(columns: Columns, offsets: Offsets) -> Iterator[Fault]:
    wanted = np.diff(offsets["input_ids"])
    found = columns["segment_lengths"]
    if len(found) != len(wanted) or offsets["segment_lengths"] != list(range(len(found) + 1)):
        # Windows of several documents.
        ends = np.cumsum(np.append(0, found.astype(np.int64)))
        found = np.diff(ends[np.asarray(offsets["segment_lengths"])])
    if not np.array_equal(found, wanted):
        row = int((found != wanted).argmax())
        yield Fault(
            column="segment_lengths",
            row=row,
            expected=f"lengths that sum to the {wanted[row]} tokens of the window",
            found=f"{found[row]}",
        )
