"""A stand-in for the Hugging Face Hub on loopback: what its client asks of one dataset."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "a" * 40


@contextmanager
def serve_dataset(name: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve the files of a dataset and yield the endpoint."""

    def entries_of(folder: str) -> Iterator[dict[str, Any]]:
        """Yield the files and directories in a directory."""
        prefix = f"{folder}/" if folder else ""
        own = [file.removeprefix(prefix) for file in files if file.startswith(prefix)]
        for name in sorted({file.partition("/")[0] for file in own}):
            entry: dict[str, Any] = {"path": f"{prefix}{name}", "oid": "0" * 40}
            content = files.get(f"{prefix}{name}")
            if content is None:
                yield {**entry, "type": "directory", "size": 0}
            else:
                yield {**entry, "type": "file", "size": len(content)}

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            about, resolve = f"/api/datasets/{name}", f"/datasets/{name}/resolve/{COMMIT}/"
            if path == about or path.startswith(f"{about}/revision/"):
                siblings = [{"rfilename": file} for file in files]
                self.send_json({"id": name, "sha": COMMIT, "siblings": siblings})
            elif path.startswith(f"{about}/tree/{COMMIT}"):
                folder = unquote(path.removeprefix(f"{about}/tree/{COMMIT}").strip("/"))
                self.send_json(list(entries_of(folder)))
            elif path.startswith(resolve) and path.removeprefix(resolve) in files:
                self.send_file(files[path.removeprefix(resolve)])
            else:
                self.send(404, b"")

        def send_file(self, content: bytes) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if wanted is None:
                self.send(200, content)
            else:
                self.send(206, content[int(wanted[1]) : int(wanted[2]) + 1])

        def send_json(self, value: object) -> None:
            self.send(200, json.dumps(value).encode())

        def send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"0"')
            self.send_header("X-Repo-Commit", COMMIT)
            if status == 404:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
