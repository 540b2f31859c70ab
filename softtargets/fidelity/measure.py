"""All measurements of one teacher and text, as tables, JSON and plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from softtargets.capture.keep.selection import Draws, Hybrid, Sampled, Threshold, TopK
from softtargets.capture.teacher import Teacher
from softtargets.errors import InputError, TeacherError
from softtargets.fidelity import SECTIONS
from softtargets.fidelity.arms import (
    HIDDEN,
    ONLINE,
    Arm,
    arms,
    compare_students,
    frozen_noise_arms,
    judge,
)
from softtargets.fidelity.gradients import compare_gradients, find_bias
from softtargets.fidelity.own import OwnSelection
from softtargets.fidelity.reconstruction import Candidate, candidate, candidates, reconstruct
from softtargets.fidelity.sample import TeacherSample
from softtargets.fidelity.students import Recipe, gradient_difference
from softtargets.targets import Float64
from softtargets.train.choices import check_choice
from softtargets.train.sparse import Tail
from softtargets.window import TokenWindow

BUDGETS = (20.0, 36.0, 80.0)
EQUAL_ENTRIES = 12
_HELD_OUT_SHARE = 8
_MOST_ROUNDING = 0.01
"""Of a gradient's length: batches of other shapes round in other ways."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How much is measured."""

    reconstruction_positions: int
    gradient_positions: int
    steps: int
    num_seeds: int
    held_out_positions: int

    @property
    def recipe(self) -> Recipe:
        """Return how students are trained."""
        return Recipe(steps=self.steps)


QUICK = Setting(
    reconstruction_positions=2048,
    gradient_positions=16_384,
    steps=96,
    num_seeds=3,
    held_out_positions=2048,
)
LARGE = Setting(
    reconstruction_positions=16_384,
    gradient_positions=16_384,
    steps=2000,
    num_seeds=5,
    held_out_positions=16_384,
)


def measure(
    teacher: Teacher,
    windows: Sequence[TokenWindow],
    setting: Setting,
    sections: Sequence[str] = SECTIONS,
    on_progress: Callable[[str], None] = lambda _: None,
    *,
    own: OwnSelection | None = None,
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the name of each section when it is measured, and its rows as JSON objects.

    With `own`, a store's selection, reconstruction and gradients are of that alone.

    Raises:
        InputError: there is too little text, or a section has another name.
        TeacherError: the model cannot be run, or its stored hidden states do not give what it
            gives online.
    """
    for section in sections:
        check_choice("section", section, SECTIONS)
    teacher.load()
    found: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "reconstruction": lambda: _reconstruction(teacher, windows, setting, own),
        "gradients": lambda: _gradients(teacher, windows, setting, own),
        "bias": lambda: _bias(teacher, windows),
    }
    for section, rows in found.items():
        if section in sections:
            on_progress(section)
            yield section, rows()
    if "students" in sections or "frozen-noise" in sections:
        comparison = _Students.read(teacher, windows, setting, on_progress)
        if "students" in sections:
            yield from comparison.on_equal_bytes()
        if "frozen-noise" in sections:
            yield "frozen-noise", comparison.on_repeated_draws()


def _reconstruction(
    teacher: Teacher, windows: Sequence[TokenWindow], setting: Setting, own: OwnSelection | None
) -> list[dict[str, Any]]:
    sample = _read(teacher, windows, setting.reconstruction_positions)
    if own is None:
        found = reconstruct(sample, candidates(), (1.0, 2.0))
    else:
        # A bucket has no distribution over single ids.
        chosen = [one for one in own.candidates if one.tail != "bucket"]
        found = reconstruct(sample, chosen, own.temperatures, values=own.values, as_stored=True)
    return [asdict(one) for one in found]


def _gradients(
    teacher: Teacher, windows: Sequence[TokenWindow], setting: Setting, own: OwnSelection | None
) -> list[dict[str, Any]]:
    sample = _read(teacher, windows, setting.gradient_positions)
    sizes = [64 * 4**power for power in range(5) if 64 * 4**power <= len(sample)]
    if own is None:
        errors = compare_gradients(sample, _gradient_candidates(), sizes)
    else:
        errors = compare_gradients(
            sample,
            own.candidates,
            sizes,
            temperature=own.temperature,
            temperatures=own.temperatures,
            values=own.values,
        )
    return [asdict(one) for one in errors]


def _bias(teacher: Teacher, windows: Sequence[TokenWindow]) -> list[dict[str, Any]]:
    tests = find_bias(_read(teacher, windows, 128))
    return [asdict(one) | {"is_unbiased": one.is_unbiased} for one in tests]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Students:
    """What students are trained on, and judged by."""

    sample: TeacherSample
    held_out: TeacherSample
    setting: Setting
    on_progress: Callable[[str], None]

    @classmethod
    def read(
        cls,
        teacher: Teacher,
        windows: Sequence[TokenWindow],
        setting: Setting,
        on_progress: Callable[[str], None],
    ) -> _Students:
        """Run the teacher over what students need."""
        num_held_out = max(1, len(windows) // _HELD_OUT_SHARE)
        recipe = setting.recipe
        train = windows[:-num_held_out][: recipe.steps * recipe.batch_size]
        on_progress(f"the teacher's hidden states of {len(train)} windows")
        return cls(
            sample=TeacherSample.read(teacher, train),
            held_out=_read(teacher, windows[-num_held_out:], setting.held_out_positions),
            setting=setting,
            on_progress=on_progress,
        )

    def on_equal_bytes(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield that hidden states give what the teacher gives online, and what arms have learned.

        Raises:
            TeacherError: they do not.
        """
        self.on_progress("targets at equal bytes")
        compared = list(arms(self.sample, BUDGETS, EQUAL_ENTRIES))
        losses = {arm.name: arm.loss for arm in compared if callable(arm.loss)}
        recipe = self.setting.recipe
        off = gradient_difference(losses[HIDDEN], losses[ONLINE], self.sample, recipe)
        row = {"name": HIDDEN, "compared_with": ONLINE, "gradient_difference": off}
        yield "hidden-states", [row]
        if off > _MOST_ROUNDING:
            raise TeacherError(
                self.sample.teacher.name,
                expected="stored hidden states that give the student's gradient of the teacher "
                f"online, up to {_MOST_ROUNDING:g} of its length",
                found=f"{off:.3g}",
                next_step="Use --dtype float32; if it stays so, please report it.",
            )
        measured = self._compare(compared, self.sample)
        yield "students", [asdict(one) for one in judge(compared, measured)]

    def on_repeated_draws(self) -> list[dict[str, Any]]:
        """Return what draws that are the same in every epoch cost, beside fresh ones."""
        rows = []
        for num_epochs in (1, 4, 8):
            repeated = self.sample.first_windows(len(self.sample.windows) // num_epochs)
            compared = frozen_noise_arms(repeated, EQUAL_ENTRIES, num_epochs)
            measured = self._compare(compared, repeated)
            for arm in compared:
                own = measured[arm.key].mean(axis=(0, 1))
                spread = measured[arm.key].mean(axis=1).std(axis=0, ddof=1)
                rows.append(
                    {
                        "name": arm.name,
                        "num_epochs": num_epochs,
                        "kl": float(own[1]),
                        "kl_deviation": float(spread[1]),
                        "cross_entropy": float(own[0]),
                    }
                )
        return rows

    def _compare(self, compared: Sequence[Arm], sample: TeacherSample) -> dict[str, Float64]:
        return compare_students(
            compared,
            sample,
            self.held_out,
            self.setting.recipe,
            self.setting.num_seeds,
            on_student=lambda name, seed: self.on_progress(f"student {name}, seed {seed}"),
        )


def _read(teacher: Teacher, windows: Sequence[TokenWindow], most: int) -> TeacherSample:
    """Return the first windows with so many targets."""
    chosen, count = [], 0
    for window in windows:
        if count >= most:
            break
        chosen.append(window)
        count += len(window.target_positions_T)
    if count < 64:
        raise InputError(
            "fidelity",
            expected="text of at least 64 targets",
            found=f"{count}",
            next_step="Pass more text with --input.",
        )
    return TeacherSample.read(teacher, chosen)


def _gradient_candidates() -> tuple[Candidate, ...]:
    tails: tuple[Tail, ...] = ("bucket", "label", "renormalize")
    return (
        *(candidate(TopK(k=k), tail) for k in (16, 64) for tail in tails),
        *(candidate(Sampled(draws=Draws(num=num)), "sampled") for num in (17, 32, 128)),
        *(
            candidate(Sampled(draws=Draws(num=num, design="independent")), "sampled")
            for num in (17, 32)
        ),
        *(candidate(Threshold(draws=Draws(num=num)), "sampled") for num in (8, 17, 24, 48)),
        *(candidate(Hybrid(k=k, draws=Draws(num=k)), "sampled") for k in (8, 16)),
    )
