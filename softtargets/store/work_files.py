"""What the files of a build are called, and which of them may be removed when.

Files of other names are never ours.
"""

from __future__ import annotations

import re

from softtargets.places.place import PROBE
from softtargets.places.tree import TEMPORARY
from softtargets.store.card import CARD_NAME
from softtargets.store.layer_file import LAYERS_NAME
from softtargets.store.manifest import MANIFEST_NAME
from softtargets.store.output_head import OUTPUT_HEAD_NAME
from softtargets.store.shard_table_file import SHARD_TABLE
from softtargets.store.vocabulary import VOCABULARY_NAME

REQUEST = "work/request.json"
PLAN = "work/plan.json"
UNITS = "work/plan/units.parquet"
RECORDS = "work/records"
SLICES = "work/slices"
LOCK = "work/lock"
WORKERS_LOCK = "work/workers.lock"
PLAN_LOCK = "work/plan.lock"
WORKERS = "work/workers"
LEASES = "work/leases"
PLAN_LEASE = f"{LEASES}/plan"

WORK_DIRECTORIES = (RECORDS, SLICES, "work/plan", LEASES, WORKERS, "work")
COMPACTED = rf"{RECORDS}/compacted-[0-9a-f]{{16}}\.parquet"
_UNIT = r"unit-\d{6,}"
_SHARD = rf"shards/{_UNIT}(-[0-9a-f]{{16}})?\.parquet"
_PROBE = rf"{re.escape(PROBE)}-[0-9a-f]{{32}}"
_WORKER = rf"{WORKERS}/[0-9a-f]{{32}}"
_SIDE = "|".join(map(re.escape, (OUTPUT_HEAD_NAME, LAYERS_NAME, VOCABULARY_NAME)))
_LOCKS = rf"work/((workers\.|plan\.)?lock|records/{_UNIT}\.lock)"
_PLAN = rf"plan\.json|plan/({_UNIT}|units)\.parquet"
_SLICES = (
    r"slices/(slicing\.json|(mapped|reduced|written)-\d{6,}\.json|pieces-\d{6,}-\d{6,}\.parquet"
    r"|lengths-\d{6,}\.bin|(keys|repeats)-\d{6,}-\d{6,}-\d{6,}\.bin)"
)
_MADE = rf"work/({_PLAN}|{_SLICES}|drift\.json|{_SIDE}|records/{_UNIT}\.json)|{COMPACTED}"
_COMMITTED = rf"{re.escape(CARD_NAME)}|{re.escape(MANIFEST_NAME)}|{SHARD_TABLE.pattern}|{_SIDE}"
_WORK_DIRECTORY = r"work(/records|/slices|/plan|/leases|/workers)?"
_LEASE = rf"{LEASES}/({_UNIT}|plan)"

NAMED_BY_CONTENT = re.compile(r"shards/unit-(\d{6,})-[0-9a-f]{16}\.parquet")
"""A shard in a place without locks, and its unit."""
OF_REQUEST = re.compile(rf"({_MADE}|{_SHARD})({TEMPORARY})?")
"""What is made for a request, and goes when another takes its place."""
LEFTOVERS = re.compile(rf"({_COMMITTED}|{re.escape(REQUEST)}|{_MADE}|{_SHARD}){TEMPORARY}")
"""What a process that died had begun to write."""
WORK = re.compile(
    rf"({re.escape(REQUEST)}|{_MADE})({TEMPORARY})?|{_LEASE}|{_WORKER}|{_LOCKS}|{_PROBE}"
    rf"|{_WORK_DIRECTORY}/"
)
"""What a build keeps in `work`."""
BEFORE_REQUEST = re.compile(
    rf"{_LOCKS}|{re.escape(REQUEST)}{TEMPORARY}|{_WORKER}|{_PROBE}|({_WORK_DIRECTORY}|shards)/"
)
"""What a build that died before its request was written can have left; all of it is empty, or of
processes alone."""

_OF_UNIT = re.compile(rf"{LEASES}/unit-(\d{{6,}})")


def lease_path(unit: int) -> str:
    """Return where it lies who has a unit."""
    return f"{LEASES}/unit-{unit:06d}"


def windows_path(unit: int) -> str:
    """Return where the windows of a unit lie."""
    return f"work/plan/unit-{unit:06d}.parquet"


def windows_of(path: str) -> str | None:
    """Return where the windows lie of the unit that a path is the lease of; None if it is none."""
    found = _OF_UNIT.fullmatch(path)
    return None if found is None else windows_path(int(found[1]))
