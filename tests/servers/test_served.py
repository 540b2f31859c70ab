"""Teachers behind servers keep what every teacher promises, and say what the model says."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from softtargets.capture import (
    BuildConfig,
    Hybrid,
    Progress,
    Teacher,
    TeacherConfig,
    TopK,
    TransformersTeacher,
    Windowing,
    build,
)
from softtargets.capture.keep.selection import Keep
from softtargets.capture.segments import segments_of
from softtargets.capture.servers.prompt_lists import likelier
from softtargets.capture.servers.served import ServerTeacher
from softtargets.cli import main
from softtargets.errors import InputError, ServerError, TeacherError
from softtargets.store import Store, verify
from tests.capture.teacher_suite import KEEP, NOISE, TeacherSuite, windows
from tests.fakes import build_config, write_corpus
from tests.servers.tiny_server import Kind, TinyServer, serving

pytestmark = pytest.mark.slow

NUM_REQUESTS = 4
LISTS_ALONE = dataclasses.replace(KEEP, label_logits=False)


def served(server: TinyServer, directory: Path, **options: Any) -> ServerTeacher:
    defaults: dict[str, Any] = {
        "tokenizer": str(directory),
        "dtype": "float32",
        "requests": NUM_REQUESTS,
    }
    return ServerTeacher(TeacherConfig(name=server.url, **(defaults | options)))


@pytest.fixture(params=["vllm", "sglang"])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def server(kind: Kind, tiny_teacher: Path) -> Iterator[TinyServer]:
    with serving(TinyServer(tiny_teacher, kind)) as server:
        yield server


@pytest.fixture
def teacher(server: TinyServer, tiny_teacher: Path) -> ServerTeacher:
    teacher = served(server, tiny_teacher)
    teacher.load()
    return teacher


class TestVllmServer(TeacherSuite):
    @pytest.fixture(autouse=True)
    def _run(self, tiny_teacher: Path) -> Iterator[None]:
        self.directory = tiny_teacher
        with serving(TinyServer(tiny_teacher, "vllm")) as self.server:
            yield

    def make(self, directory: Path) -> Teacher:
        return served(self.server, self.directory)

    def damage(self, teacher: Teacher) -> None:
        ((letter_id,),) = teacher.tokenizer.encode_batch(["q"])
        self.server.nan_after = letter_id


def test_its_lists_are_those_of_the_model(
    teacher: ServerTeacher, kind: Kind, tiny_teacher: Path
) -> None:
    """Entries, tail, and of vLLM the label's logit and rank, too."""
    model = TransformersTeacher(TeacherConfig(name=str(tiny_teacher), dtype="float32"))
    model.load()
    segments = segments_of(*windows(model))
    keep = KEEP if kind == "vllm" else LISTS_ALONE
    found, expected = teacher.capture(segments, keep), model.capture(segments, keep)
    assert torch.equal(found.ids_NK, expected.ids_NK)
    logprobs_NK = expected.logits_NK.log_softmax(dim=1) + (1 - expected.tail_mass_NG).log()
    torch.testing.assert_close(found.logits_NK, logprobs_NK, atol=NOISE, rtol=0)
    torch.testing.assert_close(found.tail_mass_NG, expected.tail_mass_NG, atol=NOISE, rtol=0)
    if kind == "vllm":
        assert found.label_rank_N is not None
        assert expected.label_rank_N is not None
        assert torch.equal(found.label_rank_N, expected.label_rank_N)


def test_sglang_without_packed_lists_answers_the_same(
    server: TinyServer, teacher: ServerTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = segments_of(*windows(teacher))
    before = teacher.capture(segments, LISTS_ALONE)
    own = server.generation
    monkeypatch.setattr(server, "generation", lambda ids, k, is_flat: own(ids, k, False))
    after = teacher.capture(segments, LISTS_ALONE)
    assert torch.equal(before.ids_NK, after.ids_NK)
    torch.testing.assert_close(before.logits_NK, after.logits_NK, atol=1e-6, rtol=0)


def test_a_label_as_likely_as_others_has_the_rank_of_the_first(
    tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM counts all that are as likely, of logits in bfloat16 often several."""
    server = TinyServer(tiny_teacher, "vllm")
    own = server.logprobs
    monkeypatch.setattr(server, "logprobs", lambda ids: (own(ids) / 2).round() * 2)
    with serving(server):
        teacher = served(server, tiny_teacher)
        segments = segments_of(*windows(teacher))
        lists = [teacher._ask(segment.input_ids_L.tolist(), 4) for segment in segments]
    assert any((one.label_ranks_R > 0).any() for one in lists if one.label_ranks_R is not None)
    for one, segment in zip(lists, segments, strict=True):
        assert one.label_ranks_R is not None
        ranks_R = likelier(one.logprobs_RK, one.label_logprobs_R, one.label_ranks_R)
        logprobs_LV = server.logprobs(segment.input_ids_L.tolist())[:-1].numpy()
        expected_R = (logprobs_LV > one.label_logprobs_R[:, None]).sum(axis=1)
        is_near_R = one.label_logprobs_R >= one.logprobs_RK.min(axis=1)
        assert is_near_R.any()
        np.testing.assert_array_equal(ranks_R[is_near_R], expected_R[is_near_R])
        assert (ranks_R >= expected_R).all()


def test_connections_are_kept_and_requests_bounded(
    server: TinyServer, teacher: ServerTeacher
) -> None:
    segments = segments_of(*windows(teacher, lengths=(9, 17, 33)))
    assert len(segments) > 20
    server.ports.clear()
    server.most_at_once = 0
    teacher.capture(segments, LISTS_ALONE)
    assert len(server.ports) == len(segments) + 1
    assert len(set(server.ports)) <= NUM_REQUESTS
    assert 1 < server.most_at_once <= NUM_REQUESTS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": Hybrid(k=4)}, "--select: "),
        ({"temperatures": (1.0, 2.0)}, "--temperature: "),
        ({"hidden_states": True}, "--hidden-states: |tiny: expected a teacher that has an output"),
        (
            {"selection": TopK(k=65)},
            "--top-k: expected at most 64, .* topk --top-k 64\\. ",
        ),
    ],
)
def test_what_a_server_does_not_tell_is_refused_before_the_corpus_is_read(
    tiny_teacher: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    options = {"selection": TopK(k=4), "temperatures": (1.0,), **changes}
    with (
        serving(TinyServer(tiny_teacher, "vllm")) as server,
        pytest.raises((InputError, TeacherError), match=message),
    ):
        build(build_config(tmp_path, **options), served(server, tiny_teacher))
    assert not (tmp_path / "store").exists()


def test_sglang_tells_no_ranks_of_labels(tiny_teacher: Path) -> None:
    with serving(TinyServer(tiny_teacher, "sglang")) as server:
        teacher = served(server, tiny_teacher)
        with pytest.raises(InputError, match=r"--label-logits: .* Pass --no-label-logits"):
            teacher.check(KEEP)
        teacher.check(LISTS_ALONE)


def test_a_list_that_is_shorter_than_asked_for_is_found_as_the_largest(
    tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services that cut lists do not say so."""
    server = TinyServer(tiny_teacher, "vllm")
    own = server.completion
    monkeypatch.setattr(server, "completion", lambda ids, k: own(ids, min(k, 20)))
    with serving(server):
        keep = Keep(selection=TopK(k=50), temperatures=(1.0,))
        with pytest.raises(InputError, match=r"--top-k: expected at most 20, .* found 50"):
            served(server, tiny_teacher).check(keep)


def test_a_tokenizer_must_be_named() -> None:
    with pytest.raises(InputError, match=r"^--tokenizer: "):
        ServerTeacher(TeacherConfig(name="http://127.0.0.1:9"))


def test_a_window_that_is_longer_than_a_server_reads_is_refused(
    tiny_teacher: Path, tmp_path: Path
) -> None:
    with serving(TinyServer(tiny_teacher, "vllm")) as server:
        config = config_of(tmp_path, windowing=Windowing(sequence_length=513))
        with pytest.raises(InputError, match=r"--sequence-length: expected at most 512, .* found"):
            build(config, served(server, tiny_teacher))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("generate", "--output", "corpus.jsonl"), "a model of transformers, which writes"),
        (("build", "--output", "store"), "--select: expected topk"),
        (("build", "--output", "store", "--task", "masked-lm"), "a model of the task causal-lm"),
    ],
)
def test_commands_refuse_what_a_server_cannot(
    tiny_teacher: Path, tmp_path: Path, command: tuple[str, ...], message: str
) -> None:
    corpus = write_corpus(tmp_path / "texts.jsonl")
    with serving(TinyServer(tiny_teacher, "vllm")) as server:
        found = CliRunner().invoke(
            main,
            [*command, "--teacher", server.url, "--tokenizer", str(tiny_teacher), str(corpus)],
        )
    assert found.exit_code == 1
    assert message in " ".join(found.output.split())


def test_rescoring_refuses_a_server(tiny_teacher: Path, tmp_path: Path) -> None:
    with serving(TinyServer(tiny_teacher, "vllm")) as server:
        store = build(config_of(tmp_path), served(server, tiny_teacher)).store
        arguments = ["verify", str(store.root), "--rescore", "2", "--teacher", server.url]
        found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 1
    assert "a model in this process, for the logits" in " ".join(found.output.split())


def test_the_whole_command_builds_a_store(tiny_teacher: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "texts.jsonl")
    with serving(TinyServer(tiny_teacher, "sglang")) as server:
        arguments = ["build", "--teacher", server.url, "--tokenizer", str(tiny_teacher)]
        arguments += ["--select", "topk", "--top-k", "8", "--no-label-logits", "--dtype", "float32"]
        arguments += ["--sequence-length", "64", "--reference", str(tiny_teacher)]
        arguments += ["--output", str(tmp_path / "store"), str(corpus)]
        found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.output
    store = Store.open(tmp_path / "store")
    assert verify(store.root).is_sound
    assert store.manifest.drift["top1"] == 1


def config_of(directory: Path, **changes: Any) -> BuildConfig:
    directory.mkdir(exist_ok=True)
    return build_config(directory, selection=TopK(k=4), temperatures=(1.0,), **changes)


def shards(store: Store) -> list[str]:
    return [shard.sha256 for shard in store.manifest.shards]


def test_a_server_that_restarts_in_a_build_costs_nothing(
    tiny_teacher: Path, tmp_path: Path
) -> None:
    """What was asked while it was down is asked again, and the store is the same."""
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        server = first.enter_context(serving(TinyServer(tiny_teacher, "vllm")))
        whole = build(config_of(tmp_path / "whole"), served(server, tiny_teacher)).store
        teacher = served(server, tiny_teacher)
        port = int(server.url.rpartition(":")[2])
        again = TinyServer(tiny_teacher, "vllm")
        restart = threading.Timer(0.3, lambda: stack.enter_context(serving(again, port)))

        def kill(_: Progress) -> None:
            if restart.ident is None:
                first.close()
                restart.start()

        store = build(config_of(tmp_path / "restarted"), teacher, kill).store
        restart.join()
    assert again.ports
    assert shards(store) == shards(whole)
    assert verify(store.root).is_sound


def test_a_server_that_stays_away_ends_the_build_and_the_next_goes_on(
    tiny_teacher: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serving(TinyServer(tiny_teacher, "vllm")))

        def kill(progress: Progress) -> None:
            if progress.bytes_per_token:
                stack.close()

        teacher = served(server, tiny_teacher, patience=1)
        with pytest.raises(ServerError, match=r"a server that answers; found .* committed stays"):
            build(config_of(tmp_path), teacher, kill)
    with serving(TinyServer(tiny_teacher, "vllm")) as server:
        result = build(config_of(tmp_path), served(server, tiny_teacher))
        assert result.num_units_before > 0
        assert verify(result.store.root).is_sound


@pytest.mark.parametrize("change", ["name", "weights"])
def test_a_server_that_changes_in_a_build_is_refused_and_what_is_committed_stays(
    tiny_teacher: Path, tmp_path: Path, change: str
) -> None:
    with serving(TinyServer(tiny_teacher, "vllm")) as server:

        def exchange(progress: Progress) -> None:
            if progress.bytes_per_token:
                if change == "name":
                    server.name = "other"
                else:
                    torch.nn.init.normal_(server.model.lm_head.weight, std=0.3)

        config = config_of(tmp_path)
        with pytest.raises(ServerError, match=MESSAGES[change]):
            build(config, served(server, tiny_teacher), exchange)
        assert list((tmp_path / "store").rglob("*.parquet"))


MESSAGES = {
    "name": r"expected the model tiny; found an answer of other\. Start the server with the model",
    "weights": r"expected the answer to the calibration text .* found one that differs by",
}
