"""Where a Trainer of transformers is in a store: kept in its checkpoints, and found again.

On resuming, a Trainer counts the batches of its past steps and reads as many to throw them away.
Here they are placeholders: nothing of them is read, and the dataset goes on after them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from softtargets.errors import IdentityError, InputError
from softtargets.stream.batch import Batch
from softtargets.stream.dataset import SoftTargetDataset

_KEY = "SoftTargetDataset"


class SkippableDataset(IterableDataset[Any]):
    """A dataset that may begin one epoch with placeholders, None, for batches to be thrown away."""

    def __init__(self, dataset: SoftTargetDataset) -> None:
        self.dataset = dataset
        self._skipped_epoch, self._num_skipped = -1, 0

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.dataset.set_epoch(epoch)

    def skip(self, state: Mapping[str, Any], num_batches: int, num_workers: int) -> None:
        """Let the epoch of a state begin with so many batches that are not read.

        Workers take turns, beginning with the first: what does not go up in turns is read.
        """
        self._num_skipped = num_batches - num_batches % max(1, num_workers)
        self._skipped_epoch = state["epoch"]
        size = self.dataset.world_size * (self.dataset.batch_size or 1)
        self.dataset.load_state_dict({**state, "place": self._num_skipped * size})

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        if self.dataset.epoch == self._skipped_epoch:
            yield from repeat(None, self._num_skipped // (1 if info is None else info.num_workers))
        yield from self.dataset


class PlaceInState(TrainerCallback):
    """Writes the place after the batch trained on last, and the store's fingerprint, to the state.

    The state of a Trainer is `trainer_state.json` in each of its checkpoints.
    """

    def __init__(self) -> None:
        self.dataset: SkippableDataset | None = None
        """What the Trainer reads."""
        self._after: dict[str, int] | None = None

    def record(self, batch: Batch) -> None:
        """Remember the batch that is trained on."""
        self._after = {name: batch[name] for name in ("epoch", "next_place")}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Go on where the checkpoint was taken, if there is one.

        Raises:
            IdentityError: it is of another store or order, or of no store.
            InputError: the Trainer would go on somewhere else.
        """
        if state.global_step == 0 or self.dataset is None:
            return
        if _KEY not in _kept(state):
            raise IdentityError(
                "resume_from_checkpoint",
                expected="a checkpoint of a DistillationTrainer, with its place in a store",
                found="one without",
                next_step="To begin anew from its weights, load them with from_pretrained.",
            )
        found = _kept(state)[_KEY]["attributes"]
        self.dataset.dataset.load_state_dict(found)
        epoch, num_batches = self._progress(args, state, found)
        self.dataset.skip({**found, "epoch": epoch}, num_batches, args.dataloader_num_workers)

    def _progress(
        self, args: TrainingArguments, state: TrainerState, found: Mapping[str, Any]
    ) -> tuple[int, int]:
        """Return the epoch and its batches that are done, as the Trainer counts them.

        Raises:
            InputError: a checkpoint's place is another.
        """
        assert self.dataset is not None
        dataset, accumulated = self.dataset.dataset, args.gradient_accumulation_steps
        steps_per_epoch = -(-len(dataset) // accumulated)
        epoch, steps = divmod(state.global_step, steps_per_epoch)
        size = dataset.world_size * (dataset.batch_size or 1)
        place, epoch_size = steps * accumulated * size, len(dataset) * size
        is_other = found["epoch"] * epoch_size + found["place"] != epoch * epoch_size + place
        if args.ignore_data_skip or is_other:
            raise InputError(
                "resume_from_checkpoint",
                expected=f"to go on after step {state.global_step}, epoch {epoch}, place {place}, "
                "as the Trainer counts",
                found=f"epoch {found['epoch']}, place {found['place']} in the checkpoint"
                + (", and ignore_data_skip" if args.ignore_data_skip else ""),
                next_step="Keep the global batch size: that of the dataset, times "
                "gradient_accumulation_steps. Omit ignore_data_skip: skipping costs nothing.",
            )
        return epoch, steps * accumulated

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Write the place."""
        if self.dataset is not None and self._after is not None:
            cursor = self.dataset.dataset.state_dict(self._after)
            _kept(state)[_KEY] = {"args": {}, "attributes": cursor}


def _kept(state: TrainerState) -> dict[str, Any]:
    """Return what a state keeps of callbacks, by name."""
    kept: Any = state.stateful_callbacks
    return kept  # type: ignore[no-any-return]
