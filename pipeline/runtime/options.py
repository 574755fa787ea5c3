"""Options: frozen dataclasses, filled from defaults, then a TOML file, then the command line.

A field's type is the option's type and the string under it is its help, so an option is described once. Nothing here
knows what the options are for, and nothing imports torch.
"""

import ast
import dataclasses
import difflib
import inspect
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from storage.errors import ConfigError, InputError

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One field of a configuration class, as a command line shows it."""

    name: str
    help: str
    default: Any
    type: type
    choices: tuple[str, ...] = ()
    many: bool = False
    """A tuple of values, given comma-separated."""


def options_of(*classes: type, without: Sequence[str] = ()) -> list[Option]:
    """Return the options of configuration classes, in order; a field that two of them have appears once."""
    found: dict[str, Option] = {}
    for cls in classes:
        hints = get_type_hints(cls)
        helps = _field_docs(cls)
        for field in dataclasses.fields(cls):
            if field.name in without or field.name in found:
                continue
            hint = hints[field.name]
            many = get_origin(hint) is tuple
            choices = tuple(get_args(hint)) if get_origin(hint) is Literal else ()
            kind = get_args(hint)[0] if many else (str if choices else hint)
            found[field.name] = Option(field.name, helps[field.name], field.default, kind, choices, many)
    return list(found.values())


def read_toml(path: Path, options: Sequence[Option]) -> dict[str, Any]:
    """Return the values a TOML file sets; keys are option names, with ``-`` or ``_``, at top level.

    Raises:
        InputError: If the file does not exist.
        ConfigError: If it is not TOML, or a key is unknown or of another type; all such keys are named at once.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a TOML file of options") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    by_name = {option.name: option for option in options}
    values, problems = {}, []
    for key, value in table.items():
        option = by_name.get(key.replace("-", "_"))
        if option is None:
            close = difflib.get_close_matches(key.replace("-", "_"), by_name, n=1)
            hint = f" (did you mean {close[0]}?)" if close else f"; known keys: {', '.join(sorted(by_name))}"
            problems.append(f"unknown key {key!r}{hint}")
        elif not _fits(value, option):
            problems.append(f"{key} is {value!r}, expected {_expected(option)}")
        else:
            values[option.name] = tuple(value) if option.many else option.type(value)
    if problems:
        raise ConfigError(f"{path}: " + "; ".join(problems))
    return values


def build(cls: type[Config], values: Mapping[str, Any], **fixed: object) -> Config:
    """Return ``cls`` filled with those of ``values`` that are its fields, and ``fixed``."""
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: value for name, value in values.items() if name in names}, **fixed)


def to_json(*configs: object) -> dict[str, Any]:
    """Return the resolved configuration, for a run's ``run.json``."""
    merged: dict[str, Any] = {}
    for config in configs:
        for field in dataclasses.fields(config):  # type: ignore[arg-type]
            value = getattr(config, field.name)
            merged[field.name] = list(value) if isinstance(value, tuple) else value
    return merged


def _fits(value: object, option: Option) -> bool:
    if option.many:
        return isinstance(value, list) and all(_is(item, option.type) for item in value)
    return value in option.choices if option.choices else _is(value, option.type)


def _is(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)


def _expected(option: Option) -> str:
    if option.choices:
        return "one of " + ", ".join(option.choices)
    if option.type is bool:
        return "true or false"
    return f"a list of {option.type.__name__}" if option.many else option.type.__name__


def _field_docs(cls: type) -> dict[str, str]:
    """Return the string literal under each field, of the class and its bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(inspect.getsource(base)).body[0]
        if not isinstance(body, ast.ClassDef):
            continue
        for field, below in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                docs[field.target.id] = inspect.cleandoc(str(below.value.value)).replace("\n", " ")
    return docs
