"""The identity of a build: what its options, its task and its teacher make."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

from softtargets.capture.build_config import BuildConfig, CaptureTask
from softtargets.capture.keep.stored_form import schema_parts
from softtargets.capture.layer_options import with_layers
from softtargets.capture.stored_weights import NO_WEIGHTS, StoredWeights
from softtargets.capture.teacher import Teacher
from softtargets.errors import InputError, TeacherError
from softtargets.store.output_head import describe_output_head
from softtargets.store.versions import version_of
from softtargets.targets import LAST_HIDDEN, FeatureSchema, HeadWeights, TargetSchema


def describe_build(
    config: BuildConfig, teacher: Teacher, weights: StoredWeights = NO_WEIGHTS
) -> dict[str, Any]:
    """Return the identity of what would be built: everything that decides its content.

    Args:
        config: of the build.
        teacher: that it runs; it need not be loaded.
        weights: what `read_weights` returned.

    Raises:
        InputError: an option is out of range.
        CorpusError, TeacherError: a file or the model cannot be read.
    """
    _check_counts(config)
    task = config.capture_task
    check_unused(config, task)
    corpus = config.corpus.describe()
    if config.corpus.messages_field is not None:
        corpus = teacher.tokenizer.describe_chat() | corpus
    targets = task.schema(config, teacher, weights.head)
    targets = with_layers(targets, config, teacher, weights.layers)
    return {
        "format_version": version_of(targets),
        "teacher": teacher.describe(),
        "tokenizer": teacher.tokenizer.describe(),
        "corpus": corpus,
        "windowing": config.windowing.describe(),
        **task.describe(config),
        "targets": targets.to_dict(),
        "unit_tokens": config.unit_tokens,
        "compression": config.compression,
    }


def _check_counts(config: BuildConfig) -> None:
    for option, value in (
        ("--unit-tokens", config.unit_tokens),
        ("--batch-tokens", config.batch_tokens),
        ("--workers", config.workers),
    ):
        if value < 1:
            raise InputError(
                option,
                expected="a positive number",
                found=str(value),
                next_step="Omit it for the default.",
            )


def check_unused(config: BuildConfig, task: CaptureTask) -> None:
    """Check that nothing is asked for that means nothing to a task.

    Raises:
        InputError: something is.
    """
    for owner in (config, config.windowing, config.corpus):
        for one in fields(owner):
            if one.name in task.unused_options and getattr(owner, one.name) != _default(one):
                option = f"--{one.name.replace('_', '-')}"
                raise unused_option(option, type(task).__name__)


def unused_option(option: str, task: str) -> InputError:
    """Return the error of an option that means nothing to a task."""
    return InputError(
        option,
        expected=f"an option that {task} has a use for",
        found="one that would change nothing",
        next_step="Omit it.",
    )


def _default(one: Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def vocabulary_schema(
    config: BuildConfig, teacher: Teacher, head: HeadWeights | None, **own: Any
) -> TargetSchema:
    """Return what targets are to be that are a selection of the teacher's vocabulary.

    Args:
        config: of the build.
        teacher: that it runs.
        head: its output head, if it is to be stored.
        own: what the task says of them beside that.

    Raises:
        InputError: an option is out of range, or the teacher cannot tell what is to be kept.
    """
    keep = config.keep()
    teacher.check(keep)
    return TargetSchema(
        vocab_size=teacher.vocab_size,
        tokenizer_vocab_size=teacher.tokenizer.vocab_size,
        temperatures=keep.temperatures,
        **schema_parts(
            config.selection,
            config.values,
            keep.temperatures,
            teacher.vocab_size,
            label_logits=config.label_logits,
        ),
        label_logits=config.label_logits,
        **({} if head is None else hidden_state_parts(head, teacher)),
        metadata=config.corpus.metadata_fields,
        others=teacher.own_parts,
        **own,
    )


def hidden_state_parts(head: HeadWeights, teacher: Teacher) -> dict[str, Any]:
    """Return the parts of a `TargetSchema` that keep hidden states and output head.

    Raises:
        TeacherError: the head is not as wide as the teacher's vocabulary.
    """
    if len(head.weight_VD) != teacher.vocab_size:
        raise TeacherError(
            teacher.name,
            expected=f"an output head of {teacher.vocab_size:,} rows, as its configuration says",
            found=f"{len(head.weight_VD):,}",
            next_step="Correct vocab_size in the model's config.json.",
        )
    described = describe_output_head(head)
    feature = FeatureSchema(
        name=LAST_HIDDEN, width=described.width, rows="targets", dtype=described.dtype
    )
    return {"features": (feature,), "output_head": described}
