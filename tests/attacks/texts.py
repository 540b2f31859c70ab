"""Texts that a terminal would obey, credentials in URLs, and URLs that lead nowhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from softtargets.cli import main
from softtargets.places import retries
from softtargets.tokenizer import Vocabulary
from tests.attacks.attack import Attack, Outcome, command
from tests.golden import write_store
from tests.windows import make_window, topk_schema

OBEYED = "\x1b]0;owned\x07\x1b[31m\x9b31m\r\u202eexe[link=http://evil]x[/link]"
"""A title, colours in 7 and 8 bits, a line written over, a turn of the direction, a link."""
ENDLESS = "\x1b[2J" * 200_000


def write_hostile(directory: Path) -> None:
    """Write a store in which every text that may be chosen is `OBEYED`."""
    num_tokens = 12
    vocabulary = Vocabulary(
        ids_N=np.arange(num_tokens, dtype=np.int32),
        tokens=tuple(f"{OBEYED}{one}" for one in range(num_tokens)),
        utf8=tuple(f"{OBEYED}{one}".encode() for one in range(num_tokens)),
    )
    rng, schema = np.random.default_rng(0), topk_schema(6, vocab_size=num_tokens)
    windows = [
        replace(
            make_window(rng, schema, num_tokens=40)[0],
            source=OBEYED,
            document_ids=(OBEYED, OBEYED),
        )
        for _ in range(2)
    ]
    changes = {
        "teacher": {
            "architecture": OBEYED,
            "weights_sha256": "a" * 64,
            "config_sha256": "c" * 64,
            "revision": OBEYED,
            "dtype": "float32",
            "attention": OBEYED,
        },
        "selection": {"kind": "topk", OBEYED: OBEYED, "draws": {OBEYED: OBEYED}},
        "derived": [{"operation": "filter", "fingerprint": "e" * 64, OBEYED: OBEYED}],
        OBEYED: OBEYED,
    }
    root = directory / "store"
    write_store(root, schema, [windows], corpus=OBEYED, vocabulary=vocabulary, changes=changes)
    edit_manifest(root, lambda data: data.update(teacher=OBEYED, created_by=OBEYED))


def edit_manifest(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of a store."""
    path = root / "manifest.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def write_edited(edit: Callable[[dict[str, Any]], object], directory: Path) -> None:
    """Write a hostile store whose manifest is wrong too."""
    write_hostile(directory)
    edit_manifest(directory / "store", edit)


def write_other(directory: Path) -> None:
    """Write a hostile store beside another one."""
    write_hostile(directory)
    rng, schema = np.random.default_rng(1), topk_schema(6, vocab_size=12)
    write_store(directory / "other", schema, [[make_window(rng, schema, num_tokens=9)[0]]])


def write_named(name: str, directory: Path) -> None:
    """Write a store into a directory with a name."""
    write_hostile(directory)
    (directory / "store").rename(directory / name)


def write_stray(directory: Path) -> None:
    """Put a file beside the shards whose name is obeyed."""
    write_hostile(directory)
    (directory / "store" / "shards" / f"{OBEYED.replace('/', '')}.parquet").write_bytes(b"")


def page_is_raw(directory: Path, _: Outcome) -> str:
    """Say whether the page has a character that turns the direction of writing, or a control."""
    page = (directory / "page.html").read_text()
    found = [one for one in page if not one.isprintable() and one != "\n"]
    return f"the page has {found[0]!r}" if found else ""


NAME = OBEYED.replace("/", "")
"""As the name of a file."""


def _control(name: str, run: Callable[[Path], None], **changes: Any) -> Attack:
    return Attack(
        kind="texts that a terminal would obey",
        name=name,
        run=run,
        **{"prepare": write_hostile, "wanted": "survived", **changes},
    )


def _edited(name: str, edit: Callable[[dict[str, Any]], object], *arguments: str) -> Attack:
    run = command(*(arguments or ("info", "store")))
    return _control(f"manifest, {name}", run, prepare=partial(write_edited, edit), wanted="refused")


_CONTROLS = (
    *(
        _control(" ".join(arguments), command(*arguments))
        for arguments in (
            ("info", "store"),
            ("info", "store", "--detail"),
            ("info", "store", "--json", "--detail"),
            ("verify", "store", "--fast"),
            ("verify", "store", "--fast", "--json"),
            ("inspect", "store"),
            ("inspect", "store", "--position", "3"),
            ("inspect", "store", "--json"),
            ("inspect", "store", "--list"),
            ("export", "store", "plain", "--to", "plain"),
            ("export", "store", "lists", "--to", "distillkit"),
            ("card", "store"),
            ("filter", "store", "--output", "part", "--source", OBEYED),
        )
    ),
    _control("report", command("report", "store", "--output", "page.html"), harm=page_is_raw),
    _control(
        "report of a directory",
        command("report", NAME, "--output", "page.html"),
        prepare=partial(write_named, NAME),
        harm=page_is_raw,
    ),
    _control("name of a store", command("info", NAME), prepare=partial(write_named, NAME)),
    _control(
        "name of a store, verified",
        command("verify", NAME, "--fast"),
        prepare=partial(write_named, NAME),
    ),
    _control(
        "name of a stray file", command("verify", "store"), prepare=write_stray, wanted="refused"
    ),
    _control(
        "identity of another store",
        command("merge", "store", "other", "--output", "merged"),
        prepare=write_other,
        wanted="refused",
    ),
    _edited("fingerprint", lambda data: data.update(fingerprint=OBEYED)),
    _edited("format_version", lambda data: data.update(format_version=OBEYED)),
    _edited("a new version", lambda data: data.update(format_version=f"9.{OBEYED}")),
    _edited("created_by", lambda data: data.update(created_by=[OBEYED])),
    _edited("a field's name", lambda data: data["corpus"].update({OBEYED: OBEYED})),
    _edited("a shard's path", lambda data: data["shards"][0].update(path=OBEYED)),
    _edited("a shard's hash", lambda data: data["shards"][0].update(sha256=OBEYED)),
    _edited("selection", lambda data: data["identity"].update(targets=OBEYED)),
    _edited("tokenizer", lambda data: data["identity"]["tokenizer"].update(sha256=OBEYED)),
    _edited("a megabyte", lambda data: data.update(fingerprint=ENDLESS)),
    _edited("a field's name of a megabyte", lambda data: data["corpus"].update({ENDLESS: "x"})),
    _edited("verified", lambda data: data.update(fingerprint=OBEYED), "verify", "store"),
    _edited("reported", lambda data: data.update(fingerprint=OBEYED), "inspect", "store"),
    *(
        _control(
            f"argument {name}",
            command(*arguments),
            prepare=lambda _: None,
            wanted="refused",
            is_command_line=True,
        )
        for name, arguments in {
            "command": (OBEYED,),
            "option": ("info", f"--{OBEYED}"),
            "extra": ("info", "store", OBEYED),
            "number": ("report", "store", "--output", "a", "--windows", OBEYED),
            "choice": ("export", "store", "out", "--to", OBEYED),
            "file that is there": (
                "build",
                "--teacher",
                "a",
                "--output",
                "b",
                "--chat-template",
                NAME,
            ),
            "range": ("build", "--teacher", "a", "--output", "b", "--unit-range", OBEYED),
            "store": ("info", NAME),
            "store to verify": ("verify", NAME),
            "window": ("inspect", NAME, "--window", OBEYED),
            "teacher": ("build", "--teacher", OBEYED, "--input", "a.txt", "--output", "b"),
            "repository": ("push", "store", OBEYED),
            "pattern": ("import", "a", "--from", "plain", "--output", NAME),
        }.items()
    ),
    _control(
        "window that is not there",
        command("inspect", "store", "--window", OBEYED),
        wanted="refused",
    ),
    _control(
        "source that is not there",
        command("filter", "store", "--output", "part", "--source", "other"),
        wanted="refused",
    ),
)


SECRETS = ("hunter22", "hunt", "er22", "AKIA")
CLOSED = "127.0.0.1:1"
"""A port where nothing listens."""
URLS = {
    "key of S3": f"s3://AKIA:hunter22@bucket/a?scheme=http&endpoint_override={CLOSED}",
    "key with a slash": "s3://AKIA:hunt/er22@bucket/a",
    "key with a hash": "s3://AKIA:hunt#er22@bucket/a",
    "key with a question mark": "s3://AKIA:hunt?er22@bucket/a",
    "key with an at": f"http://AKIA:hunt@er22@{CLOSED}/a",
    "key with colons": f"http://AKIA:hunt::er22@{CLOSED}/a",
    "key, escaped": f"http://AKIA:hunt%2Fer22@{CLOSED}/a",
    "option of S3": "s3://bucket/a?secret_key=hunter22",
    "password": f"http://AKIA:hunter22@{CLOSED}/a",
    "signed by Amazon": f"http://{CLOSED}/a?X-Amz-Credential=AKIA&X-Amz-Signature=hunter22",
    "signed by Azure": f"http://{CLOSED}/a?sv=2024-01-01&sig=hunter22%3D",
    "signed by Google": f"http://{CLOSED}/a?GoogleAccessId=AKIA@host&Signature=hunter22",
    "fragment": f"http://{CLOSED}/a#access_token=hunter22",
    "malformed": "http://AKIA:hunter22@[::1/a",
    "chained": f"simplecache::http://AKIA:hunter22@{CLOSED}/a",
    "chained twice": f"zip://a::simplecache::http://AKIA:hunter22@{CLOSED}/a.zip?sig=hunter22",
    "ftp": f"ftp://AKIA:hunter22@{CLOSED}/a",
    "hdfs": f"hdfs://AKIA:hunter22@{CLOSED}/a",
    "github": "github://org:hunter22@main/a",
    "unknown scheme": "unknown://AKIA:hunter22@host/a",
    "memory": "memory://AKIA:hunter22@host/a",
    "file": "file://AKIA:hunter22@host/a",
    "hub": "hf://AKIA:hunter22@datasets/a/b",
    "one slash": "http:/AKIA:hunter22@host/a",
}


def leaked(_: Path, outcome: Outcome) -> str:
    """Say which secret was printed."""
    found = [secret for secret in SECRETS if secret in outcome.output]
    return f"{found[0]} was printed" if found else ""


def soon(*arguments: str) -> Callable[[Path], None]:
    """Return what runs `softtargets`, waiting hardly at all before another attempt."""

    def run(_: Path) -> None:
        retries.FIRST_WAIT = 0.001
        os.environ["HF_HUB_OFFLINE"] = "1"
        main(list(arguments), prog_name="softtargets")

    return run


def _secret(name: str, run: Callable[[Path], None]) -> Attack:
    return Attack(kind="credentials in URLs", name=name, run=run, is_command_line=True, harm=leaked)


_LEAKS = (
    *(_secret(f"{name}, info", soon("info", url)) for name, url in URLS.items()),
    *(
        _secret(" ".join((*arguments, "...")), soon(*arguments, URLS["key with a slash"]))
        for arguments in (
            ("verify",),
            ("inspect",),
            ("report", "--output", "page.html"),
            ("merge", "--output", "b"),
            ("push", "--revision", "main", "a"),
            ("pull", "org/name"),
            ("card",),
            ("commit",),
            ("build", "--input", "a.txt", "--output", "b", "--teacher"),
            ("build", "--teacher", "a", "--output", "b", "--input"),
            ("build", "--teacher", "a", "--input", "a.txt", "--output"),
            ("build", "--teacher", "a", "--output", "b", "--dataset"),
            ("build", "--teacher", "a", "--output", "b", "--chat-template"),
            ("import", "--from", "plain", "--output", "b"),
            ("export", "a", "--to", "plain"),
            ("fidelity", "--input", "a.txt", "--output", "b"),
            ("report", "--output"),
            ("info", "a"),
        )
    ),
)


def _nowhere(name: str, *arguments: str) -> Attack:
    return Attack(kind="URLs that lead nowhere", name=name, run=soon(*arguments))


_LOST = (
    *(
        _nowhere(url, "info", url)
        for url in (
            "",
            "http://[::1/x",
            "http://",
            "http:///x",
            "http://host:port/x",
            "s3://",
            "s3:///",
            "s3://bucket/a?nothing=1",
            "dir://",
            "dir://a",
            "reference://a",
            "reference::memory://a",
            "generic://a",
            "dask://a",
            "ftp://",
            f"ftp://{CLOSED}/a",
            f"hdfs://{CLOSED}/a",
            "github://a",
            "github://org:name@main/a",
            "abfs://box@account/a",
            "hf://a",
            "hf://datasets/a/b",
            "sftp://host/a",
            "smb://host/a",
            "zip://a::/nothing.zip",
            "zip://a",
            "simplecache://a",
            "simplecache::",
            "git://a",
            "data://a",
            "unknown://a",
            "file://",
            "file://host/a",
            "file:relative",
            "file:///a%00b",
            "file:///a%ff",
            "file:///a?b",
            "::",
        )
    ),
    *(
        _nowhere(f"{place} of {' '.join(arguments[:1])}", *(*arguments, url))
        for place, url in (("a URL", "s3://bucket/a"), ("nothing", ""))
        for arguments in (
            ("build", "--teacher", "a", "--input", "a.txt", "--output"),
            ("build", "--teacher", "a", "--output", "b", "--input"),
            ("build", "--input", "a.txt", "--output", "b", "--teacher"),
            ("build", "--teacher", "a", "--output", "b", "--dataset"),
            ("report", "a", "--output"),
            ("merge", "a", "--output"),
            ("filter", "a", "--output"),
            ("split", "a", "--train", "b", "--validation"),
            ("import", "a", "--from", "plain", "--output"),
            ("export", "a", "--to", "plain"),
            ("pull", "org/name"),
            ("card",),
            ("commit",),
        )
    ),
)

ATTACKS: tuple[Attack, ...] = (*_CONTROLS, *_LEAKS, *_LOST)
