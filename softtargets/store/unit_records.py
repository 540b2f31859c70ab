"""The records of units. A unit is done when its record is there and the shard that it names.

A process that was thought dead may still write. Whoever comes after the first takes the record that
is there. In a place with locks shard and record are put under the unit's number, by one process at
a time. In other places a shard's name has the hash of its content, so that nobody replaces bytes
that a record names, and a record is written once: the first is the unit's commit.

Records of units that were done long ago are read from copies of many; see `compacted_records`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from uuid import uuid4

import numpy as np

from softtargets.errors import StoreError
from softtargets.places.at_once import answers
from softtargets.places.place import LockGoneError, Place
from softtargets.store.compacted_records import COMPACTED_UNITS, CompactedRecords
from softtargets.store.json_object import parse_object
from softtargets.store.shard import shard_path
from softtargets.store.shard_table import ShardEntry
from softtargets.store.work_files import RECORDS
from softtargets.store.workplace import Workplace

_RECORD = re.compile(rf"{RECORDS}/unit-(\d{{6,}})\.json")
_FINGERPRINT = "fingerprint"
_UNLISTED: Mapping[str, int] = MappingProxyType({})
_MOST_TURNS = 8
"""How often a record is looked for that is neither there nor may be written."""


class UnitRecords:
    """The records in the place where a store is built."""

    def __init__(self, workplace: Workplace) -> None:
        self._workplace = workplace
        self._compacted = CompactedRecords(workplace)
        self._noted: list[ShardEntry] = []
        """Units that were done since records were last copied."""

    @property
    def _place(self) -> Place:
        return self._workplace.place

    def all(self, *, compacts: bool = False) -> dict[int, ShardEntry]:
        """Return the manifest entries of the units that are done; see `each`."""
        return {entry.unit: entry for entry in self.each(compacts=compacts)}

    def each(self, *, compacts: bool = False) -> Iterator[ShardEntry]:
        """Yield the manifest entries of the units that are done, each once, in any order.

        Args:
            compacts: copy records into one file, if many were read one by one.
        """
        paths = self._place.list(RECORDS)
        units = {int(found[1]): path for path in paths if (found := _RECORD.fullmatch(path))}
        # Listed after the records: a shard is there before its record.
        sizes = self._place.sizes("shards") if units else {}
        done = set[int]()
        for entry in self._copied(paths, units, removes=compacts):
            if entry.unit not in done and self._has_shard(entry, sizes):
                done.add(entry.unit)
                yield entry
        read: list[ShardEntry] = []
        alone = [path for unit, path in units.items() if unit not in done]
        for own in answers(self._place, lambda path: self._read(path, sizes), alone):
            if own is None:
                continue
            yield own
            read.append(own)
            if len(read) == COMPACTED_UNITS:
                if compacts:
                    self._compacted.write(read)
                read.clear()

    def of_plan(self, num_units: int) -> Iterator[ShardEntry]:
        """Yield the entries of units that are done, each once, to be committed.

        A listing may be older than what it lists. A record that is asked for is not, so those that
        no listing told of are asked for, up to the first unit that is not done.
        """
        is_listed = np.zeros(num_units, np.bool_)
        for entry in self.each(compacts=True):
            if entry.unit < num_units:
                is_listed[entry.unit] = True
                yield entry
        for unit in np.flatnonzero(~is_listed).tolist():
            late = self.read(unit)
            if late is None:
                return
            yield late

    def note(self, entry: ShardEntry) -> None:
        """Note that a unit is recorded; of many the records are copied into one file.

        Raises:
            StoreError: the system refused to write.
        """
        self._noted.append(entry)
        if len(self._noted) == COMPACTED_UNITS:
            self._compacted.write(self._noted)
            self._noted.clear()

    def _copied(
        self, paths: Iterable[str], units: Mapping[int, str], *, removes: bool
    ) -> Iterator[ShardEntry]:
        """Yield what copies say of records that are there.

        Somebody may have removed a record, so that its unit is run again. A file with its copy
        would then say what was before, so none of it counts.
        """
        for path, own in self._compacted.read(paths):
            if all(entry.unit in units for entry in own):
                yield from own
            elif removes:
                self._place.delete(path)

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
        record = json.dumps(entry.to_dict() | own).encode()
        if not self._workplace.writes_once:
            self._replace(entry.unit, record)
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
                    self._replace(entry.unit, json.dumps(entry.to_dict()).encode())
                self._place.delete(lock)
        except LockGoneError as error:
            raise StoreError(
                self._place.where(path),
                expected="a build that is at work",
                found="one that others have finished",
                next_step="There is nothing left to do.",
            ) from error
        return found or entry

    def _replace(self, unit: int, record: bytes) -> None:
        """Write a record, whether or not there is one."""
        if self._place.size(_path(unit)) is not None:
            self._compacted.forget()
        self._place.put(_path(unit), record)

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
            self._compacted.forget()
            if self._place.put_if_match(path, record, tag):
                return entry
        raise StoreError(
            self._place.where(path),
            expected="a record, or to write one",
            found="neither",
            next_step="Run the same command again; what was recorded is still there.",
        )

    def _read(self, path: str, sizes: Mapping[str, int] = _UNLISTED) -> ShardEntry | None:
        content = self._place.get(path)
        return None if content is None else self._parse(content, path, sizes)

    def _parse(
        self, content: bytes, path: str, sizes: Mapping[str, int] = _UNLISTED
    ) -> ShardEntry | None:
        """Return what a record says if it is of this store, and its shard is there."""
        data = parse_object(content, self._place.where(path))
        if data.get(_FINGERPRINT, self._workplace.fingerprint) != self._workplace.fingerprint:
            return None
        entry = ShardEntry.from_dict(data)
        return entry if self._has_shard(entry, sizes) else None

    def _has_shard(self, entry: ShardEntry, sizes: Mapping[str, int]) -> bool:
        """Return whether the shard of an entry is there, by a listing as far as it goes."""
        if sizes.get(entry.path) == entry.num_bytes:
            return True
        return self._place.size(entry.path) == entry.num_bytes


def _path(unit: int) -> str:
    return f"{RECORDS}/unit-{unit:06d}.json"
