"""Which windows of a store are chosen: those of some sources, or of a share of the documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from softtargets.errors import InputError

_HASH_DOMAIN = "softtargets.split.v1"
_MOST_NAMED = 10


def check_sources(wanted: Sequence[str], there: Sequence[str], where: str) -> None:
    """Check that input files are named, and that windows are from each of them.

    Raises:
        InputError: none is named, or one of which there is no window.
    """
    missing = [source for source in wanted if source not in there]
    if missing or not wanted:
        named = ", ".join(repr(source) for source in there[:_MOST_NAMED])
        more = f" and {len(there) - _MOST_NAMED} more" if len(there) > _MOST_NAMED else ""
        raise InputError(
            f"{where}, sources",
            expected=f"some of {named}{more}",
            found=", ".join(repr(source) for source in missing) or "none",
            next_step="Name input files that windows are from; store.sources has all.",
        )


def choose_held_out(
    documents: Iterable[Sequence[tuple[str, str]]], held_out: float, seed: int, where: str
) -> npt.NDArray[np.bool_]:
    """Return of every window whether its first document is held out.

    Args:
        documents: the source and the name of each window's first document, group by group.
        held_out: share of the documents.
        seed: of the choice.
        where: the store, for messages.

    Raises:
        InputError: the share is not between 0 and 1, or a part would be empty.
    """
    if not 0 < held_out < 1:
        raise InputError(
            "the share of documents to hold out",
            expected="a number between 0 and 1",
            found=f"{held_out:g}",
            next_step="0.1 holds a tenth of the documents out.",
        )
    found: list[bool] = []
    for group in documents:
        held = {document: is_held_out(*document, held_out, seed) for document in set(group)}
        found += [held[document] for document in group]
    if not any(found) or all(found):
        raise InputError(
            f"{where}, split",
            expected="documents for both parts",
            found=f"all of {len(found):,} windows in one of them, with share {held_out:g} and "
            f"seed {seed}",
            next_step="Pass another seed or share; the windows of a document are never parted.",
        )
    return np.array(found, np.bool_)


def is_held_out(source: str, document_id: str, held_out: float, seed: int) -> bool:
    """Return whether a document is held out: a function of its name, the share and the seed.

    The first 64 bits of a SHA-256, as a fraction of 2^64, are below the share.
    """
    text = "\0".join((_HASH_DOMAIN, str(seed), source, document_id))
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8]) < held_out * 2**64
