"""What is done of a store: the units that are leased and recorded, and its commit.

While a store is being built its place holds

    work/request.json          the identity: what is being built
    work/plan.json, work/plan/ what is to be done, kept by `softtargets.capture.unit_plan`
    work/slices/               what was found of slices of the corpus while it is planned
    work/lock                  held by the build, or by every process that builds a range of units
    work/workers.lock          held by each of its worker processes
    work/plan.lock, work/leases held by processes that build ranges, while they plan or run a unit
    work/head.parquet          the teacher's output head, if the store is to have it
    work/layers.safetensors    layers of the teacher, if the store is to have some
    work/vocabulary.parquet    its vocabulary, if there is a tokenizer
    work/drift.json            how far its engine is from transformers, if that was measured
    work/records/unit-N.json   the manifest entry of every unit whose shard is durable
    work/records/compacted-HASH.parquet  copies of many of these
    work/records/unit-N.lock   held by a process while it writes the two, where there are locks
    shards/unit-N.parquet      the shards; in places without locks unit-N-HASH.parquet
    shards.parquet             the list of very many shards; in places without locks
                               shards-HASH.parquet
    README.md                  the card, written just before the manifest
    manifest.json              written when every unit has a record; then `work` is removed

Every file is put as a whole, so a crash at any moment leaves the place as it was before or after a
unit, and building again continues there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from softtargets.errors import StoreError
from softtargets.places.open_place import place_to_write
from softtargets.places.place import Place
from softtargets.store.card import CARD_NAME, card_text
from softtargets.store.drift import read_drift
from softtargets.store.layer_file import LAYERS_NAME, commit_layers
from softtargets.store.manifest import MANIFEST_NAME, Manifest
from softtargets.store.opening import find_manifest
from softtargets.store.output_head import OUTPUT_HEAD_NAME, commit_output_head
from softtargets.store.recorded_shards import RecordedShards
from softtargets.store.shard_table import ShardEntry
from softtargets.store.shard_table_file import commit_shard_table, other_tables
from softtargets.store.side_file import SideFile, commit_side_file
from softtargets.store.turns import Turns
from softtargets.store.unit_records import UnitRecords
from softtargets.store.versions import manifest_version
from softtargets.store.vocabulary import VOCABULARY_NAME
from softtargets.store.work_files import WORKERS_LOCK
from softtargets.store.workplace import Workplace
from softtargets.targets import TargetSchema

_log = logging.getLogger(__name__)


class Ledger:
    """What is done of the store of an identity. Make it with `hold` or `join`.

    Args:
        output: the place of the store, or its directory.
        identity: what is being built.
        is_joined: whether other processes may build it at the same time.
    """

    def __init__(
        self, output: Path | Place, identity: Mapping[str, Any], *, is_joined: bool = False
    ) -> None:
        self.place = place_to_write(output)
        self._workplace = Workplace(self.place, identity)
        self._records = UnitRecords(self._workplace)
        self.identity = identity
        self.fingerprint = self._workplace.fingerprint
        self.targets = TargetSchema.from_dict(identity["targets"])
        self.turns = Turns(self._workplace, is_joined=is_joined)

    @classmethod
    @contextmanager
    def hold(cls, output: Path | Place, identity: Mapping[str, Any]) -> Iterator[Self]:
        """Create the store's place or continue in it, keeping other builds out meanwhile.

        Raises:
            StoreError: the place holds something else, or cannot be written.
            IdentityError: it holds a store, finished or not, of another identity.
            BusyError: another process builds in it.
        """
        ledger = cls(output, identity)
        with ledger._workplace.entered(shared=False):
            yield ledger

    @classmethod
    @contextmanager
    def join(cls, output: Path | Place, identity: Mapping[str, Any]) -> Iterator[Self]:
        """Create the store's place or continue in it, beside other processes that do the same.

        Raises:
            InputError: the place has no locks, by which they would keep out of each other's way.
            StoreError: the place holds something else, or cannot be written.
            IdentityError: it holds a store, finished or not, of another identity.
            BusyError: another process builds the whole store in it.
        """
        ledger = cls(output, identity, is_joined=True)
        ledger.place.check_locks()
        with ledger._workplace.entered(shared=True):
            yield ledger

    def working(self) -> AbstractContextManager[object]:
        """Keep others from beginning as long as a worker process may write."""
        return self.place.lock(WORKERS_LOCK, shared=True)

    @property
    def is_complete(self) -> bool:
        """Return whether the store is committed."""
        return self._workplace.is_complete

    def recorded(self) -> dict[int, ShardEntry]:
        """Return the manifest entries of the units that are done, their shards being there."""
        return self._records.all(compacts=True)

    def note(self, entry: ShardEntry) -> None:
        """Note that a unit was done by this process or its workers; of many, records are copied.

        Raises:
            StoreError: the system refused to write.
        """
        self._records.note(entry)

    def read_record(self, unit: int) -> ShardEntry | None:
        """Return the manifest entry of a unit, or None when it is not done.

        When the store is committed, its manifest says what records said before.
        """
        entry = self._records.read(unit)
        if entry is None and self._workplace.writes_once and self.is_complete:
            return self._committed().shards[unit]
        return entry

    def record(self, entry: ShardEntry, content: bytes) -> ShardEntry:
        """Write the shard of a unit, then its record; from then on the unit is done.

        Returns the entry that counts, which is another's if another process recorded the unit.

        Raises:
            StoreError: the system refused to write; the units recorded before are still there.
        """
        return self._records.write(entry, content)

    def write_output_head(self, content: bytes) -> None:
        """Write the file with the teacher's output head, unless it is there.

        Raises:
            StoreError: the system refused to write.
        """
        self._write_side_file(OUTPUT_HEAD_NAME, content)

    def write_layers(self, content: bytes) -> None:
        """Write the file with layers of the teacher, unless it is there.

        Raises:
            StoreError: the system refused to write.
        """
        self._write_side_file(LAYERS_NAME, content)

    def write_vocabulary(self, content: bytes) -> None:
        """Write the file with the teacher's vocabulary, unless it is there.

        Raises:
            StoreError: the system refused to write.
        """
        self._write_side_file(VOCABULARY_NAME, content)

    def _write_side_file(self, name: str, content: bytes) -> None:
        path = f"work/{name}"
        if self.place.size(path) is None:
            self._workplace.put_new(path, content)

    def commit(
        self,
        num_units: int,
        teacher: str,
        corpus: Mapping[str, int],
        rounding: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Manifest:
        """Write card and manifest from the records of units 0 to `num_units` and remove `work`.

        Args:
            num_units: how many there have to be.
            teacher: what people call it.
            corpus: what was counted of it.
            rounding: how far features are off, if the records do not say so.

        Raises:
            StoreError: a unit is not done, or there is no output head, or there are no layers,
                though there should be.
            IdentityError: another store was committed in the place meanwhile.
        """
        try:
            manifest = self._commit(num_units, teacher, corpus, rounding or {})
        except StoreError:
            # Another process may have committed, and removed what this one was about to read.
            if not (self._workplace.writes_once and self.is_complete):
                raise
            manifest = self._committed()
        if manifest.shard_table is not None:
            # Those of commits that came to nothing: no other manifest can be written any more.
            self.place.delete_all(other_tables(self.place, manifest.shard_table))
        self._workplace.clean()
        return manifest

    def _commit(
        self,
        num_units: int,
        teacher: str,
        corpus: Mapping[str, int],
        rounding: Mapping[str, Mapping[str, float]],
    ) -> Manifest:
        found = RecordedShards.of(self._records.of_plan(num_units), num_units)
        if found.missing:
            raise StoreError(
                str(self.place),
                expected=f"all of {num_units} units done",
                found=f"{len(found.missing)} missing: {_ranges_text(found.missing)}",
                next_step="Run the same 'softtargets build' command again, without --unit-range or "
                "with one that has them.",
            )
        table = commit_shard_table(self.place, found.shards)
        manifest = Manifest(
            identity=self.identity,
            fingerprint=self.fingerprint,
            format_version=manifest_version(self.targets, has_shard_table=table is not None),
            teacher=teacher,
            corpus=corpus,
            shards=found.shards,
            shard_table=table,
            created_by=f"softtargets {version('softtargets')}, pyarrow {version('pyarrow')}",
            output_head=self._commit_output_head(),
            layers=self._commit_layers(),
            vocabulary=self._commit_vocabulary(),
            rounding=found.rounding or rounding,
            drift=read_drift(self.place),
        )
        self._workplace.remove_leftovers()
        self._write_card(manifest)
        if not self._workplace.put_new(MANIFEST_NAME, manifest.to_json().encode()):
            return self._committed()
        return manifest

    def _committed(self) -> Manifest:
        """Return the manifest of the store that is there, which has to be this one."""
        manifest = find_manifest(self.place)
        self._workplace.check_request(manifest.identity)
        return manifest

    def _commit_output_head(self) -> SideFile | None:
        schema = self.targets.output_head
        if schema is None:
            return None
        return commit_output_head(self.place, "work", schema, self.targets.vocab_size)

    def _commit_layers(self) -> SideFile | None:
        schema = self.targets.layers
        return None if schema is None else commit_layers(self.place, "work", schema)

    def _commit_vocabulary(self) -> SideFile | None:
        content = self.place.get(f"work/{VOCABULARY_NAME}")
        return None if content is None else commit_side_file(self.place, VOCABULARY_NAME, content)

    def _write_card(self, manifest: Manifest) -> None:
        """Write the card, unless somebody has put a README there."""
        content = card_text(manifest).encode()
        found = self.place.get(CARD_NAME)
        if found is None:
            self._workplace.put_new(CARD_NAME, content)
        # Another process that committed meanwhile has removed what this one made its card of.
        elif found != content and not self.is_complete:
            _log.warning(
                "%s was there already, and is kept. 'softtargets card' adds the card to it.",
                self.place.where(CARD_NAME),
            )


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
