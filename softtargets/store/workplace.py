"""The place that a store is built in: whose it is, who works in it, what may be removed.

A build first writes `work/request.json`: what is being built, with the hash of that. This mark
proves that files of the names that builds give are a build's; without it none is touched. Files of
other names are never ours, and neither is anything behind a link.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

from softtargets.errors import BusyError, IdentityError, SoftTargetsError, StoreError
from softtargets.places.leftovers import Leftovers
from softtargets.places.place import PROBE, LockGoneError, Place
from softtargets.places.tree import TEMPORARY
from softtargets.store.card import CARD_NAME
from softtargets.store.fingerprint import fingerprint_of
from softtargets.store.json_object import parse_object
from softtargets.store.layer_file import LAYERS_NAME
from softtargets.store.manifest import MANIFEST_NAME, check_schema, parse_manifest
from softtargets.store.output_head import OUTPUT_HEAD_NAME
from softtargets.store.same_identity import check_identity
from softtargets.store.versions import WRITTEN_VERSIONS, check_version
from softtargets.store.vocabulary import VOCABULARY_NAME

REQUEST = "work/request.json"
PLAN = "work/plan.json"
RECORDS = "work/records"
LOCK = "work/lock"
WORKERS_LOCK = "work/workers.lock"
PLAN_LOCK = "work/plan.lock"

_WORK_DIRECTORIES = ("work/records", "work/plan", "work/leases", "work")
_UNIT = r"unit-\d{6,}"
_SHARD = rf"shards/{_UNIT}(-[0-9a-f]{{16}})?\.parquet"
_PROBE = rf"{re.escape(PROBE)}-[0-9a-f]{{32}}"
_SIDE = "|".join(map(re.escape, (OUTPUT_HEAD_NAME, LAYERS_NAME, VOCABULARY_NAME)))
_LOCKS = r"work/(workers\.|plan\.)?lock"
_MADE = rf"work/(plan\.json|{_SIDE}|plan/{_UNIT}\.parquet|records/{_UNIT}\.json)"
_COMMITTED = rf"{re.escape(CARD_NAME)}|{re.escape(MANIFEST_NAME)}|{_SIDE}"
_EMPTY = r"(work(/records|/plan|/leases)?|shards)/"

_OF_REQUEST = re.compile(rf"({_MADE}|{_SHARD})({TEMPORARY})?")
"""What is made for a request, and goes when another takes its place."""
_LEFTOVERS = re.compile(rf"({_COMMITTED}|{re.escape(REQUEST)}|{_MADE}|{_SHARD}){TEMPORARY}")
"""What a process that died had begun to write."""
_WORK = re.compile(
    rf"({re.escape(REQUEST)}|{_MADE})({TEMPORARY})?|work/leases/{_UNIT}|{_LOCKS}"
    rf"|{_PROBE}|work(/records|/plan|/leases)?/"
)
"""What a build keeps in `work`."""
_BEFORE_REQUEST = re.compile(rf"{_LOCKS}|{re.escape(REQUEST)}{TEMPORARY}|{_PROBE}|{_EMPTY}")
"""What a build that died before its request was written can have left; all of it is empty."""


class Workplace:
    """The place that the store of an identity is built in."""

    def __init__(self, place: Place, identity: Mapping[str, Any]) -> None:
        check_schema(identity, "identity", str(place), field="identity")
        self.place = place
        self.identity = identity
        self.fingerprint = fingerprint_of(identity)
        self._is_new = False
        """Whether the directory was not there before."""
        self._found = Leftovers(place=self.place, directories=(*_WORK_DIRECTORIES, "shards", ""))

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
                if not shared:
                    self._remove_useless()
                raise

    def _enter(self, stack: ExitStack, shared: bool) -> bool:
        """Enter unless another build ends meanwhile; then it is to be tried again."""
        self._check()
        if self.is_complete and not self._has_leftovers():
            return True
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
        content = self._request_text()
        is_same = self.place.get(REQUEST) == content
        if not is_same:
            self._check()
            # Begun with another identity, but no unit was done: nothing is lost by starting anew.
            self._found.remove(_OF_REQUEST)
            self.place.put(REQUEST, content)
        self.place.make_directory("work/records")
        self.place.make_directory("shards")
        self._found.remove(_LEFTOVERS)

    def remove_leftovers(self) -> None:
        """Remove what processes that died had begun to write; none may be writing now."""
        self._found.remove(_LEFTOVERS)

    def clean(self) -> None:
        """Remove `work`, which a store that is committed needs no more; what is not ours stays."""
        work = Leftovers(place=self.place, directories=_WORK_DIRECTORIES)
        work.remove(_WORK, last=(LOCK, REQUEST, "work/"))
        work.warn_of_others(_WORK)

    def _remove_useless(self) -> None:
        """Remove what was made, if nothing of it would save a build that goes on any work."""
        place = self.place
        is_planned = place.size(PLAN) is not None
        if self.is_complete or is_planned or place.list("work/records") or place.list("shards"):
            return
        self.clean()
        place.remove_directory("shards")
        if self._is_new and not place.list(""):
            place.remove_directory("")

    def _request_text(self) -> bytes:
        request = {
            "format_version": self.identity["format_version"],
            "fingerprint": self.fingerprint,
            "identity": self.identity,
        }
        return json.dumps(request, indent=1).encode()

    def _has_leftovers(self) -> bool:
        """Return whether the mark of this very store's build is still there."""
        return self.place.get(REQUEST) == self._request_text()

    def _check(self) -> None:
        """Check that the directory is new, or holds this very store, finished or not."""
        self.place.check_writable()
        manifest = self.place.get(MANIFEST_NAME)
        if manifest is not None:
            where = self.place.where(MANIFEST_NAME)
            self.check_request(parse_manifest(manifest, where).identity)
            return
        found = read_request_of(self.place)
        if found is None:
            others = self._found.others(_BEFORE_REQUEST)
            # Another build may have committed since the manifest was looked for.
            if others and not self.is_complete:
                raise _foreign(self.place, others)
        elif any(path.endswith(".json") for path in self.place.list("work/records")):
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


def read_request_of(place: Place) -> Mapping[str, Any] | None:
    """Return the identity that the build in a directory was begun with; None if none was.

    Raises:
        StoreError: the file is none that a build wrote.
        IdentityError: another release began it.
    """
    content, where = place.get(REQUEST), place.where(REQUEST)
    if content is None:
        return None
    request = parse_object(content, where)
    version = check_version(request.get("format_version"), where)
    if version not in WRITTEN_VERSIONS:
        raise IdentityError(
            where,
            expected=f"a build begun in format {' or '.join(WRITTEN_VERSIONS)}",
            found=f"one of {version}",
            next_step="Finish it with the release of softtargets that began it, or choose "
            "another output directory; nothing in this one was touched.",
        )
    identity: Mapping[str, Any] = request.get("identity", {})
    check_schema(identity, "identity", where, field="identity")
    if request.get("fingerprint") != fingerprint_of(identity):
        raise StoreError(
            where,
            expected=f"the hash of the identity, {fingerprint_of(identity)}, in field fingerprint",
            found="another",
            next_step="No build wrote this file, so nothing in the directory was touched. Choose "
            "another output directory.",
        )
    return identity


def _foreign(place: Place, others: list[str]) -> StoreError:
    return StoreError(
        str(place),
        expected="an empty directory, or a store",
        found=f"{len(others)} other entries, among them '{others[0]}'",
        next_step="Choose another output directory; nothing in this one was touched.",
    )
