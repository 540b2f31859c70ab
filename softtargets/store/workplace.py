"""The place that a store is built in: whose it is, who works in it, what may be removed.

A build first writes `work/request.json`: what is being built, with the hash of that. This mark
proves that files of the names that builds give are a build's; without it none is touched. Files of
other names are never ours, and neither is anything behind a link.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

from softtargets.errors import BusyError, IdentityError, SoftTargetsError, StoreError
from softtargets.places.leftovers import Leftovers
from softtargets.places.place import LockGoneError, Place
from softtargets.store.fingerprint import fingerprint_of
from softtargets.store.json_schemas import check_schema
from softtargets.store.leases import Leases
from softtargets.store.manifest import MANIFEST_NAME, parse_identity
from softtargets.store.request import read_request_of, request_text
from softtargets.store.same_identity import check_identity
from softtargets.store.work_files import (
    BEFORE_REQUEST,
    LEFTOVERS,
    LOCK,
    OF_REQUEST,
    PLAN,
    RECORDS,
    REQUEST,
    SLICES,
    WORK,
    WORK_DIRECTORIES,
    WORKERS_LOCK,
    windows_of,
)

_log = logging.getLogger(__name__)


class Workplace:
    """The place that the store of an identity is built in."""

    def __init__(self, place: Place, identity: Mapping[str, Any]) -> None:
        check_schema(identity, "identity", str(place), field="identity")
        self.place = place
        self.identity = identity
        self.fingerprint = fingerprint_of(identity)
        self.leases = Leases(place)
        """Of a place that `writes_once`."""
        self._is_new = False
        """Whether the directory was not there before."""
        self._is_clean = False
        """Whether this process has removed `work` already."""
        self._found = Leftovers(place=self.place, directories=(*WORK_DIRECTORIES, "shards", ""))

    @cached_property
    def writes_once(self) -> bool:
        """Whether files that may not change are written by `put_if_absent`, without locks."""
        return not self.place.has_locks and self.place.has_conditional_puts()

    def put_new(self, path: str, content: bytes) -> bool:
        """Write a file that was not there just now; return False if another process did meanwhile.

        Raises:
            StoreError: the system refused.
        """
        if self.writes_once:
            return self.place.put_if_absent(path, content)
        self.place.put(path, content)
        return True

    @property
    def is_complete(self) -> bool:
        """Return whether the store is committed."""
        return self.place.size(MANIFEST_NAME) is not None

    @contextmanager
    def entered(self, *, shared: bool) -> Iterator[None]:
        """Create the directory or continue in it; what fails before it is planned leaves nothing.

        Args:
            shared: beside others that share it too, or keeping all others out.

        Raises:
            StoreError: the directory holds something else, or cannot be written.
            IdentityError: it holds a store, finished or not, of another identity.
            BusyError: another process builds in it.
        """
        with ExitStack() as stack:
            while not self._enter(stack, shared):
                pass
            try:
                yield
            except SoftTargetsError:
                # Others that share it may be at work. What is interrupted otherwise goes on later.
                if not shared and not self.writes_once:
                    self._remove_useless()
                raise

    def _enter(self, stack: ExitStack, shared: bool) -> bool:
        """Enter unless another build ends meanwhile; then it is to be tried again."""
        self._check()
        if self.is_complete and not self._has_leftovers():
            return True
        if self.writes_once:
            self._enter_beside_others(stack)
            return True
        if not self.place.has_locks:
            _log.warning(
                "%s: this place knows no conditional writes, so nothing keeps another process from "
                "building in it. See that none does.",
                self.place,
            )
        self._is_new |= self.place.make_directory("")
        self.place.make_directory("work")
        try:
            stack.enter_context(self.place.lock(LOCK, shared=shared))
            if not shared:
                self._begin_alone()
        except LockGoneError:
            return False
        except BusyError:
            # Who holds it may have committed just now, and removes what is left.
            if not self.is_complete:
                raise
        return True

    def _enter_beside_others(self, stack: ExitStack) -> None:
        """Show that this process is at work, and write the request unless another has."""
        stack.enter_context(self.leases.beating())
        # At the end too: another process may have committed before this one was done.
        stack.callback(self._clean_if_complete)
        if not self.is_complete:
            self._request_beside_others()

    def _clean_if_complete(self) -> None:
        if not self._is_clean and self.is_complete:
            self.clean()

    def _request_beside_others(self) -> None:
        """Write the request, or go on with it; it takes the place of one that nothing came of.

        Raises:
            IdentityError: another store was begun here, and something came of it.
        """
        content = request_text(self.identity)
        while not self.place.put_if_absent(REQUEST, content):
            found = self.place.get_tagged(REQUEST)
            if found is None or found[0] == content:
                return
            self._check()
            others = self.leases.others()
            if others or self.place.size(PLAN) is not None:
                self._refuse_other(len(others))
            self._found.remove(OF_REQUEST)
            if self.place.put_if_match(REQUEST, content, found[1]):
                return

    def _refuse_other(self, num_others: int) -> None:
        try:
            self.check_begun()
        except IdentityError as error:
            if not num_others:
                raise
            raise error.restated(
                IdentityError,
                next_step=f"{num_others} other processes work there, or died there. 'softtargets "
                "clean' removes what dead ones left; the store was not touched.",
            ) from error

    def _begin_alone(self) -> None:
        # Workers whose parent was killed end by themselves, when their unit is done.
        with self.place.lock(WORKERS_LOCK):
            if self.is_complete:
                # Left by a crash before it was removed, or another build ended just now.
                self.clean()
            else:
                self.begin()

    def begin(self) -> None:
        """Write the request, or go on with it if it is there.

        Raises:
            StoreError: the system refused.
            IdentityError: another store was begun in the directory.
        """
        content = request_text(self.identity)
        is_same = self.place.get(REQUEST) == content
        if not is_same:
            self._check()
            # Begun with another identity, but no unit was done: nothing is lost by starting anew.
            self._found.remove(OF_REQUEST)
            self.place.put(REQUEST, content)
        self.place.make_directory(RECORDS)
        self.place.make_directory("shards")
        self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Remove what processes that died had begun to write; none may be writing now."""
        if self.place.has_locks:  # Elsewhere a file is there as a whole, or not at all.
            self._found.remove(LEFTOVERS)

    def clean(self) -> None:
        """Remove `work`, which a store that is committed needs no more; what is not ours stays.

        Whoever claims a unit first does not look for its record. So a claim goes after the windows
        of its unit: who claims it again has none to read, and finds the store.
        """
        work = Leftovers(place=self.place, directories=WORK_DIRECTORIES)
        locks = (LOCK,) * self.place.has_locks
        work.remove_and_warn(WORK, last=(*locks, REQUEST, "work/"), before=windows_of)
        self._is_clean = True

    def _remove_useless(self) -> None:
        """Remove what was made, if nothing of it would save a build that goes on any work."""
        place = self.place
        is_planned = place.size(PLAN) is not None
        found = (place.list(path) for path in (RECORDS, SLICES, "shards"))
        if self.is_complete or is_planned or any(found):
            return
        self.clean()
        place.remove_directory("shards")
        if self._is_new and not place.list(""):
            place.remove_directory("")

    def _has_leftovers(self) -> bool:
        """Return whether the mark of this very store's build is still there."""
        return self.place.get(REQUEST) == request_text(self.identity)

    def _check(self) -> None:
        """Check that the directory is new, or holds this very store, finished or not."""
        self.place.check_writable()
        manifest = self.place.get(MANIFEST_NAME)
        if manifest is not None:
            where = self.place.where(MANIFEST_NAME)
            self.check_request(parse_identity(manifest, where)[0])
            return
        found = read_request_of(self.place)
        if found is None:
            others = self._found.others(BEFORE_REQUEST)
            # Another process may have begun or committed since its files were looked for.
            if others and not self.is_complete and read_request_of(self.place) is None:
                raise _foreign(self.place, others)
        elif any(path.endswith(".json") for path in self.place.list(RECORDS)):
            self.check_request(found)

    def check_begun(self) -> None:
        """Check that it is this very store that is being built here.

        Raises:
            IdentityError: it is another.
            StoreError: it is none.
        """
        found = read_request_of(self.place)
        if found is None:
            raise StoreError(
                self.place.where(REQUEST),
                expected="the request of this build",
                found="none",
                next_step="Run the same command again.",
            )
        self.check_request(found)

    def check_request(self, found: Mapping[str, Any]) -> None:
        """Check that what is being built here is what is to be built.

        Raises:
            IdentityError: it is another store.
        """
        next_step = (
            "Pass the options and files the store was begun with, or choose another output "
            "directory; the store was not touched."
        )
        check_identity(found, self.identity, str(self.place), next_step)


def _foreign(place: Place, others: list[str]) -> StoreError:
    return StoreError(
        str(place),
        expected="an empty directory, or a store",
        found=f"{len(others)} other entries, among them '{others[0]}'",
        next_step="Choose another output directory; nothing in this one was touched.",
    )
