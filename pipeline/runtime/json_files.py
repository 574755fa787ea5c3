"""Read JSON files that may come from strangers.

Every line and every value is checked before it is used. An error names the file and, in a file of lines, the line.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from storage.errors import InputError


def read_json_lines(path: Path, *, remedy: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ``FILE:LINE`` and the JSON object of each line.

    Args:
        path: The file.
        remedy: The instruction at the end of an error message.

    Raises:
        InputError: If the file cannot be read, or a line is not a JSON object.
    """
    try:
        with path.open("rb") as file:
            for i, line in enumerate(file, start=1):
                where = f"{path}:{i}"
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{where}: not JSON ({error}), expected a row of a result; {remedy}") from error
                if not isinstance(value, dict):
                    raise InputError(f"{where}: found {type(value).__name__}, expected an object; {remedy}")
                yield where, value
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a parsed JSON value is a finite number whose absolute value is below 2^63."""
    # JSON allows whole numbers that no float can hold. For NaN the comparison is false.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 63


def number(value: Mapping[str, Any], name: str, *, where: str) -> float:
    """Return a finite number from a parsed JSON object.

    Raises:
        InputError: If it is missing, or not a finite number as ``is_number`` defines it.
    """
    found = value.get(name)
    if not is_number(found):
        raise InputError(f"{where}: {name} is {found!r:.60}, expected a number; write the file again")
    return found


def whole_number(value: Mapping[str, Any], name: str, *, where: str) -> int:
    """Return a whole number from a parsed JSON object.

    Raises:
        InputError: If it is missing, or not a whole number.
    """
    found = value.get(name)
    if not is_number(found) or not isinstance(found, int):
        raise InputError(f"{where}: {name} is {found!r:.60}, expected a whole number; write the file again")
    return found


def string(value: Mapping[str, Any], name: str, *, where: str) -> str:
    """Return a string from a parsed JSON object.

    Raises:
        InputError: If it is missing, or not a string.
    """
    found = value.get(name)
    if not isinstance(found, str):
        raise InputError(f"{where}: {name} is {found!r:.60}, expected a string; write the file again")
    return found
