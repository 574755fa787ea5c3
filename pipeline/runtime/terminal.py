"""Keep the terminal safe: escape control characters, and end quietly when a stream fails or Ctrl-C is pressed.

Names of files, runs and documents may come from strangers. In a terminal, an escape sequence could rewrite the screen,
and a mark of writing direction could make a name look like another name. So everything that is printed for people
passes through ``visible``.
"""

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

import click

from storage.errors import StoreError

_STEERING: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Marks of direction, line separators, surrogates, invisible tags, and all control characters but tab and line end."""


def visible(text: str) -> str:
    r"""Return ``text`` with all characters that could steer a terminal escaped.

    For example, the control character ESC becomes the four characters ``\x1b``. Tabs and line ends stay.
    """
    return _STEERING.sub(_escape, text)


def visible_line(text: str) -> str:
    r"""Return ``visible(text)`` with tabs and line ends written as ``\t`` and ``\n``, so that it stays one line."""
    return visible(text).replace("\t", r"\t").replace("\n", r"\n")


def visible_json(text: str) -> str:
    r"""Return JSON with the same content; characters that steer a terminal are written as ``\u001b`` and so on."""
    return _STEERING.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    # If a file name is not UTF-8, Python keeps each undecodable byte b as the surrogate U+DC00 + b.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else found[0].encode("unicode_escape").decode()


def say(text: str) -> None:
    """Print a text of one or several lines for people.

    Raises:
        StoreError: If standard output cannot be written.
    """
    _print(visible(text))


def say_json(value: Any) -> None:  # noqa: ANN401 - any JSON
    """Print a value as JSON. JSON has no infinity and no NaN, so these become null.

    Raises:
        StoreError: If standard output cannot be written.
    """
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    _print(visible_json(json.dumps(finite, indent=2, ensure_ascii=encoding != "utf8")))


def _print(text: str) -> None:
    try:
        click.echo(text)
    except BrokenPipeError:
        raise  # the program that reads the output, such as head, has ended; click then ends this program silently
    except OSError as error:
        _discard(1)
        raise StoreError(
            f"standard output: cannot be written: {error.strerror}. Make room, or send the output elsewhere"
        ) from error


@contextmanager
def prepared() -> Iterator[None]:
    """Make the standard streams and Ctrl-C safe while a command runs.

    A closed stream is replaced by the null device. Otherwise the next file that is opened would get the stream's file
    descriptor, and libraries would print into this file. A character that a stream cannot encode is escaped. Ctrl-C
    during an import ends the program at once, because libraries would turn it into other errors. An OSError in a thread
    is not printed, because the main thread gets it.
    """
    _repair_streams()
    hook, threading.excepthook = threading.excepthook, _report_thread
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    replaces = is_main and handler in (signal.default_int_handler, signal.SIG_DFL)
    if replaces:
        signal.signal(signal.SIGINT, _interrupted)
    try:
        yield
    finally:
        threading.excepthook = hook
        if replaces:
            signal.signal(signal.SIGINT, handler)


def _repair_streams() -> None:
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if (stream := getattr(sys, name)) is None:
            with suppress(OSError):
                os.fstat(descriptor)
                continue  # open, but Python does not use it
            if os.open(os.devnull, os.O_RDWR) == descriptor:
                setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", encoding="utf-8"))
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _discard(descriptor: int) -> None:
    """Send the unwritten output of a stream to the null device, so that no second error comes when Python ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError, AttributeError):
        if sys.stdout.fileno() == descriptor:
            os.dup2(null, descriptor)
    os.close(null)


def _report_thread(about: threading.ExceptHookArgs) -> None:
    if not issubclass(about.exc_type, OSError):
        threading.__excepthook__(about)


def end_by_ctrl_c() -> None:
    """End this process as Ctrl-C ends a program without a handler. A shell loop around this program then ends, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)


def _interrupted(_: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            end_by_ctrl_c()
        frame = frame.f_back
    raise KeyboardInterrupt
