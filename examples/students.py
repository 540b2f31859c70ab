"""Make a small student for a store, as all examples do."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from softtargets import Store


def small_student(store: Store) -> LlamaForCausalLM:
    """Return a student with the vocabulary of a store's teacher, the same on every rank."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=store.targets.vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        use_cache=False,
    )
    return LlamaForCausalLM(config)
