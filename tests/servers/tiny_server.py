"""A real HTTP server on loopback that answers with a tiny model's numbers, as vLLM or SGLang do."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Kind = Literal["vllm", "sglang"]
Twist = Callable[[Any], Any]


class TinyServer:
    """What a server of one kind answers, and what is wrong with it.

    Args:
        directory: of a model of transformers.
        kind: whose wire format it has.
        other: a server with the same model, which is then not loaded again.
    """

    def __init__(self, directory: Path, kind: Kind, other: TinyServer | None = None) -> None:
        self.kind = kind
        self.url = ""
        self.model: Any = other.model if other else _load(directory)
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.texts = [self.tokenizer.decode([id_]) for id_ in range(self.model.config.vocab_size)]
        self.name: str = "tiny"
        self.most_entries = 64
        self.nan_after: int | None = None
        """An id after which log-probabilities are NaN."""
        self.twist_lists: Twist = lambda rows: rows
        """Changes what is said of a prompt: a list of (label's entry, others) by token."""
        self.twist: Twist = lambda answer: answer
        """Changes an answer."""
        self.raw: Callable[[str], tuple[int, bytes] | None] = lambda path: None
        """Status and bytes in place of an answer to a path."""
        self.ports: list[int] = []
        """Of the clients, once for each request."""
        self.num_at_once: int = 0
        self.most_at_once: int = 0
        self._lock = threading.Lock()

    @torch.inference_mode()
    def logprobs(self, ids: list[int]) -> torch.Tensor:
        """Return the log-probabilities [L, V] of what follows each token."""
        with self._lock:
            logits_LV: torch.Tensor = self.model(input_ids=torch.tensor([ids])).logits[0]
        logprobs_LV = logits_LV.log_softmax(dim=1)
        if self.nan_after is not None:
            logprobs_LV[torch.tensor(ids) == self.nan_after] = torch.nan
        return logprobs_LV

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/v1/models":
            model = {"id": self.name, "owned_by": self.kind, "parent": None, "max_model_len": 513}
            return 200, {"object": "list", "data": [model]}
        return 404, {"detail": "Not Found"}

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/completions" and self.kind == "vllm":
            k, prompt = body["prompt_logprobs"], body["prompt"]
            if k > self.most_entries:
                return 400, {"error": {"message": f"greater than max allowed: {self.most_entries}"}}
            return 200, self.twist(self.completion(self.ids(prompt), k))
        if path == "/generate" and self.kind == "sglang":
            ids = self.ids(body["text"] if "text" in body else body["input_ids"])
            is_flat = body.get("return_flat_raw_top_logprobs", False)
            return 200, self.twist(self.generation(ids, body["top_logprobs_num"], is_flat))
        return 404, {"detail": "Not Found"}

    def ids(self, prompt: str | list[int]) -> list[int]:
        return self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt

    def completion(self, ids: list[int], k: int) -> dict[str, Any]:
        """Return vLLM's answer, as 0.32 was seen to give it."""
        logprobs_LV = self.logprobs(ids)
        rows: list[Any] = [None]
        for logprobs_V, label in zip(logprobs_LV, ids[1:], strict=False):
            rank = int((logprobs_V >= logprobs_V[label]).sum())
            row: dict[str, dict[str, Any]] = {
                str(label): {"logprob": float(logprobs_V[label]), "rank": rank}
            }
            best = logprobs_V.topk(k)
            for place, (value, id_) in enumerate(
                zip(best.values.tolist(), best.indices.tolist(), strict=True), start=1
            ):
                row[str(id_)] = {"logprob": value, "rank": place}
            for id_, entry in row.items():
                entry["decoded_token"] = self.texts[int(id_)]
            rows.append(row)
        choice = {"index": 0, "text": "x", "prompt_logprobs": self.twist_lists(rows)}
        return {"object": "text_completion", "model": self.name, "choices": [choice]}

    def generation(self, ids: list[int], k: int, is_flat: bool) -> dict[str, Any]:
        """Return SGLang's answer, by its source."""
        logprobs_LV = self.logprobs(ids)[:-1]
        labels_L = torch.tensor(ids[1:])
        own = logprobs_LV.gather(1, labels_L[:, None])[:, 0].tolist()
        best = logprobs_LV.topk(k)
        triples = [
            [None, ids[0], None],
            *([p, id_, None] for p, id_ in zip(own, ids[1:], strict=True)),
        ]
        meta: dict[str, Any] = {"input_token_logprobs": triples}
        if is_flat:
            arrays = {"val": best.values.numpy(), "idx": best.indices.numpy().astype(np.int32)}
            for name, array in arrays.items():
                key = f"input_top_logprobs_{name}_flat_b64"
                meta[key] = base64.b64encode(array.tobytes()).decode()
                meta[f"{key}_dtype"] = str(array.dtype)
            meta |= {"input_top_logprobs_shape": [len(ids), k], "input_top_logprobs_null_prefix": 1}
        else:
            rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            lists = [[[p, id_, None] for p, id_ in zip(*row, strict=True)] for row in rows]
            meta["input_top_logprobs"] = [None, *lists]
        return {"text": "x", "meta_info": meta}

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self.send(*server.get(self.path))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.ports.append(self.client_address[1])
                    server.num_at_once += 1
                    server.most_at_once = max(server.most_at_once, server.num_at_once)
                try:
                    found = server.post(self.path, body)
                finally:
                    with server._lock:
                        server.num_at_once -= 1
                self.send(*found)

            def send(self, status: int, answer: Any) -> None:
                content = json.dumps(answer).encode()
                status, content = server.raw(self.path) or (status, content)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        return Handler


def _load(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connections: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        found = super().get_request()
        self.connections.append(found[0])
        return found

    def cut(self) -> None:
        """End all connections, as when a process dies."""
        for one in self.connections:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(server: TinyServer, port: int = 0) -> Iterator[TinyServer]:
    """Run a server on loopback; afterwards nobody listens there."""
    http = _Server(("127.0.0.1", port), server.handler())
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.cut()
        http.server_close()
        thread.join()
