"""Encoder-decoders as they are asked: sources to targets of the teacher's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from softtargets.capture.documents import Records
from softtargets.capture.records import RecordFields, text_beside
from softtargets.capture.segments import Segment
from softtargets.capture.teachers.taken_apart import TakenApartTeacher
from softtargets.errors import InputError
from softtargets.generation.prompting import Prompt, Prompting
from softtargets.targets import Int32
from softtargets.tasks.seq2seq.languages import Languages
from softtargets.tasks.seq2seq.seq2seq_teacher import check_translator
from softtargets.tasks.seq2seq.text_pairs import empty_text
from softtargets.window import TokenWindow, hash_window


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecords(Records):
    """Records with a source, and perhaps a reference."""

    corpus: RecordFields
    target_field: str
    has_reference: bool

    @property
    def fields(self) -> tuple[str, ...]:
        """Return every field that is read."""
        own = (self.target_field,) if self.has_reference else ()
        return tuple(dict.fromkeys((*self.corpus.fields, *own)))

    def parse_record(self, record: Any, source: str, where: str, number: int) -> Prompt:
        """Return the source of one record.

        Raises:
            CorpusError: a field is missing, of another type, or has an empty text.
        """
        document = self.corpus.parse_record(record, source, where, number)
        assert isinstance(document.content, str)
        if not document.content.strip():
            raise empty_text(f"{where}, field '{self.corpus.text_field}'")
        reference = None
        if self.has_reference:
            reference = text_beside(record, self.target_field, where, "--target-field")
        return Prompt(
            content=document.content,
            document_id=document.document_id,
            source=document.source,
            where=where,
            reference=reference,
            record={
                "id": document.document_id,
                **document.metadata,
                self.corpus.text_field: document.content,
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Translating(Prompting):
    """Sources for an encoder, and what its decoder makes of them."""

    target_field: str
    source_prefix: str
    languages: Languages

    def describe(self) -> dict[str, Any]:
        """Return names of fields and languages."""
        return {
            "target_field": self.target_field,
            "source_prefix": self.source_prefix,
            "source_language": self.languages.source,
            "target_language": self.languages.target,
        }

    def records(self, corpus: RecordFields, *, has_reference: bool) -> Records:
        """Return the sources of records, which hold texts.

        Raises:
            InputError: they hold something else.
        """
        if corpus.content_field != corpus.text_field:
            raise InputError(
                "--messages-field, --input-ids-field",
                expected="texts, which an encoder-decoder reads",
                found=f"field '{corpus.content_field}'",
                next_step="Pass --text-field instead.",
            )
        return SourceRecords(
            corpus=corpus, target_field=self.target_field, has_reference=has_reference
        )

    def encode(self, teacher: TakenApartTeacher, prompt: Prompt) -> Int32:
        """Return what the encoder reads."""
        tokenizer = check_translator(teacher).tokenizer
        tokenizer.set_languages(self.languages)
        return tokenizer.encode_source(f"{self.source_prefix}{prompt.content}")

    def most_read(self, teacher: TakenApartTeacher, max_new_tokens: int) -> int | None:
        """Return how many tokens the encoder reads; the decoder has positions of its own.

        Raises:
            InputError: it has fewer than `max_new_tokens`.
        """
        most = teacher.longest_sequence
        if most is not None and max_new_tokens > most - 1:
            raise InputError(
                "--max-new-tokens",
                expected=f"at most {most - 1:,}, as {teacher.name} has positions for",
                found=f"{max_new_tokens:,}",
                next_step="Pass a smaller one.",
            )
        return most

    def settings(self, teacher: TakenApartTeacher) -> dict[str, Any]:
        """Return the decoder's first token, and the language that it is to write."""
        translator = check_translator(teacher)
        translator.tokenizer.set_languages(self.languages)
        first = translator.tokenizer.language_ids()
        return {
            "decoder_start_token_id": translator.start_id,
            "pad_token_id": translator.pad_token_id,
            "eos_token_id": translator.tokenizer.end_of_text_id,
        } | ({"forced_bos_token_id": first[0]} if first else {})

    def inputs(self, teacher: TakenApartTeacher, prompts: Sequence[Int32]) -> dict[str, Any]:
        """Return sources, padded on the right, and which of their tokens are none."""
        source_BM, mask_BM = check_translator(teacher).padded(prompts)
        return {"input_ids": source_BM, "attention_mask": mask_BM}

    def num_before(self, inputs: Mapping[str, torch.Tensor]) -> int:
        """Return 1: the decoder's start token."""
        del inputs
        return 1

    def segment(self, teacher: TakenApartTeacher, prompt_M: Int32, answer_T: Int32) -> Segment:
        """Return a source and its target."""
        input_ids_L = np.insert(answer_T, 0, check_translator(teacher).start_id)
        arrays: dict[str, Any] = {
            "input_ids_L": input_ids_L,
            "segment_lengths_S": np.array([len(input_ids_L)], np.int32),
            "mask_T": np.ones(len(answer_T), np.bool_),
            "encoder_ids_M": prompt_M,
        }
        window = TokenWindow(
            window_id=hash_window(**arrays), **arrays, document_ids=("",), offset=0, source=""
        )
        return Segment(
            window=window,
            document_id="",
            start=0,
            input_ids_L=input_ids_L,
            positions_T=window.target_positions_T,
            label_ids_T=answer_T,
        )

    def texts(
        self, teacher: TakenApartTeacher, prompts: Sequence[Int32], answers: Sequence[Int32]
    ) -> list[str]:
        """Return the texts of targets."""
        del prompts
        return teacher.tokenizer.decode([answer_T.tolist() for answer_T in answers])

    def record(self, prompt: Mapping[str, Any], answer: str) -> dict[str, Any]:
        """Return the source and its new target."""
        return {**prompt, self.target_field: answer}
