"""The card of a store that people have edited: what is generated is renewed, the rest stays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from softtargets.errors import FormatError, IdentityError
from softtargets.limits import Limit
from softtargets.places.directory import Directory
from softtargets.places.place import Place
from softtargets.store import Store
from softtargets.store.card import (
    CARD_NAME,
    NOT_STATED,
    card_text,
    description,
    front_matter,
    part_of_card,
)
from softtargets.store.foreign_yaml import parse_yaml
from softtargets.store.json_object import parse_object
from softtargets.store.manifest import Manifest
from softtargets.texts import shortened

CARD_LIMIT = Limit(variable="SOFTTARGETS_MAX_CARD_BYTES", default=1 << 22, unit="bytes")
_LONGEST_NAME = 100
_FIRST_LINE = re.compile(r"\s*---[\r\n]")


def write_card(store: Store, fidelity: str | Path | None = None) -> Path:
    """Write the card of a local store, or renew what is generated in it; return its path.

    What stands between the marks is written anew, YAML fields that are missing are added, and all
    else stays as it is. A card that is right already is not touched.

    Args:
        store: in a directory of this machine.
        fidelity: JSON of `softtargets verify --rescore --json` for this store, which becomes a
            table; without it the table that is there stays.

    Raises:
        InputError: the store is behind a URL.
        FormatError: the card's YAML or marks are broken, or the JSON is something else.
        LimitError: the card is larger than it is trusted to be.
        IdentityError: the JSON is of another store.
        StoreError: the card is a link, or cannot be read or written.
    """
    path = store.root / CARD_NAME
    renew_card(Directory(store.root), store.manifest, fidelity)
    return path


def renew_card(place: Place, manifest: Manifest, fidelity: str | Path | None = None) -> str:
    """Write the card of the store in a place, or renew what is generated in it; return its text.

    Args:
        place: of the store, which may be in an object store.
        manifest: of the store.
        fidelity: as of `write_card`.

    Raises:
        InputError: the place is only read.
        FormatError, LimitError, IdentityError, StoreError: as of `write_card`.
    """
    where = place.where(CARD_NAME)
    old = _read(place, CARD_NAME)
    text = card_text(manifest) if old is None else _renewed(old, manifest, where)
    if fidelity is not None:
        text = _with_part(text, "measured", _measured(Path(fidelity), manifest), where)
    if old is None or text.encode() != place.get(CARD_NAME):
        place.put(CARD_NAME, text.encode())
    return text


def unstated_licences(card: Path) -> tuple[str, ...]:
    """Return whose licences a card leaves open: of the targets, the teacher, the corpus.

    Raises:
        FormatError: the card's YAML is broken.
        StoreError: the card is a link, or cannot be read.
    """
    return unstated_in(_read(Directory(card.parent), card.name) or "", str(card))


def unstated_in(text: str, where: str) -> tuple[str, ...]:
    """Return whose licences the text of a card leaves open.

    Raises:
        FormatError: its YAML is broken.
    """
    names = [] if _fields(text, where).get("license") else ["license, in the YAML"]
    for line in text.splitlines():
        found = re.match(r"- \*\*(.+?)\*\*", line)
        if found and NOT_STATED in line:
            name = shortened(found[1], _LONGEST_NAME)
            names.append(name[0].lower() + name[1:])
    return tuple(names)


def _renewed(text: str, manifest: Manifest, where: str) -> str:
    front = front_matter(manifest)
    if not _FIRST_LINE.match(text):
        text = f"{front}\n{text}"
    fields = _fields(text, where)
    wanted = _fields(front, where)
    missing = {name: value for name, value in wanted.items() if fields.get(name) is None}
    if missing:
        # Writing YAML anew loses its comments, so it is left alone where nothing is missing.
        text = _with_fields(text, {**fields, **missing})
    return _with_part(text, "description", description(manifest), where)


def _with_part(text: str, name: str, content: str, where: str) -> str:
    """Return a card with a part of it replaced, or put before all others if it is not there."""
    begin, end = (
        rf"^<!-- softtargets:{which} {name}\b[^\n]*-->[ \t\r]*$" for which in ("begin", "end")
    )
    part = part_of_card(name, content)
    counts = [len(re.findall(mark, text, re.MULTILINE)) for mark in (begin, end)]
    if counts == [1, 1]:
        found = re.search(f"{begin}.*?{end}\n?", text, re.MULTILINE | re.DOTALL)
        if found is not None:
            return text[: found.start()] + part + text[found.end() :]
    if counts != [0, 0]:
        raise FormatError(
            where,
            expected=f"a line 'softtargets:begin {name}' and, after it, one with 'end'",
            found=f"{counts[0]} and {counts[1]}",
            next_step="Put the missing line back, or take all of them away: the part is then "
            "written at the top.",
        )
    body = _front_end(text)
    return f"{text[:body].rstrip()}\n\n{part}\n{text[body:].lstrip()}"


def _front_end(text: str) -> int:
    """Return where the YAML ends, or the part that is to stand first."""
    mark = re.search(r"^<!-- softtargets:end description -->[ \t\r]*$", text, re.MULTILINE)
    front = re.match(r"\s*---\r?\n.*?^---[ \t]*\r?$", text, re.MULTILINE | re.DOTALL)
    return mark.end() if mark else front.end() if front else 0


def _read(place: Place, path: str) -> str | None:
    """Return the text of a card, or None if there is none; a link is refused."""
    where = place.where(path)
    CARD_LIMIT.check(where, place.size(path) or 0)
    content = place.get(path)
    try:
        # The Hub sees no YAML after a byte order mark.
        return None if content is None else content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _broken(where, "text in UTF-8", str(error)) from error


def _fields(text: str, where: str) -> dict[str, Any]:
    """Return the YAML fields of a card, which there may be none of."""
    block = REGEX_YAML_BLOCK.search(text)
    try:
        if block is None and _FIRST_LINE.match(text):
            raise ValueError("no second line of ---")
        fields = {} if block is None else parse_yaml(block[2], where)
        if not isinstance(fields, dict | None) or not all(
            isinstance(one, str) for one in fields or ()
        ):
            raise ValueError("something else than names with values")
    except ValueError as error:
        found = shortened(str(error))
        raise _broken(where, "YAML fields between two lines of ---", found) from error
    return fields or {}


def _with_fields(text: str, fields: Mapping[str, Any]) -> str:
    """Return a card with other YAML fields."""
    block = REGEX_YAML_BLOCK.search(text)
    assert block is not None
    line_break = "\r\n" if block[1].endswith("\r\n") else "\n"
    content = yaml.safe_dump(
        dict(fields), sort_keys=False, allow_unicode=True, line_break=line_break
    )
    return f"---{line_break}{content}---{line_break}{text[block.end() :]}"


def _broken(where: str, expected: str, found: str) -> FormatError:
    return FormatError(
        where,
        expected=expected,
        found=found,
        next_step="Mend the file; or delete it, and 'softtargets card' writes a new one.",
    )


def _measured(path: Path, manifest: Manifest) -> str:
    """Return the table of what `verify --rescore` measured.

    Raises:
        FormatError: the file holds something else.
        IdentityError: another store was measured.
    """
    try:
        data = parse_object(path.read_bytes(), str(path))
        fingerprint = data["fingerprint"]
        lines = list(_table(data["rescored"]))
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(
            str(path),
            expected="what 'softtargets verify --rescore N --teacher ... --json' prints",
            found=shortened(f"{error!r}"),
            next_step="Run it for this store and pass its output.",
        ) from error
    if fingerprint != manifest.fingerprint:
        raise IdentityError(
            f"{path}, field fingerprint",
            expected=manifest.fingerprint,
            found=shortened(str(fingerprint)),
            next_step="Another store was measured; measure this one.",
        )
    return "\n".join(lines)


def _table(rescored: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"## Measured\n\n{rescored['num_windows']:,} windows with {rescored['num_positions']:,} "
        "targets were scored by the teacher again. Means over targets, in nats: the largest "
        "difference between log-probabilities of kept entries, and KL.\n"
    )
    yield (
        "| temperature | stored to live | live to live | the stored form may add | KL stored | "
        "KL live | KL of the kept entries | |"
    )
    yield "|" + "---:|" * 8
    for one in rescored["temperatures"]:
        numbers = (one["stored"]["largest"], one["live"]["largest"], one["bound"])
        divergences = (one["stored"]["kl"], one["live"]["kl"], one["truncation_kl"])
        cells = [
            f"{one['temperature']:g}",
            *(f"{number:.4f}" for number in numbers),
            *("-" if number is None else f"{number:.2e}" for number in divergences),
            "holds" if one["holds"] else "does not hold",
        ]
        yield f"| {' | '.join(cells)} |"
    yield "\nLive to live is the teacher against itself in batches of other windows: its rounding."
