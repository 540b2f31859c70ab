"""Targets as they are stored: cells by column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softtargets.errors import InputError
from softtargets.targets.arrays import Array, Cells
from softtargets.targets.soft_targets import SoftTargets
from softtargets.targets.target_schema import TargetSchema, parts_of, target_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTargets:
    """The targets of T positions as they are stored: a cell of each column of targets."""

    schema: TargetSchema
    num_positions: int
    cells: Cells

    def __len__(self) -> int:
        return self.num_positions

    def unpack(self) -> SoftTargets:
        """Return the targets to compute with.

        Raises:
            CorruptionError: columns do not fit each other.
        """
        others: dict[str, Array] = {}
        fields: dict[str, Any] = {"temperatures": self.schema.temperatures}
        if self.schema.entries is None:
            fields["ids_TK"] = np.empty((len(self), 0), np.int32)
            fields["logits_TK"] = np.empty((len(self), 0), np.float32)
            fields["num_entries_T"] = np.zeros(len(self), np.int32)
        if self.schema.entries is None or not self.schema.temperatures:
            shape = len(self), len(self.schema.temperatures)
            fields["tail_mass_TG"] = np.ones(shape, np.float32)
        for part in parts_of(self.schema):
            own = part.unpack(self.cells)
            others |= own.pop("others", {})
            fields |= own
        return SoftTargets(**fields, others=others)


def pack(targets: SoftTargets, schema: TargetSchema) -> PackedTargets:
    """Return `targets` in compact form.

    Raises:
        InputError: a part is missing, or cannot be stored in this form; the message says which.
    """
    _check_parts(targets, schema)
    packed: dict[str, Array] = {}
    for part in parts_of(schema):
        packed |= part.pack(targets)
    cells = {column.name: packed[column.name] for column in target_columns(schema)}
    return PackedTargets(schema=schema, num_positions=len(targets), cells=cells)


def _check_parts(targets: SoftTargets, schema: TargetSchema) -> None:
    """Check that there is what the schema names, and nothing that it would lose."""
    wanted = {name for part in parts_of(schema) for name in part.holds}
    wrong = sorted(wanted ^ targets.parts)
    if wrong or targets.temperatures != schema.temperatures:
        raise InputError(
            "targets",
            expected=f"{schema.describe()} at temperatures {schema.temperatures}",
            found=f"other targets: {', '.join(wrong) or targets.temperatures}",
            next_step="Pass exactly the parts that the schema names.",
        )
