"""Define what commands need besides click: options from configuration classes, paths or URLs, and one-line errors."""

import functools
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click

from pipeline.runtime import options
from pipeline.runtime.display import as_text
from pipeline.runtime.outputs import Written, check_paths
from pipeline.runtime.terminal import end_by_ctrl_c, prepared, say, say_json, visible, visible_line
from storage.errors import RnngDistillError
from storage.files import cannot_be_used
from storage.json_files import MAX_INT_BITS

Place: TypeAlias = Path | str
"""The same type as ``storage.locations.Place``. Importing that module takes too long for ``--help``."""
PATH = click.Path(path_type=Path, readable=False)
STORE = click.types.FuncParamType(options.path_or_url)
STORE.name = "PATH or URL"
FORCE = "force"
"""Key in the ``meta`` of click's context: whether files of unknown origin may be replaced."""
AS_JSON = "as_json"
"""Key in the ``meta`` of click's context: whether to print JSON."""


def show(summary: dict[str, Any], text: str | None = None) -> None:
    """Print a summary: as JSON if the command was given ``--json``, else as ``text`` or as aligned lines."""
    if click.get_current_context().meta.get(AS_JSON):
        say_json(summary)
    else:
        say(as_text(summary) if text is None else text)


def _remember_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.meta[AS_JSON] = value


def _json_option(text: str) -> Callable[[Any], Any]:
    return click.option("--json", is_flag=True, expose_value=False, callback=_remember_json, help=text)


json_option = _json_option("Print JSON instead of text.")
json_of_plan_option = _json_option("With --plan: print JSON instead of text.")
on_error_option = click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="At a malformed line or tree: stop with its line number, or leave it out and count it.",
)


class OutPath(click.Path):
    """A path that a command writes."""

    def __init__(self, writes: Written) -> None:
        super().__init__(path_type=Path, readable=False)
        self.writes = writes


def _remember_force(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.meta[FORCE] = value


class CheckedCommand(click.Command):
    """A command that checks its paths before it runs, and refuses an option that is given twice.

    See ``pipeline.runtime.outputs`` for what is checked. A command that may replace files gets the option ``--force``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  the signature is click's
        super().__init__(*args, **kwargs)
        if any(isinstance(param.type, OutPath) and param.type.writes.is_own for param in self.params):
            help_text = "Replace existing files even if no command of this program wrote them."
            force = click.option("--force", is_flag=True, expose_value=False, callback=_remember_force, help=help_text)
            force(self)

    def check(self, values: Mapping[str, Any]) -> None:
        """Check the paths among the values of this command's parameters.

        Raises:
            RnngDistillError: If a path cannot be used, or an output would replace a file that must be kept.
        """
        inputs, outputs = list[Path](), list[tuple[Path, Written]]()
        for param in self.params:
            for path in _local_paths(values.get(param.name or "")):
                if isinstance(param.type, OutPath):
                    outputs.append((path, param.type.writes))
                else:
                    inputs.append(path)
        check_paths(inputs, outputs, force=click.get_current_context().meta.get(FORCE))

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  the signature is click's
        """Check the paths of the command line, and run the command."""
        with ctx.scope(cleanup=False):
            self.check(ctx.params)
        return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            click.UsageError: If an option that takes one value is repeated.
        """
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(args=list(args))
            for param, number in Counter(order).items():
                if number > 1 and isinstance(param, click.Option) and not param.multiple and not param.is_eager:
                    long_name = next(name for name in param.opts if name.startswith("--"))
                    # Without a context, click shows the message in one line and leaves the usage out.
                    raise click.UsageError(f"{long_name}: given {number} times, expected once. Give one value.")
        return super().parse_args(ctx, args)


def _local_paths(value: object) -> Iterator[Path]:
    values = value if isinstance(value, tuple) else (value,)
    yield from (item for item in values if isinstance(item, Path))


EXTRAS = {
    "spacy": "parse", "benepar": "parse", "nltk": "parse", "wandb": "wandb", "trackio": "trackio",
    "huggingface_hub": "hub",
    "transformers": "hf", "pyarrow": "parquet", "scipy": "babylm",
}  # fmt: skip
"""For each module that only some commands import, the extra of this package that installs the module."""


class OneLineErrors(CheckedCommand, click.Group):
    """A group of commands. An error that the user can fix, such as a missing optional module, is shown as one line.

    An unexpected error of the operating system is one line too. Any other error is a bug and shows its traceback.
    """

    command_class = CheckedCommand
    group_class = type
    """With the value ``type``, click gives a subgroup the class of its parent group."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  the signature is click's
        """Return the commands in the order of their definition. Click would sort them by name."""
        return list(self.commands)

    def main(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  the signature is click's
        """Run the command line and end the process with its exit status."""
        with prepared():
            try:
                status = self._main(*args, **{**kwargs, "standalone_mode": False})
            except click.ClickException as error:
                shown = io.StringIO()
                error.show(shown)
                click.echo(visible(shown.getvalue()), err=True, nl=False)
                status = error.exit_code
            except click.Abort:
                click.echo("Aborted.", err=True)
                end_by_ctrl_c()
            sys.exit(status if isinstance(status, int) else 0)

    def _main(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  the signature is click's
        try:
            return super().main(*args, **kwargs)
        except RnngDistillError as error:
            raise click.ClickException(visible_line(str(error))) from error
        except OSError as error:
            raise click.ClickException(visible_line(str(cannot_be_used(error)))) from error
        except MemoryError as error:
            raise click.ClickException(
                "there is too little memory for this command, or a file that it reads is damaged and records a "
                "size that is far too large. Run verify or inspect on the inputs, or use a machine with more memory"
            ) from error
        except ModuleNotFoundError as error:
            if (extra := EXTRAS.get(module := (error.name or "").partition(".")[0])) is None:
                raise
            raise click.ClickException(
                f"this command needs the module {module}, which is not installed. Run: pip install "
                f"'rnng-distill[{extra}]', or in a clone of the repository: pip install '.[{extra}]'"
            ) from error


class WholeNumber(click.types.IntParamType):
    """A whole number of at most 63 bits, the most that torch and numpy take."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Return the number."""
        number: int = super().convert(value, param, ctx)
        if number.bit_length() > MAX_INT_BITS:
            self.fail(f"{number} has too many digits, expected at most {MAX_INT_BITS} bits", param, ctx)
        return number


class CommaSeparated(click.ParamType[tuple[Any, ...]]):
    """Several values of one type, separated by commas."""

    def __init__(self, item: Callable[[str], Any]) -> None:
        self._item = item
        self.name = f"{item.__name__},…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:  # noqa: ANN401
        """Return the values as a tuple."""
        try:
            return tuple(self._item(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of {self._item.__name__}", param, ctx)


def configured_by(
    *classes: type, without: Sequence[str] = (), toml: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per field of configuration classes, and call it with ``values``.

    ``values`` holds what the TOML file of ``--config`` sets, overridden by what the command line sets. It holds no
    defaults. Fields named in ``without`` get no option. With ``toml=False`` the command has no ``--config``.
    """
    declared = options.options_of(*classes, without=without)
    names = {option.name for option in declared}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_values(config_file: Path | None = None, **given: Any) -> None:  # noqa: ANN401
            values = options.read_toml(config_file, declared) if config_file is not None else {}
            # For an option that the command line does not give, click gives None, or () if the option may be repeated.
            values |= {name: value for name, value in given.items() if name in names and value not in (None, ())}
            for option in declared:
                if option.is_required and option.name not in values:
                    raise click.UsageError(f"Missing option '{option.flag}'.")
            if config_file is not None:
                context = click.get_current_context()
                assert isinstance(context.command, CheckedCommand)
                context.command.check({**given, **values})
            command(values=values, **{name: value for name, value in given.items() if name not in names})

        decorated: Callable[..., None] = with_values
        for option in reversed(declared):
            decorated = _click_option(option)(decorated)
        if not toml:
            return decorated
        help_text = "Read options from this TOML file. The command line overrides it."
        return click.option("--config", "config_file", type=PATH, help=help_text)(decorated)

    return decorate


def _click_option(option: options.Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the click option. It has no default in click, so that it does not override a value from the TOML file."""
    if option.type is bool:
        off = f"--no-{option.flag.removeprefix('--')}"
        default = (option.flag if option.default else off).removeprefix("--")
        about = f"{option.help} [default: {default}]".lstrip()
        return click.option(f"{option.flag}/{off}", option.name, default=None, help=about)
    click_types: dict[Any, Any] = {Path: PATH, options.path_or_url: STORE, int: WholeNumber()}
    kind = click_types.get(option.type, option.type) if option.writes is None else OutPath(option.writes)
    if option.many and not option.is_repeated:
        kind = CommaSeparated(option.type)
    return click.option(
        option.flag,
        *map(options.flag, option.aliases),
        option.name,
        type=click.Choice(option.choices) if option.choices else kind,
        multiple=option.is_repeated,
        help=f"{option.help}{_shown_default(option)}".lstrip(),
    )


def _shown_default(option: options.Option) -> str:
    if option.is_required:
        return " [required]"
    if option.is_repeated:
        return " May be repeated."
    if option.default in (None, ""):
        return ""
    default = ",".join(map(str, option.default)) or "none" if option.many else option.default
    return f" [default: {default}]"
