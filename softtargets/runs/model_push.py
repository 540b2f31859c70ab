"""A student on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, get_token

from softtargets.errors import InputError
from softtargets.runs.run_directory import BASELINE, CHECKPOINTS
from softtargets.sharing.repository import LOG_IN, Repository


def check_push(name: str) -> None:
    """Check, before a training, that its student can have such a repository.

    Raises:
        InputError: the name is none, or there is no token.
    """
    Repository.parse(name, None, None, kind="model")
    if get_token() is None:
        raise InputError(
            "--push",
            expected="a token of the Hugging Face Hub",
            found="none",
            next_step=f"{LOG_IN}; or omit --push.",
        )


def push_student(directory: Path, name: str, api: HfApi | None = None) -> str:
    """Push what a run wrote, without its checkpoints, and return the repository's URL.

    The repository is made if there is none. What is there already is not sent again.

    Args:
        directory: of the run.
        name: as org/name or org/name@branch.
        api: client with an endpoint and token that the environment doesn't say.

    Raises:
        StoreError: the Hub cannot be reached, or refuses.
    """
    there = Repository.parse(name, None, api, kind="model")
    with there.errors():
        there.api.create_repo(there.name, exist_ok=True)
        there.api.upload_folder(
            repo_id=there.name,
            folder_path=directory,
            revision=there.revision,
            commit_message="Push a student trained by softtargets",
            ignore_patterns=[f"{CHECKPOINTS}/*", f"{BASELINE}/*"],
        )
    return there.url
