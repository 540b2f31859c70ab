"""Reading a corpus for a build: its windows, or the pieces of a slice, and what is left out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator

from softtargets.capture.build_config import AnyCorpus, BuildConfig
from softtargets.capture.corpus import Corpus
from softtargets.capture.corpus_slices import CorpusSlice
from softtargets.capture.documents import Document, OnInvalid, raise_invalid
from softtargets.capture.teacher_tokenizer import Tokenizer
from softtargets.capture.unused import UnusedTally
from softtargets.capture.windows import PARTLY_WRITTEN
from softtargets.errors import CorpusError
from softtargets.texts import plural
from softtargets.window import TokenWindow

MOST_WARNINGS = 10
"""Invalid documents that are named; all are counted."""

_log = logging.getLogger(__name__)


def read_windows(
    config: BuildConfig, tokenizer: Tokenizer, counts: Counter[str], unused: UnusedTally
) -> Iterator[TokenWindow]:
    """Yield every window of a build; what is left out is counted and logged.

    Args:
        config: what is read, and how it is cut.
        tokenizer: the teacher's.
        counts: is added to.
        unused: told what the chat template does not write, and logged at the end.

    Raises:
        CorpusError: a file is wrong; or a document, unless the corpus skips those.
    """
    on_invalid = _on_invalid(config.corpus, counts, warn_left_out)
    documents = _documents(config, on_invalid, None)
    yield from config.capture_task.windows(
        documents, config, tokenizer, counts, on_invalid, unused.add
    )
    finish_counts(counts, unused)


def read_pieces(
    config: BuildConfig,
    tokenizer: Tokenizer,
    counts: Counter[str],
    unused: UnusedTally,
    left_out: list[str],
    own: CorpusSlice | None,
) -> Iterator[TokenWindow]:
    """Yield the pieces of a slice, repeats included; what is left out is counted.

    Args:
        config: what is read, and how it is cut.
        tokenizer: the teacher's.
        counts: is added to.
        unused: told what the chat template does not write.
        left_out: is given the errors of the first documents that are skipped.
        own: the slice; None for the whole corpus.

    Raises:
        CorpusError: a file is wrong; or a document, unless the corpus skips those.
    """
    on_invalid = _on_invalid(config.corpus, counts, left_out.append)
    documents = _documents(config, on_invalid, own)
    return config.capture_task.pieces(documents, config, tokenizer, counts, on_invalid, unused.add)


def finish_counts(counts: Counter[str], unused: UnusedTally) -> None:
    """Count what the chat template does not write, and log it; the corpus is read."""
    counts[PARTLY_WRITTEN] = unused.num_documents
    unused.warn()


def warn_left_out(error: str) -> None:
    """Log the error of a document that is skipped."""
    _log.warning("Left out: %s", error)


def no_window(corpus: AnyCorpus, counts: Counter[str]) -> CorpusError:
    """Return the error of a corpus whose documents are all too short."""
    return CorpusError(
        corpus.name,
        expected="at least one document of two tokens or more",
        found=f"{plural(counts['documents'], 'document')}, none with that many",
        next_step="Check the input and --text-field.",
    )


def _documents(
    config: BuildConfig, on_invalid: OnInvalid, own: CorpusSlice | None
) -> Iterator[Document]:
    corpus, records = config.corpus, config.capture_task.records(config.corpus)
    if isinstance(corpus, Corpus):
        return corpus.documents(on_invalid, records, own)
    return corpus.documents(on_invalid, records)


def _on_invalid(corpus: AnyCorpus, counts: Counter[str], tell: Callable[[str], None]) -> OnInvalid:
    def skip(error: CorpusError) -> None:
        counts["invalid_documents"] += 1
        if counts["invalid_documents"] <= MOST_WARNINGS:
            tell(str(error))

    return skip if corpus.on_invalid == "skip" else raise_invalid
