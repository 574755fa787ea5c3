"""Convert texts of the built-in grammar back to terminal strings."""

import re

from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.pcfg import text_of_words


def terminals_of(text: str) -> list[str]:
    """Return the terminal string with this text: the inverse of ``text_of_words``. Unknown words stay as they are."""
    words = re.findall(r"'s|[,.?!]|[^\s,.?!']+", text)
    if words:
        capitalised = {word[0].upper() + word[1:]: word for word in english_grammar().terminals}
        words[0] = capitalised.get(words[0], words[0])
    assert text_of_words(words) == text
    return words
