"""The Trainer of a run: it evaluates by the task's figures, and says how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from softtargets.runs.evaluation import Evaluation
from softtargets.runs.precision import forward_context
from softtargets.train import DistillationTrainer


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainProgress:
    """How far a training is."""

    step: int
    steps: int
    loss: float | None
    """A mean over the last steps, as it was logged last; None before that."""
    tokens_per_second: float | None
    """Since this process began."""
    seconds_left: float | None


OnProgress = Callable[[TrainProgress], None]
OnSave = Callable[[list[dict[str, Any]]], None]


class RunTrainer(DistillationTrainer):
    """A `DistillationTrainer` with an `Evaluation`.

    Args:
        arguments: of the Trainer.
        evaluation: None for none.
        on_progress: called after every step.
        on_save: called with what was logged at every checkpoint, by the process that writes.
        options: of the Trainer.
    """

    def __init__(
        self,
        *arguments: Any,
        evaluation: Evaluation | None,
        on_progress: OnProgress,
        on_save: OnSave,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.evaluation = evaluation
        self._known: tuple[int, dict[str, float]] = -1, {}
        """The step of the last figures, and these."""
        self._pace = _Pace(on_progress, on_save)
        self.remove_callback(PrinterCallback)
        self.add_callback(self._pace)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the batches of an optimizer step, whose tokens are counted."""
        batches, number = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._pace.add([batch["num_tokens"].sum() for batch in batches], self.args.world_size)
        return batches, number

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Return the figures of the student that is trained; they are logged, too."""
        figures = self.figures()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def figures(self) -> dict[str, float]:
        """Return the figures of the student as it is; none without an evaluation."""
        if self.evaluation is None:
            return {}
        step, found = self._known
        if step != self.state.global_step:
            student: Any = self.model
            precision = "bfloat16" if self.args.bf16 else "float16" if self.args.fp16 else "float32"
            context = forward_context(self.args.device, precision)
            with self._pace.paused():
                found = self.evaluation.measure(student, self.args.device, context)
            self._known = self.state.global_step, found
        return found


class _Pace(TrainerCallback):
    """Counts tokens and seconds, and tells of them."""

    def __init__(self, on_progress: OnProgress, on_save: OnSave) -> None:
        self._on_progress, self._on_save = on_progress, on_save
        self._started, self._first_step = 0.0, 0
        self._counted: list[Any] = []
        self._tokens = 0
        self._loss: float | None = None
        self._speed: float | None = None

    def add(self, counts: list[Any], world_size: int) -> None:
        """Note tokens that are about to be trained on; they are on a device, and not waited for."""
        self._counted += [count * world_size for count in counts]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the seconds of what is done within."""
        began = time.monotonic()
        yield
        self._started += time.monotonic() - began

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begin to count."""
        self._started, self._first_step = time.monotonic(), state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Remember the loss, and count the tokens: the device has been waited for."""
        if logs is None or "loss" not in logs:
            return
        self._loss = float(logs["loss"])
        self._tokens += sum(int(count) for count in self._counted)
        self._counted.clear()
        self._speed = self._tokens / max(time.monotonic() - self._started, 1e-9)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Say how far it is."""
        done = state.global_step - self._first_step
        each = (time.monotonic() - self._started) / max(done, 1)
        self._on_progress(
            TrainProgress(
                step=state.global_step,
                steps=state.max_steps,
                loss=self._loss,
                tokens_per_second=self._speed,
                seconds_left=each * (state.max_steps - state.global_step),
            )
        )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Tell what was logged."""
        if state.is_world_process_zero:
            self._on_save(state.log_history)
