"""The directory of a training: the student, its checkpoints, and what was resolved.

`train.json` says whose it is. What stands in its field `decides` makes the weights: a run goes on
with the same only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from softtargets.errors import InputError, StoreError
from softtargets.places.local_files import check_root, make_directory, write_file
from softtargets.texts import shortened

STATE_NAME = "train.json"
LOG_NAME = "log.jsonl"
PLOT_NAME = "training.png"
CARD_NAME = "README.md"
CHECKPOINTS = "checkpoints"
BEFORE, AFTER, BASELINE = "before", "after", "baseline"
"""Rows of the results; the last is a directory, too."""
_TOLD = (CARD_NAME, LOG_NAME, PLOT_NAME)
_TRAINER_STATE = "trainer_state.json"


@dataclass(slots=True)
class RunDirectory:
    """A directory with a run, or one for it."""

    root: Path
    state: dict[str, Any] = field(default_factory=dict)
    """What `train.json` holds; empty before it is written."""

    @classmethod
    def open(cls, root: Path, decides: Mapping[str, Any], *, fresh: bool) -> RunDirectory:
        """Return the run of a directory, or a new one; nothing is written.

        Args:
            root: the directory.
            decides: what makes the weights, as JSON.
            fresh: whether a run that is there is to be forgotten.

        Raises:
            InputError: the run that is there is another.
            StoreError: something else is there.
        """
        check_root(root)
        state = _read_state(root)
        if state is None or fresh:
            return cls(root)
        there = state["decides"]
        for name in sorted({*there, *decides}):
            if there.get(name) != decides.get(name):
                raise InputError(
                    f"{root / STATE_NAME}, {name}",
                    expected=f"{_short(decides.get(name))}, as it is asked for",
                    found=f"{_short(there.get(name))}, of the run that is there",
                    next_step="Pass the same arguments to go on with it, another --output to keep "
                    "it, or --fresh to begin anew.",
                )
        return cls(root, state)

    @property
    def results(self) -> dict[str, dict[str, float]]:
        """Return the figures of each row of the table that is known."""
        results: dict[str, dict[str, float]] = self.state.setdefault("results", {})
        return results

    def is_finished(self, rows: Sequence[str]) -> bool:
        """Return whether these rows are known, and nothing is left to do."""
        return bool(self.state.get("finished")) and set(rows) <= set(self.results)

    def begin(self, decides: Mapping[str, Any], others: Mapping[str, Any]) -> None:
        """Write what was resolved, and remove what another run left.

        Raises:
            StoreError: the system refused.
        """
        make_directory(self.root)
        if not self.state:
            for name in (CHECKPOINTS, BASELINE):
                shutil.rmtree(self.root / name, ignore_errors=True)
            for path in (*map(self.root.joinpath, _TOLD), *self.root.glob("model*.safetensors*")):
                path.unlink(missing_ok=True)
        results = self.results
        self.state = {
            "softtargets": version("softtargets"),
            "decides": dict(decides),
            "others": dict(others),
            "results": results,
            "finished": False,
        }
        self.write()

    def finish(self) -> None:
        """Write that nothing is left to do."""
        self.state["finished"] = True
        self.write()

    def write(self) -> None:
        """Write the state."""
        content = json.dumps(self.state, indent=1, allow_nan=True) + "\n"
        write_file(self.root / STATE_NAME, content.encode())

    def write_log(self, part: str, history: Sequence[Mapping[str, Any]]) -> None:
        """Write what a trainer logged, a line each, in a part of the directory."""
        path = self.root / part / LOG_NAME
        make_directory(path.parent)
        write_file(path, "".join(json.dumps(one) + "\n" for one in history).encode())

    def read_log(self, part: str) -> list[dict[str, Any]]:
        """Return what a trainer logged; nothing if there is no log."""
        path = self.root / part / LOG_NAME
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]


def last_checkpoint(directory: Path) -> Path | None:
    """Return the last checkpoint that was written to its end; None if there is none.

    A Trainer writes its state last.
    """
    found = {}
    for path in directory.glob("checkpoint-*"):
        number = path.name.rpartition("-")[2]
        try:
            json.loads((path / _TRAINER_STATE).read_text())
        except (OSError, ValueError):
            continue
        if number.isdigit():
            found[int(number)] = path
    return found[max(found)] if found else None


def _read_state(root: Path) -> dict[str, Any] | None:
    """Return what a directory's run says of itself; None if nothing is there.

    Raises:
        StoreError: something is there that is no run.
    """
    if not root.is_dir() or not any(root.iterdir()):
        return None
    try:
        state = json.loads((root / STATE_NAME).read_text())
        if isinstance(state["decides"], dict) and isinstance(state["results"], dict):
            return dict(state)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise StoreError(
        str(root),
        expected=f"an empty directory, nothing yet, or a run with its {STATE_NAME}",
        found="something else",
        next_step="Choose another --output.",
    )


def _short(value: Any) -> str:
    return shortened(json.dumps(value), 100)
