"""The command line: options in, typed errors out as messages with the next step."""

from softtargets.cli.main import main

__all__ = ["main"]
