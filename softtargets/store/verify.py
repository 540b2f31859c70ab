"""Check everything a store promises: every checksum, every count, every invariant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softtargets.errors import SoftTargetsError
from softtargets.packing import ESCAPE, kept_entries, split_halves
from softtargets.store.files import hash_file
from softtargets.store.manifest import MANIFEST_NAME, ShardEntry
from softtargets.store.schema import TargetSchema
from softtargets.store.store import Store
from softtargets.targets import Bool, SoftTargets
from softtargets.window import Window, hash_window


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One promise that does not hold."""

    where: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was checked, and what does not hold."""

    num_shards: int
    num_windows: int
    num_positions: int
    problems: tuple[Problem, ...]

    @property
    def is_sound(self) -> bool:
        """Return whether everything holds."""
        return not self.problems


def verify(
    path: str | Path, *, fast: bool = False, on_shard: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Read a whole store and check it against its manifest and the format.

    Args:
        path: the store.
        fast: check the manifest, and size and footer of each shard, but read no targets.
        on_shard: called after each shard with (shards checked, shards in all).

    Raises:
        StoreError: the manifest itself cannot be read; damage below it is reported, not raised.
    """
    store = Store.open(path)
    problems = [*_stray_files(store), *_count_problems(store)]
    num_windows = num_positions = 0
    seen: set[str] = set()
    shards = store.manifest.shards
    for index, entry in enumerate(shards):
        if fast:
            problems.extend(_footer_problems(store, index))
            num_windows += entry.num_windows
            num_positions += entry.num_positions
        else:
            for window in _checked_windows(store, index, entry, problems):
                num_windows += 1
                num_positions += len(window.packed)
                if window.window_id in seen:
                    problems.append(
                        Problem(
                            where=f"{store.root / entry.path}, window {window.window_id}",
                            expected="a window id that occurs once in the store",
                            found="it again",
                        )
                    )
                seen.add(window.window_id)
        if on_shard is not None:
            on_shard(index + 1, len(shards))
    return VerifyReport(
        num_shards=len(shards),
        num_windows=num_windows,
        num_positions=num_positions,
        problems=tuple(problems),
    )


def _footer_problems(store: Store, index: int) -> Iterator[Problem]:
    try:
        store.open_shard(index).close()
    except SoftTargetsError as error:
        yield Problem(where=error.where, expected=error.expected, found=error.found)


def _count_problems(store: Store) -> Iterator[Problem]:
    """Check that no shard was taken out of the manifest."""
    corpus = store.manifest.corpus
    for name, found in (
        ("windows", len(store)),
        ("tokens", store.num_positions + len(store)),
    ):
        if corpus.get(name) != found:
            yield Problem(
                where=f"{store.root / MANIFEST_NAME}, field corpus.{name}",
                expected=f"{found:,}, as the shards have",
                found=f"{corpus.get(name)}",
            )


def _stray_files(store: Store) -> Iterator[Problem]:
    """Find shards that the manifest does not list."""
    listed = {store.root / entry.path for entry in store.manifest.shards}
    for path in sorted((store.root / "shards").glob("*.parquet")):
        if path not in listed:
            yield Problem(where=str(path), expected="a shard of the manifest", found="another file")
        elif path.is_symlink():
            yield Problem(where=str(path), expected="a file", found="a symbolic link")


def _checked_windows(
    store: Store, index: int, entry: ShardEntry, problems: list[Problem]
) -> Iterator[Window]:
    """Yield the readable windows of a shard, adding what is wrong to `problems`."""
    try:
        with store.open_shard(index) as reader:
            found = hash_file(store.root / entry.path)
            if found != entry.sha256:
                problems.append(
                    Problem(where=reader.where, expected=f"SHA-256 {entry.sha256}", found=found)
                )
            for number, group in enumerate(entry.row_groups):
                windows = reader.read_row_group(number)
                where = f"{reader.where}, row group {number}"
                num_positions = sum(len(window.packed) for window in windows)
                if num_positions != group.num_positions:
                    problems.append(
                        Problem(
                            where=where,
                            expected=f"{group.num_positions:,} positions",
                            found=f"{num_positions:,}",
                        )
                    )
                for window in windows:
                    problems.extend(check_window(window, store.targets, where))
                    yield window
    except SoftTargetsError as error:
        problems.append(Problem(where=error.where, expected=error.expected, found=error.found))


def check_window(window: Window, schema: TargetSchema, where: str) -> Iterator[Problem]:
    """Check one window against the format's invariants."""
    content = hash_window(window.input_ids_L, window.segment_lengths_S, window.mask_T)
    if content != window.window_id:
        yield Problem(
            where=f"{where}, window {window.window_id}",
            expected=f"the hash of its content as its id, {content}",
            found=window.window_id,
        )
    structure = (
        (window.segment_lengths_S.sum() == len(window), "segment lengths that sum to its tokens"),
        (len(window.document_ids) == len(window.segment_lengths_S), "a document id a segment"),
        (_within(window.input_ids_L, schema.vocab_size).all(), "input ids within the vocabulary"),
    )
    for holds, promise in structure:
        if not holds:
            yield Problem(
                where=f"{where}, window {window.window_id}", expected=promise, found="others"
            )
    if (window.packed.num_entries_T > schema.top_k).any() or len(
        window.packed.escapes_E
    ) != _num_escapes(window, schema.top_k):
        yield Problem(
            where=f"{where}, window {window.window_id}",
            expected=f"at most {schema.top_k} entries a position and a value for every escape",
            found="others",
        )
        return
    for promise, holds_T in _invariants(window.targets, schema).items():
        if not holds_T.all():
            yield Problem(
                where=f"{where}, window {window.window_id}, position {int(holds_T.argmin())}",
                expected=promise,
                found=f"{int((~holds_T).sum())} of {len(holds_T)} positions without",
            )


def _num_escapes(window: Window, top_k: int) -> int:
    steps_TH = window.packed.steps_TH
    return 0 if steps_TH is None else int((split_halves(steps_TH, top_k) == ESCAPE).sum())


def _within(ids: np.ndarray, vocab_size: int) -> Bool:
    return np.asarray((ids >= 0) & (ids < vocab_size))


def _invariants(targets: SoftTargets, schema: TargetSchema) -> dict[str, Any]:
    """Return for each promise at which positions [T] it holds."""
    kept_TK = kept_entries(targets.num_entries_T, schema.top_k)
    # Past a count every entry gets a number of its own, so that only kept ids can be doubles.
    sorted_TK = np.sort(np.where(kept_TK, targets.ids_TK, -1 - np.arange(schema.top_k)), axis=1)
    logits_TK = np.where(kept_TK, targets.logits_TK, 0)
    rises_TK = targets.logits_TK[:, 1:] > targets.logits_TK[:, :-1]
    return {
        "at least one entry": targets.num_entries_T >= 1,
        "kept ids within the vocabulary": (
            _within(targets.ids_TK, schema.vocab_size) | ~kept_TK
        ).all(axis=1),
        "kept ids without doubles": (np.diff(sorted_TK, axis=1) > 0).all(axis=1),
        "finite kept logits": np.isfinite(logits_TK).all(axis=1),
        "logits that fall or stay along the rank": ~rises_TK.any(axis=1),
        "a tail mass from 0 to below 1 at every temperature": (
            (targets.tail_mass_TG >= 0) & (targets.tail_mass_TG < 1)
        ).all(axis=1),
        "a label logit that is a number below infinity": targets.label_logit_T < np.inf,
        "a label rank within the vocabulary": _within(targets.label_rank_T, schema.vocab_size),
    }
