"""Causal language models as they are asked: prompts and conversations to the teacher's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from softtargets.capture.documents import Conversation, Records
from softtargets.capture.records import RecordFields
from softtargets.capture.segments import Segment
from softtargets.capture.teachers.taken_apart import TakenApartTeacher
from softtargets.errors import CorpusError, InputError
from softtargets.generation.prompting import Prompt, Prompting
from softtargets.targets import Int32
from softtargets.window import TokenWindow, hash_window

_PROMPT = "prompt"
"""The field of the prompt alone, where an answer is written after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecords(Records):
    """Records with a prompt or a conversation."""

    corpus: RecordFields

    @property
    def fields(self) -> tuple[str, ...]:
        """Return every field that is read."""
        return self.corpus.fields

    def parse_record(self, record: Any, source: str, where: str, number: int) -> Prompt:
        """Return the prompt of one record: of a conversation, what comes before the last answer.

        Raises:
            CorpusError: a field is missing, of another type, or has nothing to answer.
        """
        document = self.corpus.parse_record(record, source, where, number)
        content: Any = document.content
        kept: dict[str, Any] = {"id": document.document_id, **document.metadata}
        if isinstance(content, Conversation):
            messages = list(content.messages)
            while messages and messages[-1]["role"] == "assistant":
                messages.pop()
            if not messages:
                raise _nothing_to_answer(where, "a message that is not the assistant's")
            kept[str(self.corpus.messages_field)] = messages
            if content.tools is not None:
                kept[str(self.corpus.tools_field)] = content.tools
            content = Conversation(
                messages=messages,
                tools=content.tools,
                chat_template=content.chat_template,
                train_on=content.train_on,
            )
        elif not content.strip():
            raise _nothing_to_answer(where, "a prompt of at least one token")
        else:
            kept[_PROMPT] = content
        return Prompt(
            content=content,
            document_id=document.document_id,
            source=document.source,
            where=where,
            record=kept,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering(Prompting):
    """Prompts and conversations, and what the model writes after them."""

    corpus: RecordFields
    """Which fields are meant."""

    def describe(self) -> dict[str, Any]:
        """Return nothing: the corpus says it all."""
        return {}

    def records(self, corpus: RecordFields, *, has_reference: bool) -> Records:
        """Return the prompts of records.

        Raises:
            InputError: records hold token ids, or are to have a reference.
        """
        for option, is_asked, found in (
            ("--nearest-reference", has_reference, "a causal language model's"),
            ("--input-ids-field", corpus.input_ids_field is not None, "token ids"),
        ):
            if is_asked:
                raise InputError(
                    option,
                    expected="answers of an encoder-decoder, which have a reference"
                    if has_reference
                    else "prompts, or conversations",
                    found=found,
                    next_step="Omit it.",
                )
        return PromptRecords(corpus=corpus)

    def encode(self, teacher: TakenApartTeacher, prompt: Prompt) -> Int32:
        """Return the ids of a prompt, without a token that would end it.

        Raises:
            CorpusError: the chat template refuses the conversation, or nothing comes of it.
        """
        tokenizer = teacher.tokenizer
        if isinstance(prompt.content, Conversation):
            ids = tokenizer.encode_prompt(prompt.content, prompt.where)
        else:
            [ids] = tokenizer.encode_batch([str(prompt.content)])
            if ids and ids[-1] == tokenizer.end_of_text_id:
                ids = ids[:-1]
        if not ids:
            raise _nothing_to_answer(prompt.where, "a prompt of at least one token")
        return np.array(ids, np.int32)

    def most_read(self, teacher: TakenApartTeacher, max_new_tokens: int) -> int | None:
        """Return how many tokens a prompt may have, whose answer shares its positions.

        Raises:
            InputError: `max_new_tokens` leave none.
        """
        most = teacher.num_positions
        if most is not None and max_new_tokens >= most:
            raise InputError(
                "--max-new-tokens",
                expected=f"less than the {most:,} positions of {teacher.name}",
                found=f"{max_new_tokens:,}",
                next_step="Pass a smaller one.",
            )
        return None if most is None else most - max_new_tokens

    def settings(self, teacher: TakenApartTeacher) -> dict[str, Any]:
        """Return what pads prompts, and what ends answers if the model itself does not say."""
        end = teacher.generation_settings({})["eos_token_id"]
        end = teacher.tokenizer.end_of_text_id if end is None else end
        if end is None:
            raise InputError(
                f"--teacher {teacher.name}",
                expected="a model or a tokenizer that says which token ends an answer",
                found="neither does",
                next_step="Set eos_token_id in its generation_config.json.",
            )
        first = end[0] if isinstance(end, list) else end
        return {"eos_token_id": end, "pad_token_id": first}

    def inputs(self, teacher: TakenApartTeacher, prompts: Sequence[Int32]) -> dict[str, Any]:
        """Return prompts padded on the left, and which of their tokens are none."""
        shape = len(prompts), max(map(len, prompts))
        ids, is_token = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, shape[1] - len(prompt) :] = prompt
            is_token[row, shape[1] - len(prompt) :] = 1
        found = {"input_ids": ids, "attention_mask": is_token}
        return {name: torch.from_numpy(one).to(teacher.device) for name, one in found.items()}

    def num_before(self, inputs: Mapping[str, torch.Tensor]) -> int:
        """Return how long the padded prompts are."""
        return int(inputs["input_ids"].shape[1])

    def segment(self, teacher: TakenApartTeacher, prompt_M: Int32, answer_T: Int32) -> Segment:
        """Return a prompt and its answer."""
        del teacher
        input_ids_L = np.concatenate([prompt_M, answer_T])
        lengths_1 = np.array([len(input_ids_L)], np.int32)
        positions_T = np.arange(len(prompt_M), len(input_ids_L), dtype=np.int32) - np.int32(1)
        mask_T = np.ones(len(answer_T), np.bool_)
        window = TokenWindow(
            window_id=hash_window(input_ids_L, lengths_1, mask_T, positions_T=positions_T),
            input_ids_L=input_ids_L,
            segment_lengths_S=lengths_1,
            mask_T=mask_T,
            positions_T=positions_T,
            document_ids=("",),
            offset=0,
            source="",
        )
        return Segment(
            window=window,
            document_id="",
            start=0,
            input_ids_L=input_ids_L,
            positions_T=positions_T,
            label_ids_T=answer_T,
        )

    def texts(
        self, teacher: TakenApartTeacher, prompts: Sequence[Int32], answers: Sequence[Int32]
    ) -> list[str]:
        """Return what answers add to the texts of their prompts.

        Some tokenizers write no space before the first word of a text.
        """
        decode, pairs = teacher.tokenizer.decode, list(zip(prompts, answers, strict=True))
        before = decode([prompt_M.tolist() for prompt_M in prompts])
        after = decode([[*prompt_M.tolist(), *answer_T.tolist()] for prompt_M, answer_T in pairs])
        alone = decode([answer_T.tolist() for answer_T in answers])
        texts = zip(before, after, alone, strict=True)
        return [
            both.removeprefix(first) if both.startswith(first) else own
            for first, both, own in texts
        ]

    def record(self, prompt: Mapping[str, Any], answer: str) -> dict[str, Any]:
        """Return the conversation with its new answer, or the prompt and the answer as one text."""
        field = self.corpus.messages_field
        if field is not None:
            turn = {"role": "assistant", "content": answer}
            return {**prompt, field: [*prompt[field], turn]}
        return {**prompt, self.corpus.text_field: prompt[_PROMPT] + answer}


def _nothing_to_answer(where: str, expected: str) -> CorpusError:
    return CorpusError(
        where,
        expected=expected,
        found="none",
        next_step="Mend or remove the record, or leave such records out with --on-invalid skip.",
    )
