"""Run commands of softtargets in this process, and show them as a terminal would."""

from __future__ import annotations

import shlex

from softtargets.cli.main import main


def run_command(*words: object) -> None:
    """Run `softtargets` with arguments; a command that fails ends the example with its message."""
    arguments = [str(word) for word in words]
    print(f"\n$ softtargets {shlex.join(arguments)}", flush=True)
    try:
        main.main(arguments, prog_name="softtargets")
    except SystemExit as done:
        if done.code:
            raise
