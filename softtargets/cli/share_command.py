"""`softtargets card`, `push` and `pull`."""

from __future__ import annotations

from pathlib import Path

import click

from softtargets.cli.paths import INPUT, OUTPUT, STORE
from softtargets.cli.terminal import echo
from softtargets.places import Place
from softtargets.report.number_texts import bytes_text
from softtargets.store import Store
from softtargets.store.card import CARD_NAME
from softtargets.texts import plural


@click.command("card")
@click.argument("store", type=STORE)
@click.option(
    "--fidelity",
    type=INPUT,
    metavar="FILE",
    help="What 'verify --rescore --json' printed for this store. The card shows it as a table.",
)
def card_command(store: Place, fidelity: Path | None) -> None:
    """Write or renew the card of a store.

    The card is README.md, which the Hugging Face Hub shows. What is generated stands between
    marks. Everything else in the file is yours and stays.
    """
    from softtargets.sharing import renew_card, unstated_in

    text = renew_card(store, Store.open(store).manifest, fidelity)
    where = store.where(CARD_NAME)
    echo(f"{where} is up to date.")
    _say_unstated(unstated_in(text, where))


@click.command("push")
@click.argument("store", metavar="STORE", type=INPUT)
@click.argument("repository", metavar="ORG/NAME")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option(
    "--revision", "--branch", metavar="BRANCH", help="Branch to push to.  [default: main]"
)
@click.option("--message", help="Message of the commit.")
@click.option("--replace", is_flag=True, help="Delete another store that is there already.")
def push_command(
    store: Path,
    repository: str,
    private: bool,
    revision: str | None,
    message: str | None,
    replace: bool,
) -> None:
    """Push a store to the Hugging Face Hub.

    The store becomes a dataset repository, and is checked first. After an interruption, run the
    command again. What was sent is not sent again, and nobody sees a store whose shards are
    missing.
    """
    from softtargets.sharing import push

    result = push(
        store, repository, revision=revision, private=private, message=message, replace=replace
    )
    if result.num_files:
        files, size = plural(result.num_files, "file"), bytes_text(result.num_bytes)
        echo(f"{result.url}: {files}, {size} pushed.")
    else:
        echo(f"{result.url}: all files are there already.")
    _say_unstated(result.unstated_licences)
    at = "" if result.revision == "main" else f', revision="{result.revision}"'
    echo(
        "",
        "To train on it:",
        "",
        "    from softtargets import SoftTargetDataset",
        f'    dataset = SoftTargetDataset("{result.url}", shuffle=True, batch_size=8)',
        "",
        "To look at it, without softtargets:",
        "",
        "    from datasets import load_dataset",
        f'    windows = load_dataset("{result.repository}"{at}, split="train", streaming=True)',
    )


@click.command("pull")
@click.argument("repository", metavar="ORG/NAME[@REVISION]")
@click.argument("directory", metavar="DIR", type=OUTPUT)
@click.option("--revision", help="Branch, tag or commit.  [default: main]")
def pull_command(repository: str, directory: Path, revision: str | None) -> None:
    """Pull a store from the Hugging Face Hub.

    Every file is checked. After an interruption, run the command again, and it continues. Until all
    files are there, the directory is no store.
    """
    from softtargets.sharing import hide_client_progress, pull

    hide_client_progress()
    with click.progressbar(length=1, label="Files", show_pos=True) as bar:

        def show(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        result = pull(repository, directory, revision=revision, on_file=show)
    fetched = f"{plural(result.num_files, 'file')}, {bytes_text(result.num_bytes)} fetched"
    echo(
        f"{directory}: {plural(len(result.store), 'window')}, every checksum holds; "
        f"{fetched if result.num_files else 'all files were there already'}."
    )


def _say_unstated(names: tuple[str, ...]) -> None:
    if names:
        echo(f"README.md does not state the licence yet: {'; '.join(names)}.", err=True)
