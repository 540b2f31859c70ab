"""A reader written from schemas/FORMAT.md alone: it shares no code with softtargets.

It is slow and plain on purpose. Whoever writes a reader in another language may start from it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import rfc8785

Row = dict[str, Any]


def read_store(root: Path) -> dict[str, np.ndarray]:
    """Return everything in a store: arrays by name, window after window."""
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["format_version"].split(".")[0] == "1"
    identity = manifest["identity"]
    assert fingerprint(identity) == manifest["fingerprint"]
    windows = []
    for shard in list_shards(root, manifest):
        path = root / shard["path"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == shard["sha256"]
        file = pq.ParquetFile(path, page_checksum_verification=True)
        metadata = json.loads(file.schema_arrow.metadata[b"softtargets"])
        assert metadata["fingerprint"] == manifest["fingerprint"]
        assert metadata["unit"] == shard["unit"]
        assert metadata["targets"] == identity["targets"]
        targets = identity["targets"]
        if metadata["format_version"] == "1.0":
            targets = from_version_1_0(targets)
        windows += [read_window(row, targets) for row in file.read().to_pylist()]
    names = windows[0]
    found = {
        name: np.concatenate([np.asarray(window[name]) for window in windows]) for name in names
    }
    if "output_head" in identity["targets"]:
        found |= read_output_head(root, manifest)
    if "layers" in identity["targets"]:
        found |= read_layers(root, manifest)
    if "vocabulary" in manifest:
        found |= read_vocabulary(root, manifest)
    return found


def list_shards(root: Path, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    if "shard_table" not in manifest:
        listed: list[dict[str, Any]] = manifest["shards"]
        return listed
    table = manifest["shard_table"]
    content = (root / table["path"]).read_bytes()
    assert len(content) == table["num_bytes"]
    assert hashlib.sha256(content).hexdigest() == table["sha256"]
    file = pq.ParquetFile(root / table["path"], page_checksum_verification=True)
    rows = file.read().to_pylist()
    assert [row["unit"] for row in rows] == list(range(table["num_shards"]))
    return [row | {"sha256": row["sha256"].hex(), "run": json.loads(row["run"])} for row in rows]


def fingerprint(identity: dict[str, Any]) -> str:
    if int(identity["format_version"].split(".")[1]) >= 3:
        return hashlib.sha256(rfc8785.dumps(identity)).hexdigest()
    older = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(older.encode()).hexdigest()


def read_output_head(root: Path, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    content = (root / "head.parquet").read_bytes()
    assert len(content) == manifest["output_head"]["num_bytes"]
    assert hashlib.sha256(content).hexdigest() == manifest["output_head"]["sha256"]
    targets = manifest["identity"]["targets"]
    rows = pq.read_table(root / "head.parquet", page_checksum_verification=True).to_pylist()
    transform = targets["output_head"].get("transform")
    num_ids, width = targets["vocab_size"], targets["output_head"]["width"]
    assert len(rows) == num_ids + (width + 2 if transform else 0)
    weights = b"".join(row["weight"] for row in rows)
    digest = hashlib.sha256(weights)
    found = {"output_head_weight": numbers(weights, targets["output_head"]["dtype"])}
    found["output_head_weight"].shape = (len(rows), width)
    if "bias" in targets["output_head"]:
        found["output_head_bias"] = np.array([row["bias"] for row in rows], "<f4")
        digest.update(found["output_head_bias"].tobytes())
    assert digest.hexdigest() == targets["output_head"]["sha256"]
    return found


def read_layers(root: Path, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    content = (root / "layers.safetensors").read_bytes()
    assert len(content) == manifest["layers"]["num_bytes"]
    assert hashlib.sha256(content).hexdigest() == manifest["layers"]["sha256"]
    targets = manifest["identity"]["targets"]["layers"]
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    config = json.loads(header.pop("__metadata__")["config"])
    digest = hashlib.sha256(rfc8785.dumps(config))
    found = {}
    for name in sorted(header):
        start, stop = header[name]["data_offsets"]
        own = content[8 + length + start : 8 + length + stop]
        shape = header[name]["shape"]
        digest.update(f"\n{name} {','.join(str(one) for one in shape)}\n".encode() + own)
        found[f"layer_weight_{name}"] = numbers(own, targets["dtype"]).reshape(shape)
    assert digest.hexdigest() == targets["sha256"]
    return found


def float8(byte: int) -> float:
    sign, exponent, mantissa = -1 if byte & 128 else 1, byte >> 3 & 15, byte & 7
    assert byte & 127 != 127
    if exponent == 0:
        return float(sign * mantissa * 2**-9)
    return float(sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def read_vocabulary(root: Path, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    content = (root / "vocabulary.parquet").read_bytes()
    assert len(content) == manifest["vocabulary"]["num_bytes"]
    assert hashlib.sha256(content).hexdigest() == manifest["vocabulary"]["sha256"]
    rows = pq.read_table(root / "vocabulary.parquet", page_checksum_verification=True).to_pylist()
    texts = [row["utf8"] for row in rows]
    return {
        "vocabulary_ids": np.array([row["token_id"] for row in rows]),
        "vocabulary_tokens": np.array([row["token"] for row in rows]),
        "vocabulary_utf8": np.array(["null" if text is None else text.hex() for text in texts]),
    }


def numbers(content: bytes, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        return np.array([int(half) << 16 for half in np.frombuffer(content, "<u2")], "<u4").view(
            "<f4"
        )
    if dtype == "float8":
        return np.array([float8(byte) for byte in content], np.float32)
    stored = {"float16": "<f2", "int8": "i1", "float32": "<f4"}[dtype]
    return np.frombuffer(content, stored).astype(np.float32)


def from_version_1_0(targets: dict[str, Any]) -> dict[str, Any]:
    head = {"max_entries": targets["top_k"], "values": targets["values"], "step": targets["step"]}
    return {
        "vocab_size": targets["vocab_size"],
        "temperatures": targets["temperatures"],
        "predicts": "next_token",
        "positions": "all",
        "head": head,
        "label_logits": True,
    }


def read_window(row: Row, targets: dict[str, Any]) -> Row:
    assert row["window_id"] == window_id(row)
    num_targets = len(row["mask"])
    found: Row = {
        "window_id": [row["window_id"]],
        "source": [row["source"]],
        "document_ids": ["\n".join(row["document_ids"])],
        "offset": [row["offset"]],
        "num_tokens": [len(row["input_ids"])],
        "num_targets": [num_targets],
    }
    copied = ["input_ids", "segment_lengths", "mask", "target_positions", "label_ids"]
    copied += ["encoder_input_ids", "token_type_ids", "label_values", "label_logit", "label_rank"]
    found |= {name: row[name] for name in copied if name in row}
    for name in targets.get("metadata", []):
        found[f"metadata_{name}"] = ["\n".join(row[f"metadata_{name}"])]
    if "head" in targets:
        in_lists = targets["head"].get("form") == "lists"
        found |= read_lists(row, targets) if in_lists else read_head(row, targets)
    if targets.get("samples", {}).get("design") == "threshold":
        found |= read_threshold(row, targets)
    elif "samples" in targets:
        found |= read_samples(row, targets)
    if "label_step" in targets:
        steps = zip(tops_of(row), row["label_steps"], strict=True)
        found["label_logit"] = [
            -np.inf if own == 2**31 - 1 else top - own * targets["label_step"] for top, own in steps
        ]
    if "grid_step" in targets:
        for one in targets["temperatures"]:
            name = f"t{one:g}".replace(".", "_")
            row[f"tail_mass_{name}"] = [
                0 if own == -(2**31) else 1 / (1 + np.exp(-own * targets["grid_step"]))
                for own in row[f"tail_odds_{name}"]
            ]
    for what in ("tail_mass", "logsumexp"):
        names = [f"{what}_t{one:g}".replace(".", "_") for one in targets["temperatures"]]
        if names and names[0] in row:
            found[what] = np.stack([np.array(row[name], np.float32) for name in names], axis=1)
    if "num_classes" in targets:
        classes = np.array(row["class_logits"], np.float32)
        found["class_logits"] = classes.reshape(num_targets, targets["num_classes"])
    for feature in targets.get("features", []):
        name = f"feature_{feature['name']}"
        vectors = np.array([numbers(one, feature["dtype"]) for one in row[name]])
        if feature["dtype"] in ("int8", "float8"):
            vectors *= np.array(row[f"{name}_scale"], np.float32)[:, None]
        found[name] = vectors
    return found


def read_head(row: Row, targets: dict[str, Any]) -> Row:
    head = targets["head"]
    escapes = iter(row.get("escapes", []))
    planes = sorted(name for name in row if name.startswith("id_plane_"))
    ids, logits = [], []
    for position, count in enumerate(row["num_entries"]):
        entries = [
            sum(row[name][position][rank] << 8 * plane for plane, name in enumerate(planes))
            for rank in range(head["max_entries"])
        ]
        if head["values"] == "float32":
            values = list(np.frombuffer(row["logits"][position], "<f4"))
        else:
            values = list(logits_in_steps(row, position, head, escapes))
        ids.append([entry if rank < count else 0 for rank, entry in enumerate(entries)])
        logits.append([value if rank < count else -np.inf for rank, value in enumerate(values)])
    return {
        "num_entries": row["num_entries"],
        "ids": np.array(ids),
        "logits": np.array(logits, np.float32),
    }


def tops_of(row: Row) -> list[float]:
    """Return the top logits; 0 where logits are relative to them."""
    top: list[float] = row.get("top_logit", [0.0] * len(row["mask"]))
    return top


def read_lists(row: Row, targets: dict[str, Any]) -> Row:
    most, step = targets["head"]["max_entries"], targets["head"].get("step")
    own_ids, own_logits = iter(row["entry_ids"]), iter(row.get("entry_logits", []))
    steps = iter(row.get("entry_steps", []))
    ids, logits = np.zeros((len(row["mask"]), most)), np.full((len(row["mask"]), most), -np.inf)
    for position, (count, top) in enumerate(zip(row["num_entries"], tops_of(row), strict=True)):
        distance = 0
        for rank in range(count):
            ids[position, rank] = next(own_ids)
            if step is None:
                logits[position, rank] = next(own_logits)
            else:
                distance += next(steps) if rank else 0
                logits[position, rank] = top - distance * step
    return {
        "num_entries": row["num_entries"],
        "ids": ids.astype(int),
        "logits": logits.astype(np.float32),
    }


def read_threshold(row: Row, targets: dict[str, Any]) -> Row:
    schema, gaps, ids, tops = targets["samples"], iter(row["drawn_ids"]), [], []
    for count, top in zip(row["num_drawn"], tops_of(row), strict=True):
        last = -1
        for _ in range(count):
            last += next(gaps) + 1
            ids.append(last)
            tops.append(top)
    found: Row = {
        "num_samples": row["num_drawn"],
        "sample_ids": ids,
        "sample_counts": [1] * len(ids),
    }
    if schema["values"] == "float32":
        found["sample_logits"] = row["drawn_logits"]
    elif schema["values"] == "steps":
        steps = zip(tops, row["drawn_steps"], strict=True)
        found["sample_logits"] = [top - own * schema["step"] for top, own in steps]
    return found


def logits_in_steps(
    row: Row, position: int, head: dict[str, Any], escapes: Iterator[int]
) -> Iterator[float]:
    halves = (head["max_entries"] + 1) // 2
    distance = 0
    differences = []
    for rank in range(head["max_entries"]):
        byte = row["steps"][position][rank % halves]
        differences.append(byte & 15 if rank < halves else byte >> 4)
    for difference in differences:
        distance += next(escapes) if difference == 15 else difference
        yield tops_of(row)[position] - distance * head["step"]


def read_samples(row: Row, targets: dict[str, Any]) -> Row:
    schema = targets["samples"]
    gaps, counts = iter(row["sample_gaps"]), iter(row["repeated_counts"])
    ids: list[int] = []
    drawn: list[int] = []
    num_samples: list[int] = []
    tops: list[float] = []
    for position, num_repeated in enumerate(row["num_repeated"]):
        own = [next(counts) for _ in range(num_repeated)]
        left = schema["num_draws"] - sum(own)
        if schema["origin"] == "tail":
            column = f"t{schema['temperature']:g}".replace(".", "_")
            mass = (
                row[f"tail_mass_{column}"]
                if "grid_step" not in targets
                else [own + 2**31 for own in row[f"tail_odds_{column}"]]
            )
            left = 0 if mass[position] == 0 else left
        before = len(ids)
        for run in (num_repeated, left):
            last = -1
            for _ in range(run):
                last += next(gaps) + 1
                ids.append(last)
        drawn += own + [1] * left
        num_samples.append(len(ids) - before)
        if "top_logit" in row:
            tops += [row["top_logit"][position]] * num_samples[-1]
    found: Row = {"num_samples": num_samples, "sample_ids": ids, "sample_counts": drawn}
    if schema["values"] == "steps":
        found["sample_logits"] = [
            top - steps * schema["step"]
            for top, steps in zip(tops, row["sample_steps"], strict=True)
        ]
    elif schema["values"] == "float32":
        found["sample_logits"] = row["sample_logits"]
    return found


def window_id(row: Row) -> str:
    content = b"softtargets.window.v1\0"
    for name, code in (("input_ids", "i"), ("segment_lengths", "i"), ("mask", "?")):
        content += struct.pack(f"<Q{len(row[name])}{code}", len(row[name]), *row[name])
    integers = ("target_positions", "label_ids", "encoder_input_ids", "token_type_ids")
    for name, code in (*((name, "i") for name in integers), ("label_values", "f")):
        if name in row:
            content += name.encode() + b"\0"
            content += struct.pack(f"<Q{len(row[name])}{code}", len(row[name]), *row[name])
    return hashlib.sha256(content).hexdigest()[:32]
