"""Handle groups of lines that belong together: notes in brackets, a book's licence, tiers of a transcript, subtitles.

The rules in the module ``babylm`` see one line at a time. The functions of this module run before those rules. They
join lines or leave lines out, and count the lines that the rules then do not see. They look at most
``MAX_LICENCE_LINES`` lines ahead.
"""

import re
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final

from pipeline.corpus.text.babylm import open_note
from pipeline.corpus.text.cleaning_record import CleaningRecord
from pipeline.corpus.text.subtitles import CUE, without_codes
from pipeline.corpus.text.text_files import Line

MAX_NOTE_LINES: Final = 20
"""Maximum number of lines of a note or caption in brackets, not counting the first line."""
MAX_LICENCE_LINES: Final = 500
"""Maximum number of lines of a licence. Those of Project Gutenberg have up to 360 lines."""
MAX_TIER_LINES: Final = 200
"""Maximum number of lines that continue a line of a transcript."""
MAX_CUE_CHARS: Final = 2000
"""After this number of characters, a subtitle is not joined with further lines."""
_HEADERS: Final = (
    *("WEBVTT", "NOTE", "STYLE", "REGION"),
    *("[Script Info]", "[V4", "[Events]", "[Aegisub", "[Fonts]", "[Graphics]"),
    *("[ti:", "[ar:", "[al:", "[au:", "[by:", "[id:", "[la:", "[re:", "[ve:", "[length:", "[offset:"),
)
"""In WebVTT, ASS and LRC files, a block of lines that begins with one of these strings is not a subtitle."""

_LICENCES: Final = tuple(
    (re.compile(r"\W*" + first, re.IGNORECASE), re.compile(r"\W*" + last, re.IGNORECASE))
    for first, last in (
        (
            r"(?:(?:The )?Project Gutenberg(?:['\u2019]s| e-?(?:book|text))|This e-?book is for the use of anyone)\b",
            r"(?:START OF (?:THE|THIS) PROJECT GUTENBERG|END\W*THE SMALL PRINT)",
        ),
        (r"End of (?:the |this )?Project Gutenberg", r".*newsletter to hear about new ebooks"),
    )
)
"""Project Gutenberg puts one notice before a book and one after it. For each notice: patterns of its first line and of
its last line."""


class _Ahead:
    """An iterator over lines that can also show the next lines."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._seen: deque[Line] = deque()

    def __iter__(self) -> Iterator[Line]:
        while self._seen or self.see(1):
            yield self._seen.popleft()

    def see(self, count: int) -> list[Line]:
        """Return the next lines, at most ``count``."""
        self._seen.extend(islice(self._lines, max(count - len(self._seen), 0)))
        return list(islice(self._seen, count))

    def begins(self, start: str) -> bool:
        """Return whether the next line begins with ``start``."""
        return bool(self._seen or self.see(1)) and self._seen[0].text.startswith(start)

    def take(self, count: int) -> Iterator[Line]:
        """Yield the next ``count`` lines and go past them."""
        return islice(self, count)


def with_whole_notes(lines: Iterator[Line], record: CleaningRecord) -> Iterator[Line]:
    """Join the lines of a note or caption in brackets that closes on a later line.

    The joined line is yielded in place of the first line. The other lines of the note are counted as dropped.
    """
    ahead = _Ahead(lines)
    for line in ahead:
        text = whole = line.text.rstrip()
        reason = open_note(text)
        for count, following in enumerate(ahead.see(MAX_NOTE_LINES) if reason else (), 1):
            whole = f"{whole} {following.text.strip()}".rstrip()
            if not open_note(whole):
                for joined in ahead.take(count):
                    record.dropped(reason, joined)
                text = whole
                break
        yield line._replace(text=text)


def without_licences(lines: Iterator[Line], record: CleaningRecord) -> Iterator[Line]:
    """Leave out the notices of Project Gutenberg. A notice whose last line is not found stays."""
    ahead = _Ahead(lines)
    for line in ahead:
        last = next((last for first, last in _LICENCES if first.match(line.text)), None)
        following = ahead.see(MAX_LICENCE_LINES) if last else ()
        end = next((count for count, other in enumerate(following, 1) if last and last.match(other.text)), 0)
        if not end:
            yield line
            continue
        for left_out in (line, *ahead.take(end)):
            if left_out.text.strip():
                record.dropped("Project Gutenberg notice", left_out)
            else:
                record.line("blank")


def with_whole_tiers(lines: Iterator[Line], record: CleaningRecord) -> Iterator[Line]:
    """Join each line of a CHAT transcript with the lines that continue it, which begin with a tab.

    Lines that continue speech count as text. Lines that continue anything else are counted as dropped.
    """
    ahead = _Ahead(lines)
    for line in ahead:
        texts = [line.text]
        while texts[0][:1] in ("*", "%", "@") and len(texts) <= MAX_TIER_LINES and ahead.begins("\t"):
            (joined,) = ahead.take(1)
            texts.append(joined.text.strip())
            if texts[0].startswith("*"):
                record.line("text")
                record.repaired("CHAT line joined", joined, texts[-1])
            else:
                record.dropped("CHAT metadata", joined)
        yield line._replace(text=" ".join(texts))


def with_whole_cues(lines: Iterator[Line], record: CleaningRecord, *, is_rolling: bool = False) -> Iterator[Line]:
    """Join the lines of each subtitle. Leave out the times, numbers and names of subtitles, and headers.

    Blank lines separate subtitles, not documents. They are not yielded.

    Args:
        lines: Lines of a file that gives the time of each subtitle.
        record: Updated with each line that is not yielded.
        is_rolling: Whether a speech recogniser made the subtitles. Such subtitles show each line several times, so a
            line that repeats the line before it is left out.
    """
    ahead = _Ahead(lines)
    waiting: Line | None = None
    last, is_header, begins_block = "", False, True
    for line in ahead:
        text = line.text.strip()
        cue, following = CUE.match(text), ahead.see(1)
        rest = text[cue.end() :] if cue else text
        # In ASS, a subtitle does not end the header. So a comment after a subtitle also counts as header.
        is_ass = text.startswith("Dialogue:")
        if not text or (cue and not is_ass):
            is_header = False
        elif begins_block and text.startswith(_HEADERS):
            is_header = True
        is_before_cue = bool(following and CUE.match(following[0].text))
        reasons = {
            "subtitle time": cue is not None and not rest,
            "number or name of a subtitle": not cue and is_before_cue and (text.isdecimal() or begins_block),
            "header of subtitles": is_header and not cue,
            "repeated line of captions": is_rolling and without_codes(rest) == last,
        }
        begins_block = not text
        if waiting and (cue or not text or len(waiting.text) > MAX_CUE_CHARS):
            yield waiting
            waiting = None
        if not text:
            record.line("blank")
        elif reason := next((reason for reason, applies in reasons.items() if applies), ""):
            record.dropped(reason, line)
        elif waiting:
            record.line("text")
            record.repaired("subtitle line joined", line, text)
            waiting = waiting._replace(text=f"{waiting.text} {text}")
        else:
            waiting = line._replace(text=rest)
        last = without_codes(rest) or last
    if waiting:
        yield waiting
