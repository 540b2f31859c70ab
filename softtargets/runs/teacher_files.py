"""The teacher of a store, where its files are at hand: checked by their hashes, and counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from softtargets.capture.teachers.model_files import (
    TeacherConfig,
    hash_model,
    loading,
    locate,
    weight_files,
)
from softtargets.errors import IdentityError, InputError
from softtargets.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherFiles:
    """A directory that has the weights a store was made with."""

    directory: Path
    num_bytes: int
    """Of its weights."""

    def load(self, auto: Any) -> Any:
        """Return the model in float32.

        Raises:
            TeacherError: transformers cannot load it.
        """
        with loading(str(self.directory), f"a model that {auto.__name__} loads"):
            return auto.from_pretrained(self.directory, dtype=torch.float32)

    def num_parameters(self, auto: Any) -> int:
        """Return how many parameters it has; no weights are read.

        Raises:
            TeacherError: transformers does not know it.
        """
        from transformers import AutoConfig

        with loading(str(self.directory), f"a model that {auto.__name__} knows"):
            config = AutoConfig.from_pretrained(self.directory)
            with torch.device("meta"):
                return int(auto.from_config(config).num_parameters())


def find_teacher_files(store: Store, name: str | None) -> TeacherFiles | None:
    """Return the files of a store's teacher; None if they were not named.

    Raises:
        TeacherError: there is no such model.
        InputError: the store does not say which weights it was made with.
        IdentityError: these are others.
    """
    if name is None:
        return None
    directory, _ = locate(TeacherConfig(name=name))
    known = store.manifest.identity.get("teacher", {})
    found = hash_model(directory)
    for field, value in found.items():
        if field not in known:
            raise InputError(
                "--teacher",
                expected="a store that says which weights it was made with",
                found="one that was imported without them",
                next_step="Omit --teacher, and pass a directory, an id or a config.json as the "
                "student.",
            )
        if known[field] != value:
            raise IdentityError(
                f"--teacher {name}, {field}",
                expected=f"{known[field]}, as in {store.location}",
                found=value,
                next_step="Pass the teacher that the store was built with.",
            )
    return TeacherFiles(
        directory=directory,
        num_bytes=sum(path.stat().st_size for path in weight_files(directory)),
    )
