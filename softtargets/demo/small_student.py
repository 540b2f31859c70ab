"""The demo's student: a small Llama from scratch, and how it is trained."""

from __future__ import annotations

import json
from pathlib import Path

from softtargets.places.local_files import write_file
from softtargets.runs import TrainSettings
from softtargets.store import Store

STEPS = 60


def write_student_config(path: Path, vocab_size: int) -> None:
    """Write the configuration of a student with the teacher's vocabulary."""
    config = {
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "tie_word_embeddings": True,
    }
    write_file(path, f"{json.dumps(config, indent=1)}\n".encode())


def student_settings(
    store: Store, held_out: Store, teacher: Path, config: Path, output: Path
) -> TrainSettings:
    """Return the training of the student and of its twin, which learns from labels.

    Args:
        store: to train on.
        held_out: to evaluate on.
        teacher: directory of the store's teacher.
        config: of the student.
        output: directory of the student.
    """
    return TrainSettings(
        store=store,
        student=str(config),
        teacher=str(teacher),
        output=output,
        evaluation=held_out.root,
        steps=STEPS,
        batch_size=4,
        learning_rate=3e-3,
        schedule="cosine",
        warmup=10,
        evaluation_steps=STEPS // 2,
        save_steps=STEPS,
        keep=1,
        baseline=True,
    )
