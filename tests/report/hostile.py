"""A store whose tokens, documents and input file say what a page must not obey."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from softtargets.store import Store
from softtargets.tokenizer import Vocabulary
from tests.golden import write_store
from tests.windows import make_window, topk_schema

TOKENS = (
    "<script>window.hit = 1</script>",
    "</script><script>window.hit = 2</script>",
    "<!--<script>",
    "<img src=x onerror='window.hit = 3'>",
    "\u202eright to left",
    "\x1b[31mred",
    "[bold]markup[/bold]",
    "{{ 7 * 7 }}",
    "&lt;b&gt;",
    "\u0301",
    " ",
    "\n",
)
SOURCE = "<script>window.hit = 4</script>[red]\u202e.jsonl"
DOCUMENT = '"><script>window.hit = 5</script>'


def hostile_store(directory: Path) -> Store:
    """Write three windows of 40 tokens each."""
    num = len(TOKENS)
    vocabulary = Vocabulary(
        ids_N=np.arange(num, dtype=np.int32),
        tokens=TOKENS,
        utf8=tuple(token.encode() for token in TOKENS),
    )
    rng, schema = np.random.default_rng(0), topk_schema(6, vocab_size=num)
    windows = [
        replace(
            make_window(rng, schema, num_tokens=40)[0], source=SOURCE, document_ids=("a", DOCUMENT)
        )
        for _ in range(3)
    ]
    return write_store(directory, schema, [windows], corpus=SOURCE, vocabulary=vocabulary)
