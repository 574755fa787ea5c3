"""Read JSON that may come from a stranger. Every line and every number is checked before it is used."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from storage.errors import InputError


def read_json_lines(path: Path, *, remedy: str) -> Iterator[tuple[str, Any]]:
    """Yield ``FILE:LINE`` and the JSON value of each line.

    Args:
        path: The file.
        remedy: The instruction at the end of an error message.

    Raises:
        InputError: If the file cannot be read, or a line is not JSON.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}:{number}"
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{where}: not JSON ({error}), expected a row of a result; {remedy}") from error
                yield where, value
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error


def number(value: Mapping[str, Any], name: str, *, where: str) -> float:
    """Return a finite number from a parsed JSON object.

    Raises:
        InputError: If it is missing, or not a finite number.
    """
    found = value.get(name)
    # JSON allows whole numbers beyond any float, with which we could not compute. The comparison is false for NaN.
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) < 1 << 63:
        raise InputError(f"{where}: {name} is {found!r:.60}, expected a number. Write the file again")
    return found
