"""`softtargets info`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click
from rich.console import Console

from softtargets.cli.tables import bytes_text, key_value_table
from softtargets.kinds import TargetSchema
from softtargets.store import Store


@click.command("info")
@click.argument("store", metavar="STORE_OR_URL")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def info_command(store: str, as_json: bool) -> None:
    """Say what a store holds and what made it, from its manifest alone."""
    opened = Store.open(store)
    if as_json:
        click.echo(json.dumps(describe(opened), indent=1))
    else:
        print_info(Console(highlight=False), opened)


def describe(store: Store) -> dict[str, Any]:
    """Return everything `info` knows, as JSON."""
    return {
        "path": str(store.location),
        "fingerprint": store.fingerprint,
        "created_by": store.manifest.created_by,
        "teacher": store.manifest.teacher,
        "num_shards": len(store.manifest.shards),
        "num_windows": len(store),
        "num_positions": store.num_positions,
        "num_bytes": store.num_bytes,
        "bytes_per_position": store.num_bytes / store.num_positions,
        "corpus": dict(store.manifest.corpus),
        "identity": dict(store.manifest.identity),
    }


def print_info(console: Console, store: Store) -> None:
    """Print a store's summary."""
    identity, targets = store.manifest.identity, store.targets
    corpus = store.manifest.corpus
    files = list(_file_names(identity["corpus"]))
    shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
    documents = f"{corpus['documents']:,} documents from " if "documents" in corpus else ""
    rows = {
        **_teacher(store),
        "vocabulary": f"{targets.vocab_size:,} outputs, {targets.tokenizer_vocab_size:,} in the "
        "tokenizer",
        "corpus": documents + shown,
        "windows": f"{len(store):,}{_longest(identity['windowing'])}",
        "targets": f"{store.num_positions:,}: {targets.describe()}",
        "temperatures": _temperatures(targets, identity.get("imported", {})),
        "size": f"{bytes_text(store.num_bytes)} in {len(store.manifest.shards):,} shards, "
        f"{store.num_bytes / store.num_positions:.1f} bytes a target",
        "fingerprint": store.fingerprint,
        "format": f"{store.manifest.format_version}, by {store.manifest.created_by}",
    }
    steps = [
        f"{step['operation']} of {step['fingerprint'][:12]}" for step in identity.get("derived", ())
    ]
    if steps:
        rows["derived"] = ", then ".join(steps)
    console.print(key_value_table(str(store.location), rows))


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
