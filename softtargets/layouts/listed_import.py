"""Stores made of lists of entries: every row is checked before the first is written."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pyarrow as pa

from softtargets.errors import InputError
from softtargets.hashes import describe_file
from softtargets.layouts.foreign_files import (
    InputFile,
    check_cells,
    check_row_cells,
    list_files,
    open_files,
)
from softtargets.layouts.layout import Layout, Option
from softtargets.layouts.listed_entries import Entries, make_window, read_entries, tail_mass_error
from softtargets.layouts.listed_rows import ListedRow
from softtargets.layouts.stated import STATED_OPTIONS, Stated
from softtargets.places.open_place import StorePath, place_to_write
from softtargets.store.new_store import write_store
from softtargets.store.store import Store
from softtargets.store.versions import version_of
from softtargets.targets import DEFAULT_STEP, EntriesSchema, TargetSchema
from softtargets.window import Window

UNIT_TOKENS = 65_536


StoredValues = Literal["steps", "float32"]
LIST_OPTIONS = (
    *STATED_OPTIONS,
    Option(
        "values",
        StoredValues,
        "steps: logits in steps of 1/16 nat. float32: lossless.  [default: steps]",
    ),
)


class ListedLayout(Layout, ABC):
    """A layout of lists: a row has tokens, and for each position ids with their values.

    A subclass names its columns and yields `rows` of them. Its `reads` have `LIST_OPTIONS`, and
    others that `of` takes.
    """

    columns: ClassVar[tuple[str, ...]]
    """Those that are read, where a file has them."""

    @classmethod
    def of(cls, paths: Sequence[str | Path], *_: Any, **told: Any) -> Self:  # noqa: ARG003
        """Return the layout of some files, told what it alone needs."""
        return cls(**told)

    @classmethod
    def read(cls, paths: Sequence[str | Path], output: StorePath, **options: Any) -> Store:
        """Make a store of files, and return it; see `import_lists`."""
        names = {option.name for option in STATED_OPTIONS} & options.keys()
        stated = Stated.of(**{name: options.pop(name) for name in names})
        values = options.pop("values", "steps")
        return import_lists(paths, output, cls.of(paths, **options), stated, values=values)

    @abstractmethod
    def rows(self, batch: pa.RecordBatch, where: str, first: int) -> Iterator[ListedRow]:
        """Yield the rows of a part of a file, whose first row has the number `first`.

        Raises:
            CorpusError: a column is missing, or the columns don't fit each other.
        """


def import_lists(
    paths: Sequence[str | Path],
    output: StorePath,
    layout: ListedLayout,
    stated: Stated,
    *,
    values: StoredValues = "steps",
) -> Store:
    """Make a store of lists of ids with logits or log-probabilities, and return it.

    What nobody knows stays unknown: without log-probabilities of the whole vocabulary's softmax
    there is no tail mass, the grid of temperatures is empty, and no loss but `tail="renormalize"`
    takes such targets. With them the tail mass at that temperature is what they leave, and the
    identity says how far off that may be. Rows with the tokens of an earlier one, and rows without
    a target, are left out and counted. Two passes are made over the files: one to check everything,
    one to write, a unit at a time. An interrupted import is continued by the same call.

    Args:
        paths: files, or directories of them: Parquet, or the Arrow files of `datasets`.
        output: directory, URL or place of the store.
        layout: how the files hold the lists.
        stated: what they do not say.
        values: whether logits are kept in steps of 1/16 nat, or lossless.

    Raises:
        SoftTargetsError: as `Layout.read` raises them.
    """
    files = open_files(list_files(paths), layout.columns)
    lists = _Lists(files=files, layout=layout, stated=stated)
    identity = lists.identity(lists.survey(), values)
    counts: dict[str, int] = {}
    return write_store(
        lists.windows(TargetSchema.from_dict(identity["targets"]), counts),
        place_to_write(output),
        identity,
        teacher=stated.teacher or "unknown",
        side_files=stated.side_files,
        counts=counts,
        next_step="The rows have fewer than two tokens, or no entries.",
    )


@dataclass(slots=True)
class _Survey:
    """What all rows together are."""

    max_entries: int = 1
    num_targets: int = 0
    """Those with entries."""
    longest_row: int = 0
    """Of the row with the most of them."""
    has_gaps: bool = False
    """Whether there are targets without entries."""
    rounding: float = 0.0
    largest_tail: float = 0.0

    def add(self, row: ListedRow, entries: Entries) -> None:
        self.rounding = max(self.rounding, row.rounding)
        self.max_entries = max(self.max_entries, int(entries.counts_T.max(initial=0)))
        num_targets = int((entries.counts_T > 0).sum())
        self.num_targets += num_targets
        self.longest_row = max(self.longest_row, num_targets)
        self.has_gaps |= bool((entries.counts_T == 0).any())
        if entries.tail_mass_T is not None:
            own = entries.tail_mass_T[entries.counts_T > 0]
            self.largest_tail = max(self.largest_tail, float(own.max(initial=0)))

    @property
    def tail_mass_error(self) -> float:
        return tail_mass_error(self.rounding, self.max_entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lists:
    """The rows of files, and what is stated of them."""

    files: Sequence[InputFile]
    layout: ListedLayout
    stated: Stated

    def survey(self) -> _Survey:
        """Check every row.

        Raises:
            CorpusError: a row is not what the layout says.
            LimitError: in the store they would be larger than they are trusted with.
            InputError: all rows contradict what is stated.
        """
        survey = _Survey()
        for _, _, row in self._rows():
            survey.add(row, read_entries(row, self.stated))
        check_row_cells(str(self.files[0].path), survey.longest_row, survey.max_entries)
        check_cells(self.files, survey.num_targets, survey.max_entries)
        vocab_size, most = self.stated.vocab_size, survey.largest_tail
        is_cut = survey.max_entries < vocab_size
        if self.stated.values == "full" and is_cut and most <= survey.tail_mass_error:
            raise InputError(
                "--values-are full",
                expected=f"probability left for the others of {vocab_size:,} ids at some target",
                found=f"at most {most:.1g} at any: {survey.max_entries} entries sum to 1 "
                "everywhere",
                next_step="The values look renormalised: pass --values-are renormalised.",
            )
        return survey

    def windows(self, schema: TargetSchema, counts: dict[str, int]) -> Iterator[Window]:
        """Yield the windows of all rows, each once, counting what is left out."""
        seen = set()
        counts |= {"documents": 0, "repeated_windows": 0, "untargeted_windows": 0}
        for path, number, row in self._rows():
            entries = read_entries(row, self.stated)
            window = make_window(row, entries, schema, path.name, str(number))
            counts["documents"] += len(window.segment_lengths_S)
            if not len(window.packed):
                counts["untargeted_windows"] += 1
            elif window.window_id in seen:
                counts["repeated_windows"] += 1
            else:
                seen.add(window.window_id)
                yield window

    def identity(self, survey: _Survey, values: StoredValues) -> dict[str, Any]:
        stated, files = self.stated, [describe_file(one.path) for one in self.files]
        # What is not known is told apart by the files: two unknown teachers are not the same.
        hashes = "".join(one["sha256"] for one in files)
        source = {"source_sha256": hashlib.sha256(hashes.encode()).hexdigest()}
        tokenizer = dict(stated.tokenizer or source | {"vocab_size": stated.vocab_size})
        schema = TargetSchema(
            vocab_size=stated.vocab_size,
            tokenizer_vocab_size=tokenizer["vocab_size"],
            temperatures=stated.grid,
            positions="listed" if survey.has_gaps else "all",
            head=EntriesSchema(max_entries=survey.max_entries, values=values, step=DEFAULT_STEP),
        )
        return {
            "format_version": version_of(schema),
            "imported": self._imported(survey),
            "teacher": source if stated.teacher is None else {"name": stated.teacher},
            "tokenizer": tokenizer,
            "corpus": {"files": files, "input_ids_field": "input_ids", "id_field": None},
            "windowing": {"kind": "rows"},
            "targets": schema.to_dict(),
            "unit_tokens": UNIT_TOKENS,
            "compression": "zstd",
        }

    def _imported(self, survey: _Survey) -> dict[str, Any]:
        """Return how the numbers came here, and how far off their tail may be."""
        stated = self.stated
        found = {
            "layout": self.layout.name,
            "values": stated.values,
            "temperature": stated.temperature,
            "tail_mass_error": survey.tail_mass_error if stated.values == "full" else None,
            "license": stated.license,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _rows(self) -> Iterator[tuple[Path, int, ListedRow]]:
        """Yield every row with its file and its number there."""
        for file in self.files:
            number = 0
            for first, batch in file.batches():
                for row in self.layout.rows(batch, str(file.path), first):
                    yield file.path, number, row
                    number += 1
