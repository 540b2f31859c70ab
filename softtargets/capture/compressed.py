"""Compressed input files as streams of bytes, never unpacked whole."""

from __future__ import annotations

import gzip
import io
from pathlib import PurePosixPath
from typing import IO, BinaryIO, cast

import zstandard

from softtargets.capture.corpus_file import CorpusFile

_READ_BYTES = 1 << 20
_PIECE_BYTES = 1 << 10
"""What is unpacked at a time: zstd makes at most 32 MB of it."""


def open_input(file: CorpusFile) -> IO[bytes]:
    """Open a plain, `.gz` or `.zst` file for reading its content.

    Reading raises EOFError where a compressed file ends too early.
    """
    suffix = PurePosixPath(file.name).suffix
    if suffix == ".gz":
        return cast(IO[bytes], _Gzip(file.open()))
    if suffix == ".zst":
        return io.BufferedReader(_ZstdFrames(str(file), file.open()), _READ_BYTES)
    return file.open()


class _Gzip(gzip.GzipFile):
    """A compressed file, which it closes."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(fileobj=file, mode="rb")
        self._own = file

    def close(self) -> None:
        super().close()
        self._own.close()


class _ZstdFrames(io.RawIOBase):
    """All frames of a file, one after another.

    `zstandard.open` reads a file that was cut off as if it ended there; this one raises.
    """

    def __init__(self, where: str, file: BinaryIO) -> None:
        self._where = where
        self._file = file
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            rest = self._frame.unused_data if self._frame and self._frame.eof else b""
            data = rest or self._file.read(_PIECE_BYTES)
            if not data:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError(f"{self._where} ends within a compressed frame")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._frame.decompress(data))
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()
