"""Models of transformers, taken apart into a body and what makes its logits.

So logits are made in chunks, and for the positions that have a target alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from softtargets.capture.teachers.device_map import check_placed
from softtargets.capture.teachers.live_head import candidate_heads, random_hidden_states
from softtargets.capture.teachers.local import LocalTeacher
from softtargets.capture.teachers.pretrained import PretrainedTeacher
from softtargets.errors import TeacherError
from softtargets.targets import HeadWeights

_CHECKED_TOKENS = 8
_NO_HEAD = "Omit --hidden-states."


class TakenApartTeacher(PretrainedTeacher, LocalTeacher):
    """A model whose logits follow from the last hidden states of its body, position by position.

    Raises:
        TeacherError: there is no such model, or it cannot be loaded.
    """

    body_name: ClassVar[str]
    """What the body is called, for messages."""
    options: ClassVar[dict[str, Any]] = {}
    """What body and model are called with beside their inputs."""

    @property
    @abstractmethod
    def _body(self) -> torch.nn.Module:
        """Return what of the model makes its last hidden states."""

    @abstractmethod
    def _check_reading(self, input_ids_1L: torch.Tensor) -> None:
        """Check that tokens see of each other what they are to see.

        Raises:
            TeacherError: they do not.
        """

    def _inputs(self, input_ids_BL: torch.Tensor) -> dict[str, Any]:
        """Return what the whole model is called with to read tokens, as `hidden_states` does."""
        return {"input_ids": input_ids_BL}

    def _placeholders(self, hidden_1ND: torch.Tensor) -> dict[str, Any]:
        """Return what the model is called with where its body reads nothing."""
        shape = hidden_1ND.shape[:2]
        return {"input_ids": torch.zeros(shape, dtype=torch.long, device=self.device)}

    def _prepare(self) -> None:
        self._run_body: Callable[..., Any] = self._body
        input_ids_1L = torch.arange(min(_CHECKED_TOKENS, self.vocab_size), device=self.device)[None]
        with self._running(
            f"a model that runs in {self.config.dtype} with {self.config.attention} attention",
            next_step="Try another --dtype, or --attention eager.",
        ):
            self._check_vocabulary()
            self._check_head(input_ids_1L)
            self._check_reading(input_ids_1L)
        if self.config.compile:
            # Only here: the checks compare bit for bit, and `logits` takes the place of the
            # body's own forward, which a compiled body would not ask for.
            self._run_body = torch.compile(self._run_body, dynamic=True)
            with self._running(
                f"a {self.body_name} that torch.compile can compile and run",
                next_step="Omit --compile.",
            ):
                self.hidden_states(input_ids_1L.expand(2, -1))

    @torch.inference_mode()
    def _last_hidden(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states [B, L, D] of what the body reads."""
        output = self._run_body(**inputs, **self.options)
        self._output_type = type(output)
        # Of a model on several devices the last layer may be on another one.
        hidden_BLD: torch.Tensor = output.last_hidden_state.to(self.device)
        return hidden_BLD

    @torch.inference_mode()
    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, V], in the model's number format.

        The model's own forward pass makes them, with the body's output handed in, so whatever
        an architecture does after its head (soft-capping, scaling) is done here too.
        """
        body = self._body
        output = self._output_type(last_hidden_state=hidden_ND[None])
        # On several devices a body may have a forward of its own, which brings its weights.
        own = vars(body).get("forward")
        body.forward = lambda *_, **__: output
        try:
            logits_1NV = self._model(**self._placeholders(hidden_ND[None]), **self.options).logits
        finally:
            del body.forward
            if own is not None:
                body.forward = own
        logits_NV: torch.Tensor = logits_1NV[0].to(self.device)
        return logits_NV

    @torch.inference_mode()
    def output_head(self) -> HeadWeights:
        """Return the weights of the model's head, and what it does to the logits after it.

        Raises:
            TeacherError: other logits follow from them than the model's own.
        """
        check_placed(self._model, self.name, "an output head that is stored", _NO_HEAD)
        for head in candidate_heads(self._model):
            if head.weight_VD.dtype != getattr(torch, self.config.dtype):
                break
            hidden_ND = random_hidden_states(head).to(self.device)
            with self._running("a head that can be run", next_step=_NO_HEAD):
                own_NV = self.logits(hidden_ND)
                found_NV = head.logits(hidden_ND)
            if own_NV.dtype == hidden_ND.dtype and torch.equal(found_NV, own_NV):
                return head.numpy(self.config.dtype)
        raise TeacherError(
            self.name,
            expected="logits that are hidden @ weight.T + bias, scaled and soft-capped, with or "
            "without the layers of BERT's head before",
            found=f"others from {type(self._model).__name__}",
            next_step="This architecture's head cannot be stored: omit --hidden-states.",
        )

    def _check_vocabulary(self) -> None:
        """Check that every id below the vocabulary size can be read and predicted.

        On a GPU an id beyond a tensor ends the whole process, and names nothing.
        """
        for part, layer, name in (
            ("embedding", self._model.get_input_embeddings(), "num_embeddings"),
            ("output head", self._model.get_output_embeddings(), "out_features"),
        ):
            num_rows = getattr(layer, name, self.vocab_size)
            if num_rows < self.vocab_size:
                raise TeacherError(
                    self.name,
                    expected=f"an {part} of {self.vocab_size:,} rows, as its configuration says",
                    found=f"{num_rows:,}",
                    next_step="Correct vocab_size in the model's config.json.",
                )

    @torch.inference_mode()
    def _check_head(self, input_ids_1L: torch.Tensor) -> None:
        """Check that the two steps give what the model's own forward pass gives."""
        whole_LV = self._model(**self._inputs(input_ids_1L), **self.options).logits[0]
        parts_LV = self.logits(self.hidden_states(input_ids_1L)[0])
        if whole_LV.shape != parts_LV.shape or not torch.equal(whole_LV, parts_LV):
            raise TeacherError(
                self.name,
                expected=f"logits that follow from the {self.body_name}'s last hidden states alone",
                found=f"others from {type(self._model).__name__}",
                next_step="This architecture is not supported yet; please report it.",
            )
