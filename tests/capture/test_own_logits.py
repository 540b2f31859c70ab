"""Teachers of many families: logits in two steps are the model's own, whatever follows the head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from softtargets.capture import TransformersTeacher
from softtargets.errors import TeacherError
from softtargets.train import OutputHead
from tests.capture.conftest import Save
from tests.capture.families import (
    FAMILIES,
    NOISE,
    assert_near,
    attention,
    load,
    random_ids,
    save_model,
)
from tests.golden import write_store
from tests.windows import head_schema, make_window

MORE_THAN_A_HEAD = {
    "Bert",
    "Cohere",
    "Cohere2",
    "FalconH1",
    "Gemma2",
    "Gemma3Text",
    "Granite",
    "Roberta",
}
LENGTHS = (1, 2, 5, 23)

LoadBoth = Callable[[str, str], tuple[TransformersTeacher, PreTrainedModel]]


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
    assert (head.bias_V is not None) == (family in ("Bert", "Phi", "Roberta"))
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
