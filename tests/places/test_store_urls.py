"""URLs of stores: which lead somewhere, and that no message tells a secret of one."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from softtargets import Store, verify
from softtargets.errors import InputError, SoftTargetsError, StoreError
from tests.object_store import KEY, SECRET, Bucket, Fault
from tests.places.store_contents import SHARD

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_retries")]


def test_where_no_store_is(store: Store, bucket: Bucket) -> None:
    url = bucket.copy(store)
    with pytest.raises(StoreError, match=rf"s3://{bucket.name}/other: expected a store"):
        Store.open(bucket.url("other"))
    bucket.proxy.inject(Fault(kind="error", times=10**6))
    with pytest.raises(StoreError, match=r"manifest.json: expected to be read; found after"):
        Store.open(url)
    for wrong, message in (
        ("s4://bucket/store", "expected a URL that pyarrow.fs or fsspec opens"),
        ("s3://bucket/store?nothing=1", "expected a URL that pyarrow.fs or fsspec opens"),
    ):
        with pytest.raises(InputError, match=message):
            Store.open(wrong)
    with pytest.raises(InputError, match=r"expected a file system of pyarrow.fs or of fsspec"):
        Store.open("bucket/store", filesystem="s3")


def test_local_paths_need_no_client(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a store behind a URL or a file system"):
        Store.open(store.root, cache_dir=tmp_path)
    with pytest.raises(InputError, match="expected cache_dir"):
        Store.open("s3://bucket/store", cache_bytes=10)
    with pytest.raises(InputError, match="expected a directory or a URL; found an empty text"):
        Store.open("")


def test_a_url_may_name_a_local_file(store: Store, tmp_path: Path) -> None:
    named = store.root.rename(tmp_path / "a?b#c\udcff")
    path = f"{tmp_path}/a%3Fb%23c%FF"
    for url in (f"file://{path}", f"file:{path}", f"FILE://localhost{path}"):
        assert Store.open(url).root == named
    for wrong in ("file://", "file://host/a", "file:///a?b", "file:///a#b", "file:////a"):
        with pytest.raises(InputError, match="expected file:///directory"):
            Store.open(wrong)
    with pytest.raises(StoreError, match=r"/a\\x00b/manifest.json: .* null byte"):
        Store.open("file:///a%00b")


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("http://[::1/a", StoreError, "Invalid IPv6 URL"),
        ("http://127.0.0.1:1/a", StoreError, "after 8 attempts: Cannot connect to host"),
        ("http://", InputError, "expected a URL that names a place"),
        ("ftp://", InputError, "expected a URL that names a place"),
        ("dir://a", InputError, "expected the URL of a place with files; found dir://"),
        ("dir::memory://a", InputError, "expected the URL of a place with files; found dir://"),
        ("reference://a", InputError, "expected the URL of a place with files; found reference://"),
        ("ftp://127.0.0.1:1/a", StoreError, "the place cannot be reached: "),
        ("hdfs://127.0.0.1:1/a", StoreError, "the place cannot be reached: "),
        ("github://a", InputError, "found TypeError: .* missing .* 'org' and 'repo'"),
        ("zip://a::/nothing.zip", StoreError, "cannot be reached: .Errno 2. No such file"),
        ("sftp://host/a", InputError, 'requires "paramiko" to be installed'),
        ("s4://bucket/a", InputError, "found Protocol not known: s4"),
    ],
)
def test_a_url_that_leads_nowhere_is_an_error(
    url: str, kind: type[SoftTargetsError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Store.open(url)


def test_credentials_are_in_no_message(store: Store, bucket: Bucket, tmp_path: Path) -> None:
    there = Store.open(bucket.copy(store), cache_dir=tmp_path / "cache")
    (bucket.directory / "store" / SHARD).unlink()
    texts = [repr(there), str(there.location)]
    for fail in (
        lambda: list(there),
        lambda: Store.open(bucket.url("nothing")),
        lambda: Store.open(f"s4://{KEY}:{SECRET}@bucket/store?endpoint_override=a"),
        lambda: Store.open(f"s3://{KEY}:{SECRET}@bucket/store?endpoint_overide=a"),
    ):
        with pytest.raises(SoftTargetsError) as caught:
            fail()
        texts.append(str(caught.value))
    for text in texts:
        assert KEY not in text
        assert SECRET not in text


URLS = (
    "s3://AKIA:hunter22@bucket/a?scheme=http&endpoint_override=127.0.0.1:1",
    "s3://AKIA:hunt/er22@bucket/a",
    "s3://AKIA:hunt#er22@bucket/a",
    "s3://bucket/a?hunter22",
    "s3://bucket/a?secret_key=hunter22",
    "http://AKIA:hunter22@127.0.0.1:1/a",
    "http://AKIA:hunt/er22@127.0.0.1:1/a",
    "http://AKIA:hunt%2Fer22@127.0.0.1:1/a",
    "http://127.0.0.1:1/a?X-Amz-Signature=hunter22",
    "http://127.0.0.1:1/a#token=hunter22",
    "http://AKIA:hunter22@[::1/a",
    "ftp://AKIA:hunter22@127.0.0.1:1/a",
    "simplecache::http://AKIA:hunter22@127.0.0.1:1/a",
    "zip://a::http://AKIA:hunter22@127.0.0.1:1/a.zip?sig=hunter22",
    "zip://a::simplecache::https://127.0.0.1:1/a.zip?sv=1&sig=hunter22",
    "memory://AKIA:hunter22@a/b",
    "unknown://AKIA:hunter22@host/a",
    "sftp://AKIA:hunter22@host/a",
    "hf://AKIA:hunter22@datasets/a/b",
    "file://AKIA:hunter22@host/a",
    "dir://AKIA:hunter22@host/a",
)


@pytest.mark.parametrize("url", URLS)
def test_no_message_and_no_traceback_tells_a_secret(url: str, tmp_path: Path) -> None:
    for open_it in (Store.open, verify, lambda url: Store.open(url, cache_dir=tmp_path / "cache")):
        with pytest.raises(SoftTargetsError) as caught:
            open_it(url)
        error = caught.value
        told = "".join(traceback.format_exception(error)) + repr(error) + str(error)
        assert [one for one in ("hunter22", "hunt", "er22", "AKIA") if one in told] == []
