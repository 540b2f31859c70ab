"""What a run resolved, in words for people."""

from __future__ import annotations

from softtargets.report.number_texts import bytes_text
from softtargets.runs.prepared import PreparedRun
from softtargets.texts import plural
from softtargets.train.recipe import LayerRecipe


def described(run: PreparedRun) -> dict[str, str]:
    """Return what was resolved: for the terminal, and for the card."""
    return {
        "store": _store_words(run),
        "held out": _held_out_words(run),
        "teacher": _teacher_words(run),
        "student": _student_words(run),
        "recipe": _recipe_words(run),
        "steps": _step_words(run),
        "batch": _batch_words(run),
        "learning rate": _rate_words(run),
        "precision": f"{run.decides['dtype']} on {run.process.device.type}, weights in float32",
    }


def duration_text(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _store_words(run: PreparedRun) -> str:
    windows = plural(len(run.store), "window")
    return f"{windows} to train on, fingerprint {run.store.manifest.fingerprint}"


def _held_out_words(run: PreparedRun) -> str:
    if run.evaluation is None:
        return "nothing"
    held, named = run.evaluation.store, run.settings.evaluation
    if named is not None:
        return f"{plural(len(held), 'window')}, fingerprint {held.fingerprint}"
    share = run.settings.evaluation_share
    return f"{plural(len(held), 'window')}, {100 * share:g}% of the documents"


def _teacher_words(run: PreparedRun) -> str:
    name = str(run.store.manifest.teacher)
    if run.maker.teacher is None:
        return f"{name} (pass --teacher to compare sizes)"
    number = run.maker.teacher.num_parameters(run.maker.auto)
    return f"{name}: {number:,} parameters, {bytes_text(run.maker.teacher.num_bytes)}"


def _student_words(run: PreparedRun) -> str:
    student = run.student
    words = (
        f"{student.origin}: {student.num_parameters:,} parameters, {bytes_text(student.num_bytes)}"
    )
    if run.maker.teacher is not None:
        share = student.num_parameters / run.maker.teacher.num_parameters(run.maker.auto)
        words += f", {100 * share:.1f}% of the teacher's parameters"
    if run.maker.lora is not None:
        words += f"; by LoRA {student.num_trained:,} are trained"
    return words


def _recipe_words(run: PreparedRun) -> str:
    recipe = run.recipe
    if recipe.layers is not None:
        return f"{run.recipe_name}: {_layer_words(recipe.layers)}"
    parts = [f"temperature {recipe.temperature:g}", recipe.divergence]
    parts.append(f"weight {recipe.ce_weight:g} of the labels")
    if run.store.targets.num_classes == 0:
        parts.append("tail as the store has it" if recipe.tail is None else f"tail {recipe.tail}")
    if recipe.cosine_weight:
        weights = f"{recipe.logits_weight:g} to {recipe.cosine_weight:g}"
        parts.append(f"logits to cosine of hidden states as {weights}")
    return f"{run.recipe_name}: {', '.join(parts)}"


def _layer_words(layers: LayerRecipe) -> str:
    mapped = layers.layer_map
    named = "" if mapped is None else f" of layers {', '.join(map(str, mapped))}"
    if layers.kind == "minilm":
        heads = layers.relation_heads or "the teacher's"
        return f"relations{named or ' of the last stored layer'}, {heads} relation heads"
    weights = layers.attention_weight, layers.hidden_weight, layers.embeddings_weight
    words = "attention, hidden states and embeddings weighted {:g}, {:g} and {:g}".format(*weights)
    share = f", then logits in the last {layers.logits_share:.0%}" if layers.logits_share else ""
    return f"{words}{named}{share}"


def _step_words(run: PreparedRun) -> str:
    schedule = run.schedule
    return (
        f"{schedule.steps:,}, {schedule.epochs:g} epochs; evaluated every "
        f"{schedule.evaluation_steps:,}, saved every {schedule.save_steps:,}"
    )


def _batch_words(run: PreparedRun) -> str:
    schedule = run.schedule
    words = f"{plural(schedule.global_batch_size, 'window')} per step"
    return (
        f"{words}: {schedule.batch_size} at a time, {schedule.accumulated} times, on "
        f"{plural(schedule.world_size, 'process', 'processes')}"
    )


def _rate_words(run: PreparedRun) -> str:
    warmup = plural(run.schedule.warmup_steps, "step")
    return f"{run.learning_rate:g}, {run.settings.schedule}, after {warmup} of warm-up"
