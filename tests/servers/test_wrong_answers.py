"""Wrong answers of a server: each kind is refused, with an error that says what is wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softtargets.capture import TeacherConfig
from softtargets.capture.segments import segments_of
from softtargets.capture.servers import server_client
from softtargets.capture.servers.served import ServerTeacher
from softtargets.errors import InputError, ServerError, SoftTargetsError, TeacherError
from tests.capture.teacher_suite import KEEP, windows
from tests.servers.tiny_server import Kind, TinyServer, serving

pytestmark = pytest.mark.slow

LISTS = {"vllm": "choices", "sglang": "meta_info"}
Rows = list[Any]


def of_rows(change: Callable[[Rows], Rows]) -> Callable[[TinyServer], None]:
    """Return what changes the lists of every answer of a vLLM server."""

    def damage(server: TinyServer) -> None:
        server.twist_lists = change

    return damage


def of_entries(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[TinyServer], None]:
    return of_rows(lambda rows: [None, *map(change, copy.deepcopy(rows[1:]))])


def of_answers(change: Callable[[dict[str, Any]], Any]) -> Callable[[TinyServer], None]:
    def damage(server: TinyServer) -> None:
        server.twist = change

    return damage


def of_bytes(status: int, content: bytes) -> Callable[[TinyServer], None]:
    def damage(server: TinyServer) -> None:
        server.raw = lambda path: None if path == "/v1/models" else (status, content)

    return damage


def with_logprobs(change: Callable[[float], Any]) -> Callable[[TinyServer], None]:
    def changed(row: dict[str, Any]) -> dict[str, Any]:
        return {id_: one | {"logprob": change(one["logprob"])} for id_, one in row.items()}

    return of_entries(changed)


def without_first(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out the likeliest entry that is not the token that follows, which stands first."""
    del row[list(row)[1]]
    return row


def renamed(change: Callable[[int, str], str]) -> Callable[[TinyServer], None]:
    """Return what gives the entries beside the token that follows other ids."""

    def changed(row: dict[str, Any]) -> dict[str, Any]:
        first, *others = row.items()
        return dict([first, *((change(n, id_), one) for n, (id_, one) in enumerate(others))])

    return of_entries(changed)


def rows_late(server: TinyServer) -> None:
    """Answer as llama-cpp-python's server echoes: each list is that of the position after."""
    own = server.logprobs
    server.logprobs = lambda ids: own(ids).roll(-1, dims=0)  # type: ignore[method-assign]


def rows_early(server: TinyServer) -> None:
    own = server.logprobs
    server.logprobs = lambda ids: own(ids).roll(1, dims=0)  # type: ignore[method-assign]


def unsteady(server: TinyServer) -> None:
    """Give other numbers each time, as a server does that draws or drops something."""
    own, rng = server.logprobs, np.random.default_rng(0)

    def logprobs(ids: list[int]) -> Any:
        return (own(ids) * float(rng.uniform(1, 1.5))).log_softmax(dim=1)

    server.logprobs = logprobs  # type: ignore[method-assign]


def other_tokenizer(server: TinyServer) -> None:
    server.ids = (  # type: ignore[method-assign]
        lambda prompt: [ord(one) % 200 for one in prompt] if isinstance(prompt, str) else prompt
    )


def other_ids(server: TinyServer) -> None:
    """Make as many ids of a text, of which two are others."""
    own = server.ids

    def ids(prompt: str | list[int]) -> list[int]:
        found = list(own(prompt))
        return [*found[:9], found[10], found[9], *found[11:]] if isinstance(prompt, str) else found

    server.ids = ids  # type: ignore[method-assign]


def other_name(server: TinyServer) -> None:
    server.twist = lambda answer: answer | {"model": "other"}


KINDS: dict[str, tuple[Callable[[TinyServer], None], str]] = {
    "a page": (of_bytes(200, b"<html>Welcome</html>"), "expected JSON; found <html>Welcome"),
    "half an answer": (of_bytes(200, b'{"choices": [{"ind'), "expected JSON; found .*choices"),
    "deep brackets": (of_bytes(200, b"[" * 100_000), "expected JSON"),
    "a list": (of_answers(lambda answer: [answer]), "a JSON object; found a list"),
    "no choices": (of_answers(lambda _: {"object": "error"}), "with choices, a list"),
    "no lists": (of_rows(lambda _: None), "with prompt_logprobs, a list; found NoneType"),  # type: ignore[arg-type, return-value]
    "empty lists": (of_rows(lambda _: []), "null for the first token, .* found no lists"),
    "too few lists": (of_rows(lambda rows: rows[:-1]), r"a list for each of \d+ tokens"),
    "too many lists": (of_rows(lambda rows: [*rows, rows[-1]]), r"a list for each of \d+ tokens"),
    "shifted lists": (of_rows(lambda rows: [*rows[1:], rows[-1]]), "null for the first token"),
    "lists shifted by their tokens": (
        of_rows(lambda rows: [None, rows[1], *rows[1:-1]]), "a list with the token that follows",
    ),
    "lists of the position after": (rows_late, "lists at their own positions"),
    "lists of the position before": (rows_early, "lists at their own positions"),
    "lists that are no dicts": (of_rows(lambda rows: [None, *([] for _ in rows[1:])]), "a dict of"),
    "cut lists": (of_entries(without_first), r"lists of \d+ entries .* found one of \d+"),
    "logits": (with_logprobs(lambda one: one + 5), "whose exponentials sum to .*, as logits' do"),
    "NaN": (with_logprobs(lambda _: float("nan")), "finite log-probabilities"),
    "null": (with_logprobs(lambda _: None), "finite log-probabilities"),
    "infinity": (with_logprobs(lambda _: float("inf")), "finite log-probabilities"),
    "log-probabilities in words": (with_logprobs(str), "that are numbers; found str"),
    "no log-probabilities": (
        of_entries(lambda row: dict.fromkeys(row, 0.5)), "a dict of dicts by id",
    ),
    "ids in words": (renamed(lambda n, id_: f"token:{id_}"), "ids that are whole numbers"),
    "ids in other digits": (renamed(lambda n, id_: f"0{id_}"), "ids that differ, in digits"),
    "unknown ids": (renamed(lambda n, _: str(400 + n)), "ids from 0 to 399"),
    "huge ids": (renamed(lambda n, _: str(2**40 + n)), "ids of 32 bits"),
    "ranks in words": (
        of_entries(lambda row: {id_: one | {"rank": "1"} for id_, one in row.items()}),
        "ranks that are whole numbers; found str",
    ),
    "a wrong rank": (
        of_entries(lambda row: {id_: one | {"rank": 0} for id_, one in row.items()}),
        r"lists of \d+ entries|of no possible rank",
    ),
    "answers that differ": (unsteady, "answers to the same text that differ by at most"),
    "another tokenizer": (other_tokenizer, "ids of another tokenizer"),
    "a tokenizer of other ids": (other_ids, r"145 ids of another tokenizer \(\d+ in place of"),
    "another model": (other_name, "expected the model tiny; found an answer of other"),
}  # fmt: skip


def load(server: TinyServer, directory: Path, patience: int = 60) -> ServerTeacher:
    config = TeacherConfig(name=server.url, tokenizer=str(directory), patience=patience)
    teacher = ServerTeacher(config)
    teacher.load()
    return teacher


@pytest.fixture(scope="module")
def shared(tiny_teacher: Path) -> TinyServer:
    return TinyServer(tiny_teacher, "vllm")


def fresh(server: TinyServer, directory: Path, kind: Kind = "vllm") -> TinyServer:
    """Return a server of the same model, with nothing wrong."""
    return TinyServer(directory, kind, server)


@pytest.mark.parametrize("name", KINDS)
def test_it_is_refused_at_the_start(shared: TinyServer, tiny_teacher: Path, name: str) -> None:
    damage, message = KINDS[name]
    server = fresh(shared, tiny_teacher)
    with serving(server):
        load(server, tiny_teacher)
        damage(server)
        with pytest.raises(TeacherError, match=message) as caught:
            load(server, tiny_teacher)
    assert server.url in caught.value.where
    assert caught.value.next_step


IN_A_BUILD = sorted(KINDS.keys() - {"another tokenizer", "a tokenizer of other ids"})


@pytest.mark.parametrize("name", IN_A_BUILD)
def test_it_is_refused_in_a_build(shared: TinyServer, tiny_teacher: Path, name: str) -> None:
    """Whatever a server answered at the start."""
    server = fresh(shared, tiny_teacher)
    with serving(server):
        teacher = load(server, tiny_teacher)
        segments = segments_of(*windows(teacher))
        teacher.capture(segments, KEEP).check()
        KINDS[name][0](server)
        with pytest.raises(TeacherError):
            teacher.capture(segments, KEEP).check()


SGLANG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no lists": (lambda meta: meta.pop("input_top_logprobs_val_flat_b64"), "input_top_logprobs, a"),
    "no tokens": (lambda meta: meta.pop("input_token_logprobs"), "input_token_logprobs, a list"),
    "other tokens": (
        lambda meta: meta.update(input_token_logprobs=meta["input_token_logprobs"][1:]),
        "ids of another tokenizer|those of .* tokens",
    ),
    "pairs": (
        lambda meta: meta.update(input_token_logprobs=[[0, 1]]),
        "triples of log-probability, id and text",
    ),
    "another shape": (
        lambda meta: meta.update(input_top_logprobs_shape=[1, 1]), r"found shape \[1, 1\]",
    ),
    "another format": (
        lambda meta: meta.update(input_top_logprobs_val_flat_b64_dtype="float16"),
        "float32 in base64; found float16",
    ),
    "no base64": (
        lambda meta: meta.update(input_top_logprobs_val_flat_b64="%"), "arrays in base64",
    ),
    "too few bytes": (
        lambda meta: meta.update(input_top_logprobs_val_flat_b64="AAAA"), r"bytes in base64; .* 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SGLANG)
def test_of_sglang_it_is_refused(shared: TinyServer, tiny_teacher: Path, name: str) -> None:
    change, message = SGLANG[name]
    server = fresh(shared, tiny_teacher, "sglang")

    def twist(answer: dict[str, Any]) -> dict[str, Any]:
        if "input_top_logprobs_shape" in answer["meta_info"]:
            change(answer["meta_info"])
        return answer

    server.twist = twist
    with serving(server), pytest.raises(TeacherError, match=message):
        load(server, tiny_teacher)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            {"/props": {"default_generation_settings": {}}},
            r"found llama\.cpp's server, which tells no log-probabilities of a prompt",
        ),
        (
            {"/v1/models": {"data": [{"id": "m", "owned_by": "llamacpp"}]}},
            r"found llama\.cpp's server",
        ),
        (
            {"/info": {"model_id": "m", "router": "text-generation-router"}},
            "found text-generation-inference, which lists no likeliest ids of a prompt",
        ),
        ({"/v1/models": {"data": [{"id": "m", "owned_by": "acme"}]}}, "is owned by acme"),
        ({}, "found another one, or none"),
        ({"/v1/models": {"data": [{"owned_by": "vllm"}]}}, "a model with an id"),
        (
            {"/v1/models": {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": "x"}]}},
            "a max_model_len",
        ),
    ],
)
def test_servers_that_cannot_be_asked_are_refused_with_the_reason(
    shared: TinyServer, tiny_teacher: Path, paths: dict[str, Any], message: str
) -> None:
    server = fresh(shared, tiny_teacher)
    server.raw = lambda path: (
        (200, json.dumps(paths[path]).encode()) if path in paths else (404, b"")
    )
    with serving(server), pytest.raises(TeacherError, match=message):
        load(server, tiny_teacher)


def test_sglang_is_known_by_its_model_info(shared: TinyServer, tiny_teacher: Path) -> None:
    """Older ones do not say whose their models are."""
    server = fresh(shared, tiny_teacher, "sglang")
    models = json.dumps({"data": [{"id": "tiny"}]}).encode()
    pages = {"/v1/models": models, "/get_model_info": b'{"model_path": "/models/tiny"}'}
    server.raw = lambda path: (200, pages[path]) if path in pages else None
    with serving(server):
        assert load(server, tiny_teacher).describe()["attention"] == "SGLang"


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (400, TeacherError, "400 Bad Request: no such thing"),
        (401, TeacherError, "401 Unauthorized: .* A key goes into SOFTTARGETS_API_KEY"),
        (404, TeacherError, "404 Not Found"),
        (302, TeacherError, "302 Found"),
        (500, TeacherError, r"500 Internal Server Error: no such thing \(\d attempts\)"),
        (503, ServerError, "503 Service Unavailable: no such thing"),
    ],
)
def test_what_a_server_says_is_told(
    shared: TinyServer, tiny_teacher: Path, status: int, kind: type[SoftTargetsError], message: str
) -> None:
    server = fresh(shared, tiny_teacher)
    with serving(server):
        of_bytes(status, b"no such thing")(server)
        with pytest.raises(kind, match=message):
            load(server, tiny_teacher, patience=1 if status == 503 else 60)


def test_an_answer_that_is_too_large_is_not_read(
    shared: TinyServer, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(server_client.ANSWER_BYTES.variable, "5000")
    server = fresh(shared, tiny_teacher)
    with serving(server), pytest.raises(SoftTargetsError, match="at most 5,000 bytes"):
        load(server, tiny_teacher)


def test_nobody_at_the_port_is_said(tiny_teacher: Path) -> None:
    config = TeacherConfig(name="http://user:secret@127.0.0.1:9", tokenizer=str(tiny_teacher))
    with pytest.raises(ServerError, match=r"refused.*Start it") as caught:
        ServerTeacher(TeacherConfig(name=config.name, tokenizer=config.tokenizer, patience=1))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("option", ["requests", "patience"])
def test_options_out_of_range_are_refused(tiny_teacher: Path, option: str) -> None:
    options: dict[str, Any] = {option: 0}
    config = TeacherConfig(name="http://127.0.0.1:9", tokenizer=str(tiny_teacher), **options)
    with pytest.raises(InputError, match=f"^--{option}: expected a positive number; found 0"):
        ServerTeacher(config)


def test_an_option_without_use_is_refused(tiny_teacher: Path) -> None:
    config = TeacherConfig(name="http://127.0.0.1:9", tokenizer=str(tiny_teacher), compile=True)
    with pytest.raises(InputError, match=r"^--compile: "):
        ServerTeacher(config)
