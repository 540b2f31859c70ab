"""A stand-in for the Hugging Face Hub on loopback: what its client asks of datasets.

Files come and go as with the Hub's own server where neither side has Xet: large ones by git LFS,
small ones within the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from huggingface_hub import HfApi
from huggingface_hub.utils.sha import git_hash

COMMIT = "a" * 40
"""The first commit of every dataset."""
WRITER, READER = "hf_writer", "hf_reader"
"""Tokens: of who may do everything, and of who may read."""


@dataclass
class Dataset:
    """A repository: every commit that was made, as its files by path."""

    commits: dict[str, dict[str, bytes]]
    private: bool = False
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    messages: list[str] = field(default_factory=list)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        commit = f"{len(self.commits):040x}"
        self.commits[commit] = files
        self.branches[branch] = commit
        self.messages.append(message)
        return commit


class Hub:
    """What the server holds, what it was asked for, and what it is to refuse."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.datasets: dict[str, Dataset] = {}
        self.objects: dict[str, bytes] = {}
        """Large files that were sent, in a commit or not, by SHA-256."""
        self.requests: list[tuple[str, str]] = []
        """Method and path of every request."""
        self.refuse: Callable[[str, str], int | None] = lambda _method, _path: None
        """Called with method and path before anything is done; returns a status to refuse with."""

    def add(self, name: str, files: Mapping[str, bytes], *, private: bool = False) -> Dataset:
        self.datasets[name] = Dataset({COMMIT: dict(files)}, private=private)
        return self.datasets[name]

    def client(self, token: str | bool = WRITER) -> HfApi:
        return HfApi(endpoint=self.endpoint, token=token)

    def refuse_after(self, method: str, part: str, times: int, status: int = 403) -> None:
        """Refuse what comes after some requests with a method and a part of the path."""

        def refuse(asked: str, path: str) -> int | None:
            is_meant = asked == method and part in path
            return status if is_meant and len(self.asked_for(method, part)) > times else None

        self.refuse = refuse

    def allow(self) -> None:
        """Refuse nothing any more, and forget what was asked for."""
        self.refuse = lambda _method, _path: None
        self.requests.clear()

    def asked_for(self, method: str, part: str) -> list[str]:
        """Return the paths of the requests with a method whose path has a part."""
        return [path for one, path in self.requests if one == method and part in path]


def files_of(root: Path) -> dict[str, bytes]:
    """Return the files below a directory by path."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


class RefusedError(Exception):
    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(status, code)
        self.status = status
        self.code = code


def is_large(path: str) -> bool:
    return path.endswith(".parquet")


def entry(path: str, content: bytes) -> dict[str, Any]:
    """Return what a listing says of a file."""
    listed = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
    if is_large(path):
        oid = hashlib.sha256(content).hexdigest()
        listed["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
    return listed


def entries_of(files: Mapping[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Return the files and directories in a directory, or all files below it."""
    prefix = f"{folder}/" if folder else ""
    own = [path for path in files if path.startswith(prefix)]
    if recursive:
        return [entry(path, files[path]) for path in sorted(own)]
    found = []
    for name in sorted({path.removeprefix(prefix).partition("/")[0] for path in own}):
        path = f"{prefix}{name}"
        folder_entry = {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
        found.append(entry(path, files[path]) if path in files else folder_entry)
    return found


def make_handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body of an answer are two writes; the second would wait for 40 ms.
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def do_PUT(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.requests.append((self.command, path))
            try:
                status = hub.refuse(self.command, path)
                if status is not None:
                    raise RefusedError(status)
                for pattern, method in ROUTES.items():
                    found = re.fullmatch(pattern, f"{self.command} {path}")
                    if found:
                        return method(self, body, **found.groupdict())
                raise RefusedError(404)
            except RefusedError as error:
                headers = {"X-Error-Code": error.code} if error.code else {}
                self.send(error.status, b'{"error": "refused"}', headers)

        def dataset(self, name: str, *, write: bool = False) -> Dataset:
            """Return a dataset, if the token may read or write it; else answer as the Hub does."""
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            found = hub.datasets.get(name)
            if found is None or (found.private and token not in (WRITER, READER)):
                raise RefusedError(404 if token else 401, "RepoNotFound")
            if write and token != WRITER:
                raise RefusedError(403 if token else 401)
            return found

        def files(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
            dataset = self.dataset(name)
            commit = dataset.branches.get(revision, revision)
            if commit not in dataset.commits:
                raise RefusedError(404, "RevisionNotFound")
            return commit, dataset.commits[commit]

        def make(self, body: bytes) -> None:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if self.headers.get("Authorization") != f"Bearer {WRITER}":
                raise RefusedError(403 if "Authorization" in self.headers else 401)
            private = asked.get("visibility") == "private"
            hub.add(name, {".gitattributes": b"*.parquet filter=lfs\n"}, private=private)
            self.send_json({"url": f"{hub.endpoint}/datasets/{name}"})

        def branch(self, body: bytes, name: str, branch: str) -> None:
            dataset = self.dataset(name, write=True)
            dataset.branches[branch] = dataset.branches["main"]
            self.send_json({})

        def about(self, body: bytes, name: str, revision: str | None) -> None:
            commit, files = self.files(name, revision or "main")
            siblings = [{"rfilename": path} for path in files]
            private = hub.datasets[name].private
            self.send_json({"id": name, "sha": commit, "private": private, "siblings": siblings})

        def tree(self, body: bytes, name: str, revision: str, folder: str | None) -> None:
            _, files = self.files(name, revision)
            recursive = "recursive=true" in self.path.lower()
            self.send_json(entries_of(files, (folder or "").strip("/"), recursive))

        def paths_info(self, body: bytes, name: str, revision: str) -> None:
            _, files = self.files(name, revision)
            wanted = json.loads(body)["paths"]
            self.send_json([entry(path, files[path]) for path in wanted if path in files])

        def validate(self, body: bytes) -> None:
            text = json.loads(body)["content"]
            front = re.match(r"\s*---\n(.*?)\n---\s", text, re.DOTALL)
            fields = yaml.safe_load(front[1]) if front else None
            problems = [] if isinstance(fields, dict) else [{"message": "no YAML fields"}]
            if fields and not isinstance(fields.get("license", ""), str | list):
                problems.append({"message": '"license" must be a string'})
            self.send_json({"errors": problems, "warnings": []}, 400 if problems else 200)

        def preupload(self, body: bytes, name: str, revision: str) -> None:
            self.dataset(name, write=True)
            self.send_json(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                            "shouldIgnore": False,
                            "oid": None,
                        }
                        for file in json.loads(body)["files"]
                    ]
                }
            )

        def batch(self, body: bytes, name: str) -> None:
            self.dataset(name, write=True)
            objects = json.loads(body)["objects"]
            for one in objects:
                if one["oid"] not in hub.objects:
                    href = f"{hub.endpoint}/objects/{one['oid']}"
                    one["actions"] = {"upload": {"href": href}}
            self.send_json({"transfer": "basic", "objects": objects})

        def put(self, body: bytes, oid: str) -> None:
            if hashlib.sha256(body).hexdigest() != oid:
                raise RefusedError(400)
            hub.objects[oid] = body
            self.send(200, b"")

        def commit(self, body: bytes, name: str, revision: str) -> None:
            dataset = self.dataset(name, write=True)
            header, *operations = (json.loads(line) for line in body.splitlines())
            if header["value"].get("parentCommit") not in (None, dataset.branches[revision]):
                raise RefusedError(412)
            files = dict(dataset.files(revision))
            for operation in operations:
                value = operation["value"]
                if operation["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif operation["key"] == "lfsFile" and value["oid"] in hub.objects:
                    files[value["path"]] = hub.objects[value["oid"]]
                elif operation["key"] == "deletedFile":
                    del files[value["path"]]
                else:
                    raise RefusedError(400)
            commit = dataset.commit(revision, files, header["value"]["summary"])
            url = f"{hub.endpoint}/datasets/{name}/commit/{commit}"
            self.send_json({"commitUrl": url, "commitOid": commit})

        def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
            commit, files = self.files(name, revision)
            if path not in files:
                raise RefusedError(404, "EntryNotFound")
            content, listed = files[path], entry(path, files[path])
            oid = listed["lfs"]["oid"] if "lfs" in listed else listed["oid"]
            headers = {"ETag": f'"{oid}"', "X-Repo-Commit": commit}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted is None:
                self.send(200, content, headers)
            else:
                end = int(wanted[2]) + 1 if wanted[2] else len(content)
                self.send(206, content[int(wanted[1]) : end], headers)

        def send_json(self, value: object, status: int = 200) -> None:
            self.send(status, json.dumps(value).encode())

        def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    name, at = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
    ROUTES: dict[str, Callable[..., None]] = {
        r"POST /api/repos/create": Handler.make,
        r"POST /api/validate-yaml": Handler.validate,
        rf"GET /api/(?:datasets|models)/{name}(/revision/{at})?": Handler.about,
        rf"GET /api/(?:datasets|models)/{name}/tree/{at}(?P<folder>/.*)?": Handler.tree,
        rf"POST /api/(?:datasets|models)/{name}/paths-info/{at}": Handler.paths_info,
        rf"POST /api/(?:datasets|models)/{name}/branch/(?P<branch>[^/]+)": Handler.branch,
        rf"POST /api/(?:datasets|models)/{name}/preupload/{at}": Handler.preupload,
        rf"POST /api/(?:datasets|models)/{name}/commit/{at}": Handler.commit,
        rf"POST (?:/datasets)?/{name}\.git/info/lfs/objects/batch": Handler.batch,
        r"PUT /objects/(?P<oid>[0-9a-f]{64})": Handler.put,
        rf"(GET|HEAD) /datasets/{name}/resolve/{at}/(?P<path>.+)": Handler.resolve,
    }
    return Handler


@contextmanager
def run_hub() -> Iterator[Hub]:
    """Run a server without datasets."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serve_dataset(name: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve the files of a dataset and yield the endpoint."""
    with run_hub() as hub:
        hub.add(name, files)
        yield hub.endpoint
