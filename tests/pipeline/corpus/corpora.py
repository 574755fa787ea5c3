"""Write small corpora, read texts of the built-in grammar, and let renames fail."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.pcfg import text_of_words


def write_stem(stem: Path, pairs: Iterable[tuple[str, str]]) -> Path:
    """Write trees and their texts to STEM.mrg and STEM.txt; return STEM."""
    trees, texts = zip(*pairs, strict=True)
    stem.with_suffix(".mrg").write_text("".join(tree + "\n" for tree in trees))
    stem.with_suffix(".txt").write_text("".join(text + "\n" for text in texts))
    return stem


def flat_pair(text: str) -> tuple[str, str]:
    """Return a tree with one phrase S over all words of a text, and the text."""
    return f"(TOP (S {' '.join(f'(X {word})' for word in text.split())}))", text


def terminals_of(text: str) -> list[str]:
    """Return the terminal string with this text: the inverse of ``text_of_words``. Unknown words stay as they are."""
    words = english_grammar().words_of_text(text)
    assert text_of_words(words) == text
    return words


@contextmanager
def failing_renames(monkeypatch: pytest.MonkeyPatch, num_renames: int, error: BaseException) -> Iterator[list[str]]:
    """Raise ``error`` at the rename after the first ``num_renames``. Yield the names of the renamed files."""
    replace, done = Path.replace, []

    def replace_or_fail(path: Path, target: Path) -> Path:
        if len(done) == num_renames:
            raise error
        done.append(target.name)
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_or_fail)
        yield done
