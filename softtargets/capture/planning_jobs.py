"""The parts of the stages of planning, which an engine runs as it runs units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Self

import numpy as np

from softtargets.capture.build_config import BuildConfig
from softtargets.capture.corpus_reading import read_pieces
from softtargets.capture.corpus_slices import CorpusSlice
from softtargets.capture.kept_pieces import KeptPieces, Share
from softtargets.capture.piece_keys import KeyWriter, find_repeats
from softtargets.capture.slice_files import SliceFiles
from softtargets.capture.teacher import Teacher
from softtargets.capture.unit_plan import write_units
from softtargets.capture.units import load_quietly
from softtargets.capture.unused import UnusedTally
from softtargets.engines import Done, Event
from softtargets.store.ledger import Ledger
from softtargets.window import cut_windows

_CHUNK_TOKENS = 1 << 20
_CHUNK_PIECES = 1 << 13


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """A part of a stage whose marker is there."""

    unit: int


@dataclass(kw_only=True)
class PlanningJob(ABC):
    """A stage of planning: the `Job` of its parts, which are numbered from 0."""

    stage: ClassVar[str]
    teacher: Teacher
    ledger: Ledger
    files: SliceFiles

    @property
    @abstractmethod
    def num_parts(self) -> int:
        """Return how many parts the stage has."""

    @property
    def where(self) -> str:
        """Return what messages call the store."""
        return str(self.ledger.place)

    @property
    def modules(self) -> Sequence[str]:
        """Return what the teacher imports, with its tokenizer."""
        return self.teacher.modules

    def for_worker(self, worker: int) -> Self:
        """Return the job with the teacher of a worker, which does not load it."""
        return replace(self, teacher=self.teacher.for_worker(worker))

    def working(self) -> AbstractContextManager[object]:
        """Keep others from beginning in the place."""
        load_quietly()
        return self.ledger.working()

    def run(self, units: Iterable[int]) -> Generator[Event]:
        """Run parts of the stage.

        Raises:
            CorpusError: the input is wrong.
            StoreError: the place refused.
        """
        for part in units:
            found = self.find(part)
            self.files.put_marker(self.stage, part, found)
            yield Done(PlannedPart(part))

    def recorded(self, unit: int) -> PlannedPart | None:
        """Return a part that is done, or None."""
        return None if self.files.marker(self.stage, unit) is None else PlannedPart(unit)

    @abstractmethod
    def find(self, part: int) -> dict[str, Any]:
        """Run a part, and return what its marker is to say."""


@dataclass(kw_only=True)
class MapJob(PlanningJob):
    """Reads slices of a corpus: writes their pieces and the pieces' keys."""

    stage: ClassVar[str] = "mapped"
    config: BuildConfig
    slices: tuple[CorpusSlice | None, ...]
    """None for a corpus that is one."""
    num_partitions: int

    @property
    def num_parts(self) -> int:
        """Return the number of slices."""
        return len(self.slices)

    def find(self, part: int) -> dict[str, Any]:
        """Write the pieces of a slice, and return what was counted."""
        counts, unused = Counter[str](), UnusedTally()
        left_out: list[str] = []
        pieces = read_pieces(
            self.config, self.teacher.tokenizer, counts, unused, left_out, self.slices[part]
        )
        keys = KeyWriter(self.files, part, self.num_partitions)
        chunks: list[int] = []
        lengths = array("i")
        for chunk in cut_windows(pieces, _CHUNK_TOKENS, _CHUNK_PIECES):
            self.files.put_pieces(part, len(chunks), chunk)
            keys.add(piece.window_id for piece in chunk)
            chunks.append(len(chunk))
            lengths.extend(len(piece) for piece in chunk)
        keys.flush()
        self.files.put_lengths(part, np.array(lengths, np.int32))
        return {
            "chunks": chunks,
            "runs": keys.runs,
            "counts": counts,
            "unused": unused.to_dict(),
            "left_out": left_out,
        }


@dataclass(kw_only=True)
class ReduceJob(PlanningJob):
    """Finds repeats among the pieces whose keys are in a partition."""

    stage: ClassVar[str] = "reduced"
    num_slices: int
    num_partitions: int

    @property
    def num_parts(self) -> int:
        """Return the number of partitions."""
        return self.num_partitions

    def find(self, part: int) -> dict[str, Any]:
        """Write which pieces are repeats, and return how many each slice has."""
        return {"flushes": find_repeats(self.files, part, self.num_slices, self.num_partitions)}


@dataclass(kw_only=True)
class WriteJob(PlanningJob):
    """Writes the units that begin in a slice, where each piece is a window."""

    stage: ClassVar[str] = "written"
    kept: KeptPieces
    shares: tuple[Share, ...]
    unit_tokens: int

    @property
    def num_parts(self) -> int:
        """Return the number of slices."""
        return len(self.shares)

    def find(self, part: int) -> dict[str, Any]:
        """Write the units that begin in a slice, and return their sizes."""
        share = self.shares[part]
        pieces = islice(self.kept.read(part), share.num_before, None)
        units = islice(cut_windows(pieces, self.unit_tokens), share.num_units)
        return write_units(self.ledger.place, units, share.first_unit).to_dict()
