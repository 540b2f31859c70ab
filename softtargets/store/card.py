"""The README.md of a store: what people, the Hugging Face Hub and `datasets` read of it.

It is a pure function of the manifest and nothing reads it back: no promise of the format hangs on
it. Names come from whoever made the store, so they stand in code spans, where Markdown and HTML
mean nothing; the YAML at the top holds none of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from softtargets.store.column_words import column_words
from softtargets.store.decoding_code import decoding_code
from softtargets.store.drift import drift_text
from softtargets.store.manifest import Manifest
from softtargets.store.vocabulary import VOCABULARY_NAME
from softtargets.targets import TargetSchema, columns_of, parts_of

CARD_NAME = "README.md"
NOT_STATED = "not stated yet"
"""What stands in the place of a licence until somebody fills it in."""
_LONGEST = 200
_MOST_FILES = 5
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")

_FRONT = """\
---
# Yours to fill in: take away the marks and correct the values. The licence is that of the targets.
# license: apache-2.0
# language: [en]
{metadata}---
"""
_CONFIGS = """\
tags:
- softtargets
- knowledge-distillation
size_categories:
- {size}
configs:
- config_name: default
  data_files:
  - split: train
    path: shards/*.parquet
"""
_VOCABULARY_CONFIG = f"""\
- config_name: vocabulary
  data_files:
  - split: train
    path: {VOCABULARY_NAME}
"""
_LICENCES = f"""\
## Licences

- **These targets**: {NOT_STATED}; also `license` at the top of this file.
- **The teacher**: {NOT_STATED}. Some licences say what its outputs may be used for.
- **The corpus**: {NOT_STATED}. Its tokens are in this store.
"""
_UNMEASURED = """\
## Measured

Nothing was measured yet. These commands compare the store with its teacher and put a
table here:

```sh
softtargets verify STORE --rescore 100 --teacher TEACHER --json > measured.json
softtargets card STORE --fidelity measured.json
```
"""


def part_of_card(name: str, text: str) -> str:
    """Return a part of a card between its marks, which is written anew without asking."""
    begin, end = marks_of(name)
    return f"{begin}\n{text.strip()}\n{end}\n"


def marks_of(name: str) -> tuple[str, str]:
    """Return the lines that a part of a card stands between."""
    return (
        f"<!-- softtargets:begin {name}; what stands here is overwritten -->",
        f"<!-- softtargets:end {name} -->",
    )


def card_text(manifest: Manifest) -> str:
    """Return the card of a store that has none yet."""
    parts = (
        front_matter(manifest),
        part_of_card("description", description(manifest)),
        part_of_card("measured", _UNMEASURED),
        _LICENCES,
    )
    return "\n".join(parts)


def front_matter(manifest: Manifest) -> str:
    """Return the YAML: which files are data, tags, size, and what the user is to fill in."""
    metadata = _CONFIGS.format(size=_size_category(manifest.shards.num_windows))
    if manifest.vocabulary is not None:
        metadata += _VOCABULARY_CONFIG
    return _FRONT.format(metadata=metadata)


def description(manifest: Manifest) -> str:
    """Return what a store holds, what made it, how to load it, its columns and its bounds."""
    targets, imported = manifest.targets, manifest.identity.get("imported")
    columns = [
        f"| {code_span(column.name)} | {column_words(column)} |" for column in columns_of(targets)
    ]
    return "\n".join(
        [
            f"# Soft targets of {code_span(manifest.teacher)}\n",
            f"What this teacher says about {manifest.shards.num_windows:,} windows of text, "
            f"computed once with softtargets to train students on: {targets.convention.words}. "
            "This page is generated from `manifest.json`, which is what counts.\n",
            *(f"- **{name}**: {words}" for name, words in _facts(manifest)),
            "\n## Load it\n",
            "```py\nfrom softtargets import SoftTargetDataset\n",
            'dataset = SoftTargetDataset("hf://datasets/org/name", shuffle=True, batch_size=8)',
            "```\n",
            _without_softtargets(targets),
            "## Columns\n",
            "A row is a window of L tokens with T targets.\n",
            "| column | type and meaning |\n|---|---|",
            *columns,
            "\n## What is exact\n",
            *(f"- {words}" for part in parts_of(targets) for words in part.exactness(imported)),
        ]
    )


def code_span(text: str) -> str:
    """Return a text as code in Markdown, in one line and without anything that could end it."""
    shown = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    safe = (
        one if one.isprintable() and one not in "`|" else _escaped(one) for one in shown or "(none)"
    )
    return f"`{''.join(safe)}`"


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 1 << 8 else f"\\u{code:04x}"


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    identity, targets, shards = manifest.identity, manifest.targets, manifest.shards
    windowing = identity["windowing"]
    yield "Teacher", _teacher(manifest)
    if "imported" in identity:
        yield "Imported", _imported(identity["imported"])
    if manifest.drift:
        yield "Drift of its engine", drift_text(manifest.drift)
    sha256 = identity["tokenizer"].get("sha256")
    yield (
        "Tokenizer",
        f"{'unknown' if sha256 is None else f'SHA-256 `{sha256}`'}; it knows "
        f"{targets.tokenizer_vocab_size:,} ids, the teacher's output has {targets.vocab_size:,}",
    )
    yield "Corpus", ", ".join(_corpus(identity["corpus"], manifest.corpus))
    overlap = f", {windowing['overlap']:,} of them context" if "overlap" in windowing else ""
    length = windowing.get("sequence_length")
    most = "" if length is None else f", of at most {length:,} tokens"
    yield "Windows", f"{shards.num_windows:,}{most}{overlap} ({windowing['kind']})"
    selection = identity.get("selection")
    chosen = "" if selection is None else f" {code_span(json.dumps(selection))}"
    yield "Selection", f"{targets.describe()}{chosen}"
    grid = ", ".join(f"{one:g}" for one in targets.temperatures)
    if targets.num_classes:
        grid = "any: the logits of all classes are stored"
    yield "Temperatures", grid or "none: what the vocabulary sums to is not stored"
    yield (
        "Size",
        f"{shards.num_positions:,} targets, {shards.num_bytes:,} bytes in {len(shards):,} shards, "
        f"{shards.num_bytes / shards.num_positions:.1f} bytes a target",
    )
    yield "Format", f"{manifest.format_version}, by {code_span(manifest.created_by)}"
    yield "Fingerprint", f"`{manifest.fingerprint}`"
    for step in identity.get("derived", ()):
        yield "Made by", f"{step['operation']} of the store `{step['fingerprint']}`"


def _teacher(manifest: Manifest) -> str:
    """Return what is known of the teacher: of an imported store's what somebody stated."""
    name, teacher = code_span(manifest.teacher), manifest.identity["teacher"]
    if "imported" in manifest.identity:
        return f"{name}, {'as stated at the import' if 'name' in teacher else 'nobody stated it'}"
    compiled = ", compiled" if teacher.get("compile") else ""
    return (
        f"{name}, {code_span(teacher['architecture'])}, run in {teacher['dtype']} with "
        f"{code_span(teacher['attention'])} attention{compiled}; weights SHA-256 "
        f"`{teacher['weights_sha256']}`"
        + (f", revision {code_span(teacher['revision'])}" if teacher["revision"] else "")
    )


def _imported(imported: Mapping[str, Any]) -> str:
    values = code_span(imported["values"])
    if imported["values"] != "logits":
        values += f" log-probabilities at temperature {imported['temperature']:g}"
    stated = code_span(imported["license"]) if "license" in imported else "nobody stated it"
    return f"from {code_span(imported['layout'])}, {values}; licence: {stated}"


def _corpus(corpus: Mapping[str, Any], counts: Mapping[str, int]) -> Iterator[str]:
    names = list(_input_names(corpus))
    yield from (code_span(name) for name in names[:_MOST_FILES])
    if len(names) > _MOST_FILES:
        yield f"and {len(names) - _MOST_FILES:,} more"
    for name in ("documents", "tokens"):
        if name in counts:
            yield f"{counts[name]:,} {name}"


def _input_names(corpus: Mapping[str, Any]) -> Iterator[str]:
    """Yield what each part of a corpus is called: an input file, or a dataset with its commit."""
    for part in corpus.get("merged", ()):
        yield from _input_names(part["corpus"])
    dataset = corpus.get("dataset", corpus)
    if "id" in dataset:
        yield f"{dataset['id']}@{dataset['revision']}, {dataset['split']}"
    yield from (file["name"] for file in dataset.get("files", ()))


def _without_softtargets(targets: TargetSchema) -> str:
    text = (
        '`load_dataset("org/name")` of the package `datasets`, which takes the path of a local '
        "copy, too, needs no softtargets. "
    )
    code = decoding_code(targets)
    if code is None:
        return f"{text}`FORMAT.md` of softtargets says how other columns are decoded.\n"
    return (
        f"{text}The kept entries, likeliest first, of its first window:\n\n```python\n{code}```\n"
    )


def _size_category(num_windows: int) -> str:
    """Return the Hub's name for a number of rows."""
    below = 0
    while below < len(_SIZES) and num_windows >= 10 ** (below + 3):
        below += 1
    if below == 0:
        return "n<1K"
    if below == len(_SIZES):
        return "n>1T"
    return f"{_SIZES[below - 1]}<n<{_SIZES[below]}"
