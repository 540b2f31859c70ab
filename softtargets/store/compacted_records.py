"""Copies of many records in one file, so that going on with a build costs what is left of it.

    work/records/compacted-HASH.parquet   the entries of a thousand units; the hash is its content's

A record stays the commit of its unit. A copy says nothing that the record did not say when it was
made, and counts as long as the record is there. Whoever puts a record in the place of another
removes all copies first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.hashes import hash_bytes
from softtargets.places.at_once import answers
from softtargets.store.json_object import parse_object
from softtargets.store.shard_table import ShardEntry
from softtargets.store.work_files import COMPACTED, RECORDS
from softtargets.store.workplace import Workplace

COMPACTED_UNITS = 1000
"""Units whose records are copied together: as many as object stores list at once."""
_FINGERPRINT = b"softtargets.fingerprint"
_NAME = re.compile(COMPACTED)


class CompactedRecords:
    """The copies of records in the place where a store is built."""

    def __init__(self, workplace: Workplace) -> None:
        self._workplace = workplace

    def read(self, paths: Iterable[str]) -> Iterator[tuple[str, list[ShardEntry]]]:
        """Yield each file among some paths with its entries; a file that is damaged has none."""
        names = [path for path in paths if _NAME.fullmatch(path)]
        return zip(names, answers(self._workplace.place, self._read, names), strict=True)

    def write(self, entries: Sequence[ShardEntry]) -> None:
        """Copy the entries of units that are recorded.

        Raises:
            StoreError: the system refused to write.
        """
        columns = {
            "unit": pa.array([entry.unit for entry in entries], pa.int64()),
            "record": pa.array([json.dumps(entry.to_dict()) for entry in entries], pa.string()),
        }
        metadata = {_FINGERPRINT: self._workplace.fingerprint.encode()}
        sink = pa.BufferOutputStream()
        pq.write_table(
            pa.table(columns).replace_schema_metadata(metadata), sink, compression="zstd"
        )
        content = sink.getvalue().to_pybytes()
        self._workplace.place.put(_path(content), content)

    def forget(self) -> None:
        """Remove all copies; the records are still there.

        Raises:
            StoreError: the system refused.
        """
        for path in self._workplace.place.list(RECORDS):
            if _NAME.fullmatch(path):
                self._workplace.place.delete(path)

    def _read(self, path: str) -> list[ShardEntry]:
        place = self._workplace.place
        content = place.get(path)
        # Another process may have removed it. A name proves the content.
        if content is None or _path(content) != path:
            return []
        table = pq.read_table(pa.BufferReader(content))
        if (table.schema.metadata or {}).get(_FINGERPRINT) != self._workplace.fingerprint.encode():
            return []
        where = place.where(path)
        texts = table.column("record").to_pylist()
        return [ShardEntry.from_dict(parse_object(text, where)) for text in texts]


def _path(content: bytes) -> str:
    return f"{RECORDS}/compacted-{hash_bytes(content)[:16]}.parquet"
