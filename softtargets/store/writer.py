"""The writing side of a store: units in any order, each durable when recorded, the manifest last.

While a store is being built its directory holds

    work/request.json          the identity: what is being built
    work/plan.json, work/plan/ what is to be done, kept by `softtargets.capture.plan`
    work/lock                  held by the build, or by every process that builds a range of units
    work/workers.lock          held by each of its worker processes
    work/plan.lock, work/leases held by processes that build ranges, while they plan or run a unit
    work/head.parquet          the teacher's output head, if the store is to have it
    work/vocabulary.parquet    its vocabulary, if there is a tokenizer
    work/records/unit-N.json   the manifest entry of every unit whose shard is durable
    shards/unit-N.parquet      the shards
    README.md                  the card, written just before the manifest
    manifest.json              written when every unit has a record; then `work` is removed

Every file is written as a temporary, synced and renamed, so a crash at any moment leaves the
directory as it was before or after a unit, and building again continues there.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from softtargets.errors import StoreError
from softtargets.kinds import TargetSchema
from softtargets.store.card import CARD_NAME, card_text
from softtargets.store.json_object import parse_object
from softtargets.store.lock import hold_lock, read_holder
from softtargets.store.manifest import MANIFEST_NAME, Manifest, parse_manifest
from softtargets.store.output_head import OUTPUT_HEAD_NAME, commit_output_head
from softtargets.store.shard import encode_shard
from softtargets.store.shard_table import ShardEntry, ShardTable
from softtargets.store.side_file import commit_side_file
from softtargets.store.tree import Tree
from softtargets.store.versions import FORMAT_VERSION
from softtargets.store.vocabulary import VOCABULARY_NAME
from softtargets.store.workplace import PLAN_LOCK, WORKERS_LOCK, Workplace, read_request_of
from softtargets.window import Window

_log = logging.getLogger(__name__)
_RECORD = re.compile(r"unit-\d{6,}\.json")


class StoreWriter:
    """Writes the units of one store. Make it with `StoreWriter.hold`."""

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        self._place = Workplace(root, identity)
        self._tree = self._place.tree
        self.root = root
        self.identity = identity
        self.fingerprint = self._place.fingerprint
        self.targets = TargetSchema.from_dict(identity["targets"])
        self.work = root / "work"

    @classmethod
    @contextmanager
    def hold(cls, root: Path, identity: Mapping[str, Any]) -> Iterator[StoreWriter]:
        """Create the directory or continue in it, keeping other builds out meanwhile.

        Raises:
            StoreError: the directory holds something else, or cannot be written.
            IdentityError: it holds a store, finished or not, of another identity.
            BusyError: another process builds in it.
        """
        writer = cls(root, identity)
        with writer._place.entered(shared=False):
            yield writer

    @classmethod
    @contextmanager
    def join(cls, root: Path, identity: Mapping[str, Any]) -> Iterator[StoreWriter]:
        """Create the directory or continue in it, beside other processes that do the same.

        Raises:
            StoreError: the directory holds something else, or cannot be written.
            IdentityError: it holds a store, finished or not, of another identity.
            BusyError: another process builds the whole store in it.
        """
        writer = cls(root, identity)
        with writer._place.entered(shared=True):
            yield writer

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Keep the other processes that joined waiting, so that one of them plans for all.

        Raises:
            IdentityError: another store was begun in the directory.
        """
        with hold_lock(self._tree, PLAN_LOCK, wait_for="the plan of the units"):
            found = read_request_of(self._tree)
            if found is None:
                self._place.begin()
            else:
                self._place.check_request(found)
            self._tree.make_directory("work/leases")
            yield

    @contextmanager
    def lease(self, unit: int) -> Iterator[None]:
        """Hold a unit for this process while it works on it.

        Raises:
            BusyError: another process holds it.
        """
        with hold_lock(self._tree, _lease_path(unit)):
            yield

    def lease_holder(self, unit: int) -> str:
        """Return which process holds a unit, or held it last."""
        return read_holder(self._tree, _lease_path(unit))

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep others from beginning as long as a worker process may write."""
        with hold_lock(self._tree, WORKERS_LOCK, shared=True):
            yield

    @property
    def is_complete(self) -> bool:
        """Return whether the store is committed."""
        return self._place.is_complete

    def recorded(self) -> dict[int, ShardEntry]:
        """Return the manifest entries of the units that are done, their shards being there."""
        names = self._tree.names("work/records")
        entries = [self._read_record(name) for name in names if _RECORD.fullmatch(name)]
        return {entry.unit: entry for entry in entries if entry is not None}

    def read_record(self, unit: int) -> ShardEntry | None:
        """Return the manifest entry of a unit, or None when it is not done."""
        return self._read_record(_record_name(unit))

    def _read_record(self, name: str) -> ShardEntry | None:
        path = f"work/records/{name}"
        content = self._tree.read(path)
        if content is None:
            return None
        entry = ShardEntry.from_dict(parse_object(content, self._tree.where(path)))
        return entry if self._tree.size(entry.path) == entry.num_bytes else None

    def write_unit(
        self, unit: int, windows: Sequence[Window], run: Mapping[str, Any]
    ) -> ShardEntry:
        """Write the shard of a unit, then its record; from then on the unit is done.

        Raises:
            StoreError: the system refused to write; the units recorded before are still there.
        """
        content, entry = encode_shard(
            windows,
            self.targets,
            self.fingerprint,
            unit,
            compression=self.identity["compression"],
            run=run,
        )
        self._tree.write(entry.path, content)
        record = json.dumps(dataclasses.asdict(entry)).encode()
        self._tree.write(f"work/records/{_record_name(unit)}", record)
        return entry

    def write_output_head(self, content: bytes) -> None:
        """Write the file with the teacher's output head, unless it is there.

        Raises:
            StoreError: the system refused to write.
        """
        self._write_side_file(OUTPUT_HEAD_NAME, content)

    def write_vocabulary(self, content: bytes) -> None:
        """Write the file with the teacher's vocabulary, unless it is there.

        Raises:
            StoreError: the system refused to write.
        """
        self._write_side_file(VOCABULARY_NAME, content)

    def _write_side_file(self, name: str, content: bytes) -> None:
        path = f"work/{name}"
        if self._tree.size(path) is None:
            self._tree.write(path, content)

    def commit(self, num_units: int, teacher: str, corpus: Mapping[str, int]) -> Manifest:
        """Write card and manifest from the records of units 0 to `num_units` and remove `work`.

        Raises:
            StoreError: a unit is not done, or there is no output head though there should be.
        """
        entries = self.recorded()
        missing = [unit for unit in range(num_units) if unit not in entries]
        if missing:
            raise StoreError(
                str(self.root),
                expected=f"all of {num_units} units done",
                found=f"{len(missing)} missing: {_ranges_text(missing)}",
                next_step="Run the same 'softtargets build' command again, without --unit-range or "
                "with one that has them.",
            )
        vocabulary = self._tree.read(f"work/{VOCABULARY_NAME}")
        manifest = Manifest(
            identity=self.identity,
            fingerprint=self.fingerprint,
            format_version=FORMAT_VERSION,
            teacher=teacher,
            corpus=corpus,
            shards=ShardTable.of(entries[unit] for unit in range(num_units)),
            created_by=f"softtargets {version('softtargets')}, pyarrow {version('pyarrow')}",
            output_head=None
            if self.targets.output_head is None
            else commit_output_head(
                self._tree, "work", self.targets.output_head, self.targets.vocab_size
            ),
            vocabulary=None
            if vocabulary is None
            else commit_side_file(self._tree, VOCABULARY_NAME, vocabulary),
        )
        self._place.remove_leftovers()
        self._write_card(manifest)
        self._tree.write(MANIFEST_NAME, manifest.to_json().encode())
        self._place.clean()
        return manifest

    def _write_card(self, manifest: Manifest) -> None:
        """Write the card, unless somebody has put a README there."""
        content = card_text(manifest).encode()
        found = self._tree.read(CARD_NAME)
        if found is None:
            self._tree.write(CARD_NAME, content)
        elif found != content:
            _log.warning(
                "%s was there already, and is kept. 'softtargets card' adds the card to it.",
                self._tree.where(CARD_NAME),
            )


def _record_name(unit: int) -> str:
    return f"unit-{unit:06d}.json"


def _lease_path(unit: int) -> str:
    return f"work/leases/unit-{unit:06d}"


def read_request(root: Path) -> Mapping[str, Any]:
    """Return the identity of the store that a directory holds or that is being built in it.

    Raises:
        StoreError: there is none.
    """
    tree = Tree(root)
    manifest = tree.read(MANIFEST_NAME)
    if manifest is not None:
        return parse_manifest(manifest, tree.where(MANIFEST_NAME)).identity
    request = read_request_of(tree)
    if request is None:
        raise StoreError(
            str(root),
            expected="a store, or a directory in which one is being built",
            found="neither",
            next_step="Run softtargets build.",
        )
    return request


def _ranges_text(numbers: Sequence[int]) -> str:
    """Return rising numbers as at most ten ranges, last ones included: 3, 7-9."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][-1] == number - 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    more = ", ..." if len(ranges) > 10 else ""
    return ", ".join("-".join(str(one) for one in ends) for ends in ranges[:10]) + more
