"""Read JSON that may come from strangers: every line and every number is checked before it is used."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from storage.errors import InputError


def read_json_lines(path: Path, *, remedy: str) -> Iterator[tuple[str, Any]]:
    """Yield ``FILE:LINE`` and the JSON value of each line.

    Args:
        path: The file.
        remedy: What an error tells the user to do.

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
    """Return a finite number of a parsed JSON object.

    Raises:
        InputError: If it is missing or no such number.
    """
    found = value.get(name)
    # JSON has whole numbers beyond any float, with which nothing could be computed; of NaN the comparison is false.
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) < 1 << 63:
        raise InputError(f"{where}: {name} is {found!r:.60}, expected a number; write the file again")
    return found
