"""A stand-in for the Hugging Face Hub on loopback: what its client asks of one dataset."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40


@contextmanager
def serve_dataset(name: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve the files of a dataset and yield the endpoint."""

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
                folder = path.removeprefix(f"{about}/tree/{COMMIT}").strip("/")
                self.send_json(
                    [
                        {"type": "file", "path": file, "size": len(content), "oid": "0" * 40}
                        for file, content in files.items()
                        if file.rpartition("/")[0] == folder
                    ]
                )
            elif path.startswith(resolve) and path.removeprefix(resolve) in files:
                self.send(200, files[path.removeprefix(resolve)])
            else:
                self.send(404, b"")

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
