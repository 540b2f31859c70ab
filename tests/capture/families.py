"""Random models of many families, teachers of them, and what is compared of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from softtargets.capture import TeacherConfig, TransformersTeacher

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
    "Roberta": SIZES | {"is_decoder": True, "pad_token_id": 1},
}
"""Heads of Bert and Roberta have layers of their own, OPT projects before it, Phi's has a bias.

GPT2's is tied.
"""
WITHOUT_SDPA = {"Gemma2"}
NOISE = {"float32": 1e-5, "bfloat16": 2**-6}
"""By how much matrix products of other shapes may differ, relative to the largest number.

1.4e-6 and 0 were seen; bfloat16 has 8 significant bits, so this is two units in the last place.
"""


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
