"""YAML of others: what a configuration or the top of a card needs, and nothing that multiplies."""

from __future__ import annotations

from typing import Any

import yaml

from softtargets.limits import Limit

YAML_LIMIT = Limit(variable="SOFTTARGETS_MAX_YAML_BYTES", default=100_000, unit="bytes of YAML")

_DEEPEST = 32
_LONGEST_NUMBER = 100
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_yaml(text: str, where: str) -> Any:
    """Return what a text in YAML holds.

    Aliases, which let a few bytes stand for gigabytes, and tags are refused.

    Raises:
        LimitError: it is longer than it is trusted to be.
        ValueError: it is no YAML, or uses more of it than a configuration needs.
    """
    YAML_LIMIT.check(where, len(text.encode("utf-8", "surrogatepass")))
    try:
        _check_events(text)
        return yaml.load(text, _Loader)  # noqa: S506 - safe, in C where there is one
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _check_events(text: str) -> None:
    """Check the parts of a text one after another, before any is put into another."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"an alias, *{event.anchor}: write out what it stands for")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"parts within parts, more than {_DEEPEST} deep")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise ValueError(f"a tag, {tag}: write plain values")
        if isinstance(event, yaml.ScalarEvent) and _is_long_number(event):
            raise ValueError(f"a number of more than {_LONGEST_NUMBER} digits")


def _is_long_number(event: yaml.ScalarEvent) -> bool:
    return (
        event.implicit[0]
        and len(event.value) > _LONGEST_NUMBER
        and all(one in "+-_:.xXabcdefABCDEF" or one.isdigit() for one in event.value)
    )
