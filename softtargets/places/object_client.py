"""The clients of object stores that are written to: obstore's, for S3, Google and Azure.

Reading alone needs none of them; see `filesystems`. Facts that are relied on: a put with mode
"create" fails if the object is there, one with the tag of a version fails if there is another, and
every object becomes visible as a whole.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote
from uuid import uuid4

from softtargets.errors import InputError
from softtargets.places.file_versions import FileVersion
from softtargets.places.filesystems import TIMEOUT
from softtargets.urls import Secrets, redacted, schemes

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Bucket

SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
_REQUEST_SECONDS = 120
"""Most that a request may take, with its content: 5 MB of a large file, or all of a small one."""
_NOT_IMPLEMENTED = "501 Not Implemented"
"""What obstore says where a server knows no conditions, and says so."""
_S3_OPTIONS = {"region": "region", "endpoint_override": "endpoint", "scheme": None}
"""Options of a URL, as `pyarrow.fs` reads them, and what obstore calls them."""
_PARTS = re.compile(
    r"(?P<scheme>[^:]+)://(?:(?P<user>[^/]*)@)?(?P<bucket>[^/?#]+)(?P<path>/[^?#]*)?"
    r"(?:\?(?P<options>[^#]*))?"
)


class ObjectClient:
    """Reads and writes the objects of one bucket. It belongs to the process that made it."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._process_id = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectClient, (self._bucket,)

    def size(self, path: str) -> int | None:
        """Return the size of an object in bytes, or None if there is none."""
        try:
            return int(self._ask("head", path)["size"])
        except FileNotFoundError:
            return None

    def read(self, path: str) -> bytes:
        """Return all of an object."""
        return self.read_tagged(path)[0]

    def read_tagged(self, path: str) -> tuple[bytes, str]:
        """Return all of an object, and the tag of its version."""
        found = self._ask("get", path)
        version = {name: found.meta[name] for name in ("e_tag", "version")}
        tag = json.dumps({name: one for name, one in version.items() if one is not None})
        return bytes(found.bytes()), tag

    def read_range(self, path: str, offset: int, num_bytes: int) -> bytes:
        """Return a range of an object; it is shorter where the object ends."""
        from obstore.exceptions import GenericError

        try:
            return bytes(self._ask("get_range", path, start=offset, length=num_bytes))
        except GenericError:
            # A range that begins past the end is refused.
            size = self.size(path)
            if size is not None and size <= offset:
                return b""
            raise

    def entries(self, directory: str) -> dict[str, int | None]:
        """Return the sizes of what is in a directory, by name; a directory has a slash."""
        found = self._ask("list_with_delimiter", directory or None)
        sizes: dict[str, int | None] = {f"{one}/": None for one in found["common_prefixes"]}
        sizes |= {one["path"]: int(one["size"]) for one in found["objects"]}
        start = f"{directory}/" if directory else ""
        return {path.removeprefix(start): size for path, size in sizes.items()}

    def version(self, path: str) -> FileVersion:
        """Return the version of an object."""
        found = self._ask("head", path)
        return FileVersion.of(found, found["size"])

    def forget(self, path: str) -> None:
        """Do nothing: nothing is remembered."""

    def renewed(self) -> ObjectClient:
        """Return the same client: in a forked process there is none, as `_ask` says there."""
        return self

    def put(self, path: str, content: bytes) -> None:
        """Write an object."""
        self._ask("put", path, content)

    def create(self, path: str, content: bytes) -> bool:
        """Write an object that is not there; return False if it is."""
        from obstore.exceptions import AlreadyExistsError

        try:
            self._ask("put", path, content, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def replace(self, path: str, content: bytes, tag: str) -> bool:
        """Write an object whose version has a tag; return False if it has another, or is gone."""
        from obstore.exceptions import PreconditionError

        try:
            self._ask("put", path, content, mode=json.loads(tag))
        except (PreconditionError, FileNotFoundError):
            return False
        return True

    def refuses(self, path: str) -> bool:
        """Return whether the server refuses writes whose condition is not met; some write anyway.

        Args:
            path: how that of an object begins, which is written and deleted.
        """
        from obstore.exceptions import GenericError

        path = f"{path}-{uuid4().hex}"
        self.put(path, b"first")
        try:
            _, tag = self.read_tagged(path)
            has_created = self.create(path, b"second")
            self.put(path, b"third")
            return not has_created and not self.replace(path, b"fourth", tag)
        except GenericError as error:
            if _NOT_IMPLEMENTED not in str(error):
                raise
            return False
        finally:
            self.delete(path)

    def delete(self, path: str) -> None:
        """Remove an object, or do nothing if it is gone already."""
        try:
            self._ask("delete", path)
        except FileNotFoundError:
            return

    def delete_all(self, paths: list[str]) -> None:
        """Remove objects, or do nothing about those that are gone already."""
        try:
            self._ask("delete", paths)
        except FileNotFoundError:
            # Servers without a request for many tell of the first one that is gone.
            for path in paths:
                self.delete(path)

    def _ask(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a function of obstore.

        Raises:
            InputError: this process was forked. It has none of the threads that would answer.
            PermissionError: what another attempt would not be allowed either.
        """
        if os.getpid() != self._process_id:
            raise InputError(
                f"{self._bucket!r}",
                expected="the process that opened the place to write to",
                found="a process that was forked from it",
                next_step="Open the store by its URL to read it, or let workers be spawned.",
            )
        import obstore
        from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

        try:
            return getattr(obstore, name)(self._bucket, *arguments, **options)
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise PermissionError(str(error)) from error


def open_bucket(url: str) -> tuple[ObjectClient, str]:
    """Return the client of the bucket of a URL, and the path in it.

    Credentials are those of the URL, or what the provider's own tools find.

    Raises:
        InputError: the URL is none of an object store, or what opens it is not installed.
    """
    _check_installed(url)
    from obstore.store import from_url

    found = _PARTS.fullmatch(url)
    secrets = Secrets(url)
    if found is None or schemes(url)[0] not in SCHEMES:
        raise InputError(
            redacted(url),
            expected=f"a directory, or a URL of one of {', '.join(f'{one}://' for one in SCHEMES)}",
            found="another form",
            next_step="Write to a directory, and copy it: a copy is the same store.",
        )
    options = _options_of(url, found)
    base = f"{found['scheme']}://{found['bucket']}"
    if found["scheme"].lower() in ("abfs", "abfss") and found["user"]:
        base = f"{found['scheme']}://{found['user']}@{found['bucket']}"
    try:
        bucket = from_url(base, **options)
    # It raises errors of many types, and quotes what it was given.
    except Exception as error:  # noqa: BLE001
        raise InputError(
            redacted(url),
            expected="a URL that obstore opens",
            found=secrets.said(error).splitlines()[0],
            next_step="Correct the URL, or the settings of the provider in the environment.",
        ) from secrets.cause(error)
    return ObjectClient(bucket), (found["path"] or "").strip("/")


def _check_installed(url: str) -> None:
    if find_spec("obstore") is None:
        raise InputError(
            redacted(url),
            expected="the package obstore, which writes to object stores",
            found="none",
            next_step="Install it: pip install 'softtargets[object-stores]'.",
        )


def _options_of(url: str, found: re.Match[str]) -> dict[str, Any]:
    """Return what obstore is told beside the bucket; who calls it tries again by itself."""
    client: dict[str, Any] = {
        "timeout": f"{_REQUEST_SECONDS}s",
        "connect_timeout": f"{TIMEOUT:.0f}s",
    }
    options: dict[str, Any] = {"client_options": client, "retry_config": {"max_retries": 0}}
    given = dict(parse_qsl(found["options"] or ""))
    if found["scheme"].lower() != "s3":
        _check_known(url, given, {})
        return options
    _check_known(url, given, _S3_OPTIONS)
    config = {own: given[name] for name, own in _S3_OPTIONS.items() if own and name in given}
    if "endpoint" in config and "://" not in config["endpoint"]:
        config["endpoint"] = f"{given.get('scheme', 'https')}://{config['endpoint']}"
    if config.get("endpoint", "").startswith("http://"):
        client["allow_http"] = True
    key, _, secret = (found["user"] or "").partition(":")
    if key and secret:
        config |= {"access_key_id": unquote(key), "secret_access_key": unquote(secret)}
    elif "AWS_PROFILE" in os.environ or _has_aws_files():
        options |= _boto3_credentials(url)
    return options | {"config": config}


def _check_known(url: str, given: Mapping[str, str], known: Mapping[str, str | None]) -> None:
    """Check the options of a URL.

    Raises:
        InputError: one is not known, which would be passed over in silence otherwise.
    """
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise InputError(
            redacted(url),
            expected=f"options among {', '.join(known)}" if known else "no options in the URL",
            found=", ".join(unknown),
            next_step="Set others by the environment variables of the provider.",
        )


def _has_aws_files() -> bool:
    """Return whether there are files of AWS' command line, which obstore itself does not read."""
    named = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    return "AWS_ACCESS_KEY_ID" not in os.environ and Path(named).expanduser().is_file()


def _boto3_credentials(url: str) -> dict[str, Any]:
    """Return what gives the credentials of a profile, or of a single sign-on."""
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise InputError(
            redacted(url),
            expected="the package boto3, which reads AWS profiles",
            found="none",
            next_step="Install it: pip install boto3. Or set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY.",
        ) from error
    return {"credential_provider": Boto3CredentialProvider()}
