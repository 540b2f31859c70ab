"""Where a stream is: what a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from softtargets.errors import IdentityError, InputError

_MOST_PROCESSES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A place in an epoch, and what the order of that epoch is a function of."""

    fingerprint: str
    shuffle: bool
    seed: int
    shuffle_groups: int | None
    epoch: int
    place: int
    """How many windows all ranks together have delivered, padding included."""
    worker: int
    """Which DataLoader worker this is; each has a place of its own."""
    num_workers: int

    def to_dict(self) -> dict[str, Any]:
        """Return the cursor as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Cursor:
        """Parse what `to_dict` returned.

        Raises:
            InputError: it is something else.
        """
        names = {field.name for field in fields(cls)}
        if set(state) != names:
            raise InputError(
                "SoftTargetDataset.load_state_dict",
                expected=f"a state with {', '.join(sorted(names))}",
                found=", ".join(sorted(map(str, state))) or "nothing",
                next_step="Pass what state_dict returned, in this release of softtargets.",
            )
        return cls(**state)

    def check(self, own: Cursor, num_windows: int) -> None:
        """Check that this place means the same in another dataset, whose cursor would be `own`.

        Raises:
            IdentityError: it does not; the message names the field.
            InputError: there is no such place.
        """
        for field in fields(self):
            found, expected = getattr(self, field.name), getattr(own, field.name)
            if found != expected:
                raise IdentityError(
                    f"SoftTargetDataset.load_state_dict, {field.name}",
                    expected=f"{expected!r}, as this dataset has",
                    found=f"{found!r} in the state",
                    next_step="Make the dataset as it was made when the state was taken.",
                )
        if self.place < 0 or self.epoch < 0:
            raise InputError(
                "SoftTargetDataset.load_state_dict",
                expected=f"an epoch and a place in its {num_windows:,} windows",
                found=f"epoch {self.epoch}, place {self.place}",
                next_step="Pass what state_dict returned.",
            )


class Resume:
    """Where to resume, once: in this process or in each of its DataLoader workers.

    Workers may be started before or after it is set, and anew for every epoch. What is set in a
    worker is for itself alone.
    """

    def __init__(self) -> None:
        self._own: tuple[int, int] | None = None
        self._number_epoch_place = torch.zeros(3, dtype=torch.int64).share_memory_()
        # By how many workers it is used, -1 for none yet; all of them write the same.
        self._num_workers = torch.full((), -1, dtype=torch.int64).share_memory_()
        # Which resume each worker has used; every process writes its own element.
        self._used = torch.zeros(_MOST_PROCESSES, dtype=torch.int64).share_memory_()

    def set(self, epoch: int, place: int, *, is_worker: bool) -> None:
        """Start the next iteration, if it is of this epoch, at a place."""
        if is_worker:
            self._own = epoch, place
            return
        number = int(self._number_epoch_place[0]) + 1
        self._num_workers.fill_(-1)
        self._number_epoch_place.copy_(torch.tensor([number, epoch, place]))

    def check_epoch(self, epoch: int) -> None:
        """Check that an epoch is not before the resumed one while that is still to be iterated.

        Raises:
            InputError: it is, so that windows would be delivered again.
        """
        number, resumed, place = self._number_epoch_place.tolist()
        if number and epoch < resumed and not bool((self._used == number).any()):
            raise InputError(
                "SoftTargetDataset.set_epoch",
                expected=f"an epoch from {resumed} on, of which place {place} is to be resumed",
                found=f"{epoch}",
                next_step="Begin the loop at dataset.epoch, which load_state_dict has set. What "
                "accelerate prepares counts epochs itself: see docs/trainers.md.",
            )

    def take(self, epoch: int, worker: int, *, num_workers: int) -> int:
        """Return where a worker's iteration of an epoch starts; no workers are this process."""
        number, resumed_epoch, place = self._number_epoch_place.tolist()
        is_used = int(self._used[worker]) == number
        self._used[worker] = number
        if int(self._num_workers) == -1:
            self._num_workers.fill_(num_workers)
        is_used |= int(self._num_workers) != num_workers
        if self._own is not None:
            (resumed_epoch, place), is_used, self._own = self._own, False, None
        return 0 if is_used or epoch != resumed_epoch else place
