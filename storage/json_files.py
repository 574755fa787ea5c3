"""Read JSON, lines of JSON, and TOML from files that may come from strangers.

A caller that reads JSON passes the expected type of the value: a dataclass, or a plain type such as ``dict[str, int]``.
msgspec checks the whole value against the type. So a caller never sees a value of another type, NaN, an infinity, or an
integer that does not fit in 64 bits. Keys for which a dataclass has no field are ignored.

An error is one line: the file and line, the place in the value, what was found and expected, and a remedy. Files and
lines have a maximum size, so that a huge file cannot fill the memory. A byte order mark is accepted.
"""

import gzip
import re
import tomllib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Annotated, Any, TypeAlias, TypeVar

import msgspec

from storage.errors import InputError, RnngDistillError
from storage.files import open_file

T = TypeVar("T")

MAX_FILE_BYTES = 64 << 20
"""Maximum size of a file that is read as one value. The files of the largest tokenizers have about 40 MiB."""
MAX_LINE_BYTES = 16 << 20
MAX_TOML_BYTES = 1 << 20

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Number: TypeAlias = Annotated[float, msgspec.Meta(gt=-(2.0**63), lt=2.0**63)]
"""A number whose sums and squares stay finite."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
MAX_INT_BITS = 63
_LONG_INTEGER = re.compile(rb"[\s:,\[-][0-9]{19}")
"""Matches every text that has an integer of more than 63 bits. The pattern [0-9]{19} alone would do that, too, but
it would take three times as long on text that consists of log-probabilities."""


def read_bytes(
    path: Path, *, remedy: str, error: type[RnngDistillError] = InputError, max_bytes: int = MAX_FILE_BYTES
) -> bytes:
    """Return the content of a file that has at most ``max_bytes``.

    Args:
        path: The file.
        remedy: The instruction at the end of an error message.
        error: The class of the error to raise.
        max_bytes: The size above which the file is refused.

    Raises:
        RnngDistillError: ``error``, if the file cannot be read or has more than ``max_bytes``.
    """
    try:
        with BufferedReader(open_file(path)) as file:
            data = file.read(max_bytes + 1)
    except OSError as found:
        raise error(f"{path}: cannot be read ({found.strerror}); {remedy}") from found
    if len(data) > max_bytes:
        raise error(f"{path}: more than {_shown_size(max_bytes)}, expected a file of that size at most; {remedy}")
    return data


def read_json(
    path: Path,
    kind: type[T],
    *,
    remedy: str,
    error: type[RnngDistillError] = InputError,
    max_bytes: int = MAX_FILE_BYTES,
) -> T:
    """Return the JSON value of a file. The value must have the type ``kind``.

    The other arguments are those of `read_bytes`.

    Raises:
        RnngDistillError: ``error``, if the file cannot be read, has more than ``max_bytes``, or does not hold JSON of
            the type ``kind``.
    """
    data = read_bytes(path, remedy=remedy, error=error, max_bytes=max_bytes)
    return decode(data, kind, where=str(path), remedy=remedy, error=error)


def read_json_lines(
    path: Path, kind: type[T], *, remedy: str, error: type[RnngDistillError] = InputError
) -> Iterator[tuple[str, T]]:
    """Yield ``FILE:LINE`` and the JSON value of each line of a file, plain or gzipped. Blank lines are skipped.

    Each value must have the type ``kind``. The other arguments are those of `read_bytes`.

    Raises:
        RnngDistillError: ``error``, if the file cannot be read, or a line is too long or not JSON of the type ``kind``.
    """
    decoder = msgspec.json.Decoder(kind)
    for where, line in read_lines(path, remedy=remedy, error=error):
        yield where, _decoded(decoder, line, where=where, remedy=remedy, error=error)


def read_lines(path: Path, *, remedy: str, error: type[RnngDistillError] = InputError) -> Iterator[tuple[str, bytes]]:
    """Yield ``FILE:LINE`` and each line that is not blank, with its line end.

    The arguments are those of `read_bytes`.

    Raises:
        RnngDistillError: ``error``, if the file cannot be read, or a line has more than ``MAX_LINE_BYTES``.
    """
    try:
        with BufferedReader(open_file(path)) as raw, gzip.open(raw) if _is_gzipped(path, raw) else raw as file:
            for number, line in enumerate(_bounded(file), start=1):
                if len(line) > MAX_LINE_BYTES:
                    expected = f"expected lines of {_shown_size(MAX_LINE_BYTES)} at most"
                    raise error(f"{path}:{number}: the line is too long, {expected}; {remedy}")
                if line.removeprefix(_BYTE_ORDER_MARK).strip():
                    yield f"{path}:{number}", line
    except (OSError, EOFError, zlib.error) as found:
        reason = found.strerror if isinstance(found, OSError) and found.strerror else f"damaged gzip file: {found}"
        raise error(f"{path}: cannot be read ({reason}); {remedy}") from found


def decode(data: bytes, kind: type[T], *, where: str, remedy: str, error: type[RnngDistillError] = InputError) -> T:
    """Return the JSON value of ``data``. The value must have the type ``kind``.

    ``where`` names the place of ``data``, such as its file, in an error message. The other arguments are those of
    `read_bytes`.

    Raises:
        RnngDistillError: ``error``, if ``data`` is not JSON of the type ``kind``.
    """
    return _decoded(msgspec.json.Decoder(kind), data, where=where, remedy=remedy, error=error)


def convert(value: object, kind: type[T], *, where: str, remedy: str, error: type[RnngDistillError] = InputError) -> T:
    """Return ``value``, a part of parsed JSON, converted to the type ``kind``.

    The other arguments are those of ``decode``.

    Raises:
        RnngDistillError: ``error``, if ``value`` cannot be converted.
    """
    try:
        return msgspec.convert(value, kind)
    except (msgspec.MsgspecError, RnngDistillError, RecursionError) as found:
        raise error(f"{where}: {_problem(found)}; {remedy}") from found


def read_toml(path: Path, *, remedy: str, error: type[RnngDistillError] = InputError) -> dict[str, Any]:
    """Return the table of a TOML file.

    The values may be NaN, infinities or dates. The caller must check them.

    Raises:
        RnngDistillError: ``error``, if the file cannot be read, has more than ``MAX_TOML_BYTES``, is not TOML or has an
            integer of more than 63 bits.
    """
    data = read_bytes(path, remedy=remedy, error=error, max_bytes=MAX_TOML_BYTES)
    try:
        table = tomllib.loads(data.decode("utf-8-sig"))
        _check_integers(table)
    except (ValueError, RecursionError) as found:
        problem = encoding_problem(data) or _problem(found)
        raise error(f"{path}: not valid TOML ({problem}); {remedy}") from found
    return table


@dataclass(frozen=True, slots=True)
class _NamedCode:
    """The only key that `names_code` reads.

    Other keys are ignored, since they can hold integers of 100 bits: transformers writes 10³⁰ for a tokenizer without a
    maximum length.
    """

    auto_map: Any = None


def names_code(path: Path, *, remedy: str) -> bool:
    """Return whether a configuration file makes the library transformers run Python code from the file's folder.

    Raises:
        InputError: If the file cannot be read or is not a JSON object.
    """
    return read_json(path, _NamedCode, remedy=remedy).auto_map is not None


def _decoded(
    decoder: "msgspec.json.Decoder[T]", data: bytes, *, where: str, remedy: str, error: type[RnngDistillError]
) -> T:
    try:
        text = data.removeprefix(_BYTE_ORDER_MARK)
        value = decoder.decode(text)
        if _LONG_INTEGER.search(b" " + text):
            _check_integers(msgspec.to_builtins(value))
    except (msgspec.MsgspecError, RnngDistillError, ValueError, RecursionError) as found:
        raise error(f"{where}: {encoding_problem(data) or _problem(found)}; {remedy}") from found
    return value


def encoding_problem(data: bytes) -> str:
    """Return why ``data`` is not UTF-8 text, with what was expected; "" if it is UTF-8 text."""
    if data.startswith(_GZIP):
        return "compressed by gzip, expected plain text: decompress it"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:
        return "text in UTF-16 or UTF-32, expected UTF-8: convert it"
    try:
        data.decode()
    except UnicodeDecodeError as found:
        return f"not UTF-8 (byte {found.start}), expected UTF-8: convert it"
    return ""


def _check_integers(value: object) -> None:
    if isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            _check_integers(each)
    elif isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
        raise ValueError(f"an integer of {value.bit_length()} bits, expected {MAX_INT_BITS} at most")


def _problem(error: Exception) -> str:
    """Return what is wrong with a value as one short line. The line begins with the place inside the value."""
    if isinstance(error, RecursionError):
        return "nested too deeply, expected fewer brackets"
    message, _, place = str(error).partition(" - at `")
    message = " ".join(message.replace("`", "").replace(", got ", ", found ").split())
    if not isinstance(error, msgspec.ValidationError) and isinstance(error, msgspec.DecodeError):
        message = f"not JSON ({message.removeprefix('JSON is malformed: ')})"
    place = place.removesuffix("`").removeprefix("$").removeprefix(".")
    return (f"{place}: " if place else "") + message[:1].lower() + message[1:200]


def _is_gzipped(path: Path, file: "BufferedReader[Any]") -> bool:
    return path.suffix == ".gz" or file.peek(2).startswith(_GZIP)


def _bounded(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """Yield the lines of a file, cut after ``MAX_LINE_BYTES`` + 1 bytes."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line


def _shown_size(num_bytes: int) -> str:
    return f"{num_bytes >> 20} MiB"
