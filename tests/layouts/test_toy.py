"""A layout that one file defines is a layout like any other, once the registry has its name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from softtargets.layouts import LIST_OPTIONS, ListedLayout, ListedRow, Way, read_rows, register
from softtargets.layouts.registry import LAYOUTS
from softtargets.layouts.sequences import view_entries
from softtargets.layouts.trainer_export import ENTRIES_OPTIONS, TrainerExport
from softtargets.store import Store
from tests.layouts.conformance import Case, Conformance


@dataclass(frozen=True, slots=True, kw_only=True)
class Guesses(ListedLayout):
    """For each token but the last its guesses of the next one, and how sure they are."""

    name: ClassVar[str] = "guesses"
    columns: ClassVar[tuple[str, ...]] = ("input_ids", "guesses", "sureness")
    reads: ClassVar[Way] = Way("guesses with their sureness.", LIST_OPTIONS)
    writes: ClassVar[Way] = Way("guesses with their sureness.", ENTRIES_OPTIONS)

    @classmethod
    def write(
        cls,
        path: str | Path,
        output: str | Path,
        *,
        top_k: int | None = None,
        without_draws: bool = False,
    ) -> Path:
        store = Store.open(path)
        view = view_entries(store, 1.0, "full", top_k, without_draws=without_draws)
        return TrainerExport(
            store=store,
            view=view,
            layout=cls.name,
            trainer="a toy",
            columns=lambda sequences: {
                "input_ids": pa.array([one.input_ids_L for one in sequences]),
                "guesses": pa.array([one.ids_TK.tolist() for one in sequences]),
                "sureness": pa.array([one.logprobs_TK.tolist() for one in sequences]),
            },
            config={"toy": True},
        ).write(output)

    def rows(self, batch: pa.RecordBatch, where: str, first: int) -> Iterator[ListedRow]:
        for row in read_rows(batch, where, first, ids="guesses", values="sureness"):
            row.check_lists()
            yield row.placed(0, None)


READING: dict[str, Any] = {"values_are": "full", "temperature": 1.0, "vocab_size": 300}


class TestToy(Conformance):
    @pytest.fixture
    def case(self) -> Iterator[Case]:
        register(Guesses)
        yield Case(name="guesses", reading=READING)
        del LAYOUTS["guesses"]
