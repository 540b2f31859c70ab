"""A store's own selection, read from its manifest, and how its tail can be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from softtargets.capture.keep.selection import (
    Draws,
    Hybrid,
    Pins,
    Sampled,
    Selection,
    Threshold,
    TopK,
    TopP,
    Values,
)
from softtargets.errors import InputError
from softtargets.fidelity.reconstruction import Candidate, selection_name
from softtargets.store import Store
from softtargets.train.sparse import Tail

_KINDS: Mapping[str, type[Selection]] = {
    one.kind: one for one in (TopK, TopP, Sampled, Hybrid, Threshold)
}
_TAILS: Mapping[str, tuple[Tail, ...]] = {
    "topk": ("bucket", "uniform", "label", "renormalize"),
    "topp": ("bucket", "uniform", "label", "renormalize"),
    "sampled": ("sampled",),
    "hybrid": ("sampled", "bucket"),
    "threshold": ("sampled", "bucket"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSelection:
    """What a store keeps, and in which form."""

    selection: Selection
    temperatures: tuple[float, ...]
    values: Values

    @classmethod
    def of(cls, store: Store) -> OwnSelection:
        """Read it from a store's manifest.

        Raises:
            InputError: the manifest does not say it, as of imported lists.
        """
        found = store.manifest.identity.get("selection")
        schema = store.targets
        if not found or not _is_known(found) or not schema.temperatures:
            raise InputError(
                f"{store.location}",
                expected="a store whose manifest says what was selected, and a grid",
                found=schema.describe(),
                next_step="Pass --compare-selections to compare others on its text.",
            )
        part = schema.head or schema.samples
        assert part is not None
        return cls(
            selection=_parse(found),
            temperatures=schema.temperatures,
            values="float32" if part.values == "float32" else "steps",
        )

    @property
    def temperature(self) -> float:
        """Return where gradients are compared: 1, or the grid's first."""
        return 1.0 if 1.0 in self.temperatures else self.temperatures[0]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Return the ways to read its tail."""
        name = selection_name(self.selection)
        return tuple(
            Candidate(name=f"{name}, {tail}", selection=self.selection, tail=tail)
            for tail in _TAILS[self.selection.kind]
        )


def _is_known(found: Mapping[str, Any]) -> bool:
    """Return whether a selection is one of the package's; others have fields of their own."""
    kind = _KINDS.get(found["kind"])
    return kind is not None and found.keys() <= {"kind", *(one.name for one in fields(kind))}


def _parse(found: Mapping[str, Any]) -> Selection:
    parts = {name: value for name, value in found.items() if name != "kind"}
    if "draws" in parts:
        # Manifests of older releases know no other design, and do not name it.
        parts["draws"] = Draws(**{"design": "independent", **parts["draws"]})
    if "pins" in parts:
        pins = {**parts["pins"], "ids": tuple(parts["pins"]["ids"])}
        parts["pins"] = Pins(**pins)
    return _KINDS[found["kind"]](**parts)
