"""A tiny random Llama in a GGUF file, with a token for each byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WIDTH, VOCAB_SIZE = 64, 320
NUM_TOKENS = 257


def write_gguf(path: Path, seed: int = 0) -> Path:
    """Write weights in Q8_0, whose 32 numbers share a scale; norms are in float32."""
    import gguf
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(2)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_vocab_size(VOCAB_SIZE)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    unused = [f"<unused{one}>" for one in range(VOCAB_SIZE - NUM_TOKENS - 1)]
    padding = [*unused, "<|endoftext|>"]
    writer.add_token_list([*alphabet, "th", *padding])
    writer.add_token_types([1] * NUM_TOKENS + [5] * len(padding))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(VOCAB_SIZE - 1)
    writer.add_eos_token_id(VOCAB_SIZE - 1)
    rng = np.random.default_rng(seed)

    def add(name: str, *shape: int) -> None:
        values = rng.normal(0, 1.5 / np.sqrt(shape[-1]), shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        packed = gguf.quants.quantize(values, kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)

    add("token_embd", VOCAB_SIZE, WIDTH)
    for block in ("blk.0", "blk.1"):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{part}", WIDTH, WIDTH)
        add(f"{block}.ffn_gate", 2 * WIDTH, WIDTH)
        add(f"{block}.ffn_up", 2 * WIDTH, WIDTH)
        add(f"{block}.ffn_down", WIDTH, 2 * WIDTH)
        for part in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{part}.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    add("output", VOCAB_SIZE, WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
