"""What a teacher writes itself: found, counted, resumed, and built from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sacrebleu import sentence_bleu
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from softtargets.capture import Corpus, TeacherConfig, TransformersTeacher
from softtargets.errors import BusyError, IdentityError, StoreError
from softtargets.generation import GenerateConfig, generate
from softtargets.generation.generation_files import GenerationFiles
from softtargets.generation.hypotheses import Hypothesizer
from softtargets.store import Store
from softtargets.tasks.causal_lm.answering import Answering
from softtargets.tasks.seq2seq.languages import Languages
from softtargets.tasks.seq2seq.seq2seq_teacher import Seq2SeqTeacher
from softtargets.tasks.seq2seq.translating import Translating
from tests.commands import run
from tests.generation.chatbot import TALKS, save_chatbot
from tests.tasks.translators import FAMILIES, PAIRS, save_pairs, save_translator, translator


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return where a model of a family lies; each is written once."""
    made: dict[str, Path] = {}

    def saved(family: str) -> Path:
        if family not in made:
            made[family] = save_translator(tmp_path_factory.mktemp(family), family)
        return made[family]

    return saved


@pytest.fixture
def model(save: Callable[[str], Path]) -> Path:
    return save("Marian")


@pytest.fixture
def chatbot(tiny_teacher: Path, tmp_path: Path) -> Path:
    """A causal teacher that can end an answer, with a chat template."""
    return save_chatbot(tiny_teacher, tmp_path / "chatbot")


def translating(**changes: Any) -> Translating:
    return Translating(target_field="de", source_prefix="", languages=Languages(), **changes)


def pair_generation(directory: Path, **changes: Any) -> GenerateConfig:
    """Return a generation of the sources of `PAIRS`, in units of two."""
    defaults: dict[str, Any] = {
        "corpus": Corpus(paths=(save_pairs(directory / "pairs.jsonl"),), text_field="en"),
        "output": directory / "own.jsonl",
        "prompting": translating(),
        "num_beams": 3,
        "keep": 2,
        "max_new_tokens": 12,
        "unit_records": 2,
        "batch_tokens": 300,
    }
    return GenerateConfig(**(defaults | changes))


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_hypotheses_are_those_of_transformers_one_by_one(
    tmp_path: Path, save: Callable[[str], Path], family: str
) -> None:
    """With log-probabilities of a plain pass over source and target."""
    directory = save(family)
    config = pair_generation(tmp_path)
    generate(config, translator(directory))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    plain = AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    plain.generation_config.forced_eos_token_id = None
    found = records(config.output)
    assert len(found) == 2 * len(PAIRS)
    for number, (source, _) in enumerate(PAIRS):
        inputs = tokenizer(source, return_tensors="pt")
        written = plain.generate(
            **inputs, num_beams=3, num_return_sequences=2, max_new_tokens=12, do_sample=False
        )
        for row, own in zip(written, found[2 * number :], strict=False):
            assert own["en"] == source
            assert own["id"] == str(number)
            ids = row[row != tokenizer.pad_token_id].tolist() if family != "Bart" else row.tolist()
            texts = tokenizer.decode(ids, skip_special_tokens=True)
            assert own["de"] == texts
            answer = row[1 : 1 + own["num_tokens"]]
            logits = plain(**inputs, decoder_input_ids=row[None, : 1 + len(answer)]).logits[0]
            logprobs = logits[: len(answer)].log_softmax(-1)
            assert own["logprob"] == pytest.approx(
                float(logprobs.gather(1, answer[:, None]).sum()), abs=2e-3
            )
            assert own["finished"] == (tokenizer.eos_token_id in answer.tolist())


@pytest.mark.slow
def test_an_interrupted_generation_goes_on_to_the_same_bytes(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pair_generation(tmp_path, output=tmp_path / "whole.jsonl")
    result = generate(whole, translator(model))
    assert not result.was_complete
    config = pair_generation(tmp_path)
    write = GenerationFiles.write_record
    written: list[int] = []

    def interrupted(self: GenerationFiles, unit: int, record: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(unit)
        write(self, unit, record)

    monkeypatch.setattr(GenerationFiles, "write_record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(config, translator(model))
    assert not config.output.exists()
    monkeypatch.setattr(GenerationFiles, "write_record", write)
    read = []
    run_batches = Hypothesizer.run

    def watched(self: Hypothesizer, prompts: Any) -> Any:
        read.append(len(prompts))
        return run_batches(self, prompts)

    monkeypatch.setattr(Hypothesizer, "run", watched)
    again = generate(config, translator(model))
    assert read == [1]  # The third unit, of the last of five sources.
    assert again.counts == result.counts
    assert config.output.read_bytes() == whole.output.read_bytes()
    assert not Path(f"{config.output}.work").exists()
    assert generate(config, translator(model)).was_complete


@pytest.mark.slow
def test_what_was_begun_otherwise_or_is_held_or_is_somebody_elses_is_left_alone(
    tmp_path: Path, model: Path
) -> None:
    config = pair_generation(tmp_path)
    generate(config, translator(model))
    with pytest.raises(IdentityError, match="field num_beams"):
        generate(pair_generation(tmp_path, num_beams=4), translator(model))
    config.output.write_text("mine\n")
    with pytest.raises(StoreError, match="a file that was changed since"):
        generate(config, translator(model))
    other = pair_generation(tmp_path, output=tmp_path / "other.jsonl")
    other.output.write_text("mine\n")
    with pytest.raises(StoreError, match="did not finish"):
        generate(other, translator(model))
    assert other.output.read_text() == "mine\n"
    third = pair_generation(tmp_path, output=tmp_path / "third.jsonl")
    with GenerationFiles(third.output, {}).held(), pytest.raises(BusyError):
        generate(third, translator(model))


@pytest.mark.slow
def test_the_nearest_to_the_reference_is_kept(tmp_path: Path, model: Path) -> None:
    every = pair_generation(tmp_path, output=tmp_path / "all.jsonl", num_beams=4, keep=4)
    generate(every, translator(model))
    # As references, the least likely of each source's hypotheses.
    rows = records(every.output)
    last = [rows[start + 3] for start in range(0, len(rows), 4)]
    corpus = save_pairs(tmp_path / "last.jsonl", [(one["en"], one["de"]) for one in last])
    config = pair_generation(
        tmp_path,
        corpus=Corpus(paths=(corpus,), text_field="en"),
        num_beams=4,
        keep=1,
        nearest_reference=True,
    )
    generate(config, translator(model))
    for own, reference in zip(records(config.output), last, strict=True):
        assert own["de"] == reference["de"]
        assert own["bleu"] == round(sentence_bleu(own["de"], [reference["de"]]).score, 2)


@pytest.mark.slow
def test_the_command_writes_a_corpus_that_build_reads(tmp_path: Path, model: Path) -> None:
    corpus, path = save_pairs(tmp_path / "pairs.jsonl"), tmp_path / "own.jsonl"
    fields: list[str | Path] = [
        "--text-field", "en", "--target-field", "de", "--dtype", "float32", "--teacher", model
    ]  # fmt: skip
    options = ["--num-beams", "2", "--max-new-tokens", "9", "--output", path]
    result = run("generate", *fields, "--input", corpus, *options)
    assert result.exit_code == 0, result.output
    assert "5 prompts, 5 answers" in result.output
    assert "5 reached --max-new-tokens" in result.output
    assert "nothing to do" in run("generate", *fields, "--input", corpus, *options).output
    built = run(
        "build", *fields, "--input", path, "--id-field", "id", "--metadata-field", "logprob",
        "--top-k", "8", "--output", tmp_path / "store",
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    assert len(Store.open(tmp_path / "store")) == 5
    dropped = run(
        "generate", *fields, "--input", corpus, "--unfinished", "drop", "--max-new-tokens", "9",
        "--output", tmp_path / "none.jsonl",
    )  # fmt: skip
    assert "5 prompts, 0 answers" in dropped.output
    assert "5 reached --max-new-tokens" in dropped.output


@pytest.mark.slow
@torch.no_grad()
def test_a_chatbot_answers_the_last_turn_of_conversations(tmp_path: Path, chatbot: Path) -> None:
    corpus, path = tmp_path / "talks.jsonl", tmp_path / "own.jsonl"
    corpus.write_text("".join(json.dumps({"messages": one}) + "\n" for one in TALKS))
    shared: list[str | Path] = [
        "--teacher", chatbot, "--dtype", "float32", "--messages-field", "messages",
    ]  # fmt: skip
    result = run(
        "generate", *shared, "--input", corpus, "--output", path, "--num-beams", "1",
        "--max-new-tokens", "40",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    tokenizer = AutoTokenizer.from_pretrained(chatbot)
    plain = AutoModelForCausalLM.from_pretrained(chatbot).eval()
    for own, talk in zip(records(path), TALKS, strict=True):
        asked = [one for one in talk if one is not talk[-1] or one["role"] == "user"]
        assert own["messages"][:-1] == asked
        read: Any = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        written = plain.generate(**read, max_new_tokens=40, do_sample=False, pad_token_id=9)
        answer = written[0, read["input_ids"].shape[1] :]
        is_end = (answer == tokenizer.eos_token_id).tolist()
        if True in is_end:
            answer = answer[: is_end.index(True) + 1]
        assert own["messages"][-1] == {
            "role": "assistant",
            "content": tokenizer.decode(answer, skip_special_tokens=True),
        }
        assert own["num_tokens"] == len(answer)
        both = torch.cat([read["input_ids"][0], answer])[None]
        logprobs = plain(both).logits[0, :-1].log_softmax(-1)[-len(answer) :]
        expected = float(logprobs.gather(1, answer[:, None]).sum())
        assert own["logprob"] == pytest.approx(expected, abs=2e-3)
    built = run("build", *shared, "--input", path, "--top-k", "8", "--output", tmp_path / "store")
    assert built.exit_code == 0, built.output


def test_a_prompt_is_gone_on_from(tmp_path: Path, chatbot: Path) -> None:
    corpus = tmp_path / "prompts.jsonl"
    corpus.write_text(json.dumps({"text": "Alice was", "where": "bank"}) + "\n")
    corpus_config = Corpus(paths=(corpus,), metadata_fields=("where",))
    teacher = TransformersTeacher(TeacherConfig(name=str(chatbot), dtype="float32", device="cpu"))
    config = GenerateConfig(
        corpus=corpus_config,
        output=tmp_path / "own.jsonl",
        prompting=Answering(corpus=corpus_config),
        max_new_tokens=8,
    )
    generate(config, teacher)
    [own] = records(config.output)
    assert own["prompt"] == "Alice was"
    assert own["text"].startswith("Alice was")
    assert len(own["text"]) > len("Alice was")
    assert own["where"] == "bank"


BAD: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "empty": ({"en": "  "}, (), "line 1, field 'en': expected a text with at least one token"),
    "no text": ({"de": "Ja."}, (), "line 1: expected a string in field 'en'"),
    "too long": (
        {"en": "so " * 100}, (), "expected a prompt of at most 64 tokens, as the model has",
    ),
    "beams": ({"en": "Yes."}, ("--keep", "9"), "--keep: expected at least 1, and at most the 5"),
    "limit": ({"en": "Yes."}, ("--max-new-tokens", "64"), "--max-new-tokens: expected at most 63"),
    "greedy": (
        {"en": "Yes."}, ("--num-beams", "1", "--nearest-reference"),
        "--nearest-reference: expected several hypotheses",
    ),
    "reference": ({"en": "Yes."}, ("--nearest-reference",), "a string in field 'de', the second"),
    "language": (
        {"en": "Yes."}, ("--source-language", "en"), "expected a tokenizer of several languages",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_input_gets_one_paragraph(tmp_path: Path, model: Path, name: str) -> None:
    record, options, expected = BAD[name]
    corpus = tmp_path / "sources.jsonl"
    corpus.write_text(json.dumps(record) + "\n")
    result = run(
        "generate", "--teacher", model, "--input", corpus, "--text-field", "en", "--target-field",
        "de", "--max-new-tokens", "9", "--output", tmp_path / "own.jsonl", *options,
    )  # fmt: skip
    assert result.exit_code == 1
    assert expected in result.output.splitlines()[-1]
    assert not (tmp_path / "own.jsonl").exists()


def test_records_that_are_wrong_are_skipped_and_counted(tmp_path: Path, model: Path) -> None:
    corpus = save_pairs(tmp_path / "some.jsonl", [PAIRS[0], ("so " * 100, "Ja."), (" ", "Ja.")])
    fields = Corpus(paths=(corpus,), text_field="en", on_invalid="skip")
    result = generate(pair_generation(tmp_path, corpus=fields, keep=1), translator(model))
    assert result.counts["invalid_records"] == 2
    assert [one["en"] for one in records(tmp_path / "own.jsonl")] == [PAIRS[0][0]]


def test_a_teacher_that_does_not_write_is_refused(tmp_path: Path) -> None:
    from tests.tasks.masked import save_masked_model

    corpus = save_pairs(tmp_path / "pairs.jsonl")
    encoder = save_masked_model(tmp_path / "encoder", "Bert")
    arguments = ("--teacher", encoder, "--input", corpus, "--output", tmp_path / "own.jsonl")
    result = run("generate", *arguments)
    assert "expected a model that writes" in result.output


@pytest.mark.slow
def test_an_answer_that_is_cut_by_the_limit_is_no_end(tmp_path: Path) -> None:
    """Even if the model's own settings force an end there."""
    directory = save_translator(tmp_path / "model", "Marian")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(directory)
    loaded.generation_config.forced_eos_token_id = 2
    loaded.save_pretrained(directory)
    config = pair_generation(tmp_path)
    result = generate(config, Seq2SeqTeacher(TeacherConfig(name=str(directory), dtype="float32")))
    assert result.counts["unfinished"] == result.counts["answers"] == 10
