"""What to build: the options, and the task that says how."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from softtargets.capture.corpus import Corpus
from softtargets.capture.dataset_corpus import DatasetCorpus
from softtargets.capture.documents import Document, OnInvalid, Records
from softtargets.capture.keep.selection import (
    Hybrid,
    Keep,
    Selection,
    Values,
    check_temperatures,
)
from softtargets.capture.records import RecordFields
from softtargets.capture.repeats import counted, without_repeats
from softtargets.capture.segments import Segment
from softtargets.capture.teacher import Teacher
from softtargets.capture.teacher_tokenizer import Tokenizer
from softtargets.capture.teachers.model_files import TeacherConfig
from softtargets.capture.windows import OnUnused, Windowing
from softtargets.errors import InputError
from softtargets.store.schema import Compression
from softtargets.targets import HeadWeights, TargetSchema
from softtargets.task_registry import DEFAULT_TASK, find_task
from softtargets.texts import plural
from softtargets.window import TokenWindow

AnyCorpus = Corpus | DatasetCorpus
LayerValues = Literal["exact", "bfloat16", "float16", "int8", "float8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """What to build. All but `output`, `batch_tokens` and `workers` decide the store's content."""

    corpus: AnyCorpus
    output: Path = Path("store")
    """The directory of the store, unless `build` is given a place."""
    task: str | CaptureTask = DEFAULT_TASK
    """Name of the family that the teacher is of, or what has options of its own."""
    windowing: Windowing = field(default_factory=Windowing)
    selection: Selection = field(default_factory=Hybrid)
    temperatures: tuple[float, ...] = (1.0,)
    values: Values = "steps"
    """Whether logits are kept in steps (the head's of 1/16 nat, drawn ones of 1/64) or lossless."""
    label_logits: bool = True
    """Whether the label's logit and rank are kept."""
    hidden_states: bool = False
    """Whether the teacher's last hidden states and its output head are kept too, from which the
    full distribution is recomputed."""
    layers: tuple[int, ...] = ()
    """Layers whose input is kept, from 0; the number of layers for what the last one puts out."""
    rerun_layers: tuple[int, ...] = ()
    """Layers whose weights are kept beside their input, at every token, so that a student's side
    can run them again."""
    layer_rows: Literal["tokens", "targets"] = "tokens"
    """Of which tokens the inputs of layers are kept: of all, or of those that have a target. One
    target about a whole window has the first token's."""
    layer_values: LayerValues = "exact"
    """In what they are kept: the teacher's number format, or another one. int8 and float8 have a
    scale for each token."""
    compression: Compression = "zstd"
    unit_tokens: int = 65_536
    """Tokens after which a unit, and so a shard, ends; what a crash can cost."""
    batch_tokens: int = 4096
    """Tokens of a forward pass; changes numbers by rounding noise only."""
    workers: int = 1
    """Processes that run units; with several CUDA devices each takes one in turn."""

    reference: TeacherConfig | None = None
    """The model of the teacher in transformers: how far an engine is from it is then measured, and
    the manifest says so. It decides nothing of the content."""

    @property
    def capture_task(self) -> CaptureTask:
        """Return the task.

        Raises:
            InputError: there is none of this name.
        """
        if not isinstance(self.task, str):
            return self.task
        found: CaptureTask = find_task(self.task).capture()
        return found

    def keep(self) -> Keep:
        """Return what is to be kept of a position, beside the hidden states of layers.

        Raises:
            InputError: the temperatures are no grid.
        """
        return Keep(
            selection=self.selection,
            temperatures=check_temperatures(self.temperatures),
            label_logits=self.label_logits,
            hidden_states=self.hidden_states,
        )


class CaptureTask(Protocol):
    """What a build asks of a family of models. It must be picklable, for workers.

    The options that this family alone has are the fields of a dataclass, and have defaults.
    """

    unused_options: ClassVar[frozenset[str]] = frozenset()
    """Fields of `BuildConfig`, its corpus and its windowing that mean nothing to the family: they
    are refused unless they are at their defaults. So are options of the command line by the names
    of their parameters."""

    keeps_head: ClassVar[bool] = True
    """Whether an output head is kept beside the last hidden states, for it makes the targets."""

    def teacher(self, config: TeacherConfig) -> Teacher:
        """Return a model of transformers as a teacher of this family.

        Raises:
            TeacherError: there is no such model, or it cannot be loaded.
            InputError: the family has no teacher of its own.
        """
        raise InputError(
            f"--teacher {config.name}",
            expected="a task that has a teacher",
            found=type(self).__name__,
            next_step="Call softtargets.capture.build with a teacher of your own.",
        )

    def prompting(self, corpus: RecordFields) -> Any:
        """Return how models of this family are asked to write, a `generation.Prompting`.

        Raises:
            InputError: they do not write.
        """
        del corpus
        raise InputError(
            "--teacher",
            expected="a model that writes: a causal language model, or an encoder-decoder",
            found=f"one of {type(self).__name__}",
            next_step="Pass another model, or name its task with --task.",
        )

    @abstractmethod
    def describe(self, config: BuildConfig) -> dict[str, Any]:
        """Return the fields of the identity that this family alone has.

        They are what decides windows and targets beside the teacher, the corpus, the windowing and
        the schema.
        """

    @abstractmethod
    def schema(
        self, config: BuildConfig, teacher: Teacher, head: HeadWeights | None
    ) -> TargetSchema:
        """Return what the targets are to be.

        Args:
            config: of the build.
            teacher: that it runs; it need not be loaded.
            head: its output head, if it is to be stored.

        Raises:
            InputError: an option is out of range, or the teacher cannot tell what is to be kept.
        """

    @abstractmethod
    def records(self, corpus: RecordFields) -> Records:
        """Return how the records of a corpus become documents."""

    def windows(
        self,
        documents: Iterable[Document],
        config: BuildConfig,
        tokenizer: Tokenizer,
        counts: Counter[str],
        on_invalid: OnInvalid,
        on_unused: OnUnused,
    ) -> Iterator[TokenWindow]:
        """Yield every window once, in the order of the corpus, with a place for each target.

        By default they are assembled of `pieces`. A family that writes this method instead reads a
        corpus in one process, and removes repeats by itself.

        Args:
            documents: what `records` made.
            config: of the build.
            tokenizer: the teacher's.
            counts: is added to, under the names of `softtargets.capture.windows.COUNTS`.
            on_invalid: called for a document that the tokenizer refuses.
            on_unused: called for what of a document leaves no trace in a window.
        """
        pieces = self.pieces(documents, config, tokenizer, counts, on_invalid, on_unused)
        yield from self.assemble(without_repeats(pieces, counts), config, tokenizer, counts)
        self.check_counts(counts)

    def pieces(
        self,
        documents: Iterable[Document],
        config: BuildConfig,
        tokenizer: Tokenizer,
        counts: Counter[str],
        on_invalid: OnInvalid,
        on_unused: OnUnused,
    ) -> Iterator[TokenWindow]:
        """Yield what windows are made of, in the order of the corpus, repeats included.

        A piece depends on its document alone, so several processes may read parts of a corpus.
        Pieces that teach the same have one id. For the arguments see `windows`.
        """
        del documents, config, tokenizer, counts, on_invalid, on_unused
        raise NotImplementedError(f"{type(self).__name__} has neither windows nor pieces")

    def assemble(
        self,
        pieces: Iterable[TokenWindow],
        config: BuildConfig,
        tokenizer: Tokenizer,
        counts: Counter[str],
    ) -> Iterator[TokenWindow]:
        """Yield the windows of pieces of which each occurs once, and count them and their tokens.

        By default each piece is a window, or pieces of texts are packed into windows.
        """
        del tokenizer
        return counted(config.windowing.joined(pieces), counts)

    def check_counts(self, counts: Mapping[str, int]) -> None:
        """Check what was counted of a whole corpus.

        Raises:
            CorpusError: something is missing in all of it.
        """
        del counts

    def describe_cut(self, windowing: Windowing) -> str:
        """Return how documents become windows, for people."""
        most = plural(windowing.sequence_length, "token")
        return {
            "split": f"documents are cut after {most}",
            "truncate": f"the first {most} of each document",
            "pack": f"documents share a window of up to {most}",
        }[windowing.kind]

    @abstractmethod
    def segments(self, *windows: TokenWindow) -> list[Segment]:
        """Return what the teacher reads as one sequence each, and where in it the targets are.

        They come in the order of the windows. Those of one window have its targets, in order.
        """
