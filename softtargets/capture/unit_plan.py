"""The plan: every window of a corpus, cut into units of work that anyone can run in any order.

Planning reads and tokenises the whole corpus once and keeps the windows of each unit in a file.
Scoring a unit then needs neither the corpus nor the tokenizer, and bad input is found before the
teacher has cost anything.

    work/plan/unit-N.parquet   the token windows of a unit, in the order of the corpus
    work/plan.json             how many units and windows there are; written last
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.capture.build_config import AnyCorpus, BuildConfig
from softtargets.capture.documents import raise_invalid
from softtargets.capture.teacher import Teacher
from softtargets.capture.teacher_tokenizer import Tokenizer
from softtargets.capture.unused import UnusedTally
from softtargets.capture.windows import PARTLY_WRITTEN, stored_counts
from softtargets.errors import CorpusError, FormatError
from softtargets.places.place import Place
from softtargets.store.codec import decode_tokens, encode_tokens
from softtargets.store.json_object import parse_object
from softtargets.store.work_files import PLAN
from softtargets.texts import plural, shortened
from softtargets.window import TokenWindow, cut_windows

MOST_WARNINGS = 10
"""Invalid documents that are named; all are counted."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A piece of work: the windows of one shard."""

    unit: int
    num_windows: int
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All units, and counts of what became of the documents."""

    units: tuple[Unit, ...]
    corpus: dict[str, int]
    teacher: str
    """What people call it, for the manifest."""

    @property
    def num_windows(self) -> int:
        """Return the number of windows of all units."""
        return sum(unit.num_windows for unit in self.units)

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens of all units."""
        return sum(unit.num_tokens for unit in self.units)


def read_windows(
    config: BuildConfig, tokenizer: Tokenizer, counts: Counter[str], unused: UnusedTally
) -> Iterator[TokenWindow]:
    """Yield every window of a build; what is left out is counted and logged.

    Args:
        config: what is read, and how it is cut.
        tokenizer: the teacher's.
        counts: is added to.
        unused: told what the chat template does not write, and logged at the end.

    Raises:
        CorpusError: a file is wrong; or a document, unless the corpus skips those.
    """

    def skip(error: CorpusError) -> None:
        counts["invalid_documents"] += 1
        if counts["invalid_documents"] <= MOST_WARNINGS:
            _log.warning("Left out: %s", error)

    task, corpus = config.capture_task, config.corpus
    on_invalid = skip if corpus.on_invalid == "skip" else raise_invalid
    documents = corpus.documents(on_invalid, task.records(corpus))
    yield from task.windows(documents, config, tokenizer, counts, on_invalid, unused.add)
    counts[PARTLY_WRITTEN] = unused.num_documents
    unused.warn()


def make_plan(config: BuildConfig, teacher: Teacher, place: Place) -> Plan:
    """Cut a corpus into units of at least `config.unit_tokens` tokens and write them to a place.

    Raises:
        CorpusError: a file is wrong, or no document gives a window.
    """
    place.make_directory("work/plan")
    counts: Counter[str] = Counter()
    windows = read_windows(config, teacher.tokenizer, counts, UnusedTally())
    units = []
    for number, group in enumerate(cut_windows(windows, config.unit_tokens)):
        table = pa.table(encode_tokens(group))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        place.put(_unit_path(number), sink.getvalue().to_pybytes())
        num_tokens = sum(len(window) for window in group)
        units.append(Unit(unit=number, num_windows=len(group), num_tokens=num_tokens))
    if not units:
        raise no_window(config.corpus, counts)
    plan = Plan(units=tuple(units), corpus=stored_counts(counts), teacher=teacher.name)
    place.put(PLAN, json.dumps(asdict(plan)).encode())
    return plan


def no_window(corpus: AnyCorpus, counts: Counter[str]) -> CorpusError:
    """Return the error of a corpus whose documents are all too short."""
    return CorpusError(
        corpus.name,
        expected="at least one document of two tokens or more",
        found=f"{plural(counts['documents'], 'document')}, none with that many",
        next_step="Check the input and --text-field.",
    )


def read_plan(place: Place) -> Plan | None:
    """Return the finished plan of the store in a place, or None when there is none yet.

    Raises:
        StoreError: it cannot be read.
    """
    content = place.get(PLAN)
    if content is None:
        return None
    where = place.where(PLAN)
    data = parse_object(content, where)
    try:
        units = tuple(Unit(**unit) for unit in data["units"])
        return Plan(units=units, corpus=data["corpus"], teacher=data["teacher"])
    except (KeyError, TypeError) as error:
        raise _spoiled(where, "the plan of a build", repr(error)) from error


def read_unit(place: Place, unit: int) -> list[TokenWindow]:
    """Return the windows of a unit, in the order of the corpus.

    Raises:
        StoreError: they cannot be read.
    """
    path, expected = _unit_path(unit), "the windows of a unit that was planned"
    content = place.get(path)
    if content is None:
        raise _spoiled(place.where(path), expected, "no file")
    try:
        return decode_tokens(pq.read_table(pa.BufferReader(content)))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _spoiled(place.where(path), expected, shortened(str(error))) from error


def _spoiled(where: str, expected: str, found: str) -> FormatError:
    return FormatError(
        where,
        expected=expected,
        found=found,
        next_step="Delete plan.json and the directory plan in the store's directory work, and run "
        "the same command again: the corpus is planned anew.",
    )


def _unit_path(unit: int) -> str:
    return f"work/plan/unit-{unit:06d}.parquet"
