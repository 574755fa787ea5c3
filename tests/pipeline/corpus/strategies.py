"""Draw random trees and texts for property tests."""

from typing import Any

from hypothesis import strategies as st

from pipeline.corpus.text.text_files import escape_brackets, normalise_text
from pipeline.corpus.trees.readers import Sentence
from pipeline.corpus.trees.trees import ROOT, Tree

LABELS = ("NP", "VP", "S", "PP", "X")
TAGS = ("NN", "-LRB-", "``", "PRP$", ":")

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6).map(
    lambda text: "".join(normalise_text(text).split())
)
"""Words of any characters, brackets included. A word is rarely empty."""


def trees(leaves: st.SearchStrategy[str] | None = None, *, max_leaves: int = 20) -> st.SearchStrategy[Tree]:
    """Draw trees that brackets can hold: no empty phrase, a root, chains of phrases, escaped words."""
    leaf = st.tuples(st.sampled_from(TAGS), (words if leaves is None else leaves).map(escape_brackets).filter(bool))
    nested = st.recursive(
        leaf,
        lambda children: st.tuples(st.sampled_from(LABELS), st.lists(children, min_size=1, max_size=4)),
        max_leaves=max_leaves,
    )
    return st.lists(nested, min_size=1, max_size=3).map(lambda children: flatten((ROOT, children)))


def flatten(nested: Any) -> Tree:
    """Return the tree of ``(label, [child, …])`` with ``(tag, word)`` leaves, recursively and slowly."""
    found_words: list[str] = []
    tags: list[str] = []
    phrases: list[tuple[str, int, int]] = []

    def visit(node: Any) -> None:
        label, below = node
        if isinstance(below, str):
            tags.append(label)
            found_words.append(below)
            return
        index = len(phrases)
        phrases.append((label, len(found_words), -1))
        for child in below:
            visit(child)
        phrases[index] = (label, phrases[index][1], len(found_words))

    visit(nested)
    return Tree(tuple(found_words), tuple(tags), tuple(phrases))


@st.composite
def sentences(draw: st.DrawFn) -> Sentence:
    """Draw a tree, and a text of its words with spaces between some of them."""
    tree = draw(trees(st.one_of(st.sampled_from(["do", "n't", "(", "a-b", "\u201c", "x\u0303", "\U0001f600"]), words)))
    text, spans = "", []
    for word in tree.words:
        plain = word.replace("-LRB-", "(").replace("-RRB-", ")")
        text += " " if text and draw(st.booleans()) else ""
        spans.append((len(text), len(text) + len(plain)))
        text += plain
    return Sentence(number=0, text=text, tree=tree, spans=spans)
