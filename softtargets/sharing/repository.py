"""A repository of the Hugging Face Hub, by its own client, with this package's errors."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    GatedRepoError,
    HfHubHTTPError,
    # Of httpx, under the name that the client's release imports it by.
    HTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import disable_progress_bars

from softtargets.errors import InputError, StoreError

LOG_IN = "Log in with 'hf auth login', or set HF_TOKEN"


def hide_client_progress() -> None:
    """Let the Hub's client show no bars, a file each, in this process."""
    disable_progress_bars()


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository at a branch, tag or commit; of a dataset, unless `kind` says otherwise."""

    name: str
    """As org/name."""
    revision: str
    api: HfApi
    """The client, which knows endpoint and token."""
    kind: Literal["dataset", "model"] = "dataset"

    @classmethod
    def parse(
        cls,
        text: str,
        revision: str | None,
        api: HfApi | None,
        kind: Literal["dataset", "model"] = "dataset",
    ) -> Repository:
        """Return what `org/name` or `org/name@revision` names.

        Raises:
            InputError: it is neither, or there are two revisions.
        """
        name, mark, own = text.partition("@")
        is_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name, re.ASCII)
        if not is_name or (mark and (revision or not own)):
            raise InputError(
                text,
                expected="org/name or org/name@revision, and one revision at most",
                found=text if revision is None else f"{text} and revision {revision}",
                next_step=f"Name a {kind} repository of the Hugging Face Hub.",
            )
        return cls(name=name, revision=revision or own or "main", api=api or HfApi(), kind=kind)

    @property
    def url(self) -> str:
        """Return its URL; `Store.open` takes that of a dataset."""
        at = "" if self.revision == "main" else f"@{self.revision}"
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.name}{at}"

    def commit(self) -> str:
        """Return the commit that the revision means now.

        Raises:
            StoreError: it cannot be read.
        """
        with self.errors():
            info = self.api.dataset_info(self.name, revision=self.revision)
        assert info.sha is not None
        return info.sha

    def files(self, commit: str) -> dict[str, RepoFile]:
        """Return the files of a commit by path.

        Raises:
            StoreError: it cannot be read.
        """
        with self.errors():
            found = self.api.list_repo_tree(
                self.name, revision=commit, recursive=True, repo_type="dataset"
            )
            return {one.path: one for one in found if isinstance(one, RepoFile)}

    def read(self, commit: str, path: str) -> bytes | None:
        """Return the content of a small file, or None if the commit has none there.

        Raises:
            StoreError: it cannot be read.
        """
        with tempfile.TemporaryDirectory() as directory:
            found = self.download(commit, path, Path(directory))
            return None if found is None else found.read_bytes()

    def download(self, commit: str, path: str, directory: Path) -> Path | None:
        """Fetch a file below a directory, where one that broke off is continued; return its path.

        Returns None if the commit has none there.

        Raises:
            StoreError: it cannot be fetched.
        """
        with self.errors():
            try:
                found = self.api.hf_hub_download(
                    self.name, path, revision=commit, repo_type="dataset", local_dir=directory
                )
            except RemoteEntryNotFoundError:
                return None
        return Path(found)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise what the client raises within as StoreError.

        Raises:
            StoreError: with what to do about it.
        """
        try:
            yield
        # hf-xet, which the client sends and fetches large files with, raises RuntimeError.
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            raise self._store_error(error) from error

    def _store_error(self, error: BaseException) -> StoreError:
        causes = list(_causes(error))
        answers = [one for one in causes if isinstance(one, HfHubHTTPError)]
        status = answers[-1].response.status_code if answers else None
        expected, found = "an answer of the Hub", _line(causes[-1])
        if answers:
            found = ": ".join(dict.fromkeys(_line(one) for one in (error, answers[-1])))
        next_step = "Check the network, then run the same command again: it continues."
        if any(isinstance(one, OfflineModeIsEnabled) for one in causes):
            found = "HF_HUB_OFFLINE is set, so nothing was asked for"
            next_step = "Unset HF_HUB_OFFLINE and run it again."
        elif any(isinstance(one, GatedRepoError) for one in causes):
            expected, found = "access to a gated repository", "none"
            next_step = f"Ask for it on the repository's page. {LOG_IN}."
        elif any(isinstance(one, RepositoryNotFoundError) for one in causes) or status == 401:
            expected = f"a {self.kind} repository that you may use"
            found = f"none of this name, or a private one, {self._token_text()}"
            next_step = f"Check the name. {LOG_IN}, with a token that may use it."
        elif any(isinstance(one, RevisionNotFoundError) for one in causes):
            expected, found = f"a branch, tag or commit {self.revision}", "none"
            next_step = "Name one that is there, or omit it for main."
        elif status == 403:
            expected, found = "permission", f"{found}, {self._token_text()}"
            next_step = f"{LOG_IN}, with a token that may write to the repository."
        elif status in (409, 412):
            expected = "the repository as it was when this command began"
            next_step = "Somebody else changed it. Run the same command again."
        elif status is not None and 400 <= status < 500:
            next_step = "Do what the Hub says, then run the same command again: it continues."
        return StoreError(self.url, expected=expected, found=found, next_step=next_step)

    def _token_text(self) -> str:
        has_token = self.api.token or (self.api.token is None and get_token())
        return "with the token that is set" if has_token else "and no token is set"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error of the client and what it was raised from, within the client."""
    while error is not None:
        yield error
        error = error.__cause__


def _line(error: BaseException) -> str:
    """Return what an error says in one line, without the ids of requests."""
    text = re.sub(r"\(Request ID: [^)]*\)", "", str(error))
    return " ".join(text.split())[:300].rstrip(".") or type(error).__name__
