"""What every layout promises, as tests that one of a layout inherits.

class TestMine(Conformance):
    @pytest.fixture
    def case(self) -> Case:
        return Case(name="mine", reading={...})
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softtargets.errors import CorpusError, IdentityError, InputError, StoreError
from softtargets.layouts import Layout, Option, Way, export_store, find_layout, import_store
from softtargets.layouts.listed_import import LIST_OPTIONS, ListedLayout
from softtargets.layouts.registry import ways
from softtargets.store import Store, verify
from softtargets.targets import SoftTargets
from tests.commands import run
from tests.fakes import shard_bytes
from tests.golden import make_store

LARGEST_ERROR = 1 / 16 + 1e-4
"""Nats: the logits are kept in such steps, and the differences of two are looked at."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layout, and what is stated of the files that the suite has it read."""

    name: str
    reading: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[Store, Path], Path] | None = None
    """Writes what the tool would of a store; by default the layout itself does."""
    tokens: str = "input_ids"
    """The column of token ids."""
    foreign: str | None = "sampled"
    """A kind of store that it cannot hold; None where it holds every one."""

    @property
    def layout(self) -> type[Layout]:
        return find_layout(self.name)

    def written(self, store: Store, directory: Path) -> Path:
        if self.make is not None:
            return self.make(store, directory)
        return export_store(self.name, store.root, directory)

    def read(self, paths: Iterable[Path], output: Path, **options: Any) -> Store:
        return import_store(self.name, [*paths], output, **{**self.reading, **options})

    def arguments(self) -> list[str]:
        """Return what is stated, as a command has it."""
        assert self.layout.reads is not None
        spelled = {option.name: option.spelled for option in self.layout.reads.options}
        return [f"{spelled[name]}={value}" for name, value in self.reading.items()]


def parts_of(written: Path) -> list[Path]:
    return sorted(path for path in written.rglob("*.parquet") if path.name[0] != "_")


def renormalised(targets: SoftTargets) -> np.ndarray:
    """Return log-probabilities [T, K] over the kept entries alone, which every layout keeps."""
    logits_TK = targets.logits_TK.astype(np.float64)
    below_TK = logits_TK - logits_TK[:, :1]
    found: np.ndarray = below_TK - np.log(np.exp(below_TK).sum(axis=1, keepdims=True))
    return found


def change_row(path: Path, column: str, row: int, value: Any) -> None:
    """Write a file again with another value in one row."""
    table = pq.read_table(path)
    index, own = table.schema.get_field_index(column), table.column(column)
    values = own.to_pylist()
    values[row] = value
    pq.write_table(table.set_column(index, column, pa.array(values, own.type)), path)


class Conformance:
    """The suite: a subclass has a fixture `case`."""

    def test_it_is_found_by_its_name(self, case: Case) -> None:
        layout = case.layout
        assert issubclass(layout, Layout)
        assert layout.name == case.name
        assert layout.reads or layout.writes
        for direction in ("reads", "writes"):
            way: Way | None = getattr(layout, direction)
            assert ways(direction).get(case.name) == way
            assert way is None or way.summary.endswith(".")

    def test_its_options_are_its_keywords(self, case: Case) -> None:
        """What the command line offers can be passed, and nothing else can."""
        layout = case.layout
        if layout.writes is not None:
            assert {one.name for one in layout.writes.options} == keywords(layout.write)
        if layout.reads is not None:
            expected = keywords(layout.read)
            if issubclass(layout, ListedLayout):
                is_own = "of" in vars(layout)
                expected = {one.name for one in LIST_OPTIONS} | keywords(
                    layout.of if is_own else layout.__init__
                )
            assert {one.name for one in layout.reads.options} == expected

    def test_an_option_is_the_same_in_every_layout(self, case: Case) -> None:
        """The command line has one of each name."""
        for direction in ("reads", "writes"):
            own = options_of(getattr(case.layout, direction))
            for way in ways(direction).values():
                shared = own.keys() & options_of(way).keys()
                assert all(own[name] == options_of(way)[name] for name in shared)
            assert all(option.help.endswith((".", "]")) for option in own.values())

    def test_what_is_written_is_read_back(self, case: Case, store: Store, tmp_path: Path) -> None:
        written = case.written(store, tmp_path / "written")
        back = case.read([written], tmp_path / "back")
        assert verify(back).is_sound
        assert len(back) == len(store)
        for one, other in zip(store, back, strict=True):
            assert one.window_id == other.window_id
            assert np.array_equal(one.mask_T, other.mask_T)
            assert np.array_equal(one.targets.ids_TK, other.targets.ids_TK)
            np.testing.assert_allclose(
                renormalised(one.targets), renormalised(other.targets), atol=LARGEST_ERROR
            )

    def test_the_same_files_make_the_same_store(
        self, case: Case, store: Store, tmp_path: Path
    ) -> None:
        """Also when one was made before, which is left as it is; of others it is refused."""
        written = case.written(store, tmp_path / "written")
        made = [case.read([written], tmp_path / name) for name in ("one", "two", "one")]
        assert len({one.fingerprint for one in made}) == 1
        assert shard_bytes(made[0].root) == shard_bytes(made[1].root)
        parts_of(written)[-1].unlink()
        with pytest.raises(IdentityError):
            case.read([written], tmp_path / "one")
        assert shard_bytes(made[0].root) == shard_bytes(made[1].root)

    def test_a_broken_row_is_named_and_nothing_is_written(
        self, case: Case, store: Store, tmp_path: Path
    ) -> None:
        written = case.written(store, tmp_path / "written")
        path = parts_of(written)[-1]
        last = pq.read_metadata(path).num_rows - 1
        change_row(path, case.tokens, last, [store.targets.vocab_size, 1, 2])
        with pytest.raises(CorpusError, match=f", row {last}\\b") as caught:
            case.read([written], tmp_path / "back")
        assert caught.value.where.startswith(str(path))
        assert not (tmp_path / "back").exists()

    @pytest.mark.parametrize("size", [0, 10, -10])
    def test_a_file_that_is_cut_off_is_named_and_nothing_is_written(
        self, case: Case, store: Store, tmp_path: Path, size: int
    ) -> None:
        written = case.written(store, tmp_path / "written")
        path = parts_of(written)[0]
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(CorpusError) as caught:
            case.read([written], tmp_path / "back")
        assert caught.value.where.startswith(str(path))
        assert not (tmp_path / "back").exists()

    def test_a_bad_option_is_refused(self, case: Case, store: Store, tmp_path: Path) -> None:
        output = tmp_path / "refused"

        def read(**options: Any) -> object:
            return case.read([tmp_path / "none"], output, **options)

        def write(**options: Any) -> object:
            return export_store(case.name, store.root, output, **options)

        for call, way in ((read, case.layout.reads), (write, case.layout.writes)):
            if way is None:
                continue
            with pytest.raises(InputError, match="expected options of this layout; found magic"):
                call(magic=1)
            for option in way.options:
                if option.choices:
                    with pytest.raises(InputError, match=f"{option.spelled}: expected one of"):
                        call(**{option.name: "magic"})
        assert not output.exists()

    def test_a_way_that_it_does_not_go_is_refused(
        self, case: Case, store: Store, tmp_path: Path
    ) -> None:
        if case.layout.writes is None:
            with pytest.raises(InputError, match="expected one of plain, axolotl, distillkit"):
                export_store(case.name, store.root, tmp_path / "refused")
        if case.layout.reads is None:
            with pytest.raises(InputError, match="expected one of plain, axolotl, distillkit"):
                import_store(case.name, [store.root], tmp_path / "refused")
        assert not (tmp_path / "refused").exists()

    def test_what_it_cannot_hold_is_refused_and_nothing_is_written(
        self, case: Case, store: Store, tmp_path: Path
    ) -> None:
        if case.layout.writes is None:
            return
        output = tmp_path / "refused"
        if case.foreign is not None:
            other = make_store(tmp_path / "other", case.foreign)
            with pytest.raises(InputError):
                export_store(case.name, other.root, output)
        with pytest.raises(StoreError):
            export_store(case.name, tmp_path / "none", output)
        assert not output.exists()
        output.mkdir()
        (output / "mine").write_text("mine")
        with pytest.raises(StoreError, match="an empty directory, or nothing yet"):
            export_store(case.name, store.root, output)
        assert [path.name for path in output.iterdir()] == ["mine"]

    def test_the_commands_know_it(self, case: Case, store: Store, tmp_path: Path) -> None:
        name, written = case.name, tmp_path / "written"
        if case.layout.writes is not None:
            assert f"{name}: {case.layout.writes.summary}" in help_of("export")
            made = run("export", store.root, written, "--to", name)
            assert made.exit_code == 0, made.output
        else:
            case.written(store, written)
        if case.layout.reads is not None:
            assert f"{name}: {case.layout.reads.summary}" in help_of("import")
            output = tmp_path / "back"
            made = run("import", written, "--from", name, "--output", output, *case.arguments())
            assert made.exit_code == 0, made.output
            assert len(Store.open(output)) == len(store)
            for option in case.layout.reads.options:
                if option.is_required:
                    others = [one for one in case.arguments() if option.spelled not in one]
                    refused = run(
                        "import", written, "--from", name, "--output", tmp_path / "no", *others
                    )
                    assert f"--from {name} needs {option.spelled}" in refused.stderr
            assert not (tmp_path / "no").exists()


def options_of(way: Way | None) -> dict[str, Option]:
    return {} if way is None else {option.name: option for option in way.options}


def keywords(method: Callable[..., object]) -> set[str]:
    return {
        name
        for name, one in inspect.signature(method).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    }


def help_of(command: str) -> str:
    return " ".join(run(command, "--help").output.split())
