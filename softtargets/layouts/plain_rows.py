"""Rows of the plain layout as the windows they were written from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from softtargets.errors import CorpusError, InputError, error_text
from softtargets.layouts.foreign_files import check_row_cells
from softtargets.layouts.lists import Kind, Lists, NestedLists, read_lists, read_nested
from softtargets.store.codec import decode_tokens
from softtargets.store.invariants import check_window
from softtargets.store.schema import field_of, grid_columns, token_columns
from softtargets.targets import (
    Array,
    Float32,
    Int64,
    Origin,
    Samples,
    SoftTargets,
    TargetSchema,
    kept_entries,
    pack,
    temperature_text,
)
from softtargets.window import TokenWindow, Window


class PlainRows:
    """Some rows of a plain file: columns that were checked to be lists of numbers.

    Logits are the top logit plus T times the differences of the log-probabilities at the grid's
    first temperature: the same steps, and within float32's rounding where there are none.
    """

    def __init__(
        self, batch: pa.RecordBatch, schema: TargetSchema, origin: Origin, where: str, first: int
    ) -> None:
        self._schema = schema
        self._origin = origin
        self._where = where
        self._first = first
        self._tokens = _read_tokens(batch, schema, where)
        flat, nested = _target_names(schema)
        self._flat: dict[str, Lists] = {
            name: read_lists(batch, name, where, _kind(name)) for name in flat
        }
        self._nested: dict[str, NestedLists] = {
            name: read_nested(batch, name, where, _kind(name)) for name in nested
        }

    def windows(self) -> Iterator[Window]:
        """Yield the rows as windows.

        Raises:
            CorpusError: lists don't fit each other, or are not what the format promises.
        """
        for number, tokens in enumerate(self._tokens):
            where = f"{self._where}, row {self._first + number}"
            yield self._window(number, tokens, where)

    def _window(self, number: int, tokens: TokenWindow, where: str) -> Window:
        # What overflows is infinite then, and no window has that.
        with np.errstate(over="ignore", invalid="ignore"):
            targets = self._targets(number, tokens, where)
            try:
                window = Window.of(tokens, pack(targets, self._schema))
            except InputError as error:
                raise _broken(where, error.expected, error.found) from error
        for problem in check_window(window, where, self._origin):
            raise _broken(problem.where, problem.expected, problem.found)
        return window

    def _targets(self, number: int, tokens: TokenWindow, where: str) -> SoftTargets:
        schema, num = self._schema, len(tokens.mask_T)
        grid = [
            self._numbers(name, number, num, where).astype(np.float32)
            for name in grid_columns(schema)
        ]
        grid_TG = np.stack(grid, axis=1) if grid else np.empty((num, 0), np.float32)
        has_logsumexp = schema.head is None and bool(schema.temperatures)
        labels: dict[str, Any] = {}
        if schema.label_logits:
            labels = {
                "label_logit_T": self._numbers("label_logit", number, num, where).astype(
                    np.float32
                ),
                "label_rank_T": self._numbers("label_rank", number, num, where).astype(np.int32),
            }
        class_logits_TC = None
        if schema.num_classes:
            class_logits_TC = self._square("class_logits", schema.num_classes, number, num, where)
        num_rows = {"tokens": len(tokens), "targets": num, "window": 1}
        return SoftTargets(
            **self._entries(number, num, where),
            tail_mass_TG=np.ones_like(grid_TG) if schema.head is None else grid_TG,
            temperatures=schema.temperatures,
            logsumexp_TG=grid_TG if has_logsumexp else None,
            samples=self._samples(number, num, where),
            class_logits_TC=class_logits_TC,
            features={
                one.name: self._square(
                    f"feature_{one.name}", one.width, number, num_rows[one.rows], where
                )
                for one in schema.features
            },
            **labels,
        )

    def _numbers(self, name: str, number: int, num: int, where: str) -> Array:
        """Return a row's list, one number for each target."""
        found = self._flat[name].row(number)
        _check_length(found, num, where, name)
        return found

    def _lists(self, name: str, number: int, num: int, where: str) -> tuple[Int64, Array]:
        """Return how long each of a row's lists is, and what is in them."""
        counts, values = self._nested[name].row(number)
        _check_length(counts, num, where, name)
        return counts, values

    def _square(self, name: str, width: int, number: int, num: int, where: str) -> Float32:
        """Return a row's vectors, all of the same width."""
        counts, values = self._lists(name, number, num, where)
        if not (counts == width).all():
            found = f"{sorted(set(counts.tolist()))[:5]}"
            raise _broken(where, f"vectors of {width} numbers", found)
        return values.reshape(num, width).astype(np.float32)

    def _entries(self, number: int, num: int, where: str) -> dict[str, Any]:
        """Return `num_entries_T`, `ids_TK` and `logits_TK`, empty where the head is."""
        schema = self._schema
        ids_TK, logits_TK = np.empty((num, 0)), np.empty((num, 0))
        counts_T = np.zeros(num, np.int64)
        if schema.head is not None:
            width = schema.head.max_entries
            counts_T, ids_E = self._lists("ids", number, num, where)
            value_counts_T, values_E = self._lists(_values_name(schema), number, num, where)
            _check_same(counts_T, value_counts_T, width, where)
            check_row_cells(where, num, width)
            ids_TK = _spread(ids_E, counts_T, width, 0)
            logits_TK = _spread(values_E, counts_T, width, -np.inf)
            if schema.temperatures:
                top_T = self._numbers("top_logit", number, num, where).astype(np.float64)
                below_TK = logits_TK - np.where(counts_T > 0, logits_TK[:, 0], 0)[:, None]
                logits_TK = top_T[:, None] + schema.temperatures[0] * below_TK
        return {
            "num_entries_T": counts_T.astype(np.int32),
            "ids_TK": ids_TK.astype(np.int32),
            "logits_TK": logits_TK.astype(np.float32),
        }

    def _samples(self, number: int, num: int, where: str) -> Samples | None:
        if self._schema.samples is None:
            return None
        num_samples_T, ids_S = self._lists("sample_ids", number, num, where)
        others = {}
        for name in ("sample_counts", "sample_logits"):
            if name in self._nested:
                counts_T, others[name] = self._nested[name].row(number)
                if not np.array_equal(counts_T, num_samples_T):
                    raise _broken(where, f"as many {name} as sample_ids", "other numbers of them")
        logits_S = others.get("sample_logits")
        return Samples(
            num_samples_T=num_samples_T.astype(np.int32),
            ids_S=ids_S.astype(np.int32),
            counts_S=others["sample_counts"].astype(np.int32),
            logits_S=None if logits_S is None else logits_S.astype(np.float32),
        )


def plain_columns(schema: TargetSchema) -> tuple[str, ...]:
    """Return the columns that are read."""
    flat, nested = _target_names(schema)
    return (*(column.name for column in token_columns(schema)), *flat, *nested)


def _target_names(schema: TargetSchema) -> tuple[list[str], list[str]]:
    """Return the columns of lists, and those of lists of lists."""
    flat, nested = [*grid_columns(schema)], [f"feature_{one.name}" for one in schema.features]
    if schema.head is not None:
        nested += ["ids", _values_name(schema)]
        flat += ["top_logit"] if schema.temperatures else []
    if schema.samples is not None:
        nested += ["sample_ids", "sample_counts"]
        nested += ["sample_logits"] if schema.samples.values != "none" else []
    if schema.label_logits:
        flat += ["label_logit", "label_rank"]
    if schema.num_classes:
        nested += ["class_logits"]
    return flat, nested


def _kind(name: str) -> Kind:
    is_integer = name in ("ids", "sample_ids", "sample_counts", "label_rank")
    return "integers" if is_integer else "numbers"


def _values_name(schema: TargetSchema) -> str:
    if not schema.temperatures:
        return "logits"
    return f"logprobs_t{temperature_text(schema.temperatures[0])}"


def _read_tokens(batch: pa.RecordBatch, schema: TargetSchema, where: str) -> list[TokenWindow]:
    fields = pa.schema([field_of(column) for column in token_columns(schema)])
    try:
        return decode_tokens(pa.Table.from_batches([batch]).select(fields.names).cast(fields))
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise _broken(where, f"columns {fields.names}", error_text(error)) from error


def _check_length(found: Array, expected: int, where: str, name: str) -> None:
    if len(found) != expected:
        raise _broken(f"{where}, column {name}", f"{expected} elements", f"{len(found)}")


def _check_same(counts_T: Int64, value_counts_T: Int64, most: int, where: str) -> None:
    if not np.array_equal(counts_T, value_counts_T) or counts_T.max(initial=0) > most:
        raise _broken(
            where,
            f"as many values as ids at every position, at most {most}",
            f"{int(value_counts_T.sum())} and {int(counts_T.sum())}, at most "
            f"{int(counts_T.max(initial=0))} at one",
        )


def _spread(values_E: Array, counts_T: Int64, width: int, fill: float) -> Array:
    """Return entries [T, K], filled where a position has fewer."""
    kept_TK = kept_entries(counts_T.astype(np.int32), width)
    spread_TK = np.full(kept_TK.shape, fill, np.float64)
    spread_TK[kept_TK] = values_E
    return spread_TK


def _broken(where: str, expected: str, found: str) -> CorpusError:
    return CorpusError(
        where,
        expected=expected,
        found=found,
        next_step="The file is not as 'softtargets export --to plain' wrote it; export it again.",
    )
