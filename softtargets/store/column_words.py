"""The columns of a shard in words, for people; `schemas/FORMAT.md` is the specification."""

from __future__ import annotations

import re

import pyarrow as pa

from softtargets.store.schema import Column

_ROWS = {
    "window": "",
    "tokens": " [L]",
    "targets": " [T]",
    "classes": " [T C]",
    "single": " [1]",
    "any": " [any]",
}
_WORDS = {
    "window_id": "hash of tokens, segments and mask, by which targets are looked up",
    "source": "name of the input file",
    "document_ids": "ids of the documents in the window",
    "metadata_.*": "what the corpus says about each of these documents",
    "segment_lengths": "how many tokens each of them has here",
    "offset": "place of the first token in its document",
    "input_ids": "the tokens",
    "mask": "which targets a student is trained on",
    "target_positions": "which positions have a target",
    "label_ids": "the label of each target",
    "encoder_input_ids": "what the encoder read",
    r"id_plane_(\d+)": r"byte \1 of the kept ids, lowest first; an entry a byte",
    "num_entries": "how many entries are kept",
    "top_logit": "the highest logit",
    "steps": "distances between neighbouring kept logits in steps, half a byte each",
    "escapes": "the distances that half a byte does not hold",
    "logits": "kept logits, float32",
    "num_repeated": "how many ids were drawn more than once",
    "repeated_counts": "how often each of them was drawn",
    "sample_gaps": "drawn ids, each as the number of ids skipped before it",
    "sample_steps": "distance of each drawn id's logit below the highest, in steps",
    "sample_logits": "logit of each drawn id",
    "tail_mass_t.*": "probability outside the kept entries at this temperature",
    "logsumexp_t.*": "logsumexp over the vocabulary at this temperature",
    "label_logit": "logit of the label",
    "label_rank": "how many logits are above the label's",
    "class_logits": "logit of each class, target after target",
    "feature_scale": "what each of these vectors is multiplied with",
    "feature_.*": "hidden states, one vector in each element",
}


def column_words(column: Column) -> str:
    """Return the type and the meaning of a column, in a few words."""
    element = column.element
    kind = f"{element.byte_width} bytes" if pa.types.is_fixed_size_binary(element) else f"{element}"
    name = "feature_scale" if _is_scale(column) else column.name
    # The first pattern that fits: metadata and features may be called anything.
    words = next(
        found.expand(words)
        for pattern, words in _WORDS.items()
        if (found := re.fullmatch(pattern, name, re.DOTALL))
    )
    return f"{kind}{_ROWS[column.rows]}: {words}"


def _is_scale(column: Column) -> bool:
    return column.name.startswith("feature_") and pa.types.is_floating(column.element)
