"""Encoder-decoders: at each position of the decoder, the distribution of the token that follows."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from softtargets.targets import NEXT_TOKEN, TargetSchema

if TYPE_CHECKING:
    from softtargets.tasks.seq2seq.seq2seq_capture import Seq2SeqCapture
    from softtargets.tasks.seq2seq.seq2seq_student import Seq2SeqStudent

_GENERATES = "ForConditionalGeneration"
_FAMILIES = frozenset(
    {
        "Bart", "Blenderbot", "BlenderbotSmall", "LongT5", "M2M100", "MBart", "MT5", "Mvp",
        "PLBart", "Pegasus", "T5", "UMT5",
    }
)  # fmt: skip
"""Those whose encoder reads text. transformers calls models that hear or see the same."""


class Seq2Seq:
    """The task of encoder-decoders, which translate or sum up."""

    name = "seq2seq"

    def fits(self, architecture: str) -> bool:
        """Return whether a class of transformers is an encoder-decoder of text, by its name."""
        is_known = architecture.removesuffix(_GENERATES) in _FAMILIES
        return architecture == "MarianMTModel" or (architecture.endswith(_GENERATES) and is_known)

    def owns(self, schema: TargetSchema) -> bool:
        """Return whether targets are of a decoder's next token, given the input of an encoder."""
        return schema.convention == NEXT_TOKEN and schema.encoder_input and not schema.num_classes

    def capture(self) -> Seq2SeqCapture:
        """Return how records become windows and targets."""
        side: Seq2SeqCapture = import_module(f"{__name__}.seq2seq_capture").Seq2SeqCapture()
        return side

    def student(self) -> Seq2SeqStudent:
        """Return what a student reads, and what it is trained for."""
        side: Seq2SeqStudent = import_module(f"{__name__}.seq2seq_student").Seq2SeqStudent()
        return side
