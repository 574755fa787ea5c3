"""What the command line adds to click: options from configuration classes, paths or URLs, one-line errors."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click

from pipeline.runtime import options
from storage.errors import RnngDistillError

Place: TypeAlias = Path | str
"""A path or a URL."""
PATH = click.Path(path_type=Path)


class StoreLocation(click.ParamType["Place"]):
    """A path, or a URL that fsspec knows."""

    name = "PATH or URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Place:  # noqa: ANN401, ARG002
        """Return a URL as it is, anything else as a path."""
        return value if isinstance(value, str) and "://" in value else Path(value)


STORE = StoreLocation()


class OneLineErrors(click.Group):
    """Lists commands in the order they are written in, and shows an error that a user can mend as one line.

    Anything else is a bug and keeps its traceback.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's own signature
        """Return the commands in the order in which they are written, which is that of the work."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  click's own signature
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except RnngDistillError as error:
            raise click.ClickException(str(error)) from error


class CommaSeparated(click.ParamType[tuple[Any, ...]]):
    """Several values of one type."""

    def __init__(self, item: type) -> None:
        self._item = item
        self.name = f"{item.__name__},…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:  # noqa: ANN401
        """Return the values as a tuple."""
        try:
            return tuple(self._item(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of {self._item.__name__}", param, ctx)


def configured_by(*classes: type, without: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of configuration classes, and ``--config`` for a TOML file of them.

    The command gets ``values``: what the file and, over it, the command line set. Fields named in ``without`` are none.
    """
    known = options.options_of(*classes, without=without)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def with_values(toml: Path | None, **given: Any) -> None:  # noqa: ANN401
            values = options.read_toml(toml, known) if toml is not None else {}
            names = {option.name for option in known}
            values |= {name: value for name, value in given.items() if name in names and value is not None}
            command(values=values, **{name: value for name, value in given.items() if name not in names})

        decorated: Callable[..., None] = with_values
        decorated.__doc__, decorated.__name__ = command.__doc__, command.__name__
        decorated.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        for option in reversed(known):
            decorated = _click_option(option)(decorated)
        help_text = "TOML file of these options; the command line overrides it."
        return click.option("--config", "toml", type=PATH, help=help_text)(decorated)

    return decorate


def _click_option(option: options.Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option as click has it, without a value where none is given; a switch can be turned on and off."""
    typed = option.name.replace("_", "-")
    if option.type is bool:
        default = typed if option.default else f"no-{typed}"
        about = f"{option.help} [default: {default}]"
        return click.option(f"--{typed}/--no-{typed}", option.name, default=None, help=about)
    default = ",".join(map(str, option.default)) or "none" if option.many else option.default
    kind: Any = CommaSeparated(option.type) if option.many else option.type
    return click.option(
        f"--{typed}",
        option.name,
        type=click.Choice(option.choices) if option.choices else kind,
        help=f"{option.help} [default: {default}]",
    )
