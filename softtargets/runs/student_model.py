"""The student that a specification names: a model that is ready to train, and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from softtargets.capture.teachers.model_files import (
    TeacherConfig,
    first_line,
    hash_model,
    locate,
)
from softtargets.errors import InputError, TeacherError
from softtargets.hashes import hash_file
from softtargets.runs.layer_copy import copy_layers, student_layers
from softtargets.runs.lora import LORA_RATE, Lora
from softtargets.runs.student_spec import StudentSpec
from softtargets.runs.teacher_files import TeacherFiles
from softtargets.store import Store
from softtargets.stream.arguments import check_tokenizer
from softtargets.train.student_task import StudentTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PRETRAINED_RATE, SCRATCH_RATE = 2e-5, 5e-4
"""Learning rates by default; the second is DistilBERT's, for a student that lost layers too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A student that was not trained yet."""

    model: PreTrainedModel
    """With LoRA, what peft wraps it in."""
    tokenizer: Any
    identity: dict[str, Any]
    """What decides its weights, as JSON."""
    origin: str
    """For people."""
    learning_rate: float
    """By default."""
    num_parameters: int
    """Without those of LoRA; weights that are tied count once."""
    num_bytes: int
    """Of its weights, as they are saved."""

    @property
    def num_trained(self) -> int:
        """Return how many parameters are trained."""
        return sum(one.numel() for one in self.model.parameters() if one.requires_grad)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentMaker:
    """Makes a student; again it makes the same, bit for bit.

    Args:
        spec: what was asked for.
        task: the student's side of the store's family.
        store: whose targets it learns.
        teacher: the files of its teacher, if they were named.
        tokenizer: a directory or id; None for the student's own, or the teacher's.
        lora: what is trained instead of the weights; None for these.
        seed: of weights that start at random.
    """

    spec: StudentSpec
    task: StudentTask
    store: Store
    teacher: TeacherFiles | None
    tokenizer: str | None
    lora: Lora | None
    seed: int

    @property
    def auto(self) -> Any:
        """Return the class of transformers that loads a student."""
        import transformers

        return getattr(transformers, self.task.auto_class(self.store.targets))

    def make(self) -> Student:
        """Return the student.

        Raises:
            InputError: there is no such student, or it cannot learn the store's targets.
            IdentityError: its tokenizer means something else by the teacher's token ids.
        """
        from transformers import set_seed

        if self.lora is not None and self.spec.kind == "config":
            raise InputError(
                "--lora",
                expected="a student that has learned something, to add small changes to",
                found=f"one from scratch, {self.spec.name}",
                next_step="Omit --lora to train all weights, or pass another --student.",
            )
        set_seed(self.seed)
        make = {"model": self._load, "config": self._start, "teacher": self._copy}
        model, missing, identity, rate = make[self.spec.kind]()
        tokenizer = self._find_tokenizer()
        check_tokenizer(self.store, tokenizer)
        self.task.check_student(model, missing, self.store.targets)
        weights = list(model.parameters())
        return Student(
            model=model if self.lora is None else self.lora.wrap(model, missing),
            tokenizer=tokenizer,
            identity={"spec": self.spec.kind, **identity},
            origin=self._origin(identity),
            learning_rate=rate if self.lora is None else LORA_RATE,
            num_parameters=sum(one.numel() for one in weights),
            num_bytes=sum(one.numel() * one.element_size() for one in weights),
        )

    def _load(self) -> tuple[Any, Sequence[str], dict[str, Any], float]:
        directory = self._directory(self.spec.name)
        found = _loaded(
            self.spec.name,
            self.auto,
            lambda auto: auto.from_pretrained(
                directory,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **self.task.config_fields(self.store.targets),
            ),
        )
        _check_sizes(self.spec.name, found[1]["mismatched_keys"])
        model, missing = found[0], sorted(found[1]["missing_keys"])
        return model, missing, hash_model(directory), PRETRAINED_RATE

    def _start(self) -> tuple[Any, Sequence[str], dict[str, Any], float]:
        from transformers import AutoConfig

        path = Path(self.spec.name)
        if not path.is_file():
            raise InputError(
                f"--student {self.spec.name}",
                expected="a config.json of transformers",
                found="no such file",
                next_step="Check the path.",
            )

        def start(auto: Any) -> Any:
            config = AutoConfig.from_pretrained(path)
            for name, value in self.task.config_fields(self.store.targets).items():
                setattr(config, name, value)
            return auto.from_config(config, dtype=torch.float32)

        model = _loaded(self.spec.name, self.auto, start)
        return model, (), {"config_sha256": hash_file(path), "seed": self.seed}, SCRATCH_RATE

    def _copy(self) -> tuple[Any, Sequence[str], dict[str, Any], float]:
        if self.teacher is None:
            raise InputError(
                f"--student {self.spec.name}",
                expected="the teacher's files, to copy layers of",
                found=f"the store's word that it is {self.store.manifest.teacher}",
                next_step="Pass --teacher with its directory or its id on the Hugging Face Hub.",
            )
        model = self.teacher.load(self.auto)
        num_layers = len(model.get_submodule(student_layers(model)))
        layers = self.spec.chosen_layers(num_layers)
        student = copy_layers(model, layers)
        identity = {**hash_model(self.teacher.directory), "layers": list(layers)}
        return (
            student,
            (),
            identity,
            (PRETRAINED_RATE if len(layers) == num_layers else SCRATCH_RATE),
        )

    def _origin(self, identity: dict[str, Any]) -> str:
        """Return where a student is from; of paths the name alone, for cards are published."""
        name = self.spec.name
        if self.spec.kind == "teacher":
            return f"layers {', '.join(map(str, identity['layers']))} of the teacher"
        if self.spec.kind == "config":
            return f"{Path(name).name}, from scratch"
        return Path(name).resolve().name if Path(name).is_dir() else name

    def _directory(self, name: str, option: str = "--student") -> Path:
        try:
            return locate(TeacherConfig(name=name))[0]
        except TeacherError as error:
            raise error.restated(InputError, f"{option} {name}") from error

    def _find_tokenizer(self) -> Any:
        """Return the tokenizer that was named, else the student's own, else the teacher's."""
        from transformers import AutoTokenizer

        own = {"model": self.spec.name, "config": str(Path(self.spec.name).parent)}
        names = [own[self.spec.kind]] if self.spec.kind in own else []
        names += [] if self.teacher is None else [str(self.teacher.directory)]
        for name in names if self.tokenizer is None else [self.tokenizer]:
            directory = Path(name) if Path(name).is_dir() else self._directory(name, "--tokenizer")
            if (directory / "tokenizer_config.json").is_file():
                return AutoTokenizer.from_pretrained(directory)
        raise InputError(
            "--student",
            expected="a tokenizer, which is saved with the student",
            found=f"none in {' or '.join(names) or 'what was named'}",
            next_step="Pass --tokenizer with the teacher's directory or id, or --teacher.",
        )


def _check_sizes(name: str, mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> None:
    """Check that no weight has another size than the store's targets need.

    Raises:
        InputError: one has.
    """
    for weight, found, expected in sorted(mismatched):
        raise InputError(
            f"--student {name}, {weight}",
            expected=f"size {list(expected)}, as the store's targets need it",
            found=f"{list(found)}",
            next_step="Pass a student with as many outputs, or its config.json to start from "
            "scratch.",
        )


def _loaded(name: str, auto: Any, load: Any) -> Any:
    """Return what `load` does, whose errors are about the student."""
    try:
        return load(auto)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError) as error:
        raise InputError(
            f"--student {name}",
            expected=f"a model that {auto.__name__} makes, as the store's task needs it",
            found=first_line(error),
            next_step="Pass a student of that kind. A configuration without weights is trained "
            "from scratch: name its config.json.",
        ) from error
