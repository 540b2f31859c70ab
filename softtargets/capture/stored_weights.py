"""Weights of the teacher that are stored beside the shards: its output head, and layers."""

from __future__ import annotations

from dataclasses import dataclass

from softtargets.capture.build_config import BuildConfig
from softtargets.capture.layer_options import check_layers
from softtargets.capture.memory import enough_memory, free_memory
from softtargets.capture.teacher import Teacher
from softtargets.targets import HeadWeights, LayerWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """What of a teacher's weights a store has."""

    head: HeadWeights | None = None
    layers: LayerWeights | None = None


NO_WEIGHTS = StoredWeights()


def read_weights(config: BuildConfig, teacher: Teacher) -> StoredWeights:
    """Return the weights that are to be stored, which loads the teacher if there are any.

    Raises:
        InputError: a layer is named that the teacher does not have, or cannot be run by itself.
        TeacherError: the teacher cannot be loaded, or its head cannot be stored.
    """
    check_layers(config, teacher)
    if config.hidden_states:
        # What it cannot tell is refused before it is loaded.
        teacher.check(config.keep())
    keeps_head = config.hidden_states and config.capture_task.keeps_head
    if not keeps_head and not config.rerun_layers:
        return NO_WEIGHTS
    loaded = ready_here(config, teacher)
    next_step = "Pass fewer --workers, or another --device."
    with enough_memory(loaded.name, "the weights to be stored", loaded.device, next_step):
        weights = StoredWeights(
            head=loaded.output_head() if keeps_head else None,
            layers=loaded.layer_weights(config.rerun_layers) if config.rerun_layers else None,
        )
    if loaded is not teacher:
        # Workers load their own, and need the memory that this one had.
        device = loaded.device
        del loaded
        free_memory(device)
    return weights


def ready_here(config: BuildConfig, teacher: Teacher) -> Teacher:
    """Return a teacher that is loaded in this process; another one beside workers.

    Raises:
        TeacherError: it cannot be loaded.
    """
    loaded = teacher.for_worker(0) if config.workers > 1 else teacher
    loaded.load()
    return loaded
