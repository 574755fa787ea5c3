"""Compare the sentence boundaries that our rules find with the hand-made boundaries of treebanks.

    python -m benchmarks.splitting FOLDER [--quick] [--json FILE]

FOLDER has a folder for each treebank, with STEM.docs.txt (one paragraph per line) and STEM.txt (one sentence per line).
Only boundaries inside paragraphs count, because the ends of paragraphs are given.

In the table below, NAME is the name of the treebank's folder, an underscore, and STEM. For example, the files
gum/dev.docs.txt and gum/dev.txt have the NAME gum_dev.

NAME_precision, NAME_recall, NAME_f1    of our rules
NAME_spacy_precision, ...               of spaCy's ``sentencizer``
NAME_boundaries                         number of the treebank's boundaries inside paragraphs
words_per_s, spacy_words_per_s          speed over all treebanks and splits
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.common import parser, report
from pipeline.corpus.text.sentences import split_sentences
from pipeline.corpus.text.text_files import normalise_text, read_texts

Splitter = Callable[[str], list[str]]
QUICK_PARAGRAPHS = 300


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("folder", type=Path, help="a folder of treebanks")
    options.add_argument("--errors", type=int, default=0, help="print this number of our errors for each split")
    given = options.parse_args()
    figures: dict[str, float] = {}
    seconds, num_words = Counter[str](), 0
    splitters: dict[str, Splitter] = {"": split_sentences, "spacy_": sentencizer()}
    for docs in sorted(given.folder.glob("*/*.docs.txt")):
        name = f"{docs.parent.name}_{docs.name.removesuffix('.docs.txt')}"
        paragraphs = [text for text in read_texts(docs) if text]
        gold = boundaries(text for text in read_texts(docs.with_name(docs.name.replace(".docs", ""))) if text)
        paragraphs = paragraphs[:QUICK_PARAGRAPHS] if given.quick else paragraphs
        ends = boundaries(paragraphs)
        inside = {at for at in gold - ends if at < max(ends)}
        figures[f"{name}_boundaries"] = len(inside)
        num_words += sum(len(text.split()) for text in paragraphs)
        for prefix, split in splitters.items():
            start = time.perf_counter()
            sentences = [sentence for text in paragraphs for sentence in split(text)]
            seconds[prefix] += time.perf_counter() - start
            found = boundaries(sentences) - ends
            figures |= {f"{name}_{prefix}{key}": value for key, value in scores(found, inside).items()}
            if not prefix and given.errors:
                show_errors(paragraphs, found, inside, given.errors)
    figures |= {f"{prefix}words_per_s": num_words / taken for prefix, taken in seconds.items()}
    report(figures, given)


def boundaries(pieces: Iterable[str]) -> set[int]:
    """Return where the pieces of a text end: the number of characters before each end, not counting white space."""
    found, at = set(), 0
    for piece in pieces:
        at += sum(map(len, piece.split()))
        found.add(at)
    return found


def scores(found: set[int], gold: set[int]) -> dict[str, float]:
    """Return precision, recall and F1."""
    right = len(found & gold)
    precision, recall = right / max(len(found), 1), right / max(len(gold), 1)
    return {"precision": precision, "recall": recall, "f1": 2 * right / max(len(found) + len(gold), 1)}


def sentencizer() -> Splitter:
    """Return spaCy's rule-based splitter."""
    import spacy

    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.max_length = 10**8
    return lambda text: [normalise_text(span.text) for span in nlp(text).sents]


def show_errors(paragraphs: list[str], found: set[int], gold: set[int], num: int) -> None:
    """Print evenly spread places where our boundaries and the treebank's boundaries differ, as text || text."""
    wrong = sorted(found ^ gold)
    wanted, at = set(wrong[:: max(len(wrong) // num, 1)]), 0
    for text in paragraphs:
        for place, char in enumerate(text):
            at += not char.isspace()
            if not char.isspace() and at in wanted:
                kind = "cut too often" if at in found else "cut missed"
                print(f"{kind}: {text[max(place - 60, 0) : place + 1]} || {text[place + 1 : place + 60]}")


if __name__ == "__main__":
    main()
