"""The records of units. A unit is done when its record is there and the shard that it names.

A process that was thought dead may still write. Whoever comes after the first takes the record that
is there. In a place with locks shard and record are put under the unit's number, by one process at
a time. In other places a shard's name has the hash of its content, so that nobody replaces bytes
that a record names, and a record is written once: the first is the unit's commit.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from uuid import uuid4

from softtargets.errors import StoreError
from softtargets.places.place import LockGoneError, Place
from softtargets.store.json_object import parse_object
from softtargets.store.shard import shard_path
from softtargets.store.shard_table import ShardEntry
from softtargets.store.work_files import RECORDS
from softtargets.store.workplace import Workplace

_RECORD = re.compile(rf"{RECORDS}/unit-\d{{6,}}\.json")
_FINGERPRINT = "fingerprint"
_MOST_TURNS = 8
"""How often a record is looked for that is neither there nor may be written."""


class UnitRecords:
    """The records in the place where a store is built."""

    def __init__(self, workplace: Workplace) -> None:
        self._workplace = workplace

    @property
    def _place(self) -> Place:
        return self._workplace.place

    def all(self) -> dict[int, ShardEntry]:
        """Return the manifest entries of the units that are done."""
        paths = self._place.list(RECORDS)
        entries = [self._read(path) for path in paths if _RECORD.fullmatch(path)]
        return {entry.unit: entry for entry in entries if entry is not None}

    def read(self, unit: int) -> ShardEntry | None:
        """Return the manifest entry of a unit, or None when it is not done."""
        return self._read(_path(unit))

    def write(self, entry: ShardEntry, content: bytes) -> ShardEntry:
        """Write the shard of a unit, then its record; return the entry that counts.

        It is another's if another process recorded the unit first.

        Raises:
            StoreError: the system refused to write.
            IdentityError: another store was begun in the place.
        """
        if self._place.has_locks:
            return self._write_alone(entry, content)
        entry = replace(entry, path=shard_path(entry.unit, entry.sha256))
        self._place.put(entry.path, content)
        own = {_FINGERPRINT: self._workplace.fingerprint, "nonce": uuid4().hex}
        record = json.dumps(asdict(entry) | own).encode()
        if not self._workplace.writes_once:
            self._place.put(_path(entry.unit), record)
            return entry
        return self._settle(entry, record)

    def _write_alone(self, entry: ShardEntry, content: bytes) -> ShardEntry:
        """Write shard and record, unless the unit is recorded; return the entry that counts."""
        path = _path(entry.unit)
        lock = path.replace(".json", ".lock")
        try:
            with self._place.lock(lock, wait_for=f"the shard of unit {entry.unit}"):
                found = self.read(entry.unit)
                if found is None:
                    self._place.put(entry.path, content)
                    self._place.put(path, json.dumps(asdict(entry)).encode())
                self._place.delete(lock)
        except LockGoneError as error:
            raise StoreError(
                self._place.where(path),
                expected="a build that is at work",
                found="one that others have finished",
                next_step="There is nothing left to do.",
            ) from error
        return found or entry

    def _settle(self, entry: ShardEntry, record: bytes) -> ShardEntry:
        """Write a record unless there is one that holds; return the entry that counts."""
        path = _path(entry.unit)
        for _ in range(_MOST_TURNS):
            if self._place.put_if_absent(path, record):
                return entry
            found = self._place.get_tagged(path)
            if found is None:
                continue
            content, tag = found
            theirs = self._parse(content, path)
            if theirs is not None:
                return theirs
            # Its shard is gone, or it is of another store: one whose build took this place?
            self._workplace.check_begun()
            if self._place.put_if_match(path, record, tag):
                return entry
        raise StoreError(
            self._place.where(path),
            expected="a record, or to write one",
            found="neither",
            next_step="Run the same command again; what was recorded is still there.",
        )

    def _read(self, path: str) -> ShardEntry | None:
        content = self._place.get(path)
        return None if content is None else self._parse(content, path)

    def _parse(self, content: bytes, path: str) -> ShardEntry | None:
        """Return what a record says if it is of this store, and its shard is there."""
        data = parse_object(content, self._place.where(path))
        if data.get(_FINGERPRINT, self._workplace.fingerprint) != self._workplace.fingerprint:
            return None
        entry = ShardEntry.from_dict(data)
        return entry if self._place.size(entry.path) == entry.num_bytes else None


def _path(unit: int) -> str:
    return f"{RECORDS}/unit-{unit:06d}.json"
