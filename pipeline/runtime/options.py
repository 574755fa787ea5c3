"""Turn configuration classes into options, and fill the classes from defaults, a TOML file and the command line.

A configuration is a frozen dataclass. The type of a field is the type of its option, and the docstring under the field
is the help text. This module imports no torch.

| field | option |
| --- | --- |
| ``int``, ``float``, ``str``, ``bool``, ``Literal[...]`` | one value; ``bool`` is a switch |
| ``Path`` | a path |
| ``Path \\| str`` | a path or a URL |
| ``X \\| None`` | an X that may be left out |
| ``tuple[int, ...]``, ``tuple[str, ...]`` and so on | one comma-separated value |
| ``tuple[Path, ...]``, ``tuple[Path \\| str, ...]`` | an option that may be repeated |
| a field without a default | a required option |
| ``field(metadata={"aliases": ("--old",)})`` | a second spelling of the option |
| ``field(metadata={"writes": outputs.PARSES})`` | the path of something that the command writes |
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pipeline.runtime.outputs import Written
from storage.errors import ConfigError, RunError
from storage.json_files import read_toml as read_table

Config = TypeVar("Config")


def path_or_url(text: str) -> Path | str:
    """Return a URL unchanged, and anything else as a path."""
    return text if "://" in text else Path(text)


_TYPE_NAMES: dict[Any, str] = {path_or_url: "path or URL", Path: "path"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One field of a configuration class, as an option."""

    name: str
    help: str
    """The docstring of the field."""
    default: Any
    """``dataclasses.MISSING`` if the option is required."""
    type: Callable[[Any], Any]
    """Converts a value: ``int``, ``float``, ``str``, ``bool``, ``Path`` or `path_or_url`."""
    choices: tuple[str, ...] = ()
    many: bool = False
    """Whether the value is a tuple."""
    aliases: tuple[str, ...] = ()
    """Other names of the option."""
    writes: Written | None = None
    """What the command writes at this path; None if the option is not an output."""

    @property
    def is_required(self) -> bool:
        """Whether the option has no default."""
        return self.default is dataclasses.MISSING

    @property
    def is_repeated(self) -> bool:
        """Whether a tuple is given by repeating the option. Other tuples are given as one comma-separated value."""
        return self.many and self.type in _TYPE_NAMES

    @property
    def type_name(self) -> str:
        """The type of one value, for messages."""
        return _TYPE_NAMES.get(self.type) or self.type.__name__

    @property
    def flag(self) -> str:
        """The option as it is typed: ``--batch-tokens``."""
        return flag(self.name)


def flag(name: str) -> str:
    """Return the name of an option as it is typed: ``--batch-tokens`` for ``batch_tokens``."""
    return "--" + name.replace("_", "-")


def options_of(*classes: type, without: Sequence[str] = ()) -> list[Option]:
    """Return the options of configuration classes, in order. Fields named in ``without`` get no option.

    A field that several classes have becomes one option, with the type, default and help of the first class.
    """
    found: dict[str, Option] = {}
    for cls in classes:
        hints, helps = get_type_hints(cls), _field_docs(cls)
        for field in dataclasses.fields(cls):
            if field.name in without or field.name in found:
                continue
            hint = hints[field.name]
            many = get_origin(hint) is tuple
            kind, choices = _value_type(get_args(hint)[0] if many else hint)
            found[field.name] = Option(
                name=field.name,
                help=helps.get(field.name, ""),
                default=field.default,
                type=kind,
                choices=choices,
                many=many,
                aliases=tuple(_plain_name(alias) for alias in field.metadata.get("aliases", ())),
                writes=field.metadata.get("writes"),
            )
    return list(found.values())


def read_toml(path: Path, options: Sequence[Option]) -> dict[str, Any]:
    """Return the values that a TOML file sets. Keys are option names at top level, with ``-`` or ``_``.

    Raises:
        ConfigError: If the file cannot be read or is not TOML, or a key is unknown, repeated or has a value of the
            wrong type. The error names all such keys.
    """
    table = read_table(path, remedy="give a TOML file of options", error=ConfigError)
    by_name = {option.name: option for option in options}
    by_any_name = by_name | {alias: option for option in options for alias in option.aliases}
    values: dict[str, Any] = {}
    problems = []
    for key, value in table.items():
        option = by_any_name.get(_plain_name(key))
        if isinstance(value, dict):
            problems.append(f"has a section [{key}], expected options without sections: write the options at the top")
        elif option is None:
            close = difflib.get_close_matches(_plain_name(key), by_name, n=1)
            hint = f" (did you mean {close[0]}?)" if close else f"; known keys: {', '.join(sorted(by_name))}"
            problems.append(f"unknown key {key!r}{hint}")
        elif option.name in values:
            problems.append(f"{option.name} is given twice, expected once")
        elif not _fits(value, option):
            problems.append(f"{key} is {value!r:.60}, expected {_expected(option)}")
        else:
            values[option.name] = tuple(map(option.type, value)) if option.many else option.type(value)
    if problems:
        raise ConfigError(f"{path}: " + "; ".join(problems))
    return values


def build(cls: type[Config], values: Mapping[str, Any], **fixed: object) -> Config:
    """Return an instance of ``cls``, filled from ``fixed`` and from the entries of ``values`` that name its fields."""
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: value for name, value in values.items() if name in names}, **fixed)


def too_small(config: object, least: int, *names: str) -> list[str]:
    """Return a message for each field in ``names`` whose value in a configuration is below ``least``."""
    found = {name: getattr(config, name) for name in names}
    return [f"{flag(name)} is {value}, expected at least {least}" for name, value in found.items() if value < least]


def refuse(what: str, problems: Iterable[str]) -> None:
    """Raise one error for all problems of a configuration, if there are any.

    Raises:
        ConfigError: Naming what is configured, and all problems.
    """
    if named := "; ".join(problems):
        raise ConfigError(f"{what}: {named}")


def rebuild(cls: type[Config], values: Mapping[str, Any], *, where: str, remedy: str) -> Config:
    """Return an instance of ``cls`` with the values that `to_json` wrote. Fields with a default may be missing.

    Raises:
        RunError: If a value is missing, or has another type or an impossible value.
    """
    problems = []
    for option in options_of(cls):
        if option.name not in values:
            problems += [f"{option.name} is missing"] if option.is_required else []
        elif not (_fits(found := values[option.name], option) or (found is None and option.default is None)):
            problems.append(f"{option.name} is {found!r:.60}, expected {_expected(option)}")
    if problems:
        raise RunError(f"{where}: {'; '.join(problems)}; {remedy}")
    try:
        return build(cls, values)
    except ConfigError as error:
        raise RunError(f"{where}: {error}; {remedy}") from error


def to_json(*configs: object) -> dict[str, Any]:
    """Return all fields of configurations as JSON values, for the ``run.json`` of a run."""
    merged: dict[str, Any] = {}
    for config in configs:
        for field in dataclasses.fields(config):  # type: ignore[arg-type]
            value = getattr(config, field.name)
            merged[field.name] = [_json_value(item) for item in value] if type(value) is tuple else _json_value(value)
    return merged


def _json_value(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _plain_name(typed: str) -> str:
    return typed.removeprefix("--").replace("-", "_")


def _value_type(hint: Any) -> tuple[Callable[[Any], Any], tuple[str, ...]]:  # noqa: ANN401
    """Return the converter for the values of a type hint, and the choices of a ``Literal``."""
    members = set(get_args(hint)) - {NoneType} if get_origin(hint) in (Union, UnionType) else {hint}
    if members == {Path, str}:
        return path_or_url, ()
    (member,) = members
    return (str, get_args(member)) if get_origin(member) is Literal else (member, ())


def _fits(value: object, option: Option) -> bool:
    if option.many:
        return isinstance(value, list) and all(_is(item, option.type) for item in value)
    return value in option.choices if option.choices else _is(value, option.type)


def _is(value: object, kind: Callable[[Any], Any]) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    plain = str if kind in _TYPE_NAMES else kind
    return isinstance(value, plain) and isinstance(value, bool) == (kind is bool)  # type: ignore[arg-type]


def _expected(option: Option) -> str:
    if option.choices:
        return "one of " + ", ".join(option.choices)
    if option.type is bool:
        return "true or false"
    return f"a list of {option.type_name}" if option.many else option.type_name


@functools.cache  # several commands share a class, and reading the source of a class is slow
def _field_docs(cls: type) -> dict[str, str]:
    """Return the docstring under each field, of the class and its bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        (definition,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(definition, ast.ClassDef)
        for pair in itertools.pairwise(definition.body):
            match pair:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                    docs[name] = inspect.cleandoc(str(text)).replace("\n", " ")
    return docs
