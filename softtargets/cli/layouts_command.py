"""`softtargets export` and `import`: layouts of other tools, by what the registry says of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softtargets.cli.derive_command import say_store
from softtargets.cli.paths import INPUT, OUTPUT, STORE, LocalPath
from softtargets.cli.terminal import echo
from softtargets.places import Place
from softtargets.store import Store
from softtargets.texts import plural

if TYPE_CHECKING:
    from softtargets.layouts.layout import Option
    from softtargets.layouts.registry import Direction


class _LayoutCommand(click.Command):
    """A command with the layouts that go one way, and the options of each.

    They are looked up when it is run or asked for help, since that imports all layouts.
    """

    def __init__(self, *arguments: Any, direction: Direction, flag: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._direction: Direction = direction
        self._flag = flag

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's parameters, then the choice of a layout, then the layouts' own."""
        from softtargets.layouts.registry import ways

        found = ways(self._direction)
        choice = click.Option(
            [self._flag, "layout"],
            required=True,
            type=click.Choice(list(found)),
            help=" ".join(f"{name}: {way.summary}" for name, way in found.items()),
        )
        owners: dict[Option, list[str]] = {}
        for name, way in found.items():
            for option in way.options:
                owners.setdefault(option, []).append(name)
        own = [_parameter(option, layouts) for option, layouts in owners.items()]
        *others, help_option = super().get_params(ctx)
        return [*others, choice, *own, help_option]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with those options that are given.

        Raises:
            UsageError: one that the layout cannot do without is not.
        """
        from softtargets.layouts.registry import ways

        ctx.params = {name: value for name, value in ctx.params.items() if value is not None}
        layout = ctx.params["layout"]
        for option in ways(self._direction)[layout].options:
            if option.is_required and option.name not in ctx.params:
                raise click.UsageError(f"{self._flag} {layout} needs {option.spelled}.", ctx)
        return super().invoke(ctx)


class _TokenizerDirectory(LocalPath):
    """A directory that a tokenizer is loaded from."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the tokenizer.

        Raises:
            InputError: the path is a URL.
            TeacherError: it holds no tokenizer.
        """
        from softtargets.capture.teacher_tokenizer import TransformersTokenizer

        directory = super().convert(value, param, ctx)
        return TransformersTokenizer(directory, trust_remote_code=False)


def _parameter(option: Option, layouts: list[str]) -> click.Option:
    """Return a layout's option as one of the command, which has it for all that take it."""
    from softtargets.layouts.stated import Tokenizer

    kinds: dict[type, Any] = {Path: INPUT, Tokenizer: _TokenizerDirectory(INPUT.expected)}
    kind = click.Choice(option.choices) if option.choices else kinds.get(option.kind, option.kind)
    return click.Option(
        [option.spelled, option.name],
        type=kind,
        is_flag=option.kind is bool,
        default=None,
        help=f"{option.help}  [{', '.join(layouts)}]",
    )


@click.command("export", cls=_LayoutCommand, direction="writes", flag="--to")
@click.argument("store", metavar="STORE_OR_URL")
@click.argument("output", type=OUTPUT)
def export_command(store: str, output: Path, layout: str, **options: Any) -> None:
    """Write a store in a layout that other trainers read."""
    from softtargets.layouts.registry import export_store

    directory = export_store(layout, store, output, **options)
    echo(f"{directory}: {layout} layout, {plural(len(Store.open(store)), 'window')}")


@click.command("import", cls=_LayoutCommand, direction="reads", flag="--from")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=INPUT)
@click.option("--output", required=True, type=STORE, help="Directory or URL of the store.")
def import_command(inputs: tuple[Path, ...], output: Place, layout: str, **options: Any) -> None:
    """Make a store of targets that other tools have stored.

    State what the files do not say. What you do not state stays unknown, and nothing is guessed.
    """
    from softtargets.layouts.registry import import_store

    say_store(import_store(layout, inputs, output, **options))
