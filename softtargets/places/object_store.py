"""A place in an object store that is written to, as well as read.

A write whose answer is lost may have been done, and a network may deliver a request twice. So a
conditional write that is refused is read back, and counts as done if what is there is what was
written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from softtargets.places.object_client import ObjectClient, open_bucket
from softtargets.places.place import PROBE
from softtargets.places.remote import RemoteReads
from softtargets.places.retries import Content
from softtargets.urls import Secrets

if TYPE_CHECKING:
    from softtargets.places.filesystems import Client


_DELETED_AT_ONCE = 1000


class ObjectStore(RemoteReads):
    """A path in a bucket."""

    requests_at_once = 8
    _least_attempts = 3
    """A request may hang for longer than readers try again, and must not end a build."""
    _is_conditional: bool | None = None
    """Whether the server refuses what it has to refuse; None before that was tried."""

    def check_writable(self) -> None:
        """Check that the place can be reached.

        Raises:
            StoreError: it cannot.
        """
        self.list("")

    def put(self, path: str, content: bytes) -> None:
        """Write a file as a whole.

        Raises:
            StoreError: the place cannot be reached, or refused.
        """
        self._write(path, lambda client, file: client.put(file, content))

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Write a file that is not there; return whether it was this call that wrote it.

        Of several that try at the same time one succeeds, if each would write another content.

        Raises:
            StoreError: the place cannot be reached, or refused.
        """
        return self._write_once(path, content, lambda client, file: client.create(file, content))

    def get_tagged(self, path: str) -> tuple[bytes, str] | None:
        """Return the content of a file and its tag for `put_if_match`, or None if there is none."""

        def read(client: ObjectClient, file: str) -> tuple[bytes, str] | None:
            try:
                return client.read_tagged(file)
            except FileNotFoundError:
                return None

        return self._write(path, read)

    def put_if_match(self, path: str, content: bytes, tag: str) -> bool:
        """Write a file if its version is still the one of a tag; return whether it was written."""
        return self._write_once(
            path, content, lambda client, file: client.replace(file, content, tag)
        )

    def delete(self, path: str) -> None:
        """Remove a file, or do nothing if it is gone already."""
        self._write(path, lambda client, file: client.delete(file))

    def delete_all(self, paths: Sequence[str]) -> None:
        """Remove files, a thousand with a request where the server knows such requests."""
        for start in range(0, len(paths), _DELETED_AT_ONCE):
            self._delete_some(paths[start : start + _DELETED_AT_ONCE])

    def _delete_some(self, paths: Sequence[str]) -> None:
        files = [f"{self._root}/{path}".lstrip("/") for path in paths]
        self._write(paths[0], lambda client, _: client.delete_all(files))

    def has_conditional_puts(self) -> bool:
        """Return whether the server refuses to write where a condition is not met.

        Raises:
            StoreError: the place cannot be reached, or refused.
        """
        if self._is_conditional is None:
            self._is_conditional = self._write(PROBE, lambda client, file: client.refuses(file))
        return self._is_conditional

    def _write_once(
        self, path: str, content: bytes, write: Callable[[ObjectClient, str], bool]
    ) -> bool:
        return self._write(
            path, lambda client, file: write(client, file) or _is_there(client, file, content)
        )

    def _write(self, path: str, write: Callable[[ObjectClient, str], Content]) -> Content:
        def act(client: Client, file: str) -> Content:
            assert isinstance(client, ObjectClient)
            return write(client, file)

        expected = "to be written"
        try:
            return self._attempt(path, "", act, expected)
        except FileNotFoundError as error:
            # There is not even a bucket.
            raise self._unreachable(self.where(path), expected, 1, error) from (
                self._secrets.cause(error)
            )


def _is_there(client: ObjectClient, file: str, content: bytes) -> bool:
    try:
        return client.read(file) == content
    except FileNotFoundError:
        return False


def open_object_store(url: str) -> ObjectStore:
    """Return the place that a URL names, to be written to.

    Raises:
        InputError: the URL is none of an object store, or what opens it is not installed.
    """
    client, root = open_bucket(url)
    return ObjectStore(url, client, root, None, Secrets(url))
