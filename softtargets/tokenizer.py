"""What a tokenizer is, by its content: for the identity of a store, and for students to compare."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def describe_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Return the hash of the content of a tokenizer of transformers, and its size."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        # State of the last call, not of the tokenizer.
        del content["truncation"], content["padding"]
    else:
        content = {
            "class": type(tokenizer).__name__,
            "vocab": tokenizer.get_vocab(),
            "special_tokens": {
                name: str(token) for name, token in tokenizer.special_tokens_map.items()
            },
        }
    text = json.dumps(content, sort_keys=True)
    return {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "vocab_size": len(tokenizer),
    }
