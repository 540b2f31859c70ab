"""Plans made in stages: the same bytes as one made at once, whatever becomes of the processes."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import signal
from collections.abc import Callable, Generator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softtargets.capture import (
    BuildConfig,
    Corpus,
    DatasetCorpus,
    Windowing,
    build,
    piece_keys,
    planning,
)
from softtargets.capture.kept_pieces import share_units
from softtargets.capture.piece_keys import KeyWriter, find_repeats
from softtargets.capture.planning_jobs import MapJob, ReduceJob, WriteJob
from softtargets.capture.slice_files import SliceFiles
from softtargets.engines import Event, Failed, Job, Processes
from softtargets.errors import CorpusError, FormatError, LimitError, StoreError
from softtargets.places import place_to_write
from softtargets.window import cut_windows
from tests.capture.plans import cut_small, plan_at_once, plan_files
from tests.capture.test_resume import StopError
from tests.fakes import (
    TEXTS,
    ByteTokenizer,
    FakeTeacher,
    build_config,
    build_store,
    shard_bytes,
    write_corpus,
)
from tests.places.test_toy_place import InMemory
from tests.store.test_unit_records import Conditional

Cut = Callable[[], None]


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Return what makes the parts of all stages small."""
    return lambda: cut_small(monkeypatch)


def write_files(directory: Path) -> tuple[Path, ...]:
    """Write files of every kind, which repeat each other and themselves."""
    directory.mkdir(exist_ok=True)
    rng = random.Random(0)
    texts = [
        " ".join(rng.choices(TEXTS, k=rng.randint(1, 3)))[: rng.randint(1, 90)] for _ in range(24)
    ]
    texts += [text[:-16] for text in texts[::3]] + ["", "a", *texts[:6]]
    (directory / "a.txt").write_text(TEXTS[0])
    write_corpus(directory / "b.jsonl", texts[:10])
    with gzip.open(directory / "c.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts[5:20])
    pq.write_table(pa.table({"text": texts[10:]}), directory / "d.parquet", row_group_size=4)
    # Windows of two files of one name may be packed together.
    (directory / "more").mkdir(exist_ok=True)
    write_corpus(directory / "more/b.jsonl", texts[:3])
    names = ("a.txt", "b.jsonl", "more/b.jsonl", "c.jsonl.gz", "d.parquet", "b.jsonl")
    return tuple(directory / name for name in names)


def files_config(directory: Path, **changes: Any) -> BuildConfig:
    corpus = Corpus(paths=write_files(directory / "corpus"))
    return build_config(directory, **({"corpus": corpus} | changes))


@pytest.mark.parametrize(
    "windowing",
    [
        Windowing(sequence_length=16),
        Windowing(sequence_length=16, overlap=5),
        Windowing(sequence_length=16, kind="truncate"),
        Windowing(sequence_length=40, kind="pack"),
        Windowing(sequence_length=40, kind="pack", overlap=7),
    ],
    ids=str,
)
def test_the_plan_is_the_same(tmp_path: Path, cut: Cut, windowing: Windowing) -> None:
    config = files_config(tmp_path, windowing=windowing)
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    counts = json.loads(expected["work/plan.json"] or b"")["corpus"]
    assert counts["repeated_windows"] > 10
    cut()
    place = InMemory()
    assert plan_files(config, FakeTeacher(), place) == expected
    assert len([path for path in place.files if "slices/mapped-" in path]) == 5 + 6 + 2
    assert len([path for path in place.files if "slices/reduced-" in path]) == 4


def test_conversations_are_planned_the_same(tmp_path: Path, cut: Cut) -> None:
    """Packed, with listed positions and metadata; a target may be any part of a piece."""
    roles = ("user", "assistant", "user", "assistant")
    turns = [
        {"role": role, "content": text[:9]} for role, text in zip(roles, TEXTS[:4], strict=True)
    ]
    talks = [{"m": turns[: 2 + n % 3], "topic": f"topic {n % 4}"} for n in range(12)]
    paths = []
    for name, own in (("a.jsonl", talks), ("b.jsonl", talks[::-1])):
        paths.append(tmp_path / name)
        paths[-1].write_text("".join(json.dumps(talk) + "\n" for talk in own))
    corpus = Corpus(paths=tuple(paths), messages_field="m", metadata_fields=("topic",))
    windowing = Windowing(sequence_length=64, kind="pack", overlap=3)
    config = build_config(tmp_path, corpus=corpus, windowing=windowing)
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    cut()
    assert plan_files(config, FakeTeacher(), config.output) == expected


def test_a_dataset_is_one_slice(tmp_path: Path, cut: Cut) -> None:
    from datasets import Dataset

    Dataset.from_dict({"text": [*TEXTS, *TEXTS[:2]]}).save_to_disk(str(tmp_path / "saved"))
    config = build_config(tmp_path, corpus=DatasetCorpus(dataset=str(tmp_path / "saved")))
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    cut()
    assert plan_files(config, FakeTeacher(), config.output) == expected


@pytest.mark.parametrize("slice_bytes", [1, 300, 1000, 10**6])
def test_slices_have_the_documents_of_the_corpus(tmp_path: Path, slice_bytes: int) -> None:
    corpus = Corpus(paths=write_files(tmp_path / "corpus"))
    slices = corpus.slices(slice_bytes)
    found = [document for own in slices for document in corpus.documents(own=own)]
    assert found == list(corpus.documents())
    sizes = [sum(part.content_bytes for part in own.parts) for own in slices]
    assert all(size >= slice_bytes for size in sizes[:-1])
    assert abs(sum(sizes) - corpus.content_bytes) < 20
    assert (len(slices) == 1) == (slice_bytes == 10**6)


def test_a_slice_may_grow_as_much_as_the_files_before_it_let_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read at once is read in slices."""
    monkeypatch.setenv("SOFTTARGETS_MAX_CORPUS_BYTES", "1000")
    plain, packed = write_corpus(tmp_path / "a.jsonl", TEXTS * 40), tmp_path / "b.jsonl.gz"
    with gzip.open(packed, "wt") as file:
        file.writelines(['{"text": "the same again"}\n'] * 2_000)
    corpus = Corpus(paths=(plain, packed, plain))
    slices = corpus.slices(1)
    sizes = [path.stat().st_size for path in (plain, packed)]
    assert [own.bytes_before for own in slices] == [0, sizes[0], sum(sizes)]
    found = [document for own in slices for document in corpus.documents(own=own)]
    assert found == list(corpus.documents())
    with pytest.raises(LimitError, match="expected at most 1,000 unpacked bytes"):
        list(Corpus(paths=(packed,)).documents())


class Stopping(InMemory):
    """A dictionary whose writer dies before one of its writes."""

    def __init__(self, num_writes: int) -> None:
        super().__init__()
        self.num_writes = num_writes

    def put(self, path: str, content: bytes) -> None:
        if self.num_writes == 0:
            raise StopError
        self.num_writes -= 1
        super().put(path, content)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["split", "pack"])
def test_a_plan_that_is_killed_anywhere_is_gone_on_with(
    tmp_path: Path, cut: Cut, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part is run again that was done."""
    windowing = Windowing(sequence_length=24, kind=kind)
    paths = write_files(tmp_path / "corpus")
    corpus = Corpus(paths=(*paths[:1], *paths[4:]))
    config = build_config(tmp_path, corpus=corpus, windowing=windowing, unit_tokens=300)
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    cut()
    run: list[tuple[str, int]] = []
    for job in (MapJob, ReduceJob, WriteJob):

        def find(self: Any, part: int, real: Any = job.find) -> dict[str, Any]:
            run.append((self.stage, part))
            return real(self, part)  # type: ignore[no-any-return]

        monkeypatch.setattr(job, "find", find)
    whole = InMemory()
    plan_files(config, FakeTeacher(), whole)
    num_parts, num_writes = len(run), len(whole.files)
    assert num_writes > 60
    # At any write of the last stage, and at some of the others.
    last_stage = next(n for n, path in enumerate(whole.files) if path.startswith("work/plan/"))
    for stop in (*range(0, last_stage, 5), *range(last_stage, num_writes)):
        run.clear()
        place = Stopping(stop)
        with pytest.raises(StopError):
            plan_files(config, FakeTeacher(), place)
        markers = [path for path in place.files if re.search("(mapped|reduced|written)-", path)]
        assert "work/plan.json" not in place.files
        place.num_writes, num_before = -1, len(run)
        assert plan_files(config, FakeTeacher(), place) == expected
        assert place.files == whole.files
        assert len(run) - num_before == num_parts - len(markers)


def test_files_of_other_slices_are_removed(
    tmp_path: Path, cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another release may have cut them."""
    config = files_config(tmp_path)
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    cut()
    place = Stopping(60)
    with pytest.raises(StopError):
        plan_files(config, FakeTeacher(), place)
    assert "work/slices/mapped-000000.json" in place.files
    place.num_writes = -1
    monkeypatch.setattr(planning, "SLICE_BYTES", 1000)
    assert plan_files(config, FakeTeacher(), place) == expected
    whole = InMemory()
    plan_files(config, FakeTeacher(), whole)
    assert place.files == whole.files


@pytest.mark.parametrize("name", ["pieces-000001-000000.parquet", "mapped-000000.json"])
def test_what_an_earlier_stage_wrote_has_to_be_there(tmp_path: Path, cut: Cut, name: str) -> None:
    config = files_config(tmp_path)
    cut()

    class Losing(InMemory):
        def put(self, path: str, content: bytes) -> None:
            super().put(path, content)
            if "reduced-000003" in path:
                self.delete(f"work/slices/{name}")

    with pytest.raises(FormatError, match=f"{name}: expected what an earlier stage .* no file"):
        plan_files(config, FakeTeacher(), Losing())


def test_who_is_overtaken_while_it_plans_finds_the_store(tmp_path: Path, cut: Cut) -> None:
    """It was thought dead; another planned, built and committed, and removed the slices."""
    config = files_config(tmp_path)
    other = Conditional()
    build(config, FakeTeacher(), place=other)
    cut()

    class Overtaken(Conditional):
        def put(self, path: str, content: bytes) -> None:
            super().put(path, content)
            if "reduced-000003" in path:
                self.files = dict(other.files)

    place = Overtaken()
    assert build(config, FakeTeacher(), place=place).num_units > 3
    assert place.files == other.files


def test_a_part_that_fails_three_times_is_reported(tmp_path: Path, cut: Cut) -> None:
    class Failing:
        num_failures = 0

        def run(self, job: Job, take: Callable[[], int | None]) -> Generator[Event]:
            while (unit := take()) is not None:
                if unit == 2:
                    self.num_failures += 1
                    yield Failed(unit, "its process ended")
                else:
                    yield from job.run([unit])

    config, engine = files_config(tmp_path), Failing()
    cut()
    with pytest.raises(StoreError, match=r"part 2 of stage 'mapped' that failed 3 times: its pro"):
        plan_files(config, FakeTeacher(), config.output, engine)
    assert engine.num_failures == 3
    assert len(list((config.output / "work/slices").glob("mapped-*"))) == 5 + 6 + 2 - 1


def test_what_is_left_out_is_told_once(
    tmp_path: Path, cut: Cut, caplog: pytest.LogCaptureFixture
) -> None:
    """The first ten of all slices, in the order of the corpus, as when planned at once."""
    paths = []
    for name in ("a.jsonl", "b.jsonl"):
        lines = [
            f'{{"text": "{name} {number}"}}\n' if number % 2 else "{\n" for number in range(16)
        ]
        paths.append(tmp_path / name)
        paths[-1].write_text("".join(lines))
    config = build_config(tmp_path, corpus=Corpus(paths=tuple(paths), on_invalid="skip"))
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 10
    cut()
    caplog.clear()
    assert plan_files(config, FakeTeacher(), config.output) == expected
    assert [record.getMessage() for record in caplog.records] == told


def test_a_wrong_document_stops_planning(tmp_path: Path, cut: Cut) -> None:
    paths = write_corpus(tmp_path / "a.jsonl"), tmp_path / "b.jsonl"
    paths[1].write_text("{")
    config = build_config(tmp_path, corpus=Corpus(paths=paths))
    cut()
    with pytest.raises(CorpusError, match=r"b\.jsonl, line 1: expected a JSON object"):
        plan_files(config, FakeTeacher(), config.output)


def test_a_corpus_without_windows_is_told_of(tmp_path: Path, cut: Cut) -> None:
    path = write_corpus(tmp_path / "a.jsonl", ["a", "", "b"])
    config = build_config(tmp_path, corpus=Corpus(paths=(path,)))
    cut()
    with pytest.raises(CorpusError, match="found 3 documents, none with that many"):
        plan_files(config, FakeTeacher(), config.output)


IDS = st.lists(st.integers(0, 40), max_size=60)


@given(
    st.lists(IDS, min_size=1, max_size=5), st.sampled_from([1, 2, 8]), st.integers(1, 9), st.data()
)
def test_repeats_are_those_that_a_set_finds(
    slices: list[list[int]], num_partitions: int, most_keys: int, data: st.DataObject
) -> None:
    """Whatever the slices and the partitions, and however few keys are held."""
    rng = random.Random(data.draw(st.integers()))
    ids = [f"{rng.getrandbits(128):032x}" for _ in range(41)]
    # Some agree in their first half.
    ids[1::2] = [one[:16] + f"{rng.getrandbits(64):016x}" for one in ids[:-1:2]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piece_keys, "MOST_KEYS", most_keys)
        patch.setattr(piece_keys, "RUN_KEYS", data.draw(st.integers(1, 9)))
        held: list[int] = []

        def split(keys: Any, real: Any = piece_keys._split) -> Any:
            held.append(len(keys))
            return real(keys)

        patch.setattr(piece_keys, "_split", split)
        files = SliceFiles.begin(InMemory(), {})
        for number, own in enumerate(slices):
            writer = KeyWriter(files, number, num_partitions)
            for start in range(0, len(own), 3):
                writer.add(ids[one] for one in own[start : start + 3])
            writer.flush()
            files.put_marker("mapped", number, {"runs": writer.runs})
        found: set[tuple[int, int]] = set()
        for partition in range(num_partitions):
            flushes = find_repeats(files, partition, len(slices), num_partitions)
            for flush, counts in enumerate(flushes):
                for number, num_repeats in counts:
                    places = files.repeats(number, partition, flush, num_repeats)
                    found |= {(number, int(place)) for place in places}
    seen: set[int] = set()
    expected = set()
    for number, own in enumerate(slices):
        for place, one in enumerate(own):
            if one in seen:
                expected.add((number, place))
            seen.add(one)
    assert found == expected


@given(st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=6), st.integers(1, 30))
def test_shares_are_cut_as_all_windows_are(slices: list[list[int]], unit_tokens: int) -> None:
    """Each slice has the units that begin in it, wherever they end."""
    everything = [length for own in slices for length in own]
    windows = [range(length) for length in everything]
    expected = [list(map(len, group)) for group in cut_windows(windows, unit_tokens)]  # type: ignore[type-var]
    found: list[list[int]] = []
    begins = 0
    for own, share in zip(slices, share_units(map(np.array, slices), unit_tokens), strict=True):
        rest = windows[begins + share.num_before :]
        groups = islice(cut_windows(rest, unit_tokens), share.num_units)  # type: ignore[type-var]
        assert share.first_unit == len(found)
        found += [list(map(len, group)) for group in groups]
        begins += len(own)
    assert found == expected


def test_how_much_is_held_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither keys, whether all differ or all are one, nor pieces; a set would hold every key."""
    cut_small(monkeypatch)
    most = 16
    monkeypatch.setattr(piece_keys, "MOST_KEYS", most)
    held: list[int] = []

    def split(keys: Any, real: Any = piece_keys._split) -> Any:
        held.append(len(keys))
        return real(keys)

    def put_pieces(
        self: SliceFiles, number: int, chunk: int, pieces: Sequence[Any],
        real: Any = SliceFiles.put_pieces,
    ) -> None:  # fmt: skip
        assert len(pieces) <= 3
        real(self, number, chunk, pieces)

    monkeypatch.setattr(piece_keys, "_split", split)
    monkeypatch.setattr(SliceFiles, "put_pieces", put_pieces)
    for num_texts in (40, 200):
        for name, texts in (
            ("other", [f"text {number}" for number in range(num_texts)]),
            ("same", ["the same"] * num_texts),
        ):
            held.clear()
            directory = tmp_path / f"{name}-{num_texts}"
            directory.mkdir()
            path = write_corpus(directory / "a.jsonl", texts)
            config = build_config(directory, corpus=Corpus(paths=(path,)))
            plan_files(config, FakeTeacher(), InMemory())
            assert sum(held) >= num_texts
            assert max(held) <= 3 * most


class DyingTokenizer(ByteTokenizer):
    """Ends its process once, at a text."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        if TEXTS[0] in texts and not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_batch(texts)


@pytest.mark.slow
def test_processes_plan_the_same_and_one_may_die(tmp_path: Path, cut: Cut) -> None:
    config = files_config(tmp_path)
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    cut()
    teacher, mark = FakeTeacher(), tmp_path / "mark"
    teacher.tokenizer = DyingTokenizer(mark)
    assert plan_files(config, teacher, config.output, Processes(2)) == expected
    assert mark.exists()


@pytest.mark.slow
def test_an_object_store_is_planned_in(tmp_path: Path, cut: Cut, object_url: str) -> None:
    config = files_config(tmp_path)
    expected = plan_at_once(config, FakeTeacher(), tmp_path / "once")
    cut()
    place = place_to_write(object_url)
    assert plan_files(config, FakeTeacher(), place, Processes(2)) == expected


@pytest.mark.slow
def test_a_build_of_processes_is_the_same_store(tmp_path: Path, cut: Cut) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "staged").mkdir()
    corpus = Corpus(paths=write_files(tmp_path / "corpus"))
    expected = build_store(tmp_path / "whole", corpus=corpus).root
    cut()
    config = build_config(tmp_path / "staged", corpus=corpus, workers=2)
    build(config, FakeTeacher())
    assert shard_bytes(config.output) == shard_bytes(expected)
    assert (config.output / "manifest.json").read_bytes() == (
        expected / "manifest.json"
    ).read_bytes()
    assert not (config.output / "work").exists()
