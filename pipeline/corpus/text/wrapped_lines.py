"""Recognise hard-wrapped text, which is cut into lines of nearly the same width, and join the lines of a paragraph.

Indentation does not begin a new paragraph, so indented lines, such as those of verse, are joined too.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

WRAPPED_CHARS: Final = 100
"""At most one line in a hundred of a hard-wrapped file has more characters than this."""
MIN_WRAPPED: Final = 0.4
"""Text counts as hard-wrapped if at least this share of its lines is cut inside a sentence (``wrapped_share``). Prose
of many kinds, wrapped at 50 to 100 characters, has 0.77 to 0.95. Text with a sentence or a paragraph per line, and
verse whose lines begin with capitals, has nearly 0."""
MIN_LINES: Final = 3
"""Hard-wrapped text has at least this number of lines that are cut inside a sentence."""
_MIN_WIDTH: Final = 35
"""Smallest width, in characters, that hard-wrapped text is assumed to have."""
_SLACK: Final = 5
"""A line counts as full if the next word would not have fitted, or would have left less room than this many
characters."""
_WIDEST: Final = 0.95
"""The width of a text is the length that this share of its lines does not exceed."""
_ENDS_INSIDE = re.compile(r"[\w,;\u2019'-]")
_WORD = re.compile(r"[^\W\d_]+")
_LAST_CHARS: Final = 40
"""Only this many characters at the end of a line are searched for the first part of a word divided by a hyphen."""
_DIVIDED = re.compile(r"([^\W\d_]+)-$")


def is_wrapped(lines: Sequence[str]) -> bool:
    """Return whether a file has the layout of hard-wrapped text: short lines, and blank lines between paragraphs."""
    full = [text for text in lines if text.strip()]
    return len(full) < len(lines) and sum(len(text) > WRAPPED_CHARS for text in full) * 100 <= len(full)


def wrapped_share(lines: Sequence[str]) -> float:
    """Return the share of lines that seem to be cut inside a sentence because they are full.

    Only lines directly followed by another line of text are counted. Such a line seems to be cut if three things are
    true. It ends with a letter, a digit, a comma, a semicolon, an apostrophe or a hyphen. The next line begins with a
    small letter. The first word of the next line would not have fitted into the line, or only just (``_SLACK``). The
    result is 0 if the share is below ``MIN_WRAPPED`` or fewer than ``MIN_LINES`` lines are cut.
    """
    texts = [text.strip() for text in lines]
    pairs = [(one, other) for one, other in pairwise(texts) if one and other]
    if not pairs:
        return 0.0
    lengths = sorted(len(one) for one, _ in pairs)
    width = max(lengths[int(len(lengths) * _WIDEST)], _MIN_WIDTH)
    num_cut = sum(
        other[0].islower()
        and _ENDS_INSIDE.match(one[-1]) is not None
        and len(one) + 1 + len(other.split(maxsplit=1)[0]) > width - _SLACK
        for one, other in pairs
    )
    share = num_cut / len(pairs)
    return share if share >= MIN_WRAPPED and num_cut >= MIN_LINES else 0.0


def words_of(lines: Iterable[str]) -> frozenset[str]:
    """Return the distinct words of some lines, all in lower case."""
    return frozenset(word for text in lines for word in _WORD.findall(text.lower()))


def join_lines(lines: Iterable[tuple[str, str]], words: frozenset[str]) -> tuple[str, bool]:
    """Return the lines of a paragraph as one line, and whether hyphens were removed.

    If a line ends with a word and a hyphen, the next line follows without a space. The hyphen is removed if the joined
    word is one of ``words``; otherwise it stays, as in "well-known". If a line ends with a soft hyphen, the next line
    follows without a space, too. Cleaning has removed soft hyphens, so the line as it was in the file shows whether
    there was one.

    Args:
        lines: The cleaned text of each line, and the line as it was in the file.
        words: Words of the file in small letters.
    """
    pieces: list[str] = []
    space, has_removed, divided = "", False, None
    for text, line in lines:
        if divided and (rest := _WORD.match(text)) and (divided[1] + rest[0]).lower() in words:
            pieces[-1] = pieces[-1].removesuffix("-")
            has_removed = True
        pieces.append(space + text)
        divided = _DIVIDED.search(text[-_LAST_CHARS:])
        space = "" if divided or line.rstrip().endswith("\u00ad") else " "
    return "".join(pieces), has_removed
