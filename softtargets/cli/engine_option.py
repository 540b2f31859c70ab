"""The option that says how vLLM runs a teacher."""

from __future__ import annotations

import json
from typing import Any

import click


class EngineArg(click.ParamType[tuple[str, Any]]):
    """NAME=VALUE, the value as JSON or as a text."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Return both; the name as it is in Python."""
        name, equals, text = value.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if not equals or not name.isidentifier():
            self.fail(
                f"{value!r} is not of the form NAME=VALUE, as max_model_len=4096.", param, ctx
            )
        try:
            return name, json.loads(text)
        except json.JSONDecodeError:
            return name, text


ENGINE_ARG = click.option(
    "--engine-arg",
    type=EngineArg(),
    multiple=True,
    help="Option of vLLM, as gpu_memory_utilization=0.8. What may change numbers is part of the "
    "fingerprint. Repeat for more.",
)
