"""Hugging Face datasets to documents: a directory that `save_to_disk` wrote, or a Hub id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from softtargets.capture.corpus import check_columns
from softtargets.capture.documents import Document, OnInvalid, Records, raise_invalid
from softtargets.capture.records import RecordFields, without_nulls
from softtargets.errors import CorpusError, SoftTargetsError, error_text
from softtargets.hashes import describe_file
from softtargets.limits import Limit
from softtargets.store.arrow_stream import check_stream
from softtargets.texts import shortened
from softtargets.urls import is_url, names_path, redacted

STATE_LIMIT = Limit(variable="SOFTTARGETS_MAX_STATE_BYTES", default=10_000_000, unit="bytes")


@dataclass(frozen=True, kw_only=True)
class DatasetCorpus(RecordFields):
    """One split of a dataset, streamed: a document is a row."""

    dataset: str
    """A directory that `save_to_disk` wrote, or an id on the Hugging Face Hub."""
    split: str = "train"
    config: str | None = None
    """Name of a configuration on the Hub."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""

    @property
    def name(self) -> str:
        """Return what people call it."""
        name = Path(self.dataset).name if self._directory else self.dataset
        return f"{name}/{self.split}"

    def describe(self) -> dict[str, Any]:
        """Return what decides the documents, for the identity.

        That is names and hashes of a saved dataset's files, or the Hub's id and commit.

        Raises:
            CorpusError: there is no such dataset or split.
        """
        described: dict[str, Any] = {"split": self.split}
        if self._directory is None:
            described |= {"id": self.dataset, "config": self.config, "revision": self._commit}
        else:
            with self._errors():
                described["files"] = [describe_file(path) for path in _data_files(self._directory)]
        return {"dataset": described, **self.describe_fields()}

    @property
    def content_bytes(self) -> int | None:
        """Return about how large the content is; None for a dataset on the Hub.

        Raises:
            CorpusError: there is no such dataset or split.
        """
        if self._directory is None:
            return None
        with self._errors():
            return sum(path.stat().st_size for path in _data_files(self._directory))

    def documents(
        self, on_invalid: OnInvalid = raise_invalid, records: Records | None = None
    ) -> Iterator[Document]:
        """Yield every document; for the arguments see `Corpus.documents`.

        Raises:
            CorpusError: the dataset cannot be read; or, from `on_invalid`, naming the row that is
                wrong.
        """
        # Importing datasets takes a second that those who read files need not wait.
        from datasets import load_dataset, load_from_disk

        records = records or self
        with self._errors():
            if self._directory is None:
                rows = load_dataset(
                    self.dataset,
                    self.config,
                    split=self.split,
                    revision=self._commit,
                    streaming=True,
                )
            else:
                for path in _data_files(self._directory):
                    with pa.memory_map(str(path)) as source:
                        check_stream(source)
                rows = load_from_disk(str(self._directory))
            if rows.column_names is not None:
                check_columns(records, self.name, rows.column_names)
                rows = rows.select_columns(list(records.fields))
            for number, record in enumerate(rows):
                where = f"{self.name}, row {number}"
                try:
                    document = records.parse_record(without_nulls(record), self.name, where, number)
                except CorpusError as error:
                    on_invalid(error)
                else:
                    yield document

    @cached_property
    def _directory(self) -> Path | None:
        """Return where the saved split is, or None for an id on the Hub."""
        if not self.dataset or is_url(self.dataset):
            raise CorpusError(
                f"--dataset {redacted(self.dataset)}",
                expected="a directory that save_to_disk wrote, or an id on the Hugging Face Hub",
                found="a URL" if self.dataset else "an empty text",
                next_step="Pass the id alone, as org/name; files are read with --input.",
            )
        root = Path(self.dataset)
        if not root.is_dir() and names_path(self.dataset):
            raise CorpusError(
                f"--dataset {self.dataset}",
                expected="a directory that save_to_disk wrote",
                found="a file" if root.exists() else "no such directory",
                next_step="Check the path. A dataset on the Hugging Face Hub is named org/name; "
                "data files are read with --input.",
            )
        if not root.is_dir():
            return None
        directory = root / self.split if (root / "dataset_dict.json").is_file() else root
        if not (directory / "state.json").is_file():
            raise CorpusError(
                str(root),
                expected=f"a dataset that save_to_disk wrote, with a split '{self.split}'",
                found="neither" if directory == root else f"no split {self.split}",
                next_step="Pass another --split; data files are read with --input 'DIR/*.parquet'.",
            )
        return directory

    @cached_property
    def _commit(self) -> str:
        """Return the commit on the Hub that is read, so that all of a build reads the same."""
        with self._errors():
            commit = HfApi().dataset_info(self.dataset, revision=self.revision).sha
        assert commit is not None
        return commit

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
            MemoryError,
            pa.ArrowException,
            HfHubHTTPError,
            HFValidationError,
            OfflineModeIsEnabled,
        ) as error:
            if isinstance(error, SoftTargetsError):
                raise
            raise CorpusError(
                f"--dataset {self.dataset}",
                expected=f"a saved dataset, or one on the Hub that can be reached, with a split "
                f"'{self.split}'",
                found=shortened(error_text(error)),
                next_step="Check name, split and configuration; without network, pass a directory.",
            ) from error


def _data_files(directory: Path) -> list[Path]:
    """Return the files of a saved dataset, which lie in its directory.

    Raises:
        OSError, ValueError, KeyError, TypeError, RecursionError: it is none.
        LimitError: the list of them is larger than it is trusted to be.
    """
    path = directory / "state.json"
    STATE_LIMIT.check(str(path), path.stat().st_size)
    names = [one["filename"] for one in json.loads(path.read_text())["_data_files"]]
    for name in names:
        if Path(name).name != name or not (directory / name).is_file():
            raise ValueError(f"a data file {name!r} that is no file of the directory")
    return [directory / name for name in names]
