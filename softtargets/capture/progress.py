"""How far a build is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from softtargets.capture.plan import Plan
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
        self._units = {unit.unit: unit for unit in plan.units}
        self._plan = plan
        self._show = show
        self._num_windows = sum(self._units[unit].num_windows for unit in entries)
        self._num_tokens = sum(self._units[unit].num_tokens for unit in entries)
        self._tokens_before = self._tokens_written = self._num_tokens
        self._num_bytes = sum(entry.num_bytes for entry in entries.values())
        self.report()

    def add(self, num_windows: int, num_tokens: int) -> None:
        """Count windows that were scored."""
        self._num_windows += num_windows
        self._num_tokens += num_tokens
        self.report()

    def add_unit(self, unit: int) -> None:
        """Count the windows of a unit as scored."""
        self.add(self._units[unit].num_windows, self._units[unit].num_tokens)

    def write(self, entry: ShardEntry) -> None:
        """Count a shard that was written."""
        self._num_bytes += entry.num_bytes
        self._tokens_written += self._units[entry.unit].num_tokens
        self.report()

    def report(self) -> None:
        """Show how far the build is."""
        written = self._tokens_written
        self._show(
            Progress(
                num_windows=self._num_windows,
                num_tokens=self._num_tokens,
                all_windows=self._plan.num_windows,
                all_tokens=self._plan.num_tokens,
                tokens_before=self._tokens_before,
                bytes_per_token=self._num_bytes / written if written else None,
            )
        )
