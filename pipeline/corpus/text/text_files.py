"""Normalise text, and read text files line by line. An error names the faulty line.

Text is normalised once, when it is read. Teacher, student, trees and evaluation all see the string that
``normalise_text`` returns. Normalisation does not change case, quotes, dashes or spelling.
"""

import gzip
import os
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Final, Literal, NamedTuple

from storage.errors import ConfigError, InputError
from storage.files import beside, is_there, open_file

OnError = Literal["stop", "skip"]
"""What to do at a malformed line or tree. stop: end with an error that names its line. skip: leave it out and count
it."""

# Characters without a width of their own: controls that are not white space, format characters (joiners, marks of
# direction, soft hyphens, tags, the byte order mark), fillers and variation selectors.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def normalise_text(text: str) -> str:
    """Return ``text`` in NFC, without control and zero-width characters, with single spaces and no spaces at the ends.

    The function is idempotent. A lone surrogate becomes U+FFFD, so that the result can always be encoded.
    """
    if not (text.isascii() and text.isprintable()):
        text = _SURROGATE.sub("\ufffd", _INVISIBLE.sub("", text))
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


BRACKETS: Final = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
"""Spellings of brackets as words in the Penn Treebank."""
_BRACKET = re.compile("|".join(BRACKETS))
_MARK = r"<\|(?:end|start|begin)_?of_?text\|>"
_END_OF_TEXT: Final = re.compile(rf"^\s*{_MARK}\s*|\s*{_MARK}\s*$|{_MARK}(?=\w)")
"""A mark such as ``<|endoftext|>`` between two texts of a file. It is at the beginning or end of a line, or directly
before a letter or digit. Anywhere else (for example, inside a line and before a space), the mark belongs to the
text."""


def unescape_brackets(word: str) -> str:
    """Return a word with the spellings of ``BRACKETS`` replaced by the brackets themselves."""
    return _BRACKET.sub(lambda found: BRACKETS[found[0]], word)


def escape_brackets(word: str) -> str:
    """Return a word that a tree can hold: round brackets become ``-LRB-`` and ``-RRB-``, white space is removed."""
    return "".join(word.split()).replace("(", "-LRB-").replace(")", "-RRB-")


MAX_LINE_BYTES: Final = 1 << 24
"""Maximum size of a line that is read: 16 MiB, including the line end. Skipping or refusing a longer line takes at most
twice this amount of memory."""
MAX_SKIPPED_BYTES: Final = 1 << 29
"""Maximum size of a line that can be skipped: 512 MiB. A longer line is an error even with "skip". A gzip file of a few
MB can hold one line of many GB."""


class Line(NamedTuple):
    """A line of a text file, or a line of the text in a JSON object or in a row of a table (see ``file_forms``)."""

    number: int
    """Number in the file, from 1."""
    text: str
    """Text without the line end."""
    is_utf8: bool
    """False if the line was not UTF-8. Then U+FFFD replaces the faulty bytes."""
    is_whole: bool = True
    """False if the line is longer than ``MAX_LINE_BYTES``. Then its text is empty."""
    fault: str = ""
    """What is wrong with a JSON object or a row of a table whose text cannot be read; else ""."""
    begins_document: bool = False
    """True for the first line of a document. A document is the text of a JSON object or of a row of a table, or the
    text after a mark such as ``<|endoftext|>``."""


def read_lines(path: Path, on_long: OnError = "stop") -> Iterator[Line]:
    r"""Yield the lines of a UTF-8 file, plain or gzipped.

    Only ``\n`` and ``\r\n`` end a line. A byte order mark is dropped.

    Args:
        path: The file.
        on_long: What to do at a line longer than ``MAX_LINE_BYTES``: "stop", or "skip" to yield it with
            ``is_whole`` false.

    Raises:
        InputError: If the file is missing, cannot be read, or is a damaged gzip file; if a line is longer than
            ``MAX_LINE_BYTES`` and ``on_long`` is "stop"; or if a line is longer than ``MAX_SKIPPED_BYTES``.
    """
    try:
        with BufferedReader(open_file(path)) as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if zipped else raw as file:
                for number, (data, is_endless) in enumerate(_bounded_lines(file, on_long), 1):
                    if data is None and (on_long == "stop" or is_endless):
                        limit = MAX_SKIPPED_BYTES if is_endless else MAX_LINE_BYTES
                        raise InputError(
                            f"{path}:{number}: a line longer than {limit >> 20} MiB, expected one sentence or "
                            "paragraph per line; break it up"
                        )
                    yield _decode(number, data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged gzip file ({error}); fetch or compress it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a file of UTF-8 text") from error


def _bounded_lines(file: IO[bytes] | gzip.GzipFile, on_long: OnError) -> Iterator[tuple[bytes | None, bool]]:
    """Yield a pair for each line: its bytes, and whether it is too long to skip.

    For a line longer than ``MAX_LINE_BYTES``, None takes the place of the bytes.
    """
    while data := file.readline(MAX_LINE_BYTES):
        if len(data) < MAX_LINE_BYTES or data.endswith(b"\n") or not (rest := file.readline(MAX_LINE_BYTES)):
            yield data, False
            continue
        size = len(data) + len(rest)
        del data
        while on_long == "skip" and rest and not rest.endswith(b"\n") and size <= MAX_SKIPPED_BYTES:
            rest = file.readline(MAX_LINE_BYTES)
            size += len(rest)
        yield None, size > MAX_SKIPPED_BYTES


def _decode(number: int, data: bytes | None) -> Line:
    if data is None:
        return Line(number, "", is_utf8=True, is_whole=False)
    try:
        text, is_utf8 = data.decode(), True
    except UnicodeDecodeError:
        text, is_utf8 = data.decode(errors="replace"), False
    text = text.removeprefix("\ufeff") if number == 1 else text
    return Line(number, text.rstrip("\r\n"), is_utf8)


def with_documents(lines: Iterable[Line]) -> Iterator[Line]:
    """Begin a document after each mark such as ``<|endoftext|>``, and remove the mark."""
    begins = False
    for line in lines:
        first, *others = _END_OF_TEXT.split(line.text) if begins or "<|" in line.text else [line.text]
        if first.strip() or not any(map(str.strip, others)):
            yield line._replace(text=first, begins_document=begins) if begins or others else line
            begins = begins and not first.strip()
        for text in others:
            if text.strip():
                yield line._replace(text=text, begins_document=True)
            begins = not text.strip()


def not_utf8(path: Path, line: int) -> InputError:
    """Return the error for a line that is not UTF-8."""
    return InputError(f"{path}:{line}: not UTF-8, expected UTF-8 text; convert the file, or use --on-error skip")


def read_texts(path: Path, on_error: OnError = "stop") -> Iterator[str | None]:
    """Yield the normalised text of each line of a file.

    If ``on_error`` is "skip", yield None for a line that is not UTF-8 or longer than ``MAX_LINE_BYTES``.

    Raises:
        InputError: As ``read_lines``; and if a line is not UTF-8 and ``on_error`` is "stop".
    """
    for line in read_lines(path, on_error):
        if not line.is_utf8 and on_error == "stop":
            raise not_utf8(path, line.number)
        yield normalise_text(line.text) if line.is_utf8 and line.is_whole else None


def check_replaces_no_input(command: str, outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Check that no output of a command is also one of its inputs, for example through a link.

    Raises:
        ConfigError: If an output would replace an input.
    """
    read = {(about.st_dev, about.st_ino) for path in inputs if (about := _stat(path)) is not None}
    for path in outputs:
        if (about := _stat(path)) is not None and (about.st_dev, about.st_ino) in read:
            raise ConfigError(f"{command}: {path} is read and would be replaced; give another --out")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None  # if the command needs this file, reading it raises the error


def find_file(stem: Path, suffix: str) -> Path:
    """Return the path of the file ``STEM + suffix``, or of its ``.gz``.

    Raises:
        InputError: If neither file exists, or both exist.
    """
    found = [path for end in ("", ".gz") if is_there(path := beside(stem, suffix + end))]
    if len(found) != 1:
        plain = stem.name + suffix
        problem = f"both {plain} and {plain}.gz" if found else f"neither {plain} nor {plain}.gz"
        remedy = "keep only one of them" if found else f"give the path without {suffix}"
        raise InputError(f"{stem}: there is {problem}, expected one; {remedy}")
    return found[0]
