"""Text, normalised once at the very start; and text files, read line by line with every fault placed.

What is normalised stays: teacher, student, trees and evaluation all see the string ``normalise_text`` returns. It
does not touch case, quotes, dashes or spelling, so that text can be given back as it was but for invisible characters.
"""

import gzip
import re
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, Literal, NamedTuple

from storage.errors import InputError

OnError = Literal["stop", "skip"]
"""What a malformed line or tree does: end everything with one clear line, or be left out and counted."""

# Controls that are not white space, format characters (joiners, marks of direction, soft hyphens, tags, the byte
# order mark), fillers and variation selectors: what has no width of its own. A leaf made only of these is lost by
# every treebank reader there is.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def normalise_text(text: str) -> str:
    """Return ``text`` in NFC, without control and zero-width characters, with single spaces and none at the ends.

    Idempotent. All white space (no-break spaces, tabs, line ends) becomes a space. A lone surrogate, which no file in
    UTF-8 holds, becomes U+FFFD, so that the result can always be encoded.
    """
    if not (text.isascii() and text.isprintable()):
        text = _SURROGATE.sub("\ufffd", _INVISIBLE.sub("", text))
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


BRACKETS: Final = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
"""How the Penn Treebank spells brackets that are words."""
_BRACKET = re.compile("|".join(BRACKETS))


def unescape_brackets(word: str) -> str:
    """Return a word with ``-LRB-``, ``-RRB-``, ``-LSB-``, ``-RSB-``, ``-LCB-``, ``-RCB-`` as the brackets they are."""
    return _BRACKET.sub(lambda found: BRACKETS[found[0]], word)


def escape_brackets(word: str) -> str:
    """Return a word that can stand in a tree: round brackets as ``-LRB-`` and ``-RRB-``, no white space."""
    return "".join(word.split()).replace("(", "-LRB-").replace(")", "-RRB-")


MAX_LINE_BYTES: Final = 1 << 24
"""16 MiB, its end included. No sentence, paragraph or tree is as long, nor is a novel; of a longer line no more is held
than twice as much."""


class Line(NamedTuple):
    """A line of a file."""

    number: int
    """From 1."""
    text: str
    """Without its end."""
    is_utf8: bool
    """False if U+FFFD stands for some of its bytes."""
    is_whole: bool = True
    """False if it is longer than ``MAX_LINE_BYTES``; its text is empty then."""


def read_lines(path: Path, on_long: OnError = "stop") -> Iterator[Line]:
    r"""Yield the lines of a UTF-8 file, plain or gzipped.

    Lines end with ``\n`` or ``\r\n`` and nothing else; a byte order mark is dropped.

    Args:
        path: The file.
        on_long: What a line longer than ``MAX_LINE_BYTES`` does: "stop", or "skip" to yield it as not whole.

    Raises:
        InputError: If the file is missing, cannot be read, or is a damaged gzip file; naming the line, at one that is
            too long where ``on_long`` is "stop".
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if zipped else raw as file:
                for number, data in enumerate(_bounded_lines(file), 1):
                    if data is None and on_long == "stop":
                        raise too_long(path, number)
                    yield _decode(number, data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged gzip file ({error}); fetch or compress it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a file of UTF-8 text") from error


def _bounded_lines(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes | None]:
    """Yield each line, or None for one that is longer than ``MAX_LINE_BYTES``."""
    while data := file.readline(MAX_LINE_BYTES):
        if len(data) < MAX_LINE_BYTES or data.endswith(b"\n") or not (rest := file.readline(MAX_LINE_BYTES)):
            yield data
            continue
        del data
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES)
        yield None


def _decode(number: int, data: bytes | None) -> Line:
    if data is None:
        return Line(number, "", is_utf8=True, is_whole=False)
    try:
        text, is_utf8 = data.decode(), True
    except UnicodeDecodeError:
        text, is_utf8 = data.decode(errors="replace"), False
    text = text.removeprefix("\ufeff") if number == 1 else text
    return Line(number, text.rstrip("\r\n"), is_utf8)


def too_long(path: Path, line: int) -> InputError:
    """Return the error for a line whose ``is_whole`` is False."""
    return InputError(
        f"{path}:{line}: a line longer than {MAX_LINE_BYTES >> 20} MiB, expected a sentence or a paragraph a line; "
        "break it up"
    )


def not_utf8(path: Path, line: int) -> InputError:
    """Return the error for a line whose ``is_utf8`` is False."""
    return InputError(f"{path}:{line}: not UTF-8, expected UTF-8 text; convert the file, or use --on-error skip")


def read_texts(path: Path, on_error: OnError = "stop") -> Iterator[str | None]:
    """Yield the normalised text of each line of a file.

    Where errors are skipped, None stands for a line that is not UTF-8 or longer than ``MAX_LINE_BYTES``.

    Raises:
        InputError: As ``read_lines``, and at the first line that is not UTF-8 where ``on_error`` is "stop".
    """
    for line in read_lines(path, on_error):
        if not line.is_utf8 and on_error == "stop":
            raise not_utf8(path, line.number)
        yield normalise_text(line.text) if line.is_utf8 and line.is_whole else None


def find_file(stem: Path, suffix: str) -> Path:
    """Return the file ``STEM + suffix``, or its ``.gz``.

    Raises:
        InputError: If there is neither, or both.
    """
    found = [path for end in ("", ".gz") if (path := stem.with_name(stem.name + suffix + end)).is_file()]
    if len(found) != 1:
        plain = stem.name + suffix
        problem = f"both {plain} and {plain}.gz" if found else f"neither {plain} nor {plain}.gz"
        remedy = "leave one of them" if found else f"give the path without {suffix}"
        raise InputError(f"{stem}: there is {problem}, expected one; {remedy}")
    return found[0]
