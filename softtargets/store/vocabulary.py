"""The teacher's vocabulary as a file of a store: what its token ids mean, for people and students.

It is a list of tokens with their texts, and not the tokenizer itself: pyarrow alone reads it,
tokenizers of every make have it, and it is no copy of somebody's software. The rules by which a
text is cut are known by the tokenizer's hash in the identity.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import CorruptionError
from softtargets.store.manifest import RESTORE
from softtargets.tokenizer import Vocabulary

VOCABULARY_NAME = "vocabulary.parquet"
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
        CorruptionError: it is none.
    """
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        table = table.select(_SCHEMA.names).cast(_SCHEMA)
        ids_N = table.column("token_id").to_numpy()
        tokens = table.column("token").to_pylist()
        utf8 = table.column("utf8").to_pylist()
        found = "ids that do not rise" if (np.diff(ids_N) <= 0).any() else ""
    except (pa.ArrowException, MemoryError, OSError, ValueError, KeyError) as error:
        found = f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
    if found:
        raise CorruptionError(
            where,
            expected="a Parquet file with a row for each token, by rising id",
            found=found,
            next_step=RESTORE,
        )
    return Vocabulary(ids_N=ids_N, tokens=tuple(tokens), utf8=tuple(utf8))
