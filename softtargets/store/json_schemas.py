"""The JSON Schemas of a store, by which its JSON is checked."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema_rs

from softtargets.errors import FormatError
from softtargets.targets.own_part import REGISTERED
from softtargets.texts import shortened


def check_schema(
    data: object, name: str, where: str, *, field: str = "", next_step: str = ""
) -> None:
    """Check `data`, which is `field` of a file if not all of it, against a JSON Schema by name.

    Raises:
        FormatError: naming the first field that does not fit.
    """
    # Tens of thousands of shards are checked in milliseconds; pure Python would take half a minute.
    # The first error is enough: a list of all takes minutes and gigabytes where there are millions.
    try:
        _validator(name, tuple(REGISTERED)).validate(data)
    except jsonschema_rs.ValidationError as error:
        parts = [*([field] if field else []), *(str(part) for part in error.instance_path)]
        raise FormatError(
            f"{where}, field {shortened('.'.join(parts)) or '(root)'}",
            expected=f"what {name}.schema.json says",
            found=shortened(error.message, 200),
            next_step=next_step,
        ) from None


@cache
def _validator(name: str, own_parts: tuple[str, ...]) -> jsonschema_rs.Draft202012Validator:
    text = files("softtargets.schemas").joinpath(f"{name}.schema.json").read_text()
    schema = json.loads(text)
    if name == "identity":
        targets = schema["$defs"]["targets"]
        targets["properties"] |= {key: {"type": "object"} for key in own_parts}
        targets["anyOf"] += [{"required": [key]} for key in own_parts]
    _close(schema)
    return jsonschema_rs.Draft202012Validator(schema)


def _close(schema: Any) -> None:
    """Let no object have fields that a schema does not know, where all must be understood."""
    if isinstance(schema, dict):
        if schema.get("mustUnderstand") is True:
            schema["additionalProperties"] = False
        for child in schema.values():
            _close(child)
    elif isinstance(schema, list):
        for child in schema:
            _close(child)
