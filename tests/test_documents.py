"""The documents are true: their code runs, and what they name exists."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import datasets
import pytest
import yaml
from transformers import BertConfig, MarianConfig

from softtargets import Store, verify
from softtargets.store.schema import arrow_schema
from tests.fakes import TEXTS, write_corpus
from tests.generation.chatbot import TALKS, save_chatbot
from tests.layers.models import save_classifier
from tests.shell import run_python, run_shell
from tests.tasks.masked import save_masked_model
from tests.tasks.translators import save_pairs, save_translator
from tests.windows import KINDS

ROOT = Path(__file__).parent.parent


def code_blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def run_block(language: str, code: str, directory: Path) -> str:
    done = {"python": run_python, "sh": run_shell}[language](code, directory)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Path:
    """A directory with what the documents' commands take: a teacher and corpora."""
    directory = tmp_path_factory.mktemp("readme")
    (directory / "teacher").symlink_to(tiny_teacher)
    write_corpus(directory / "corpus.jsonl", TEXTS * 2)
    talk = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1]}]
    (directory / "chat.jsonl").write_text(json.dumps({"messages": talk}))
    (directory / "chat-template.jinja").write_text(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    rows = [{"text": text, "language": "en"} for text in TEXTS]
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).save_to_disk(directory / "saved-dataset")
    return directory


@pytest.mark.slow
def test_readme_opens_with_two_commands_that_exist() -> None:
    first = code_blocks("README.md", "sh")[0]
    commands = re.findall(r"^make (\w+)", first, flags=re.MULTILINE)
    assert commands == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    for command in commands:
        assert re.search(rf"^{command}:", makefile, flags=re.MULTILINE)
    assert re.findall(r"^make .*$", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE) == [
        "make test"
    ]


@pytest.mark.slow
def test_the_code_of_readme_seeing_and_format_runs(workplace: Path) -> None:
    _, building, training = code_blocks("README.md", "sh")
    assert "my-store is sound" in run_block("sh", building, workplace)
    assert "To load the student" in run_block("sh", training, workplace)
    [seeing] = code_blocks("docs/seeing.md", "sh")
    run_block("sh", seeing, workplace)
    for code in code_blocks("README.md", "python"):
        run_block("python", code, workplace)
    reader, queries, _ = code_blocks("schemas/FORMAT.md", "python")
    ids, *_ = run_block("python", reader, workplace).splitlines()
    targets = next(iter(Store.open(workplace / "my-store"))).targets
    assert ids.startswith(f"{targets.ids_TK[0, :5]}")
    store = Store.open(workplace / "my-store")
    least_sure = max(store, key=lambda window: window.targets.tail_mass_TG[:, 0].sum())
    assert run_block("python", queries, workplace).splitlines()[-1] == least_sure.window_id


@pytest.mark.slow
def test_the_commands_of_the_page_on_building_run(workplace: Path) -> None:
    *found, _ = code_blocks("docs/building.md", "sh")
    commands = [one for one in found if "s3://" not in one]
    assert len(commands) == len(found) - 2 == 4
    for code in commands:
        run_block("sh", code, workplace)
    [student] = code_blocks("docs/building.md", "python")
    run_block("python", student, workplace)
    chat = next(iter(Store.open(workplace / "chat-store")))
    assert chat.positions_T is not None
    dataset = next(iter(Store.open(workplace / "dataset-store")))
    assert dataset.metadata == {"language": ("en",)}
    assert verify(workplace / "big-store").is_sound


@pytest.mark.slow
def test_the_command_of_the_page_on_large_corpora_runs(workplace: Path) -> None:
    build, *_ = code_blocks("docs/scale.md", "sh")
    run_block("sh", build, workplace)
    assert verify(workplace / "scaled-store").is_sound


@pytest.mark.slow
def test_tasks_of_the_slurm_array_build_a_store(workplace: Path) -> None:
    """Two of them at once, run by bash as Slurm would."""
    array, commit = code_blocks("docs/engines.md", "sh")[1:]
    assert array.startswith("#!/bin/bash\n#SBATCH ")
    (workplace / "build.sbatch").write_text(array)
    task = "SLURM_ARRAY_TASK_ID={} bash build.sbatch"
    said = run_block("sh", f"{task.format(0)} & {task.format(1)}; wait $!", workplace)
    assert "Task 0 on " in said
    assert "Task 1 on " in said
    assert "fingerprint" in run_block("sh", commit, workplace)
    assert verify(workplace / "slurm-store").is_sound


@pytest.mark.slow
def test_pods_of_the_indexed_job_build_a_store(workplace: Path, object_url: str) -> None:
    """Two of them at once, each the command of the container, in S3."""
    [text] = code_blocks("docs/engines.md", "yaml")
    spec = yaml.safe_load(text)["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    # Both are possible only where a pod that failed is not started again by its node.
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    [container] = spec["template"]["spec"]["containers"]
    [script] = container["args"]
    assert script.count("s3://YOUR_BUCKET/store") == 1
    (workplace / "pod.sh").write_text(script.replace("s3://YOUR_BUCKET/store", f"'{object_url}'"))
    pod = f'JOB_COMPLETION_INDEX={{}} {shlex.join(container["command"])} "$(cat pod.sh)"'
    said = run_block("sh", f"{pod.format(0)} & {pod.format(1)}; wait $!", workplace)
    assert "Pod 0" in said
    assert "Pod 1" in said
    assert verify(Store.open(object_url)).is_sound


@pytest.mark.slow
def test_the_first_command_of_the_page_on_teachers_runs(workplace: Path) -> None:
    run_block("sh", code_blocks("docs/teachers.md", "sh")[0], workplace)
    assert verify(workplace / "spread-store").is_sound


@pytest.mark.slow
def test_the_commands_of_the_page_on_formats_run(workplace: Path) -> None:
    commands, _ = code_blocks("docs/formats.md", "sh")
    assert "imported-store is sound" in run_block("sh", commands, workplace)
    same, original = (Store.open(workplace / name) for name in ("same-store", "topk-store"))
    assert same.window_ids() == original.window_ids()


@pytest.mark.slow
def test_the_code_of_the_pages_on_targets_loading_and_trainers_runs(workplace: Path) -> None:
    build, *others = code_blocks("docs/targets.md", "sh")
    [fidelity] = [one for one in others if "softtargets fidelity ./teacher" in one]
    run_block("sh", build, workplace)
    assert Store.open(workplace / "hybrid-store").targets.samples is not None
    [losses] = code_blocks("docs/targets.md", "python")
    run_block("python", losses, workplace)
    assert "is unbiased" in run_block("sh", fidelity, workplace)
    shutil.copytree(workplace / "hybrid-store", workplace / "other-store")
    loading, *more = code_blocks("docs/loading.md", "python")
    assert "same_row_group" in run_block("python", loading, workplace)
    assert "input_ids" in run_block("python", "\n".join([loading, *more]), workplace)
    run_block("python", "\n".join(code_blocks("docs/trainers.md", "python")), workplace)


@pytest.mark.slow
def test_the_commands_of_the_page_on_training_run(workplace: Path) -> None:
    build, *_ = code_blocks("README.md", "sh")[1].split("softtargets verify")
    run_block("sh", build, workplace)
    [config] = code_blocks("docs/training.md", "yaml")
    (workplace / "train.yaml").write_text(config)
    first, others = code_blocks("docs/training.md", "sh")
    assert "on labels alone" in run_block("sh", first, workplace)
    assert "Nothing was trained or written." in run_block("sh", others, workplace)
    [code] = code_blocks("docs/training.md", "python")
    assert float(run_block("python", code, workplace)) > 0
    for name in ("student", "student-of-file", "student-of-python"):
        assert (workplace / name / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_code_of_the_page_on_masked_models_runs(workplace: Path) -> None:
    save_masked_model(workplace / "encoder", "Bert", max_position_embeddings=512)
    [commands] = code_blocks("docs/masked_lm.md", "sh")
    said = run_block("sh", commands, workplace)
    assert "agrees with the live teacher" in said
    assert "on labels alone" in said
    [training] = code_blocks("docs/masked_lm.md", "python")
    run_block("python", training, workplace)


@pytest.mark.slow
def test_the_code_of_the_page_on_layers_runs(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.jsonl", TEXTS * 2)
    sizes = {"num_hidden_layers": 4, "max_position_embeddings": 128}
    encoder = save_masked_model(tmp_path / "encoder", "Bert", **sizes)
    save_classifier(tmp_path / "classifier", encoder)
    small = BertConfig.from_pretrained(encoder, hidden_size=16, num_hidden_layers=2)
    small.save_pretrained(tmp_path / "small")
    general, task, augment = code_blocks("docs/layers.md", "sh")
    assert "layer-store is sound" in run_block("sh", general, tmp_path)
    assert "To load the student" in run_block("sh", task, tmp_path)
    num_records = 2 * len(TEXTS) * 3
    assert f"{num_records} records of" in run_block("sh", augment, tmp_path)
    [code] = code_blocks("docs/layers.md", "python")
    assert "torch.Size" in run_block("python", code, tmp_path)


@pytest.mark.slow
def test_the_code_of_the_page_on_translation_runs(workplace: Path) -> None:
    translator = save_translator(workplace / "translator", max_position_embeddings=128)
    save_pairs(workplace / "pairs.jsonl")
    config = MarianConfig.from_pretrained(translator, encoder_layers=1, decoder_layers=1)
    config.save_pretrained(workplace / "small")
    save_chatbot(workplace / "teacher", workplace / "chatbot")
    lines = (json.dumps({"messages": talk}) + "\n" for talk in TALKS)
    (workplace / "talks.jsonl").write_text("".join(lines))
    words, sequences, chatbot = code_blocks("docs/translation.md", "sh")
    said = run_block("sh", words, workplace)
    assert "agrees with the live teacher" in said
    assert "on labels alone" in said
    assert "5 prompts, 5 answers" in run_block("sh", sequences, workplace)
    [training] = code_blocks("docs/translation.md", "python")
    run_block("python", training, workplace)
    assert "2 prompts, " in run_block("sh", chatbot, workplace)


@pytest.mark.slow
def test_the_examples_of_the_page_on_extending_run(workplace: Path) -> None:
    examples = code_blocks("docs/extending.md", "python")
    printed = run_block("python", "\n".join(examples), workplace)
    assert "unit 1: " in printed
    assert Store.open(workplace / "near").manifest.identity["selection"]["nats"] == 0.2
    assert (workplace / "checkpoint.pt").is_file()
    assert not (workplace / "unused").exists()


def test_the_page_on_extending_has_an_example_in_every_section() -> None:
    _, *sections = (ROOT / "docs" / "extending.md").read_text().split("\n## ")
    assert len(sections) == 9
    for section in sections:
        assert section.count("```python") == 1, section


def test_links_and_paths_in_the_documents_exist() -> None:
    pages = [f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *pages):
        text = (ROOT / document).read_text()
        links = re.findall(r"\]\(([^)#:]+)\)", text)
        paths = [(ROOT / document).parent / link for link in links]
        named = re.findall(r"`((?:softtargets|schemas|tests)/[\w./]*)`", text)
        modules = re.findall(r"python -m (tests[\w.]*)", text)
        named += [f"{module.replace('.', '/')}.py" for module in modules]
        for path in [*paths, *(ROOT / name for name in named)]:
            assert path.exists(), f"{document}: {path}"


def test_the_rooms_in_readme_are_the_rooms() -> None:
    text = (ROOT / "README.md").read_text()
    rooms = {path.name for path in (ROOT / "softtargets").iterdir() if path.is_dir()}
    for room in rooms - {"__pycache__"}:
        assert re.search(rf"^  {room}/ ", text, flags=re.MULTILINE), room


def test_format_names_every_column() -> None:
    text = (ROOT / "schemas" / "FORMAT.md").read_text()
    for schema in KINDS.values():
        for name in arrow_schema(schema, "f" * 64, 0).names:
            general = re.sub(r"_t[\d_]+$", "_t<tau>", name)
            general = re.sub(r"^id_plane_\d$", "id_plane_0", general)
            general = re.sub(r"^feature_[a-z_0-9]+?(_scale)?$", r"feature_<name>\1", general)
            general = re.sub(r"^metadata_.*", "metadata_<name>", general)
            assert f"`{general}`" in text, name


def test_every_page_and_example_reads_a_batch_by_student_inputs() -> None:
    """Read by its keys, documents that share a window would see each other."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py")]
    for path in pages:
        assert not re.search(r"input_ids=batch|batch\[\"attention_mask\"\],", path.read_text()), (
            path
        )
