"""Stores made of other layouts: every row is checked before the first is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa

from softtargets.errors import InputError
from softtargets.kinds import DEFAULT_STEP, HeadSchema, TargetSchema
from softtargets.store.layouts.entries import (
    Entries,
    Stated,
    make_window,
    read_entries,
    tail_mass_error,
)
from softtargets.store.layouts.files import (
    InputFile,
    check_cells,
    check_row_cells,
    describe_files,
    list_files,
    open_files,
)
from softtargets.store.layouts.rows import ListedRow
from softtargets.store.new_store import write_store
from softtargets.store.store import Store
from softtargets.store.versions import FORMAT_VERSION
from softtargets.store.vocabulary import VOCABULARY_NAME, encode_vocabulary
from softtargets.window import Window

UNIT_TOKENS = 65_536


class Layout(Protocol):
    """How files hold lists of entries."""

    @property
    def name(self) -> str:
        """Return what `--from` calls it."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that are read, where a file has them."""
        ...

    def rows(self, batch: pa.RecordBatch, where: str, first: int) -> Iterator[ListedRow]:
        """Yield the rows of a part of a file; `first` is the number of the first.

        Raises:
            CorpusError: a column is missing, or the columns don't fit each other.
        """
        ...


def import_lists(
    paths: Sequence[str | Path],
    output: str | Path,
    layout: Layout,
    stated: Stated,
    *,
    values: Literal["steps", "float32"] = "steps",
) -> Store:
    """Make a store of lists of ids with logits or log-probabilities, and return it.

    What nobody knows stays unknown: without log-probabilities of the whole vocabulary's softmax
    there is no tail mass, the grid of temperatures is empty, and no loss but `tail="renormalize"`
    takes such targets. With them the tail mass at that temperature is what they leave, and the
    identity says how far off that may be. Rows with the tokens of an earlier one, and rows without
    a target, are left out and counted.

    Two passes are made over the files: one to check everything, one to write, a unit at a time.
    An interrupted import is continued by the same call.

    Args:
        paths: files, or directories of them: Parquet, or the Arrow files of `datasets`.
        output: directory of the store.
        layout: how the files hold the lists.
        stated: what they do not say.
        values: whether logits are kept in steps of 1/16 nat, or lossless.

    Raises:
        CorpusError: a file or a row is not what the layout says.
        LimitError: the files unpack to more than they are trusted with.
        InputError: what is stated contradicts the files, or there is no row with a target.
        IdentityError: the output is another store, finished or not.
        StoreError: the output cannot be written.
    """
    files = open_files(list_files(paths), layout.columns)
    survey = _survey(files, layout, stated)
    identity = _identity(
        describe_files([one.path for one in files]), layout, stated, survey, values
    )
    schema = TargetSchema.from_dict(identity["targets"])
    counts: dict[str, int] = {}
    vocabulary = stated.vocabulary
    return write_store(
        _windows(files, layout, stated, schema, counts),
        Path(output),
        identity,
        teacher=stated.teacher or "unknown",
        side_files=lambda: (
            {} if vocabulary is None else {VOCABULARY_NAME: encode_vocabulary(vocabulary)}
        ),
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


def _survey(files: Sequence[InputFile], layout: Layout, stated: Stated) -> _Survey:
    """Check every row.

    Raises:
        CorpusError: a row is not what the layout says.
        LimitError: in the store they would be larger than they are trusted with.
        InputError: all rows contradict what is stated.
    """
    survey = _Survey()
    for _, _, row in _rows(files, layout):
        survey.add(row, read_entries(row, stated))
    check_row_cells(str(files[0].path), survey.longest_row, survey.max_entries)
    check_cells(files, survey.num_targets, survey.max_entries)
    error = tail_mass_error(survey.rounding, survey.max_entries)
    is_cut = survey.max_entries < stated.vocab_size
    if stated.values == "full" and is_cut and survey.largest_tail <= error:
        raise InputError(
            "--values-are full",
            expected=f"probability left for the others of {stated.vocab_size:,} ids at some target",
            found=f"at most {survey.largest_tail:.1g} at any: {survey.max_entries} entries sum to "
            "1 everywhere",
            next_step="The values look renormalised: pass --values-are renormalised.",
        )
    return survey


def _rows(files: Sequence[InputFile], layout: Layout) -> Iterator[tuple[Path, int, ListedRow]]:
    """Yield every row with its file and its number there."""
    for file in files:
        number = 0
        for first, batch in file.batches():
            for row in layout.rows(batch, str(file.path), first):
                yield file.path, number, row
                number += 1


def _windows(
    files: Sequence[InputFile],
    layout: Layout,
    stated: Stated,
    schema: TargetSchema,
    counts: dict[str, int],
) -> Iterator[Window]:
    """Yield the windows of all rows, each once, counting what is left out."""
    seen = set()
    counts |= {"documents": 0, "repeated_windows": 0, "untargeted_windows": 0}
    for path, number, row in _rows(files, layout):
        window = make_window(row, read_entries(row, stated), schema, path.name, str(number))
        counts["documents"] += len(window.segment_lengths_S)
        if not len(window.packed):
            counts["untargeted_windows"] += 1
        elif window.window_id in seen:
            counts["repeated_windows"] += 1
        else:
            seen.add(window.window_id)
            yield window


def _identity(
    files: list[dict[str, Any]],
    layout: Layout,
    stated: Stated,
    survey: _Survey,
    values: Literal["steps", "float32"],
) -> dict[str, Any]:
    # What is not known of a teacher is told apart by the files: two unknown ones are not the same.
    source = hashlib.sha256("".join(one["sha256"] for one in files).encode()).hexdigest()
    tokenizer = stated.tokenizer
    imported: dict[str, Any] = {"layout": layout.name, "values": stated.values}
    if stated.temperature is not None:
        imported["temperature"] = stated.temperature
    if stated.values == "full":
        imported["tail_mass_error"] = tail_mass_error(survey.rounding, survey.max_entries)
    if stated.license is not None:
        imported["license"] = stated.license
    schema = TargetSchema(
        vocab_size=stated.vocab_size,
        tokenizer_vocab_size=stated.vocab_size if tokenizer is None else tokenizer["vocab_size"],
        temperatures=(stated.temperature,)
        if stated.values == "full" and stated.temperature is not None
        else (),
        positions="listed" if survey.has_gaps else "all",
        head=HeadSchema(max_entries=survey.max_entries, values=values, step=DEFAULT_STEP),
    )
    return {
        "format_version": FORMAT_VERSION,
        "imported": imported,
        "teacher": {"source_sha256": source}
        if stated.teacher is None
        else {"name": stated.teacher},
        "tokenizer": {"source_sha256": source, "vocab_size": stated.vocab_size}
        if tokenizer is None
        else dict(tokenizer),
        "corpus": {"files": files, "input_ids_field": "input_ids", "id_field": None},
        "windowing": {"kind": "rows"},
        "targets": schema.to_dict(),
        "unit_tokens": UNIT_TOKENS,
        "compression": "zstd",
    }
