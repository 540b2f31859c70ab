"""The options that say how a teacher behind a server is asked."""

from __future__ import annotations

import click

SERVER_OPTIONS = (
    click.option(
        "--tokenizer",
        metavar="DIR_OR_ID",
        help="Directory or id of a server's model, for its tokenizer. Its weights are not read.",
    ),
    click.option("--requests", default=16, help="Most requests to a server at a time."),
    click.option(
        "--patience",
        default=300,
        help="Seconds within which a server must answer. Until then it is asked again, for example "
        "while it restarts.",
    ),
)
"""How a teacher behind a server is asked."""
