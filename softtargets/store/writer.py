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
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from softtargets.errors import IdentityError, StoreError
from softtargets.kinds import TargetSchema
from softtargets.store.card import CARD_NAME, card_text
from softtargets.store.files import (
    TEMPORARY_SUFFIX,
    hold_lock,
    make_directory,
    write_file,
)
from softtargets.store.manifest import (
    MANIFEST_NAME,
    Manifest,
    check_identity,
    check_schema,
    fingerprint_of,
    read_json,
    read_manifest,
)
from softtargets.store.output_head import OUTPUT_HEAD_NAME, commit_output_head
from softtargets.store.shard import encode_shard
from softtargets.store.shard_table import ShardEntry, ShardTable
from softtargets.store.side_file import commit_side_file
from softtargets.store.versions import FORMAT_VERSION, check_version
from softtargets.store.vocabulary import VOCABULARY_NAME
from softtargets.window import Window


class StoreWriter:
    """Writes the units of one store. Make it with `StoreWriter.hold`."""

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        check_schema(identity, "identity", str(root), field="identity")
        self.root = root
        self.identity = identity
        self.fingerprint = fingerprint_of(identity)
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
        writer._check_directory()
        if writer.is_complete and not writer.work.exists():
            yield writer
            return
        make_directory(writer.work)
        with hold_lock(writer.work / "lock"):
            # Workers whose parent was killed end by themselves, when their unit is done.
            with hold_lock(writer.workers_lock):
                if writer.is_complete:
                    # Left by a crash before it was removed, or another build ended just now.
                    shutil.rmtree(writer.work)
                else:
                    writer._prepare()
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
        writer._check_directory()
        if writer.is_complete:
            yield writer
            return
        make_directory(writer.work)
        with hold_lock(writer.work / "lock", shared=True):
            yield writer

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Keep the other processes that joined waiting, so that one of them plans for all.

        Raises:
            IdentityError: another store was begun in the directory.
        """
        with hold_lock(self.work / "plan.lock", wait=True):
            if self._request_path.is_file():
                self._check_request(_read_request(self._request_path))
            else:
                self._prepare()
            make_directory(self.work / "leases")
            yield

    @contextmanager
    def lease(self, unit: int) -> Iterator[None]:
        """Hold a unit for this process while it works on it.

        Raises:
            BusyError: another process holds it.
        """
        with hold_lock(self.work / "leases" / f"unit-{unit:06d}"):
            yield

    @property
    def is_complete(self) -> bool:
        """Return whether the store is committed."""
        return (self.root / MANIFEST_NAME).is_file()

    def recorded(self) -> dict[int, ShardEntry]:
        """Return the manifest entries of the units that are done, their shards being there."""
        entries = [
            ShardEntry.from_dict(read_json(path))
            for path in sorted((self.work / "records").glob("*.json"))
        ]
        return {entry.unit: entry for entry in entries if self._has_shard(entry)}

    def read_record(self, unit: int) -> ShardEntry | None:
        """Return the manifest entry of a unit, or None when it is not done."""
        path = self._record_path(unit)
        entry = ShardEntry.from_dict(read_json(path)) if path.is_file() else None
        return entry if entry is not None and self._has_shard(entry) else None

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
        write_file(self.root / entry.path, content)
        write_file(self._record_path(unit), json.dumps(dataclasses.asdict(entry)).encode())
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
        path = self.work / name
        if not path.is_file():
            write_file(path, content)

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
        vocabulary = self.work / VOCABULARY_NAME
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
                self.root, self.work, self.targets.output_head, self.targets.vocab_size
            ),
            vocabulary=commit_side_file(self.root, VOCABULARY_NAME, vocabulary.read_bytes())
            if vocabulary.is_file()
            else None,
        )
        self._remove_leftovers()
        write_file(self.root / CARD_NAME, card_text(manifest).encode())
        write_file(self.root / MANIFEST_NAME, manifest.to_json().encode())
        shutil.rmtree(self.work)
        return manifest

    def _record_path(self, unit: int) -> Path:
        return self.work / "records" / f"unit-{unit:06d}.json"

    def _has_shard(self, entry: ShardEntry) -> bool:
        path = self.root / entry.path
        return path.is_file() and path.stat().st_size == entry.num_bytes

    def _has_records(self) -> bool:
        """Return whether a unit was done; before that, another identity may take the directory."""
        return any((self.work / "records").glob("*.json"))

    def _prepare(self) -> None:
        request = {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "identity": self.identity,
        }
        content = json.dumps(request, indent=1).encode()
        is_same = self._request_path.is_file() and self._request_path.read_bytes() == content
        if not is_same:
            # Begun with another identity, but no unit was done: nothing is lost by starting anew.
            for path in (self.root / "shards", self.work / "plan", self.work / "records"):
                shutil.rmtree(path, ignore_errors=True)
            for name in ("plan.json", OUTPUT_HEAD_NAME, VOCABULARY_NAME):
                (self.work / name).unlink(missing_ok=True)
        for directory in (self.work / "records", self.root / "shards"):
            make_directory(directory)
        self._remove_leftovers()
        if not is_same:
            write_file(self._request_path, content)

    def _remove_leftovers(self) -> None:
        """Remove what processes that died had begun to write; none may be writing now."""
        for leftover in self.root.glob(f"**/*{TEMPORARY_SUFFIX}"):
            leftover.unlink()

    @property
    def workers_lock(self) -> Path:
        """Return the file that every worker process holds a shared lock on."""
        return self.work / "workers.lock"

    @property
    def _request_path(self) -> Path:
        return self.work / "request.json"

    def _check_directory(self) -> None:
        """Check that the directory is new, or holds this very store, finished or not."""
        found: Mapping[str, Any]
        where = str(self.root)
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(
                where,
                expected="a directory, or nothing yet",
                found="a file",
                next_step="Choose another output directory.",
            )
        if self.is_complete:
            found = read_manifest(self.root / MANIFEST_NAME).identity
        elif self._has_records():
            found = _read_request(self._request_path)
        elif others := self._foreign_names():
            raise StoreError(
                where,
                expected="an empty directory, or a store",
                found=f"{len(others)} other entries, among them '{others[0]}'",
                next_step="Choose another output directory; nothing in this one was touched.",
            )
        else:
            return
        self._check_request(found)

    def _check_request(self, found: Mapping[str, Any]) -> None:
        next_step = (
            "Pass the options and files the store was begun with, or choose another output "
            "directory; the store was not touched."
        )
        check_identity(found, self.identity, str(self.root), next_step)

    def _foreign_names(self) -> list[str]:
        """Return what a build that died before its request was written cannot have left."""
        if not self.root.is_dir():
            return []
        own = {"work", "shards"}
        return sorted(path.name for path in self.root.iterdir() if path.name not in own)


def read_request(root: Path) -> Mapping[str, Any]:
    """Return the identity of the store that a directory holds or that is being built in it.

    Raises:
        StoreError: there is none.
    """
    if (root / MANIFEST_NAME).is_file():
        return read_manifest(root / MANIFEST_NAME).identity
    request = root / "work" / "request.json"
    if not request.is_file():
        raise StoreError(
            str(root),
            expected="a store, or a directory in which one is being built",
            found="neither",
            next_step="Run softtargets build.",
        )
    return _read_request(request)


def _read_request(path: Path) -> Mapping[str, Any]:
    """Return the identity that the build in the directory was begun with."""
    where = str(path)
    request = read_json(path)
    version = check_version(request.get("format_version"), where)
    if version != FORMAT_VERSION:
        raise IdentityError(
            where,
            expected=f"a build begun in format {FORMAT_VERSION}",
            found=f"one of {version}",
            next_step="Finish it with the release of softtargets that began it, or choose "
            "another output directory; nothing in this one was touched.",
        )
    identity: Mapping[str, Any] = request.get("identity", {})
    check_schema(identity, "identity", where, field="identity")
    return identity


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
