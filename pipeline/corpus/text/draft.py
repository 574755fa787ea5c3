"""Change a line of raw text by rules, and remember the reason for each change."""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.corpus.text.sentences import has_word

Rules = tuple[tuple[re.Pattern[str], str, str], ...]
"""Pattern, replacement and reason of each rule."""

_ENTITY = re.compile(r"&(?:amp;)*(?:#\d+|#x[0-9a-f]+|[a-z]+\d*);?", re.IGNORECASE)


@dataclass(slots=True)
class Draft:
    """A line while the rules work on it. Each rule rewrites ``text`` or drops the line."""

    text: str
    speaker: str = ""
    dropped: str = ""
    """Why the line is dropped, for example because it is a page number. Empty if the line is kept."""
    repaired: list[str] = field(default_factory=list)
    """The reasons for all changes of the line, without repetitions."""

    def replace(self, pattern: re.Pattern[str], replacement: str | Callable[[re.Match[str]], str], reason: str) -> None:
        """Replace every match of a pattern, and call ``change`` with the new text."""
        self.change(pattern.sub(replacement, self.text), reason)

    def apply(self, rules: Rules) -> None:
        """Apply the rules in order."""
        for pattern, replacement, reason in rules:
            self.replace(pattern, replacement, reason)

    def change(self, text: str, reason: str) -> None:
        """Replace the text, and note the reason if the text changed. If no word is left, drop the line."""
        if text == self.text:
            return
        if not self.dropped and has_word(self.text) and not has_word(text):
            self.dropped = reason
        self.text = text
        if reason not in self.repaired:
            self.repaired.append(reason)

    def drop(self, pattern: re.Pattern[str], reason: str) -> None:
        """Drop the line if the pattern matches."""
        if not self.dropped and pattern.search(self.text):
            self.dropped = reason


def undo_entities(draft: Draft) -> None:
    """Replace HTML entities by their characters.

    This is done up to four times, because some entities are escaped: ``&amp;lt;`` first becomes ``&lt;``.
    """
    text = draft.text
    for _ in range(4):
        if "&" not in text or not _ENTITY.search(text):
            break
        text = html.unescape(text)
    draft.change(text, "HTML entity")
