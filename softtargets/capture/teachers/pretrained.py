"""Models of transformers: their files, tokenizer and weights, whatever family they are of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from softtargets.capture.keep.layer_states import WatchedStates, watching
from softtargets.capture.memory import enough_memory, is_out_of_memory
from softtargets.capture.teacher import LayerShape, Teacher
from softtargets.capture.teacher_tokenizer import TransformersTokenizer
from softtargets.capture.teachers.cpu_formats import warn_of_slow_format
from softtargets.capture.teachers.cpu_kernels import keep_few_kernels, padded_length
from softtargets.capture.teachers.device_map import (
    check_device_map,
    check_modules,
    check_placed,
    device_options,
)
from softtargets.capture.teachers.model_files import (
    TeacherConfig,
    first_line,
    hash_model,
    loading,
    locate,
    pick_device,
)
from softtargets.errors import TeacherError
from softtargets.layers.live_layers import take_layers
from softtargets.targets import FeatureSchema, LayerWeights

if TYPE_CHECKING:
    from typing import Self

    from transformers import PreTrainedModel

_MODEL_ERRORS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
_SAMPLING = {
    "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"
}  # fmt: skip
_NOT_SETTINGS = _SAMPLING | {"transformers_version", "_from_model_config", "max_length"}
"""What generation is not told: nothing is drawn, and the longest text is said in new tokens."""


class PretrainedTeacher(Teacher):
    """A model of transformers. A subclass says of which family it is, and what it keeps of it.

    Raises:
        TeacherError: there is no such model, or it cannot be loaded.
    """

    modules = ("transformers.modeling_utils",)
    auto_class: ClassVar[str]
    """The class of transformers that loads such models."""
    kind: ClassVar[str]
    """What such a model is called, for messages."""

    def __init__(self, config: TeacherConfig) -> None:
        from transformers import AutoConfig

        self.config = config
        self._directory, self._commit = self._find()
        with loading(config.name, f"{self.kind} that transformers knows"):
            self._model_config = AutoConfig.from_pretrained(
                self._directory,
                trust_remote_code=config.trust_remote_code,
                **self._file_options,
            )
        self.name = config.name if self._commit else self._directory.resolve().name
        self.vocab_size = int(self._model_config.get_text_config().vocab_size)
        """Width of the output head, padding included."""
        check_device_map(config)
        self.device = pick_device(config.device)
        self._is_loaded = False

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config,)

    def for_worker(self, worker: int) -> Self:
        """Return a teacher for a process of its own, on a CUDA device in turn if it may choose."""
        config = self.config
        if config.device_map is None and config.device == "auto" and self.device.type == "cuda":
            config = replace(config, device=f"cuda:{worker % torch.cuda.device_count()}")
        if config.offload_folder is not None:
            config = replace(config, offload_folder=f"{config.offload_folder}/worker-{worker}")
        return type(self)(config)

    def _find(self) -> tuple[Path, str | None]:
        """Return the directory of the model's files, and the commit when it is from the Hub."""
        return locate(self.config)

    @property
    def _file_options(self) -> dict[str, Any]:
        """Return what transformers is told of the files beside their directory."""
        return {}

    @property
    def _weight_options(self) -> dict[str, Any]:
        """Return what it is told of the weights beside that."""
        return {}

    @property
    def _file_identity(self) -> dict[str, Any]:
        """Return what of the files decides the numbers."""
        return hash_model(self._directory)

    @cached_property
    def tokenizer(self) -> TransformersTokenizer:
        """Return the model's own tokenizer."""
        return TransformersTokenizer(
            self._directory,
            trust_remote_code=self.config.trust_remote_code,
            **self._file_options,
        )

    @property
    def num_positions(self) -> int | None:
        """Return how many tokens the model has positions for, if its configuration says so."""
        config = self._model_config.get_text_config()
        found: int | None = getattr(config, "max_position_embeddings", None)
        return found

    def _padded_length(self, length: int) -> int:
        """Return to how many tokens a batch is padded, whose longest sequence has `length`."""
        return padded_length(length, self._model, self.device)

    def generation_settings(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings by which transformers would generate, without those of sampling.

        Args:
            own: take the place of the model's; None for what it would have, and is not to.
        """
        from transformers import GenerationConfig

        try:
            saved = GenerationConfig.from_pretrained(self._directory)
        except OSError:
            saved = GenerationConfig.from_model_config(self._model_config)
        settings = {"eos_token_id": None, **saved.to_diff_dict(), **own}
        return {name: one for name, one in settings.items() if name not in _NOT_SETTINGS}

    def generate(
        self, inputs: Mapping[str, torch.Tensor], settings: Mapping[str, Any]
    ) -> torch.Tensor:
        """Return the ids [N, L] that the loaded model writes, several for each input.

        Args:
            inputs: of the model.
            settings: that `generation_settings` returned.
        """
        from transformers import GenerationConfig

        # Its own would come to the help of settings that are at their default.
        self._model.generation_config = GenerationConfig(**settings)
        model: Any = self._model
        with (
            torch.inference_mode(),
            self._running("a model that can generate", next_step="Pass another model."),
        ):
            written_NL: torch.Tensor = model.generate(**inputs)
        return written_NL

    def describe(self) -> dict[str, Any]:
        """Return hashes of the weights and the configuration, and how the model is run.

        Raises:
            TeacherError: there are no weight files.
        """
        teacher: dict[str, Any] = {
            "architecture": (self._model_config.architectures or ["unknown"])[0],
            **self._file_identity,
            "revision": self._commit,
            "dtype": self.config.dtype,
            "attention": self.config.attention,
        }
        # Only when it is on: stores built before there was this option keep their fingerprints.
        return teacher | {"compile": True} if self.config.compile else teacher

    def load(self) -> None:
        """Load the weights, and check that the model can be used.

        Loading again does nothing.

        Raises:
            TeacherError: the weights cannot be loaded or do not fit the device's memory, or the
                model cannot be run or compiled, or its architecture is not supported.
        """
        if self._is_loaded:
            return
        next_step = "Pass --dtype bfloat16, fewer --workers, or another --device."
        with enough_memory(self.name, "the model", self.device, next_step):
            self._load()
        self._is_loaded = True

    def _load(self) -> None:
        keep_few_kernels()
        self._model = self._read_weights()
        check_modules(self._model, self.config)
        frozen = self._model.eval().requires_grad_(False)
        if self.config.device_map is None:
            frozen.to(self.device)
        warn_of_slow_format(self.name, frozen, self.config.dtype, self.device)
        self._prepare()

    @abstractmethod
    def _prepare(self) -> None:
        """Check the model, which is loaded and on its device.

        Raises:
            TeacherError: it cannot be run, or is not of this family.
        """

    def _read_weights(self) -> PreTrainedModel:
        """Return the model with all of its weights."""
        import transformers

        with loading(
            self.config.name,
            f"weights that load in {self.config.dtype} with {self.config.attention} attention",
        ):
            loaded: Any = getattr(transformers, self.auto_class).from_pretrained(
                self._directory,
                dtype=getattr(torch, self.config.dtype),
                attn_implementation=self.config.attention,
                trust_remote_code=self.config.trust_remote_code,
                output_loading_info=True,
                **device_options(self.config),
                **self._file_options,
                **self._weight_options,
            )
        model: PreTrainedModel = loaded[0]
        missing = sorted(loaded[1]["missing_keys"])
        if missing:
            raise TeacherError(
                self.name,
                expected="weights of the whole model, output head included",
                found=f"none for {', '.join(missing[:3])}",
                next_step="transformers would start them at random: pass the directory of "
                f"{self.kind}, not of its body alone.",
            )
        return model

    def layer_shape(self) -> LayerShape:
        """Return what the configuration says.

        Raises:
            TeacherError: it does not say so.
        """
        if self.config.compile:
            raise TeacherError(
                self.name,
                expected="a teacher whose layers run as they are, to be watched",
                found="a compiled one",
                next_step="Omit --compile.",
            )
        config: Any = self._model_config.get_text_config()
        found = (getattr(config, one, None) for one in ("num_hidden_layers", "hidden_size"))
        num_layers, width = found
        if not isinstance(num_layers, int) or not isinstance(width, int):
            raise TeacherError(
                self.name,
                expected="a model whose configuration has num_hidden_layers and hidden_size",
                found=f"{num_layers} and {width}",
                next_step="Omit --rerun-layers, and all but last of --hidden-states.",
            )
        return LayerShape(num_layers=num_layers, width=width)

    def layer_weights(self, numbers: Sequence[int]) -> LayerWeights:
        """Return layers of the model, which is loaded.

        Raises:
            InputError: one cannot be run by itself.
        """
        next_step = "Omit --rerun-layers."
        check_placed(self._model, self.name, "layers that are stored", next_step)
        with self._running("layers that can be run by themselves", next_step=next_step):
            return take_layers(self._model, numbers, self.config.dtype, self.name)

    def _watching(self, layers: Sequence[FeatureSchema]) -> AbstractContextManager[WatchedStates]:
        """Watch layers while the model reads a batch within."""
        return watching(self._model, layers, self.name)

    @contextmanager
    def _running(self, expected: str, *, next_step: str) -> Iterator[None]:
        try:
            yield
        except _MODEL_ERRORS as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            raise TeacherError(
                self.name, expected=expected, found=first_line(error), next_step=next_step
            ) from error
