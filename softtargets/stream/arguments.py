"""The arguments of a SoftTargetDataset, checked."""

from __future__ import annotations

from typing import Any, Literal

from softtargets.errors import IdentityError, InputError
from softtargets.store.store import Store
from softtargets.tokenizer import describe_tokenizer, tokens_by_id

Tail = Literal["pad", "drop", "error"]


def check_arguments(given: Any) -> None:
    """Check that every argument of a dataset, which are attributes of it, is in its range.

    Raises:
        InputError: one is not.
    """
    rank, world_size, size = given.rank, given.world_size, given.batch_size
    row_tokens, piece_tokens = given.row_tokens, given.piece_tokens
    groups = given.shuffle_groups
    for name, promise, holds in (
        ("rank", "0 <= rank < world_size", 0 <= rank < world_size),
        ("batch_size", "1 or more", size is None or size >= 1),
        ("row_tokens", "2 or more, with batch_size",
         row_tokens is None or (row_tokens >= 2 and size is not None)),
        ("piece_tokens", "from 2 to row_tokens",
         piece_tokens is None or (row_tokens is not None and 2 <= piece_tokens <= row_tokens)),
        ("tail", "pad, drop or error", given.tail in ("pad", "drop", "error")),
        ("shuffle_groups", "1 or more, or None", groups is None or groups >= 1),
        ("num_threads", "0 or more", given.num_threads >= 0),
        ("stall_timeout", "a positive number", given.stall_timeout > 0),
        ("on_error", "raise or skip", given.on_error in ("raise", "skip")),
    ):  # fmt: skip
        if not holds:
            found = f"rank {rank} of {world_size}" if name == "rank" else getattr(given, name)
            raise InputError(
                f"SoftTargetDataset, {name}",
                expected=promise,
                found=f"{found}",
                next_step="Correct the argument.",
            )


def named_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return rank and number of ranks, by default the only one.

    Raises:
        InputError: one of them is left out, so that every rank would read the same.
    """
    if rank is None and (world_size is None or world_size == 1):
        return 0, 1
    if rank is None or world_size is None:
        raise InputError(
            "SoftTargetDataset, rank and world_size",
            expected="both or neither",
            found=f"rank {rank}, world_size {world_size}",
            next_step="Pass both: torch.distributed.get_rank() and get_world_size(), for example.",
        )
    return rank, world_size


def end_of_epoch(start: int, num_windows: int, size: int, tail: Tail) -> int:
    """Return where delivery from a place on ends; places from the number of windows on are padding.

    Args:
        start: the place.
        num_windows: of the epoch.
        size: the global batch size.
        tail: what to do with a last batch that is not full.

    Raises:
        InputError: it is to be an error; the message lists sizes with which there is none.
    """
    left = max(0, num_windows - start)
    if tail == "error" and left % size:
        raise InputError(
            "SoftTargetDataset, tail='error'",
            expected=f"a global batch size that divides the {left:,} windows",
            found=f"{size}",
            next_step=f"Sizes near it that do: {_divisors_text(left, size)}. Or choose "
            "tail='pad' or 'drop'.",
        )
    num_steps = left // size if tail == "drop" else -(-left // size)
    return start + num_steps * size


def check_tokenizer(store: Store, tokenizer: Any) -> None:
    """Check that to a tokenizer a store's token ids mean what they meant to the teacher.

    Either the two are equal by their hash, or every id of the teacher's has the same token. Ids of
    the student's that the teacher has not are its own: no target is about them. How texts are cut
    is not compared then, for a student reads the stored ids.

    Raises:
        IdentityError: they mean something else; or the store has no vocabulary to tell by, and the
            tokenizer is another. The message names the first token that differs.
    """
    own, found = store.manifest.identity["tokenizer"], describe_tokenizer(tokenizer)
    # Of an imported store the tokenizer may be unknown.
    if found["sha256"] == own.get("sha256"):
        return
    where, teacher = "SoftTargetDataset, tokenizer", store.manifest.teacher
    next_step = (
        "A student must read the teacher's token ids: give it that tokenizer. Its embeddings may "
        "have more rows than there are tokens, and tokens of its own may follow the teacher's."
    )
    if store.vocabulary is None:
        raise IdentityError(
            where,
            expected=f"that of {teacher}: {own['vocab_size']:,} tokens, SHA-256 "
            f"{own.get('sha256', 'unknown')}",
            found=f"{found['vocab_size']:,} tokens, {found['sha256']}",
            next_step=f"{next_step} The store has no vocabulary that tells which one differs.",
        )
    tokens = tokens_by_id(tokenizer)
    for token_id, token in zip(
        store.vocabulary.ids_N.tolist(), store.vocabulary.tokens, strict=True
    ):
        if tokens.get(token_id) != token:
            there = repr(tokens[token_id]) if token_id in tokens else "no token"
            raise IdentityError(
                f"{where}, token {token_id}",
                expected=f"{token!r}, as that of {teacher} has",
                found=there,
                next_step=next_step,
            )


def own_batch_size(batch_size: int | None, global_batch_size: int, world_size: int) -> int:
    """Return the batch size of one rank.

    Raises:
        InputError: the ranks cannot share the global one, or there are both.
    """
    if batch_size is not None:
        raise InputError(
            "SoftTargetDataset",
            expected="batch_size or global_batch_size",
            found="both",
            next_step="Omit one.",
        )
    if global_batch_size < 1 or world_size < 1 or global_batch_size % world_size:
        raise InputError(
            "SoftTargetDataset, global_batch_size",
            expected=f"a multiple of the {world_size} ranks",
            found=f"{global_batch_size}",
            next_step=f"{global_batch_size} is divided by world sizes "
            f"{_divisors_text(global_batch_size, world_size)}.",
        )
    return global_batch_size // world_size


def _divisors_text(number: int, near: int) -> str:
    """Return the eight divisors that are nearest to a size."""
    divisors = [one for one in range(1, int(number**0.5) + 1) if number > 0 and number % one == 0]
    found = sorted({*divisors, *(number // one for one in divisors)}, key=lambda d: abs(d - near))
    return ", ".join(str(one) for one in sorted(found[:8]))
