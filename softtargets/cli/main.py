"""The `softtargets` command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from softtargets.cli.augment_command import augment_command
from softtargets.cli.build_command import build_command, commit_command
from softtargets.cli.clean_command import clean_command
from softtargets.cli.demo_command import demo_command
from softtargets.cli.derive_command import filter_command, merge_command, split_command
from softtargets.cli.fidelity_command import fidelity_command
from softtargets.cli.generate_command import generate_command
from softtargets.cli.info_command import info_command
from softtargets.cli.inspect_command import inspect_command
from softtargets.cli.layouts_command import export_command, import_command
from softtargets.cli.plan_command import plan_command
from softtargets.cli.report_command import report_command
from softtargets.cli.share_command import card_command, pull_command, push_command
from softtargets.cli.train_command import train_command
from softtargets.cli.verify_command import verify_command
from softtargets.errors import SoftTargetsError
from softtargets.texts import shown


class _Commands(click.Group):
    """A group that prints the package's errors as one paragraph and exits with 1."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _shown_errors():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _shown_errors():
            return super().invoke(ctx)


@contextmanager
def _shown_errors() -> Iterator[None]:
    """Raise the package's errors as click's, and click's without what a terminal would obey."""
    try:
        yield
    except SoftTargetsError as error:
        raise click.ClickException(str(error)) from error
    except click.ClickException as error:
        # They quote arguments as they were given, and are made before anybody can ask them not to.
        vars(error)["message"] = shown(error.message)
        raise


_SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(cls=_Commands, context_settings=_SETTINGS)
@click.version_option(package_name="softtargets", prog_name="softtargets")
def main() -> None:
    """Run a teacher over your text once, store its soft targets, and train any student on them."""
    # Other libraries draw bars, some where no terminal is. Read when a command first imports tqdm.
    os.environ.setdefault("TQDM_DISABLE", "1")


for _command in (
    augment_command,
    generate_command,
    plan_command,
    build_command,
    commit_command,
    clean_command,
    verify_command,
    train_command,
    info_command,
    inspect_command,
    report_command,
    fidelity_command,
    merge_command,
    split_command,
    filter_command,
    export_command,
    import_command,
    card_command,
    push_command,
    pull_command,
    demo_command,
):
    main.add_command(_command)
