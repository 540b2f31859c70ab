"""The teacher's vocabulary as a file of a store: what its token ids mean, for people and students.

It is a list of tokens with their texts, and not the tokenizer itself: pyarrow alone reads it,
tokenizers of every make have it, and it is no copy of somebody's software. The rules by which a
text is cut are known by the tokenizer's hash in the identity.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import CorruptionError, error_text
from softtargets.limits import Limit
from softtargets.store.pages import TEXT_BYTES, column_pages
from softtargets.store.parquet_footer import check_chunks, footer_of
from softtargets.tokenizer import Vocabulary

VOCABULARY_NAME = "vocabulary.parquet"
VOCABULARY_BYTES = Limit(
    variable="SOFTTARGETS_MAX_VOCABULARY_BYTES", default=1 << 27, unit="bytes of a vocabulary"
)
_BATCH_BYTES = 1 << 24
_SCHEMA = pa.schema(
    [
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("token", pa.string(), nullable=False),
        pa.field("utf8", pa.binary()),
    ]
)


def encode_vocabulary(vocabulary: Vocabulary) -> bytes:
    """Return the Parquet file of a vocabulary: a row for each token, by rising id.

    The bytes are a pure function of the argument and the version of pyarrow.
    """
    columns = [vocabulary.ids_N, vocabulary.tokens, vocabulary.utf8]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table([pa.array(one) for one in columns], schema=_SCHEMA),
        sink,
        compression="zstd",
        use_dictionary=False,
        # Neighbours begin alike: a quarter smaller than plain.
        column_encoding={
            "token_id": "DELTA_BINARY_PACKED",
            "token": "DELTA_BYTE_ARRAY",
            "utf8": "DELTA_BYTE_ARRAY",
        },
        write_statistics=False,
        write_page_checksum=True,
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def decode_vocabulary(content: bytes, where: str) -> Vocabulary:
    """Return the vocabulary of a file's content.

    Raises:
        LimitError: it takes more memory than it is trusted with.
        CorruptionError: it is none.
    """
    ids: list[npt.NDArray[np.int32]] = []
    tokens: list[str] = []
    utf8: list[bytes | None] = []
    try:
        for batch in _batches(content, where):
            ids.append(batch.column("token_id").to_numpy())
            tokens += batch.column("token").to_pylist()
            utf8 += batch.column("utf8").to_pylist()
        ids_N = np.concatenate(ids) if ids else np.empty(0, np.int32)
        found = "ids that do not rise" if (np.diff(ids_N) <= 0).any() else ""
    except (pa.ArrowException, MemoryError, OSError, ValueError, KeyError) as error:
        found = error_text(error)
    if found:
        raise CorruptionError(
            where,
            expected="a Parquet file with a row for each token, by rising id",
            found=found,
        )
    return Vocabulary(ids_N=ids_N, tokens=tuple(tokens), utf8=tuple(utf8))


def _batches(content: bytes, where: str) -> Iterator[pa.Table]:
    """Yield the rows, a few at a time, as a text may be as long as its whole page."""
    check_chunks(footer_of(memoryview(content), where))
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    groups = dict.fromkeys(range(file.metadata.num_row_groups), range(len(content)))
    pages = [
        one
        for _, one in column_pages(memoryview(content), file.metadata, groups, _SCHEMA.names, where)
    ]
    num_bytes = sum(one.num_values * TEXT_BYTES for one in pages)
    largest = max((one.largest_page for one in pages), default=1)
    VOCABULARY_BYTES.check(where, num_bytes + largest)
    rows = max(1, _BATCH_BYTES // max(1, largest))
    for batch in file.iter_batches(rows, columns=_SCHEMA.names, use_threads=False):
        num_bytes += batch.nbytes
        VOCABULARY_BYTES.check(where, num_bytes)
        yield pa.table(batch).select(_SCHEMA.names).cast(_SCHEMA)
