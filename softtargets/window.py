"""Windows: the pieces of documents that a teacher reads, each known by a hash of its content.

Alignment is by content and never by step, batch or row: a window's id is a function of its token
ids, its segment boundaries and its mask, and of nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TypeVar

import numpy as np

from softtargets.errors import InputError
from softtargets.targets import (
    DEFAULT_CONVENTION,
    Bool,
    Convention,
    Float32,
    Int32,
    PackedTargets,
    SoftTargets,
    input_labels,
)

CELLS = {
    "input_ids": "input_ids_L",
    "mask": "mask_T",
    "segment_lengths": "segment_lengths_S",
    "target_positions": "positions_T",
    "label_ids": "label_ids_T",
    "encoder_input_ids": "encoder_ids_M",
    "token_type_ids": "token_types_L",
    "label_values": "label_values_F",
}
"""The columns of a window's arrays, and what `TokenWindow` calls them; some have only the first
three."""
_HASH_DOMAIN = b"softtargets.window.v1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWindow:
    """L tokens to be scored, with where they came from."""

    window_id: str
    """32 hexadecimal digits: `hash_window` of the arrays below."""
    input_ids_L: Int32
    segment_lengths_S: Int32
    """Lengths of the documents in the window, in order; they sum to L."""
    mask_T: Bool
    """Which of the T targets a student is trained on."""
    document_ids: tuple[str, ...]
    """One id for each segment."""
    offset: int
    """Where the first token stands in its document, in tokens."""
    source: str
    """Name of the input file."""
    positions_T: Int32 | None = None
    """Where the targets are, rising; None when every position has one."""
    label_ids_T: Int32 | None = None
    """The labels where they are no input ids, for example of masked tokens; -1 where unknown."""
    encoder_ids_M: Int32 | None = None
    """What an encoder read, when the input ids are a decoder's."""
    token_types_L: Int32 | None = None
    """Which text of a pair each token is of, where the model is told."""
    label_values_F: Float32 | None = None
    """The labels that are numbers, one for each class, target after target [T C]; NaN where
    unknown."""
    metadata: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What the corpus says about the documents, by name; one text for each segment."""

    @property
    def target_positions_T(self) -> Int32:
        """Return where the targets are, whether or not they are listed."""
        if self.positions_T is not None:
            return self.positions_T
        return np.arange(len(self.mask_T), dtype=np.int32)

    @property
    def convention(self) -> Convention:
        """Return how the targets stand to the tokens: unless they say, they are of the next one."""
        return DEFAULT_CONVENTION

    @property
    def labels_T(self) -> Int32:
        """Return the label of every target: the next input id, or what is listed instead.

        Raises:
            InputError: nothing is listed, and no token follows a target, or the targets are about
                something else.
        """
        if self.label_ids_T is not None:
            return self.label_ids_T
        positions_T, convention = self.target_positions_T, self.convention
        last = int(positions_T.max(initial=-1))
        found = None
        if not convention.labels_are_inputs:
            found = f"none, and {convention.words}"
        elif last + convention.shift >= len(self):
            found = f"none, and a target at token {last} of {len(self)}, which no token follows"
        if found is not None:
            raise InputError(
                f"window {self.window_id}, labels",
                expected="label_ids, or targets about a token that follows",
                found=found,
                next_step="Make the window with label_ids, or do not ask for labels.",
            )
        return input_labels(self.input_ids_L, positions_T)

    def __len__(self) -> int:
        return len(self.input_ids_L)


AnyWindow = TypeVar("AnyWindow", bound=TokenWindow)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(TokenWindow):
    """A window with the teacher's soft targets of its T positions."""

    packed: PackedTargets
    """The targets in the form they are stored in."""

    @classmethod
    def of(cls, tokens: TokenWindow, packed: PackedTargets) -> Window:
        """Return a token window with its targets."""
        own = {one.name: getattr(tokens, one.name) for one in fields(TokenWindow)}
        return cls(packed=packed, **own)

    @property
    def convention(self) -> Convention:
        """Return how the targets stand to the tokens."""
        return self.packed.schema.convention

    @property
    def targets(self) -> SoftTargets:
        """Return the targets in the form to compute with; unpacked anew on every call."""
        return self.packed.unpack()


def cut_windows(
    windows: Iterable[AnyWindow], num_tokens: int, num_windows: int | None = None
) -> Iterator[list[AnyWindow]]:
    """Cut windows into groups, each ending with the window that reaches one of the two numbers."""
    group: list[AnyWindow] = []
    tokens = 0
    for window in windows:
        group.append(window)
        tokens += len(window)
        if tokens >= num_tokens or len(group) == num_windows:
            yield group
            group, tokens = [], 0
    if group:
        yield group


def hash_window(
    input_ids_L: Int32,
    segment_lengths_S: Int32,
    mask_T: Bool,
    *,
    positions_T: Int32 | None = None,
    label_ids_T: Int32 | None = None,
    encoder_ids_M: Int32 | None = None,
    token_types_L: Int32 | None = None,
    label_values_F: Float32 | None = None,
) -> str:
    """Return the first 128 bits, in hexadecimal, of the SHA-256 of a window's content.

    Each array is hashed as its length (uint64) and its values (int32; the mask as one byte each,
    values of labels as float32), all little-endian, after a constant that names the scheme. Those
    of the optional ones that a window has follow in this order, each after its name.
    """
    digest = hashlib.sha256(_HASH_DOMAIN)
    for array, dtype in ((input_ids_L, "<i4"), (segment_lengths_S, "<i4"), (mask_T, "u1")):
        _update(digest, array, dtype)
    extras: tuple[tuple[bytes, Int32 | Float32 | None, str], ...] = (
        (b"target_positions\0", positions_T, "<i4"),
        (b"label_ids\0", label_ids_T, "<i4"),
        (b"encoder_input_ids\0", encoder_ids_M, "<i4"),
        (b"token_type_ids\0", token_types_L, "<i4"),
        (b"label_values\0", label_values_F, "<f4"),
    )
    for name, extra, dtype in extras:
        if extra is not None:
            digest.update(name)
            _update(digest, extra, dtype)
    return digest.hexdigest()[:32]


def content_hash(window: TokenWindow) -> str:
    """Return the id that a window's content gives it."""
    return hash_window(
        window.input_ids_L,
        window.segment_lengths_S,
        window.mask_T,
        positions_T=window.positions_T,
        label_ids_T=window.label_ids_T,
        encoder_ids_M=window.encoder_ids_M,
        token_types_L=window.token_types_L,
        label_values_F=window.label_values_F,
    )


def _update(digest: hashlib._Hash, array: Int32 | Bool | Float32, dtype: str) -> None:
    digest.update(len(array).to_bytes(8, "little"))
    digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
