"""The teacher's output head as a file of a store: what turns stored hidden states to logits.

What it is called by, in the identity, is a hash of the weights themselves: the bytes of the file
change with pyarrow, and two stores of one teacher go together whatever wrote them. The file's own
hash is in the manifest, so that nothing is parsed that was not written.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import CorruptionError, error_text
from softtargets.places.place import Place
from softtargets.store.pages import check_unpacked
from softtargets.store.parquet_footer import check_chunks, footer_of
from softtargets.store.side_file import SideFile, commit_side_file, written_side_file
from softtargets.targets import Float32, HeadWeights, HeadWeightsSchema
from softtargets.targets.number_formats import STORED_AS, are_finite, pack_bfloat16, unpack_numbers

OUTPUT_HEAD_NAME = "head.parquet"
_ROW_GROUP_BYTES = 1 << 28


def describe_output_head(head: HeadWeights) -> HeadWeightsSchema:
    """Return what the identity says about an output head.

    Raises:
        InputError: its format does not hold the weights exactly.
    """
    return HeadWeightsSchema(
        width=head.weight_VD.shape[1],
        dtype=head.dtype,
        sha256=_content_hash(*_stored(head)),
        bias=head.bias_V is not None,
        scale=head.scale,
        divisor=head.divisor,
        softcap=head.softcap,
        transform=None if head.transform is None else head.transform.schema,
    )


def encode_output_head(head: HeadWeights) -> bytes:
    """Return the Parquet file of an output head: a row for each id, and those of its transform.

    The bytes are a pure function of the argument and the version of pyarrow.

    Raises:
        InputError: its format does not hold the weights exactly.
    """
    stored_RD, bias_R = _stored(head)
    width = stored_RD.shape[1] * stored_RD.itemsize
    buffers = [None, pa.py_buffer(stored_RD)]
    element = pa.binary(width)
    columns = {"weight": pa.FixedSizeBinaryArray.from_buffers(element, len(stored_RD), buffers)}
    if bias_R is not None:
        columns["bias"] = pa.array(bias_R, pa.float32())
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table(list(columns.values()), schema=pa.schema(fields)),
        sink,
        # Weights hardly get smaller, and are read at once.
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
        row_group_size=max(1, _ROW_GROUP_BYTES // width),
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def decode_output_head(
    content: bytes, schema: HeadWeightsSchema, vocab_size: int, where: str
) -> HeadWeights:
    """Return the output head of a file's content.

    Raises:
        CorruptionError: it is not the one that the schema describes.
        LimitError: it takes more memory than it is trusted with.
    """
    num_rows = vocab_size + schema.num_own_rows
    try:
        stored_RD, bias_R = _read(content, schema, num_rows, where)
    except (pa.ArrowException, MemoryError, OSError, ValueError, KeyError) as error:
        raise CorruptionError(
            where,
            expected=f"a Parquet file with {num_rows:,} rows of {schema.width} {schema.dtype}",
            found=error_text(error),
        ) from error
    found = _content_hash(stored_RD, bias_R)
    if found != schema.sha256:
        raise CorruptionError(
            where,
            expected=f"weights with SHA-256 {schema.sha256}",
            found=found,
        )
    _check_numbers(stored_RD, bias_R, schema, where)
    return HeadWeights.of_rows(schema, unpack_numbers(stored_RD), bias_R)


def _check_numbers(
    stored_RD: npt.NDArray[Any], bias_R: Float32 | None, schema: HeadWeightsSchema, where: str
) -> None:
    """Check that weights are finite, and biases below infinity: -inf rules an id out."""
    wrong = "" if are_finite(stored_RD, schema.dtype) else "weights"
    if bias_R is not None:
        of_transform = bias_R[len(bias_R) - schema.num_own_rows :]
        if not (bias_R < np.inf).all() or not np.isfinite(of_transform).all():
            wrong = "biases"
    if wrong:
        raise CorruptionError(
            where,
            expected=f"{wrong} that are finite numbers",
            found="NaN or infinity",
        )


def _read(
    content: bytes, schema: HeadWeightsSchema, num_rows: int, where: str
) -> tuple[npt.NDArray[Any], Float32 | None]:
    """Return weights as they are stored, and the bias if there is to be one.

    Raises:
        ValueError: the columns are of another type or length, or have nulls.
    """
    dtype = np.dtype(STORED_AS[schema.dtype])
    columns = {"weight": pa.binary(schema.width * dtype.itemsize)}
    columns |= {"bias": pa.float32()} if schema.bias else {}
    check_chunks(footer_of(memoryview(content), where))
    with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
        for name, wanted in columns.items():
            found = file.schema_arrow.field(name).type
            if found != wanted or file.metadata.num_rows != num_rows:
                raise ValueError(f"{file.metadata.num_rows:,} rows of {name} {found}")
        groups = dict.fromkeys(range(file.metadata.num_row_groups), range(len(content)))
        check_unpacked(memoryview(content), file.metadata, groups, columns, where)
        table = file.read(list(columns))
    if any(column.null_count for column in table.columns):
        raise ValueError("nulls")
    weight = table.column("weight")
    weight = weight.chunk(0) if weight.num_chunks == 1 else weight.combine_chunks()
    stored = np.frombuffer(weight.buffers()[1], dtype)
    stored_RD = stored[weight.offset * schema.width :].reshape(num_rows, schema.width)
    return stored_RD, table.column("bias").to_numpy().copy() if schema.bias else None


def commit_output_head(
    place: Place, work: str, schema: HeadWeightsSchema, vocab_size: int
) -> SideFile:
    """Put the file from `work` to its place in the store, and return its entry in the manifest.

    Raises:
        StoreError: there is none.
        CorruptionError: it is not the one that the schema describes.
    """
    path = f"{work}/{OUTPUT_HEAD_NAME}"
    content = written_side_file(place, path, "output head")
    decode_output_head(content, schema, vocab_size, place.where(path))
    return commit_side_file(place, OUTPUT_HEAD_NAME, content)


def _stored(head: HeadWeights) -> tuple[npt.NDArray[np.generic], Float32 | None]:
    """Return weights and biases of all rows in the form they are stored in."""
    weight_RD, bias_R = head.rows()
    if head.dtype == "bfloat16":
        stored_RD: npt.NDArray[np.generic] = pack_bfloat16(weight_RD, "output head")
        return stored_RD, bias_R
    return np.ascontiguousarray(weight_RD, STORED_AS[head.dtype]), bias_R


def _content_hash(stored_RD: npt.NDArray[np.generic], bias_R: Float32 | None) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(stored_RD).data)
    if bias_R is not None:
        digest.update(np.ascontiguousarray(bias_R, "<f4").data)
    return digest.hexdigest()
