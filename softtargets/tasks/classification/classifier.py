"""Models of transformers that classify texts, or each of their tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from softtargets.capture.abilities import ALL_LOGITS
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Keep
from softtargets.capture.segments import Segment, check_ids
from softtargets.capture.teachers.model_files import TeacherConfig, loading
from softtargets.capture.teachers.pretrained import PretrainedTeacher
from softtargets.errors import InputError, TeacherError
from softtargets.targets import TOKEN, WINDOW, ClassProblem, Convention
from softtargets.tasks.classification.class_labels import ClassLabels
from softtargets.tasks.classification.class_tokenizer import ClassTokenizer
from softtargets.texts import shortened

_SHORT, _LONG = 3, 8
"""Tokens of the two texts that padding is checked with."""
_LEAK = 0.1
"""Most that padding may move logits, as a share of how a changed token moves them."""
_PROBLEMS: dict[str, ClassProblem | None] = {
    "single_label_classification": None,
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


class Classifier(PretrainedTeacher):
    """A model that gives logits of classes.

    It may read in both directions, so a mask tells it what is padding.

    Raises:
        TeacherError: there is no such model, it cannot be loaded, or its classes have no names of
            their own.
    """

    abilities = ALL_LOGITS
    convention: ClassVar[Convention]
    """What a target is about."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__(config)
        if config.compile:
            raise InputError(
                "--compile",
                expected="a teacher with a decoder, which it compiles",
                found=self.kind,
                next_step="Omit it.",
            )
        self.labels = ClassLabels(names=self._class_names(), problem=self._problem())
        if len(self.labels) == 1 and self.labels.problem is None:
            raise TeacherError(
                self.name,
                expected="several classes, or problem_type 'regression'",
                found="one class, which is always right",
                next_step="Correct num_labels or problem_type in the model's config.json.",
            )

    @cached_property
    def tokenizer(self) -> ClassTokenizer:
        """Return the model's own tokenizer, which knows its classes and how much it reads."""
        return ClassTokenizer(
            self._directory,
            labels=self.labels,
            convention=self.convention,
            num_positions=self._num_positions(),
            trust_remote_code=self.config.trust_remote_code,
        )

    @cached_property
    def pad_token_id(self) -> int:
        """Return what stands after texts: the model's padding token, or its tokenizer's."""
        own = self._model_config.get_text_config().pad_token_id
        found = own if own is not None else self.tokenizer.pad_token_id
        if found is not None and not 0 <= found < self.vocab_size:
            raise TeacherError(
                self.name,
                expected=f"a pad_token_id from 0 to {self.vocab_size - 1}",
                found=f"{found}",
                next_step="Correct it in the model's config.json.",
            )
        return found or 0

    def check(self, keep: Keep) -> None:
        """Check nothing: all class logits are kept."""

    @torch.inference_mode()
    def capture(self, segments: Sequence[Segment], keep: Keep) -> Selected:
        """Return the class logits of a batch of texts, one target after another, on the host."""
        check_ids(segments, self.vocab_size, self.name)
        texts = [torch.from_numpy(one.input_ids_L.astype(np.int64)) for one in segments]
        types = [one.window.token_types_L for one in segments]
        with self._watching(keep.layers) as watched:
            length = self._padded_length(max(map(len, texts)))
            logits = self._logits(texts, [one for one in types if one is not None], length)
        rows = [
            self._at_targets(own, torch.from_numpy(one.positions_T).to(self.device))
            for own, one in zip(logits, segments, strict=True)
        ]
        return watched.add_to(Selected.of_classes(torch.cat(rows)), segments).cpu()

    @abstractmethod
    def _at_targets(self, logits: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
        """Return the logits [T, C] of the targets of one text, of what the model gave for it."""

    def _problem(self) -> ClassProblem | None:
        """Return what the logits are."""
        return None

    def _class_names(self) -> tuple[str, ...]:
        """Return what the model's configuration calls its classes."""
        found = self._model_config.id2label
        names = tuple(str(found.get(number, "")) for number in range(self._model_config.num_labels))
        if not names or not all(names) or len(set(names)) < len(names):
            raise TeacherError(
                self.name,
                expected="a name for each class, all of them different",
                found=shortened(f"{found}"),
                next_step="Correct id2label in the model's config.json.",
            )
        return names

    def _num_positions(self) -> int | None:
        """Return how many tokens the model reads; some begin to count after their padding token."""
        import transformers

        most: int | None = getattr(
            self._model_config.get_text_config(), "max_position_embeddings", None
        )
        expected = f"{self.kind} that transformers knows"
        with loading(self.config.name, expected), torch.device("meta"):
            model = getattr(transformers, self.auto_class).from_config(
                self._model_config, trust_remote_code=self.config.trust_remote_code
            )
        for name, module in model.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
                padding = module.padding_idx
                return module.num_embeddings - (0 if padding is None else padding + 1)
        return most if most is not None and most > 0 else None

    def _logits(
        self,
        texts: Sequence[torch.Tensor],
        types: Sequence[np.ndarray] = (),
        length: int = 0,
    ) -> torch.Tensor:
        """Return the model's logits of texts that are padded on the right, at least to a length."""
        shape = len(texts), max(length, *map(len, texts))
        ids_BL = torch.full(shape, self.pad_token_id)
        mask_BL, types_BL = torch.zeros(shape, dtype=torch.int64), torch.zeros_like(ids_BL)
        for row, text in enumerate(texts):
            ids_BL[row, : len(text)] = text
            mask_BL[row, : len(text)] = 1
        for row, own in enumerate(types):
            types_BL[row, : len(own)] = torch.from_numpy(own)
        inputs = {"input_ids": ids_BL, "attention_mask": mask_BL}
        inputs |= {"token_type_ids": types_BL} if types else {}
        on_device = {name: one.to(self.device) for name, one in inputs.items()}
        logits: torch.Tensor = self._model(**on_device).logits
        return logits

    @torch.inference_mode()
    def _prepare(self) -> None:
        """Check that the model runs, knows its classes, and does not take padding for text."""
        ids = [one for one in range(self.vocab_size) if one != self.pad_token_id]
        text = torch.tensor((ids * _LONG)[:_LONG])
        short, changed = text[:_SHORT], text[:_SHORT].clone()
        changed[-1] = text[_SHORT]
        with self._running(
            f"a model that runs in {self.config.dtype} with {self.config.attention} attention, on "
            "texts of unlike lengths",
            next_step="Try another --dtype, or --attention eager. A model that looks for the last "
            "token needs pad_token_id in its config.json.",
        ):
            alone, other = (self._logits([one])[0].float() for one in (short, changed))
            padded = self._logits([short, text])[0].float()
        if alone.shape[-1] != len(self.labels):
            raise TeacherError(
                self.name,
                expected=f"logits of {len(self.labels)} classes, as id2label has",
                found=f"{alone.shape[-1]}",
                next_step="Correct id2label in the model's config.json.",
            )
        own = padded[: len(alone)] if padded.ndim > 1 else padded
        rounding = 4 * torch.finfo(getattr(torch, self.config.dtype)).eps * alone.abs().max()
        if (own - alone).abs().max() > _LEAK * (other - alone).abs().max() + rounding:
            raise TeacherError(
                self.name,
                expected="logits that padding after a text does not move",
                found=f"others from {type(self._model).__name__}",
                next_step="Correct pad_token_id in the model's config.json, which must be the "
                "tokenizer's.",
            )


class SequenceClassifier(Classifier):
    """A model that classifies texts, or pairs of them."""

    auto_class = "AutoModelForSequenceClassification"
    kind = "a model that classifies texts"
    convention = WINDOW

    def _problem(self) -> ClassProblem | None:
        """Return what the configuration says; one score alone is one of a regression."""
        found = self._model_config.problem_type
        if found is None and self._model_config.num_labels == 1:
            found = "regression"
        return None if found is None else _PROBLEMS[found]

    def _at_targets(self, logits: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
        return logits.expand(len(positions_T), -1)


class TokenClassifier(Classifier):
    """A model that classifies each token of a text."""

    auto_class = "AutoModelForTokenClassification"
    kind = "a model that classifies tokens"
    convention = TOKEN

    def _at_targets(self, logits: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
        return logits[positions_T]


def check_classifier(teacher: Any) -> Classifier:
    """Return a teacher that classifies.

    Raises:
        InputError: it does not.
    """
    if not isinstance(teacher, Classifier):
        raise InputError(
            "teacher",
            expected="a model that classifies, as the task classification makes it",
            found=f"{type(teacher).__name__}",
            next_step="Make it with SequenceClassifier or TokenClassifier of "
            "softtargets.tasks.classification.classifier.",
        )
    return teacher
