"""Commands of softtargets, run in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from softtargets.cli import main


def run(*arguments: object) -> Result:
    """Return what a command printed, and its exit code; raise what a user would see raised."""
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
