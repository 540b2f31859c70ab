"""What a store is, in a few lines: what made it, from what, and how large it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from softtargets.report.number_texts import bytes_text, list_text
from softtargets.store import Store
from softtargets.store.drift import drift_text
from softtargets.store.manifest import MANIFEST_NAME
from softtargets.store.sizes import store_sizes
from softtargets.targets import TargetSchema
from softtargets.texts import plural, shown

_MOST_CLASSES = 20


def summary(store: Store) -> dict[str, str]:
    """Return the lines by their names, of which shards are not read; what is foreign is escaped."""
    identity, targets = store.manifest.identity, store.targets
    corpus = store.manifest.corpus
    files = list_text(list(_file_names(identity["corpus"])))
    documents = f"{plural(corpus['documents'], 'document')} from " if "documents" in corpus else ""
    rows = {
        **_teacher(store),
        "vocabulary": f"{targets.vocab_size:,} outputs, {targets.tokenizer_vocab_size:,} in the "
        "tokenizer",
        "corpus": documents + files,
        "windows": f"{len(store):,}{_longest(identity['windowing'])}",
        "targets": f"{store.num_positions:,}: {targets.describe()}",
    }
    if targets.class_names:
        rows["classes"] = list_text(targets.class_names, _MOST_CLASSES)
    if "selection" in identity:
        rows["selection"] = _selection(identity["selection"])
    if store.manifest.drift:
        rows["drift"] = drift_text(store.manifest.drift)
    rows |= {
        "temperatures": _temperatures(targets, identity.get("imported", {})),
        "size": size_text(store),
        "fingerprint": store.fingerprint,
        "format": f"{store.manifest.format_version}, by {store.manifest.created_by}",
    }
    steps = [
        f"{step['operation']} of {step['fingerprint'][:12]}" for step in identity.get("derived", ())
    ]
    if steps:
        rows["derived"] = ", then ".join(steps)
    return {name: shown(text) for name, text in rows.items()}


def size_text(store: Store) -> str:
    """Return what a store takes, and what of it grows with the targets."""
    sizes = store_sizes(store)
    parts = [
        f"{bytes_text(sizes.shards)} in {plural(len(store.manifest.shards), 'shard')}, "
        f"{sizes.shards / store.num_positions:.1f} bytes a target",
        f"{MANIFEST_NAME} {bytes_text(sizes.manifest)}",
        *(f"{name} {bytes_text(size)}" for name, size in sizes.table.items()),
    ]
    if sizes.fixed:
        files = ", ".join(f"{name} {bytes_text(size)}" for name, size in sizes.fixed.items())
        parts.append(f"fixed {bytes_text(sum(sizes.fixed.values()))} ({files})")
    return f"{bytes_text(sizes.total)}: {'; '.join(parts)}"


def _teacher(store: Store) -> dict[str, str]:
    """Return what is known of the teacher: of an imported store's what somebody stated."""
    name, teacher = store.manifest.teacher, store.manifest.identity["teacher"]
    imported = store.manifest.identity.get("imported")
    if imported is None:
        how = f"{teacher['architecture']}, {teacher['dtype']}, {teacher['attention']} attention"
        return {"teacher": f"{name} ({how})", "weights": teacher["weights_sha256"]}
    stated = "stated at the import" if "name" in teacher else "nobody stated it"
    return {
        "teacher": f"{name} ({stated})",
        "imported": f"{imported['layout']}, {_values(imported)}",
        "license": imported.get("license", "nobody stated it"),
    }


def _values(imported: Mapping[str, Any]) -> str:
    if imported["values"] == "logits":
        return "logits"
    return f"{imported['values']} log-probabilities at temperature {imported['temperature']:g}"


def _longest(windowing: Mapping[str, Any]) -> str:
    length = windowing.get("sequence_length")
    return ", a row each" if length is None else f", of at most {length:,} tokens"


def _temperatures(targets: TargetSchema, imported: Mapping[str, Any]) -> str:
    if targets.num_classes:
        return "any: the logits of all classes are stored"
    if not targets.temperatures:
        return "none: what the vocabulary sums to is not stored"
    what = "logsumexp" if targets.head is None else "tail mass"
    error = imported.get("tail_mass_error")
    within = "" if error is None else f", from what was imported, within {error:.1g}"
    return f"{', '.join(f'{one:g}' for one in targets.temperatures)}, the {what} at each{within}"


def _file_names(corpus: Mapping[str, Any]) -> Iterator[str]:
    """Yield the input files' names, those of merged corpora too."""
    yield from (file["name"] for file in corpus.get("files", ()))
    for part in corpus.get("merged", ()):
        yield from _file_names(part["corpus"])


def _selection(selection: Mapping[str, Any]) -> str:
    """Return what was asked for, in the words of the manifest."""
    parts = [str(selection["kind"])]
    for name, value in selection.items():
        if isinstance(value, Mapping):
            parts.append(
                f"{name} ({', '.join(f'{key} {_plain(one)}' for key, one in value.items())})"
            )
        elif name != "kind":
            parts.append(f"{name} {_plain(value)}")
    return ", ".join(parts)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"
