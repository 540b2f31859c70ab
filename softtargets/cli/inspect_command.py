"""`softtargets inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from softtargets.cli.terminal import echo, echo_json
from softtargets.errors import InputError
from softtargets.report.facts import grid_of
from softtargets.report.number_texts import number_text, percent_text
from softtargets.report.predictions import Predictions
from softtargets.report.reading import Reading
from softtargets.report.shown_windows import find_window, sound
from softtargets.report.tokens import TokenNames
from softtargets.store import Store
from softtargets.targets import temperature_index
from softtargets.texts import plural, shown
from softtargets.window import Window

PIPE_WIDTH = 120
"""Columns where the output is no terminal."""
_IN_A_ROW = 4
_AT_LENGTH = 20


@click.command("inspect")
@click.argument("store", metavar="STORE_OR_URL")
@click.option(
    "--window",
    "window_id",
    metavar="ID",
    help="Id of a window, or how the id begins.  [default: the first window]",
)
@click.option("--position", type=int, metavar="N", help="Show the token at this place at length.")
@click.option(
    "--temperature",
    type=float,
    metavar="T",
    help="Temperature, which must be one of the store's.  [default: its first]",
)
@click.option("--list", "as_list", is_flag=True, help="Print the ids of all windows instead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def inspect_command(
    store: str,
    window_id: str | None,
    position: int | None,
    temperature: float | None,
    as_list: bool,
    as_json: bool,
) -> None:
    """Show a window, and what the teacher expected at each token."""
    opened = Store.open(store)
    if as_list:
        echo(*opened.window_ids())
        return
    window = (
        sound(opened, next(iter(opened))) if window_id is None else find_window(opened, window_id)
    )
    grid = grid_of(opened.targets)
    if temperature is None:
        temperature = grid[0] if grid else None
    else:
        temperature_index(grid, temperature)
    predictions = Predictions(window, opened.targets)
    names = TokenNames(opened.vocabulary)
    reading = Reading(predictions, names, temperature)
    most = _IN_A_ROW if position is None and not as_json else _AT_LENGTH
    tokens = list(_chosen(reading, position, most))
    if as_json:
        echo_json({**_about(window, temperature, names), "tokens": tokens})
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_WIDTH)
    console.print(_heading(window, temperature, opened.targets.convention.said))
    if window.encoder_ids_M is not None:
        console.print(Text(f"the encoder read: {_encoder_text(window, names)}\n"))
    if position is None:
        console.print(_window_table(tokens))
    else:
        for token in tokens:
            _print_token(console, token)


def _chosen(reading: Reading, position: int | None, most: int) -> Iterator[dict[str, Any]]:
    """Yield all tokens, or the one at a position.

    Raises:
        InputError: the window has no such position.
    """
    tokens = list(reading.tokens(most))
    if position is None:
        yield from tokens
        return
    if not 0 <= position < len(tokens):
        raise InputError(
            f"--position {position}",
            expected=f"a place in the window: 0 to {len(tokens) - 1}",
            found="none",
            next_step="Leave --position out to see all tokens with their places.",
        )
    yield tokens[position]


def _about(window: Window, temperature: float | None, names: TokenNames) -> dict[str, Any]:
    read = {} if window.encoder_ids_M is None else {"encoder_text": _encoder_text(window, names)}
    return {
        "window_id": window.window_id,
        "source": window.source,
        "document_ids": list(window.document_ids),
        "offset": window.offset,
        "temperature": temperature,
        **read,
    }


def _encoder_text(window: Window, names: TokenNames) -> str:
    """Return the tokens that an encoder read, one after the other."""
    assert window.encoder_ids_M is not None
    return "".join(names[one] for one in window.encoder_ids_M.tolist())


def _heading(window: Window, temperature: float | None, said: str) -> Text:
    at = "no temperature is stored" if temperature is None else f"temperature {temperature:g}"
    return Text.assemble(
        (f"window {shown(window.window_id)}", "bold"),
        f"\n{shown(window.source)}, {plural(len(window), 'token')}, {at}; {said}\n",
    )


def _window_table(tokens: list[dict[str, Any]]) -> Table:
    """Return a row for each token, with a column only for what the store tells."""
    columns = {
        "label": any(_is_masked(one) for one in tokens),
        "p": any(_share(one.get("label")) is not None for one in tokens),
        "place": any((one.get("label") or {}).get("rank") is not None for one in tokens),
        "tail": any("tail_mass" in one for one in tokens),
    }
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right", style="dim")
    table.add_column("token", overflow="fold", max_width=24)
    for name, is_there in columns.items():
        if is_there:
            table.add_column(name, justify="right", no_wrap=name != "label")
    table.add_column("expected", overflow="fold")
    for token in tokens:
        if "document_id" in token and token["position"] > 0:
            table.add_section()
        label = token.get("label") or {}
        cells = {
            "label": label.get("token", ""),
            "p": percent_text(_share(label)) if label else "",
            "place": f"{label['rank'] + 1:,}" if label.get("rank") is not None else "",
            "tail": percent_text(token["tail_mass"]) if "tail_mass" in token else "",
        }
        place = "" if token["position"] is None else str(token["position"])
        table.add_row(
            Text(place),
            Text(token["token"], style="" if token.get("is_trained") else "dim"),
            *(Text(cells[name]) for name, is_there in columns.items() if is_there),
            Text("  ".join(_candidate_text(one) for one in token.get("candidates", ()))),
        )
    return table


def _print_token(console: Console, token: Mapping[str, Any]) -> None:
    """Print everything known of one token."""
    console.print(Text(f"{token['token']}", style="bold"))
    for line in _facts(token):
        console.print(Text(f"  {line}"))
    for title, name, count in (
        ("expected", "candidates", "num_candidates"),
        ("drawn from the tail", "drawn", "num_drawn"),
    ):
        if not token.get(name):
            continue
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(title, overflow="fold")
        for column in ("id", "probability", "logit", "draws"):
            table.add_column(column, justify="right")
        for one in token[name]:
            logit = "" if one["logit"] is None else f"{one['logit']:.4f}"
            draws = str(one["num_draws"] or "")
            share = percent_text(one["probability"])
            cells = (one["token"], str(one["token_id"]), share, logit, draws)
            table.add_row(*(Text(cell) for cell in cells))
        console.print(table)
        if token[count] > len(token[name]):
            console.print(Text(f"and {token[count] - len(token[name]):,} more", style="dim"))


def _facts(token: Mapping[str, Any]) -> Iterator[str]:
    if "is_trained" not in token:
        yield "no target is about this token"
        return
    if not token["is_trained"]:
        yield "a student is not trained on it"
    label = token.get("label")
    if label is not None:
        place = "" if label["rank"] is None else f", place {label['rank'] + 1:,}"
        yield f"came: {label['token']}, {percent_text(label['probability'])}{place}"
    if "tail_mass" in token:
        yield f"tail: {percent_text(token['tail_mass'])}"
    if "entropy" in token:
        yield f"entropy: {number_text(token['entropy'])} nats"


def _candidate_text(candidate: Mapping[str, Any]) -> str:
    share = candidate["probability"]
    number = percent_text(share) if share is not None else _logit_text(candidate["logit"])
    return f"{candidate['token']} {number}"


def _logit_text(logit: float | None) -> str:
    return "" if logit is None else f"(logit {logit:.2f})"


def _is_masked(token: Mapping[str, Any]) -> bool:
    """Return whether another token stands there than the label."""
    own, label = token.get("token_id"), token.get("label")
    return bool(own is not None and label is not None and label["token_id"] != own)


def _share(label: Mapping[str, Any] | None) -> float | None:
    return label["probability"] if label else None
