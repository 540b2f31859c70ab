"""Teachers of many families: logits in two steps are the model's own, whatever follows the head."""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from softtargets.capture import TeacherConfig, TransformersTeacher
from softtargets.errors import InputError, TeacherError
from softtargets.train import OutputHead
from tests.golden import write_store
from tests.shell import run_python
from tests.windows import head_schema, make_window

V = 97
SIZES: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
GPT2_SIZES: dict[str, Any] = {
    "vocab_size": V,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA = GROUPED | {
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 4,
    "final_logit_softcapping": 0.5,
}
MAMBA = {
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 4,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": SIZES | {"is_decoder": True},
    "Cohere": GROUPED | {"logit_scale": 0.0625},
    "Cohere2": GROUPED | {"logit_scale": 0.25, "sliding_window": 4},
    "FalconH1": GROUPED | MAMBA | {"lm_head_multiplier": 0.25},
    "Gemma2": GEMMA | {"attn_logit_softcapping": 1.0},
    "Gemma3Text": GEMMA,
    "GPT2": GPT2_SIZES,
    "GPTNeoX": SIZES,
    "Granite": GROUPED
    | {
        "logits_scaling": 8.0,
        "residual_multiplier": 0.5,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.3,
    },
    "Llama": GROUPED,
    "Mistral": GROUPED | {"sliding_window": 4},
    "Mixtral": GROUPED | {"num_local_experts": 4, "output_router_logits": True},
    "Olmo2": GROUPED,
    "OPT": SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 16},
    "Phi": SIZES,
    "Phi3": GROUPED,
    "Qwen3": GROUPED | {"head_dim": 8},
}
"""Bert's head has layers of its own, OPT projects before it, Phi's has a bias, GPT2's is tied."""
MORE_THAN_A_HEAD = {"Bert", "Cohere", "Cohere2", "FalconH1", "Gemma2", "Gemma3Text", "Granite"}
WITHOUT_SDPA = {"Gemma2"}
LENGTHS = (1, 2, 5, 23)
NOISE = {"float32": 1e-5, "bfloat16": 2**-6}
"""By how much matrix products of other shapes may differ, relative to the largest number.

1.4e-6 and 0 were seen; bfloat16 has 8 significant bits, so this is two units in the last place.
"""

Save = Callable[[str], Path]
LoadBoth = Callable[[str, str], tuple[TransformersTeacher, PreTrainedModel]]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Return where a random model of a family lies; each is written once."""
    return cache(lambda family: save_model(tmp_path_factory.mktemp(family), family))


@pytest.fixture(scope="module")
def load_both(save: Save) -> LoadBoth:
    """Return a family's teacher, and its model loaded by transformers alone; each once."""

    @cache
    def both(family: str, dtype: str) -> tuple[TransformersTeacher, PreTrainedModel]:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            save(family), dtype=getattr(torch, dtype), attn_implementation=attention(family)
        )
        model.eval()
        return load(save(family), family, dtype), model

    return both


def save_model(directory: Path, family: str, **changes: Any) -> Path:
    """Write a model with random weights everywhere, also where models begin with zeros or ones."""
    config = getattr(transformers, f"{family}Config")(**(FAMILIES[family] | changes))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory)
    return directory


def attention(family: str) -> str:
    return "eager" if family in WITHOUT_SDPA else "sdpa"


def load(directory: Path, family: str, dtype: Any = "float32") -> TransformersTeacher:
    config = TeacherConfig(
        name=str(directory), dtype=dtype, device="cpu", attention=attention(family)
    )
    teacher = TransformersTeacher(config)
    teacher.load()
    return teacher


def random_ids(length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(3, V, (2, length), generator=generator)


def assert_near(actual: torch.Tensor, expected: torch.Tensor, noise: float) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= noise * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_logits_are_the_models_own(family: str, dtype: str, load_both: LoadBoth) -> None:
    """Bit for bit: the products have the same shapes in both, and rows side by side in memory."""
    teacher, model = load_both(family, dtype)
    for length in LENGTHS:
        input_ids_BL = random_ids(length)
        hidden_ND = teacher.hidden_states(input_ids_BL).flatten(0, 1)
        logits_NV = teacher.logits(hidden_ND)
        own_NV = model(input_ids=input_ids_BL).logits.flatten(0, 1)
        assert logits_NV.dtype == own_NV.dtype == getattr(torch, dtype)
        assert torch.equal(logits_NV, own_NV)
        chunks = [teacher.logits(chunk_ND) for chunk_ND in hidden_ND.split(7)]
        assert_near(torch.cat(chunks), logits_NV, NOISE[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_the_head_alone_is_not_enough(family: str, load_both: LoadBoth) -> None:
    """The negative control: what the families differ in would show in the test above."""
    teacher, model = load_both(family, "float32")
    hidden_ND = teacher.hidden_states(random_ids(23)).flatten(0, 1)
    logits_NV = teacher.logits(hidden_ND)
    if family == "OPT":
        # Its hidden states are projected already: the head is all that follows.
        assert hidden_ND.shape[1] == 16
    head_NV = model.get_output_embeddings()(hidden_ND)
    difference = (head_NV - logits_NV).abs().max() / logits_NV.abs().max()
    assert (difference > 0.5) if family in MORE_THAN_A_HEAD else (difference == 0)


def stored_head(teacher: TransformersTeacher, directory: Path) -> OutputHead:
    """Return what a student finds of a teacher's head in a store."""
    head = teacher.output_head()
    schema = head_schema(head)
    window, _ = make_window(np.random.default_rng(0), schema)
    return OutputHead.of(write_store(directory / "store", schema, [[window]], head))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.inference_mode()
def test_the_stored_head_gives_the_models_own_logits(
    family: str, dtype: str, load_both: LoadBoth, tmp_path: Path
) -> None:
    """Bit for bit, in either format, after what the store and its file do to the weights."""
    teacher, model = load_both(family, dtype)
    head = stored_head(teacher, tmp_path)
    assert (head.bias_V is not None) == (family in ("Bert", "Phi"))
    for length in LENGTHS:
        hidden_ND = teacher.hidden_states(random_ids(length)).flatten(0, 1)
        assert hidden_ND.dtype == getattr(torch, dtype)
        own_NV = model(input_ids=random_ids(length)).logits.flatten(0, 1)
        assert torch.equal(head.logits(hidden_ND), own_NV)
        # The negative control, again: the weights alone do not.
        if family in MORE_THAN_A_HEAD:
            assert not torch.equal(hidden_ND @ head.weight_VD.T, own_NV)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_scale_that_is_no_power_of_two_rounds_as_in_the_model(tmp_path: Path, dtype: str) -> None:
    """Granite divides by it: multiplying by its inverse gives other numbers now and then."""
    for family, change in (("Granite", {"logits_scaling": 6.0}), ("Cohere", {"logit_scale": 0.3})):
        directory = tmp_path / family
        teacher = load(save_model(directory / "model", family, **change), family, dtype)
        head = stored_head(teacher, directory)
        hidden_ND = teacher.hidden_states(random_ids(23)).flatten(0, 1)
        assert torch.equal(head.logits(hidden_ND), teacher.logits(hidden_ND))
        other = replace(head, scale=1 / head.divisor, divisor=1 / head.scale)
        is_same = torch.equal(other.logits(hidden_ND), teacher.logits(hidden_ND))
        # bfloat16 is so coarse that these few are rounded alike.
        assert is_same == (dtype == "bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["Bert", "Gemma2", "Cohere", "Granite", "FalconH1", "Gemma3Text"]
)
def test_what_a_head_does_unseen_keeps_it_from_being_stored(
    family: str, load_both: LoadBoth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an architecture whose configuration calls it by another name."""
    from softtargets.capture.teachers import live_head as head_module

    teacher, _ = load_both(family, "float32")
    for names in ("_SCALES", "_DIVISORS", "_SOFTCAPS", "_TRANSFORMS"):
        monkeypatch.setattr(head_module, names, ())
    with pytest.raises(TeacherError, match=r"hidden @ weight\.T \+ bias, scaled"):
        teacher.output_head()


def test_a_head_that_is_no_linear_layer_is_not_stored(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load(save("Llama"), "Llama")
    monkeypatch.setattr(teacher._model, "get_output_embeddings", lambda: None)
    with pytest.raises(TeacherError, match="others from LlamaForCausalLM"):
        teacher.output_head()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_on_the_right_changes_nothing(family: str, load_both: LoadBoth) -> None:
    teacher, _ = load_both(family, "float32")
    for length in LENGTHS:
        input_ids_BL = random_ids(length)
        hidden_BLD = teacher.hidden_states(input_ids_BL)
        for padding in (0, 50):
            padded_BL = torch.nn.functional.pad(input_ids_BL, (0, 6), value=padding)
            assert_near(teacher.hidden_states(padded_BL)[:, :length], hidden_BLD, NOISE["float32"])
        if length > 1:
            # The control: attention is at work, as the token before the last one matters.
            input_ids_BL[:, -2] = 2
            changed_BD = teacher.hidden_states(input_ids_BL)[:, -1]
            assert (changed_BD - hidden_BLD[:, -1]).abs().max() > 1e-3


def test_a_model_that_reads_in_both_directions_is_refused(tmp_path: Path) -> None:
    directory = save_model(tmp_path, "Bert", is_decoder=False)
    with pytest.raises(TeacherError, match=r"reads in both directions \(BertLMHeadModel\)"):
        load(directory, "Bert")


@pytest.mark.parametrize("wrong", ["", "https://me:hunter22@host/a"])
def test_a_teacher_is_no_url(wrong: str) -> None:
    with pytest.raises(TeacherError, match="expected a directory, or an id on the Hug") as caught:
        TransformersTeacher(TeacherConfig(name=wrong))
    assert "hunter22" not in str(caught.value)


def test_a_model_without_its_head_is_refused(tmp_path: Path) -> None:
    """transformers loads it with a random one, and warns."""
    config = transformers.LlamaConfig(**GROUPED)
    transformers.LlamaModel(config).save_pretrained(tmp_path)
    with pytest.raises(TeacherError, match=r"head included; found none for lm_head\.weight"):
        load(tmp_path, "Llama")


def test_logits_that_need_more_than_the_last_hidden_states_are_refused(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = transformers.LlamaForCausalLM.forward

    def with_memory(model: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        output = forward(model, input_ids=input_ids, **kwargs)
        output.logits += input_ids[..., None]
        return output

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", with_memory)
    with pytest.raises(TeacherError, match="others from LlamaForCausalLM"):
        load(save("Llama"), "Llama")


def test_a_model_that_cannot_run_is_refused_each_time(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", fail)
    teacher = TransformersTeacher(TeacherConfig(name=str(save("Llama")), device="cpu"))
    for _ in range(2):
        with pytest.raises(TeacherError, match=r"runs in bfloat16 with sdpa .* found ValueError"):
            teacher.load()


@pytest.mark.parametrize("part", ["from_pretrained", "to", "forward"])
def test_a_model_that_does_not_fit_the_memory_is_a_typed_error(
    part: str, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")

    teacher = TransformersTeacher(TeacherConfig(name=str(save("Llama")), device="cpu"))
    owner: Any = (
        AutoModelForCausalLM if part == "from_pretrained" else transformers.LlamaForCausalLM
    )
    monkeypatch.setattr(owner, part, fail)
    with pytest.raises(TeacherError, match="enough memory on cpu for the model; found CUDA error"):
        teacher.load()


def test_a_vocabulary_larger_than_the_embedding_is_refused(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU an id between the two would end the process."""
    teacher = TransformersTeacher(TeacherConfig(name=str(save("Llama")), device="cpu"))
    monkeypatch.setattr(teacher, "vocab_size", V + 1)
    with pytest.raises(TeacherError, match=r"an embedding of 98 rows, .* found 97"):
        teacher.load()


@pytest.mark.parametrize("device", ["cuda:99", "mps"])
def test_a_device_that_is_not_there_is_named(device: str, save: Save) -> None:
    with pytest.raises(InputError, match=f"--device: .* found {device}"):
        TransformersTeacher(TeacherConfig(name=str(save("Llama")), device=device))


def test_an_attention_that_a_model_lacks_is_named(save: Save) -> None:
    teacher = TransformersTeacher(TeacherConfig(name=str(save("Gemma2")), device="cpu"))
    with pytest.raises(TeacherError, match=r"sdpa attention.*try --attention eager"):
        teacher.load()


def test_only_compiling_changes_the_description(save: Save) -> None:
    config = TeacherConfig(name=str(save("Llama")))
    described = TransformersTeacher(config).describe()
    compiling = TransformersTeacher(TeacherConfig(name=config.name, compile=True))
    assert "compile" not in described
    assert compiling.describe() == described | {"compile": True}
    assert pickle.loads(pickle.dumps(compiling)).config.compile
    assert compiling.for_worker(1).config.compile


def compile_with(backend: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))


def load_compiled(directory: Path, family: str) -> tuple[TransformersTeacher, TransformersTeacher]:
    """Write a model of one layer, and return it compiled and as it is."""
    save_model(directory, family, num_hidden_layers=1)
    plain = load(directory, family)
    compiled = TransformersTeacher(replace(plain.config, compile=True))
    compiled.load()
    return compiled, plain


def assert_alike(one: TransformersTeacher, other: TransformersTeacher) -> None:
    for length in (2, 5, 23):
        hidden_BLD = one.hidden_states(random_ids(length))
        other_BLD = other.hidden_states(random_ids(length))
        assert_near(hidden_BLD, other_BLD, NOISE["float32"])
        logits_NV = one.logits(hidden_BLD.flatten(0, 1))
        assert_near(logits_NV, other.logits(other_BLD.flatten(0, 1)), NOISE["float32"])


@pytest.mark.slow
def test_hidden_states_come_from_the_compiled_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is captured as for users, but run as it is: making kernels takes half a minute."""
    num_runs = 0

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            nonlocal num_runs
            num_runs += 1
            return graph.forward(*args)

        return run

    compile_with(backend, monkeypatch)
    compiled, plain = load_compiled(tmp_path, "OPT")
    assert num_runs == 1
    assert_alike(compiled, plain)
    assert num_runs == 4


@pytest.mark.slow
def test_a_decoder_that_does_not_compile_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(*_: Any) -> None:
        raise RuntimeError("no C++ compiler")

    compile_with(backend, monkeypatch)
    with pytest.raises(TeacherError, match=r"no C\+\+ compiler.*Omit --compile"):
        load_compiled(tmp_path, "OPT")


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler"
)
# Of torch itself, when it first compiles.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.* is deprecated:DeprecationWarning")
def test_compiled_kernels_give_what_the_decoder_gives(tmp_path: Path) -> None:
    assert_alike(*load_compiled(tmp_path, "Granite"))


READ_MANY_LENGTHS = """
import os, torch
from softtargets.capture import TeacherConfig, TransformersTeacher

def resident_megabytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))

# Of a teacher that was loaded before.
for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.pop(name, None)
teacher = TransformersTeacher(TeacherConfig(name=directory))
teacher.load()
for length in range(1, 401):
    hidden_BLD = teacher.hidden_states(torch.zeros((2, length), dtype=torch.long))
    teacher.logits(hidden_BLD.flatten(0, 1))
    if length == 100:
        before = resident_megabytes()
print(resident_megabytes() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_batches_of_many_shapes_leave_no_memory_behind(tmp_path: Path) -> None:
    # A process of its own: how many kernels are kept is settled once. The growth is 4 MB, and 200
    # when all kernels are kept.
    save_model(tmp_path, "Llama", hidden_size=128, max_position_embeddings=512)
    found = run_python(f"directory = {str(tmp_path)!r}\n{READ_MANY_LENGTHS}", tmp_path)
    assert float(found.stdout) < 60, found.stderr
