"""A corpus behind a web server, by a URL that is signed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from softtargets.capture import Corpus
from softtargets.errors import CorpusError

LINES = b'{"text": "one"}\n{"text": "two"}\n'


@pytest.fixture
def files() -> dict[str, bytes]:
    """What the server has, by path."""
    return {"/a/x.jsonl": LINES}


@pytest.fixture
def url(files: dict[str, bytes]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path, _, options = self.path.partition("?")
            whole = files.get(path) if options == "signature=secret" else None
            content = whole or b""
            found = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if whole is not None and found is not None:
                content = whole[int(found[1]) : int(found[2]) + 1]
            self.send_response(404 if whole is None else 206 if found else 200)
            self.send_header("Content-Length", f"{len(content)}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", sha256(whole or b"").hexdigest())
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/a/{{}}.jsonl?signature=secret"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_signed_url_is_read_and_its_signature_not_shown(
    files: dict[str, bytes], url: str
) -> None:
    corpus = Corpus(paths=(url.format("x"),))
    [described] = corpus.describe()["files"]
    assert described == {"name": "x.jsonl", "num_bytes": 32, "sha256": sha256(LINES).hexdigest()}
    assert [one.content for one in corpus.documents()] == ["one", "two"]
    files["/a/x.jsonl"] = LINES.replace(b"two", b"six")
    with pytest.raises(CorpusError, match=r"x\.jsonl: expected a file that nobody ch") as changed:
        list(corpus.documents())
    with pytest.raises(CorpusError, match=r"y\.jsonl: expected a file behind this") as missing:
        Corpus(paths=(url.format("y"),)).describe()
    for text in (corpus.name, repr(corpus), str(changed.value), str(missing.value)):
        assert "jsonl" in text
        assert "secret" not in text
