"""How far a build is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from softtargets.capture.unit_plan import Plan
from softtargets.engines.engine import Scored
from softtargets.store.shard_table import ShardEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a build is; windows and tokens of earlier runs are included."""

    num_windows: int
    num_tokens: int
    all_windows: int
    all_tokens: int
    tokens_before: int
    """Tokens that were done before this run."""
    bytes_per_token: float | None
    """Size of the shards so far; None before the first."""


class Tally:
    """What is done of a plan, for whoever shows progress."""

    def __init__(
        self, plan: Plan, entries: Mapping[int, ShardEntry], show: Callable[[Progress], None]
    ) -> None:
        self._plan = plan
        self._show = show
        self._num_windows = sum(plan.units[unit].num_windows for unit in entries)
        self._num_tokens = sum(plan.units[unit].num_tokens for unit in entries)
        self._scored_windows, self._scored_tokens = Counter[int](), Counter[int]()
        """Of units that are not done."""
        self._tokens_before = self._tokens_written = self._num_tokens
        self._num_bytes = sum(entry.num_bytes for entry in entries.values())
        self.report()

    def score(self, scored: Scored) -> None:
        """Count windows that were scored."""
        self._scored_windows[scored.unit] += scored.num_windows
        self._scored_tokens[scored.unit] += scored.num_tokens
        self.report()

    def drop(self, unit: int) -> None:
        """Count no window of a unit as scored, since it failed."""
        self._scored_windows.pop(unit, None)
        self._scored_tokens.pop(unit, None)
        self.report()

    def finish(self, entry: ShardEntry) -> None:
        """Count a unit whose shard is written."""
        unit = self._plan.units[entry.unit]
        self._num_windows += unit.num_windows
        self._num_tokens += unit.num_tokens
        self._num_bytes += entry.num_bytes
        self._tokens_written += unit.num_tokens
        self.drop(entry.unit)

    def report(self) -> None:
        """Show how far the build is."""
        written = self._tokens_written
        self._show(
            Progress(
                num_windows=self._num_windows + self._scored_windows.total(),
                num_tokens=self._num_tokens + self._scored_tokens.total(),
                all_windows=self._plan.num_windows,
                all_tokens=self._plan.num_tokens,
                tokens_before=self._tokens_before,
                bytes_per_token=self._num_bytes / written if written else None,
            )
        )
