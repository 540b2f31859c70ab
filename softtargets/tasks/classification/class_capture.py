"""Classification on the teacher's side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from softtargets.capture.build_config import BuildConfig, CaptureTask
from softtargets.capture.documents import Document, OnInvalid, Records
from softtargets.capture.records import RecordFields
from softtargets.capture.segments import Segment
from softtargets.capture.teacher import Teacher
from softtargets.capture.teacher_tokenizer import Tokenizer
from softtargets.capture.teachers.model_files import TeacherConfig, architecture_of
from softtargets.capture.windows import OnUnused, Windowing
from softtargets.errors import InputError
from softtargets.targets import UNKNOWN_LABEL, HeadWeights, TargetSchema
from softtargets.tasks.classification.class_tokenizer import ClassTokenizer
from softtargets.tasks.classification.class_windows import ClassWindows, check_labelled
from softtargets.tasks.classification.classifier import (
    Classifier,
    SequenceClassifier,
    TokenClassifier,
    check_classifier,
)
from softtargets.tasks.classification.labelled_texts import TextRecords
from softtargets.texts import plural
from softtargets.window import TokenWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCapture(CaptureTask):
    """Texts or pairs of them, each a window with the logits of all classes."""

    unused_options: ClassVar[frozenset[str]] = frozenset(
        {
            "budget", "selection", "temperatures", "values", "label_logits",
            "overlap", "input_ids_field", "messages_field", "tools_field", "chat_template",
            "train_on",
        }
    )  # fmt: skip
    keeps_head: ClassVar[bool] = False
    text_pair_field: str | None = None
    """The field with the second text of a pair."""
    label_field: str | None = None
    """The field with the label: the name of a class or its number, null where it is not known. Of
    tokens it is a list, one for each word of a text that is a list of words. Of labels that do not
    exclude each other it is a list of their names, or a 0 or 1 for each; of a score, its value."""

    def teacher(self, config: TeacherConfig) -> Classifier:
        """Return a model that classifies texts, or one that classifies tokens."""
        architecture = architecture_of(config) or ""
        is_of_tokens = architecture.endswith("ForTokenClassification")
        return TokenClassifier(config) if is_of_tokens else SequenceClassifier(config)

    def describe(self, config: BuildConfig) -> dict[str, Any]:
        """Return the fields that are read beside the text."""
        del config
        own = {"text_pair_field": self.text_pair_field, "label_field": self.label_field}
        named = {name: field for name, field in own.items() if field is not None}
        return {"classification": named}

    def schema(
        self, config: BuildConfig, teacher: Teacher, head: HeadWeights | None
    ) -> TargetSchema:
        """Return class logits of texts or tokens, with the names of the classes.

        Raises:
            InputError: the teacher does not classify, or windows are to be packed.
        """
        del head
        classifier = check_classifier(teacher)
        if config.windowing.kind == "pack":
            raise InputError(
                "--window pack",
                expected="split, where longer texts are refused, or truncate",
                found="pack: a text to be classified has a window of its own",
                next_step="Omit it.",
            )
        labels, has_label = classifier.labels, self.label_field is not None
        tells_types = classifier.tokenizer.tells_types[self.text_pair_field is not None]
        return TargetSchema(
            vocab_size=teacher.vocab_size,
            tokenizer_vocab_size=teacher.tokenizer.vocab_size,
            temperatures=(),
            predicts=classifier.convention.name,
            positions="all" if classifier.convention.is_of_windows else "listed",
            num_classes=len(labels),
            class_names=labels.names,
            problem=labels.problem,
            label_ids=has_label and labels.problem is None,
            label_values=has_label and labels.problem is not None,
            partly_labelled=has_label,
            token_types=tells_types,
            pad_token_id=classifier.pad_token_id,
            metadata=config.corpus.metadata_fields,
        )

    def records(self, corpus: RecordFields) -> Records:
        """Return the texts, pairs and labels of records."""
        return TextRecords(
            corpus=corpus, pair_field=self.text_pair_field, label_field=self.label_field
        )

    def pieces(
        self,
        documents: Iterable[Document],
        config: BuildConfig,
        tokenizer: Tokenizer,
        counts: Counter[str],
        on_invalid: OnInvalid,
        on_unused: OnUnused,
    ) -> Iterator[TokenWindow]:
        """Yield a window for each text, with a target for it or for each of its tokens."""
        del on_unused
        assert isinstance(tokenizer, ClassTokenizer)
        made = ClassWindows(
            tokenizer=tokenizer,
            windowing=config.windowing,
            has_pair=self.text_pair_field is not None,
            label_field=self.label_field,
            counts=counts,
        )
        return made.windows(documents, on_invalid)

    def check_counts(self, counts: Mapping[str, int]) -> None:
        """Check that some texts have a label, if they are to.

        Raises:
            CorpusError: no record has the field of the label.
        """
        check_labelled(self.label_field, counts)

    def describe_cut(self, windowing: Windowing) -> str:
        """Return that each text is one, and what becomes of longer ones."""
        longer = "cut" if windowing.kind == "truncate" else "refused"
        most = plural(windowing.sequence_length, "token")
        return f"one for each text; longer ones than {most}, or than the model reads, are {longer}"

    def segments(self, *windows: TokenWindow) -> list[Segment]:
        """Return each window as a segment; one target about all of it stands at its beginning."""
        return [
            Segment(
                window=window,
                document_id=window.document_ids[0],
                start=0,
                input_ids_L=window.input_ids_L,
                positions_T=window.target_positions_T,
                label_ids_T=np.full(len(window.mask_T), UNKNOWN_LABEL, np.int32)
                if window.label_ids_T is None
                else window.label_ids_T,
            )
            for window in windows
        ]
