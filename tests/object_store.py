"""Real S3 servers on loopback, behind a proxy that does what networks do.

rclone's serves directories, which tests can damage. moto's knows conditional writes.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from uuid import uuid4

from softtargets.store import Store

KEY, SECRET = "a-key", "a-secret"
LISTS = "list-type="
"""What the path of a request for a listing has in it."""
PER_ANSWER = ("connection", "content-length", "date", "server", "transfer-encoding")
"""Headers that are not passed on."""
SLOW_PIECES, SLOW_SECONDS = 8, 0.005  # The pause is before each piece.
RCLONE = str(Path(sysconfig.get_path("scripts")) / "rclone")


@dataclass(kw_only=True)
class Fault:
    """What is to go wrong with some requests.

    error: an answer with the status; cut: the connection ends in the middle of the body; flip: a
    byte of the body is another; hold: the body is not sent before `release`; lost: the server does
    what it is asked, and the answer has the status; gone: it does, and the connection ends without
    an answer; twice: the request is delivered twice, and the second answer is passed on; slow: the
    body comes piece by piece; hang: the server does it, and nothing is answered before `release`;
    stale: a listing is answered as it was when it was first asked for.
    """

    kind: Literal["error", "cut", "flip", "hold", "lost", "gone", "twice", "slow", "hang", "stale"]
    path: str = ""
    """Of the object; this is part of it."""
    first_byte: int | None = None
    """Of the range; None for any request."""
    method: str = "GET"
    header: str = ""
    """That the request has; empty for any request."""
    times: int = 1
    skip: int = 0
    """So many requests pass first."""
    status: int = 500
    release: threading.Event = field(default_factory=threading.Event)
    num_done: int = 0


class Proxy:
    """Passes requests on to a server, keeps their ranges, and injects faults."""

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self.port = 0
        self.clients_die = False
        self.latency = 0.0
        """Seconds before any answer."""
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int | None]] = []
        """Method, path and first byte of the range of each request, if it has one."""
        self.written: dict[str, float] = {}
        """When the server had done the first write of each path, by the clock that only rises."""
        self._lists: dict[str, bytes] = {}
        """The first answer to each request for a listing."""
        self.writing = threading.Lock()
        """Held while the server writes. moto's looks at conditions first and writes then, and in
        between another can write; S3's does both at once."""
        self._lock = threading.Lock()

    def listing(self, path: str, body: bytes, fault: Fault | None) -> bytes:
        """Return how a request for a listing is answered; only another answer counts as a fault."""
        with self._lock:
            first = self._lists.setdefault(path, body)
            if fault is None or fault.kind != "stale":
                return body
            fault.num_done -= first == body
            return first

    def url(self, path: str) -> str:
        """Return the URL of a path, bucket first."""
        options = f"scheme=http&endpoint_override=127.0.0.1:{self.port}&region=us-east-1"
        return f"s3://{KEY}:{SECRET}@{path}?{options}"

    def inject(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        return fault

    def fault_of(
        self, method: str, path: str, first_byte: int | None, headers: Collection[str] = ()
    ) -> Fault | None:
        with self._lock:
            self.requests.append((method, path, first_byte))
            for fault in self.faults:
                is_meant = fault.path in path and fault.first_byte in (None, first_byte)
                is_meant &= not fault.header or fault.header.lower() in headers
                if is_meant and method == fault.method and fault.num_done < fault.times:
                    fault.skip -= 1
                    if fault.skip < 0:
                        fault.num_done += 1
                        return fault
        return None


def make_handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # HTTP/1.0, as http.server has it by default: every answer ends its connection.

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            first_byte = None if found is None else int(found[1])
            fault = proxy.fault_of(
                self.command, self.path, first_byte, {one.lower() for one in self.headers}
            )
            time.sleep(proxy.latency)
            if fault is not None and fault.kind == "error":
                self.fail(fault.status)
                return
            server = HTTPConnection("127.0.0.1", proxy.server_port)
            for _ in range(2 if fault is not None and fault.kind == "twice" else 1):
                with proxy.writing if self.command == "PUT" else nullcontext():
                    # With the header Host of the client, which is signed.
                    server.request(self.command, self.path, sent or None, dict(self.headers))
                    answer = server.getresponse()
                    body = answer.read()
                if self.command == "PUT" and answer.status == 200:
                    proxy.written.setdefault(self.path, time.monotonic())
            if fault is not None and fault.kind == "lost":
                self.fail(fault.status)
                return
            if fault is not None and fault.kind == "hang":
                fault.release.wait()
            if fault is not None and fault.kind in ("gone", "hang"):
                return
            if self.command == "GET" and LISTS in self.path:
                body = proxy.listing(self.path, body, fault)
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in PER_ANSWER:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(num_bytes(answer, body)))
            self.end_headers()
            server.close()
            self.send_body(body, fault)

        def fail(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send_body(self, body: bytes, fault: Fault | None) -> None:
            kind = None if fault is None else fault.kind
            if fault is not None and kind == "hold":
                fault.release.wait()
            if kind == "cut":
                body = body[: len(body) // 2]
            elif kind == "flip":
                middle = len(body) // 2
                body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            try:
                for piece in pieces(body) if kind == "slow" else [body]:
                    self.wfile.write(piece)
            except (BrokenPipeError, ConnectionResetError):
                assert kind == "hold" or proxy.clients_die, "the client went away"

    return Handler


def num_bytes(answer: HTTPResponse, body: bytes) -> int:
    """Return how long an answer says it is; one to HEAD has no body."""
    return int(answer.getheader("Content-Length", 0)) if not body else len(body)


def pieces(body: bytes) -> Iterator[bytes]:
    """Yield a body piece by piece, with pauses."""
    step = len(body) // SLOW_PIECES + 1
    for start in range(0, len(body), step):
        time.sleep(SLOW_SECONDS)
        yield body[start : start + step]


@contextmanager
def run_proxy(server_port: int) -> Iterator[Proxy]:
    """Run a proxy before the server of a port."""
    proxy = Proxy(server_port)
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(proxy))
    proxy.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield proxy
    finally:
        for fault in proxy.faults:
            fault.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Bucket:
    """A bucket of the server: a directory here, a URL for clients."""

    def __init__(self, buckets: Path, proxy: Proxy) -> None:
        self.proxy = proxy
        self.name = f"b{uuid4().hex[:16]}"
        self.directory = buckets / self.name
        self.directory.mkdir()

    def copy(self, store: Store, name: str = "store") -> str:
        """Copy a store to the bucket and return its URL."""
        shutil.copytree(store.root, self.directory / name)
        return self.url(name)

    def url(self, name: str = "store") -> str:
        return self.proxy.url(f"{self.name}/{name}")

    def num_requests(self) -> int:
        return len(self.proxy.requests)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def run_server(directory: Path) -> Iterator[int]:
    """Serve a directory of buckets with rclone and yield the port."""
    port = free_port()
    command = [
        RCLONE, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}",
        "--config", "/dev/null", "--dir-cache-time", "0s", "--log-level", "ERROR", str(directory),
    ]  # fmt: skip
    with _running(command, port):
        yield port


@contextmanager
def run_conditional_server() -> Iterator[int]:
    """Serve buckets in memory with moto, which knows conditional writes, and yield the port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port):
        yield port


def make_bucket(port: int) -> str:
    """Make a bucket of a new name on a server, and return the name."""
    name = f"b{uuid4().hex[:16]}"
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("PUT", f"/{name}")
    assert connection.getresponse().status == 200
    connection.close()
    return name


@contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[None]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as process:  # type: ignore[call-overload]
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    assert process.poll() is None, f"{command[0]} did not start"
                    time.sleep(0.01)
            yield
        finally:
            process.terminate()
