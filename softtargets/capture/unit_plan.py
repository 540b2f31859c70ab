"""The plan: every window of a corpus, cut into units of work that anyone can run in any order.

The windows of each unit are in a file. Scoring a unit needs neither the corpus nor the tokenizer.

    work/plan/unit-N.parquet   the token windows of a unit, in the order of the corpus
    work/plan/units.parquet    how many windows and tokens each unit has
    work/plan.json             whose plan it is, and how many units there are; written last

Earlier releases listed the units in `plan.json`; such a plan is read as ever.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.capture.planned_units import PlannedUnits, Unit, UnitSizes
from softtargets.errors import FormatError, IdentityError
from softtargets.places.at_once import answers
from softtargets.places.place import Place
from softtargets.store.codec import decode_tokens, encode_tokens
from softtargets.store.json_object import parse_object
from softtargets.store.work_files import PLAN, UNITS, windows_path
from softtargets.texts import shortened
from softtargets.window import TokenWindow

_VERSION = 2
_MAKE_AGAIN = (
    "Delete plan.json and the directory plan in the store's directory work, and run the same "
    "command again: the corpus is planned anew."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All units, and counts of what became of the documents."""

    units: PlannedUnits
    corpus: dict[str, int]
    teacher: str
    """What people call it, for the manifest."""

    @property
    def num_windows(self) -> int:
        """Return the number of windows of all units."""
        return self.units.num_windows

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens of all units."""
        return self.units.num_tokens


def write_plan(plan: Plan, place: Place, fingerprint: str) -> None:
    """Write the units of a plan, then the plan; their windows are written."""
    place.put(UNITS, plan.units.encode())
    record = {
        "version": _VERSION,
        "fingerprint": fingerprint,
        **_totals(plan.units),
        "corpus": plan.corpus,
        "teacher": plan.teacher,
    }
    place.put(PLAN, json.dumps(record).encode())


def _totals(units: PlannedUnits) -> dict[str, int]:
    return {
        "num_units": len(units),
        "num_windows": units.num_windows,
        "num_tokens": units.num_tokens,
    }


def read_plan(place: Place, fingerprint: str) -> Plan | None:
    """Return the finished plan of the store in a place, or None when there is none yet.

    Args:
        place: of the store.
        fingerprint: of the store.

    Raises:
        StoreError: it cannot be read.
        IdentityError: it is the plan of another store.
    """
    content = place.get(PLAN)
    if content is None:
        return None
    where = place.where(PLAN)
    data = parse_object(content, where)
    try:
        is_listed = "version" not in data and "units" in data
        if not is_listed:
            _check_plan(data, where, fingerprint)
        units = (
            PlannedUnits.of(map(_unit, data["units"])) if is_listed else _read_units(place, data)
        )
        return Plan(units=units, corpus=data["corpus"], teacher=data["teacher"])
    except (KeyError, TypeError) as error:
        raise _spoiled(where, "the plan of a build", repr(error)) from error


def _unit(data: Mapping[str, Any]) -> Unit:
    return Unit(**data)


def _check_plan(data: Mapping[str, Any], where: str, fingerprint: str) -> None:
    """Check that a plan is of this release and of this store."""
    if data["version"] != _VERSION:
        raise _spoiled(where, f"a plan of version {_VERSION}", f"one of {data['version']}")
    if data["fingerprint"] != fingerprint:
        raise IdentityError(
            where,
            expected=f"the plan of the store {fingerprint}",
            found=f"that of {data['fingerprint']}",
            next_step=_MAKE_AGAIN,
        )


def _read_units(place: Place, data: Mapping[str, Any]) -> PlannedUnits:
    """Return the units of a plan, which have to be as many as it says."""
    content, where = place.get(UNITS), place.where(UNITS)
    if content is None:
        raise _spoiled(where, "the units of a plan", "no file")
    try:
        units = PlannedUnits.decode(content)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _spoiled(where, "the units of a plan", shortened(str(error))) from error
    found = _totals(units)
    expected = {name: data[name] for name in found}
    if found != expected:
        raise _spoiled(where, f"{expected}, as {PLAN} says", f"{found}")
    return units


def write_units(
    place: Place, units: Iterable[Sequence[TokenWindow]], first_unit: int = 0
) -> UnitSizes:
    """Write the windows of units, for whoever runs them, and return how large the units are.

    Args:
        place: of the store.
        units: the windows of each, taken one by one.
        first_unit: the number of the first of them; the others follow.
    """
    sizes = UnitSizes()

    def files() -> Iterator[tuple[str, bytes]]:
        for unit, windows in enumerate(units, first_unit):
            sizes.add(windows)
            yield windows_path(unit), _encoded(windows)

    for _ in answers(place, lambda file: place.put(*file), files()):
        pass
    return sizes


def _encoded(windows: Sequence[TokenWindow]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(encode_tokens(windows)), sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_unit(place: Place, unit: int) -> list[TokenWindow]:
    """Return the windows of a unit, in the order of the corpus.

    Raises:
        StoreError: they cannot be read.
    """
    path, expected = windows_path(unit), "the windows of a unit that was planned"
    content = place.get(path)
    if content is None:
        raise _spoiled(place.where(path), expected, "no file")
    try:
        return decode_tokens(pq.read_table(pa.BufferReader(content)))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _spoiled(place.where(path), expected, shortened(str(error))) from error


def _spoiled(where: str, expected: str, found: str) -> FormatError:
    return FormatError(
        where,
        expected=expected,
        found=found,
        next_step=_MAKE_AGAIN,
    )
