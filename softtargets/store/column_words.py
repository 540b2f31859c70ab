"""The columns of a shard in words, for people; `schemas/FORMAT.md` is the specification."""

from __future__ import annotations

from softtargets.store.schema import element_of
from softtargets.targets import Column

_ROWS = {
    "window": "",
    "tokens": " [L]",
    "targets": " [T]",
    "classes": " [T C]",
    "single": " [1]",
    "any": " [any]",
}


def column_words(column: Column) -> str:
    """Return the type and the meaning of a column, in a few words."""
    num_bytes = column.vector_bytes
    kind = f"{element_of(column)}" if num_bytes is None else f"{num_bytes} bytes"
    return f"{kind}{_ROWS[column.rows]}: {column.words}"
