"""Encoder-decoders on the teacher's side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from softtargets.capture.build_config import BuildConfig, CaptureTask
from softtargets.capture.documents import Document, OnInvalid, Records
from softtargets.capture.identity import vocabulary_schema
from softtargets.capture.keep.selection import describe_selection
from softtargets.capture.records import RecordFields
from softtargets.capture.segments import Segment, segments_of
from softtargets.capture.teacher import Teacher
from softtargets.capture.teacher_tokenizer import Tokenizer
from softtargets.capture.teachers.model_files import TeacherConfig
from softtargets.capture.windows import OnUnused, Windowing
from softtargets.errors import InputError
from softtargets.targets import NEXT_TOKEN, HeadWeights, TargetSchema
from softtargets.tasks.seq2seq.languages import Languages
from softtargets.tasks.seq2seq.pair_tokenizer import PairTokenizer
from softtargets.tasks.seq2seq.pair_windows import PairWindows
from softtargets.tasks.seq2seq.seq2seq_teacher import Seq2SeqTeacher, check_translator
from softtargets.tasks.seq2seq.text_pairs import PairRecords
from softtargets.tasks.seq2seq.translating import Translating
from softtargets.texts import plural
from softtargets.window import TokenWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class Seq2SeqCapture(CaptureTask):
    """Pairs of a source and a target; a selection of each distribution of the target's tokens."""

    unused_options: ClassVar[frozenset[str]] = frozenset(
        {
            "overlap", "input_ids_field", "messages_field", "tools_field", "chat_template",
            "train_on", "hidden_states",
        }
    )  # fmt: skip
    target_field: str = "target"
    """The field with the target; the source is the text."""
    source_prefix: str = ""
    """What stands before every source, as T5 wants it: "translate English to German: "."""
    source_language: str | None = None
    """What the tokenizer calls the source's language, if it knows several."""
    target_language: str | None = None

    @property
    def languages(self) -> Languages:
        """Return both languages."""
        return Languages(source=self.source_language, target=self.target_language)

    def teacher(self, config: TeacherConfig) -> Seq2SeqTeacher:
        """Return an encoder-decoder."""
        return Seq2SeqTeacher(config)

    def describe(self, config: BuildConfig) -> dict[str, Any]:
        """Return the selection, and what decides sources and targets beside the text."""
        own = {"target_field": self.target_field}
        for name in ("source_prefix", "source_language", "target_language"):
            if getattr(self, name):
                own[name] = getattr(self, name)
        return {"selection": describe_selection(config.selection), "seq2seq": own}

    def schema(
        self, config: BuildConfig, teacher: Teacher, head: HeadWeights | None
    ) -> TargetSchema:
        """Return a selection of the vocabulary at each position of the decoder, and the source.

        Raises:
            InputError: an option is out of range, windows are to be packed, or the teacher is no
                encoder-decoder, or does not know the languages.
        """
        translator = check_translator(teacher)
        if config.windowing.kind == "pack":
            raise InputError(
                "--window pack",
                expected="split, where pairs with longer texts are refused, or truncate",
                found="pack: a target has a source of its own",
                next_step="Omit it.",
            )
        translator.tokenizer.set_languages(self.languages)
        schema = vocabulary_schema(config, teacher, head, predicts=NEXT_TOKEN.name)
        return replace(schema, encoder_input=True, pad_token_id=translator.pad_token_id)

    def records(self, corpus: RecordFields) -> Records:
        """Return the pairs of records."""
        return PairRecords(corpus=corpus, target_field=self.target_field)

    def pieces(
        self,
        documents: Iterable[Document],
        config: BuildConfig,
        tokenizer: Tokenizer,
        counts: Counter[str],
        on_invalid: OnInvalid,
        on_unused: OnUnused,
    ) -> Iterator[TokenWindow]:
        """Yield a window for each pair, with a target for each token that its target ends with."""
        del on_unused
        assert isinstance(tokenizer, PairTokenizer)
        tokenizer.set_languages(self.languages)
        made = PairWindows(
            tokenizer=tokenizer,
            windowing=config.windowing,
            source_prefix=self.source_prefix,
            counts=counts,
        )
        return made.windows(documents, on_invalid)

    def prompting(self, corpus: RecordFields) -> Translating:
        """Return how sources are translated."""
        del corpus
        return Translating(
            target_field=self.target_field,
            source_prefix=self.source_prefix,
            languages=self.languages,
        )

    def describe_cut(self, windowing: Windowing) -> str:
        """Return that each pair is one, and what becomes of longer ones."""
        longer = "cut" if windowing.kind == "truncate" else "refused"
        most = plural(windowing.sequence_length, "token")
        return f"one for each pair; longer texts than {most}, or than the model reads, are {longer}"

    def segments(self, *windows: TokenWindow) -> list[Segment]:
        """Return each window as a segment, whose source is its window's."""
        return segments_of(*windows)
