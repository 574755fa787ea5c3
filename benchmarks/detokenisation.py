"""Measure how often ``import-trees`` rebuilds the exact text of a sentence from the words of its tree.

    python -m benchmarks.detokenisation FOLDER [--quick] [--json FILE]

FOLDER has a folder for each treebank, with train.mrg, train.txt, dev.mrg and dev.txt. Line n of a .mrg file and line n
of the .txt file are the same sentence. If train.ids.tsv or dev.ids.tsv has a column text_is_original, sentences with 0
in this column are not counted: their text was itself rebuilt from a tree. If a rebuilt text differs from the original,
the first difference is classified, for example as a space left out between two words. The benchmark also prints the
most frequent classes.

NAME_train, NAME_dev    share of sentences whose normalised text is rebuilt exactly; NAME is the treebank's folder
NAME_SPLIT_moses        the same share for MosesDetokenizer of sacremoses, if it is installed
NAME_SPLIT_open         share of *open* sentences among those that are not rebuilt exactly. A *pair* is two neighbouring
                        words, each reduced to its part of speech and one more fact: for a punctuation mark, which mark
                        it is; for another word, whether it begins with a digit. A pair is *ambiguous* if the file has
                        it both with a space and without. A rule that sees only the pair must decide for one of the two,
                        so it is wrong somewhere in the file. A sentence is open if its spaces are wrong only in
                        ambiguous pairs.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from benchmarks.common import parser, report
from pipeline.corpus.text.text_files import find_file, read_lines
from pipeline.corpus.trees.detokenisation import detokenise, spell
from pipeline.corpus.trees.matching import Span, match_words
from pipeline.corpus.trees.readers import Counts, Sentence, read_sentences

NUM_KINDS = 12
SPLITS = ("train", "dev")


@dataclass(kw_only=True)
class Comparison:
    """How many texts of a file are rebuilt exactly, and how the others differ from the original."""

    num_sentences: int = 0
    num_equal: int = 0
    num_equal_moses: int = 0
    num_open: int = 0
    differences: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Return the share of sentences whose text is rebuilt exactly."""
        return self.num_equal / self.num_sentences


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("folder", type=Path)
    given = options.parse_args()
    moses = _moses()
    figures = {}
    for split in SPLITS[given.quick :]:
        for folder in sorted(path for path in given.folder.iterdir() if path.is_dir()):
            if not any(folder.glob(f"{split}.mrg*")):
                print(f"{folder.name} {split}: left out, because {folder} has no {split}.mrg")
                continue
            compared = compare(folder / split, moses)
            name, num_different = f"{folder.name}_{split}", compared.num_sentences - compared.num_equal
            figures[name] = compared.share
            figures[f"{name}_open"] = compared.num_open / num_different if num_different else 0.0
            if moses:
                figures[f"{name}_moses"] = compared.num_equal_moses / compared.num_sentences
            theirs = f"{figures[f'{name}_moses']:.4f}" if moses else "-"
            print(f"{folder.name} {split}: {compared.share:.4f}, sacremoses {theirs}, of {compared.num_sentences}")
            print(f"    {compared.num_open} of {num_different} sentences not rebuilt exactly are open (see --help)")
            for kind, count in compared.differences.most_common(NUM_KINDS):
                print(f"    {count:5}  {kind:40} {compared.examples[kind]}")
    if not figures:
        sys.exit(
            f"{given.folder}: no treebank; expected NAME/{SPLITS[-1]}.mrg and NAME/{SPLITS[-1]}.txt in this folder"
        )
    report(figures, given)


def _moses() -> Callable[[list[str]], str] | None:
    try:
        from sacremoses import MosesDetokenizer
    except ImportError:
        print("sacremoses is not installed, so it is not measured; to measure it, pip install sacremoses")
        return None
    detokenise_words: Callable[[list[str]], str] = MosesDetokenizer(lang="en").detokenize
    return detokenise_words


def compare(stem: Path, moses: Callable[[list[str]], str] | None = None) -> Comparison:
    """Compare STEM.txt with the text that ``detokenise`` and ``moses`` rebuild from the words of STEM.mrg.

    ``moses`` gets words as `spell` returns them, for example ``(`` for ``-LRB-``.
    """
    found = Comparison()
    rebuilt = _rebuilt_texts(stem)
    trees, texts = find_file(stem, ".mrg"), find_file(stem, ".txt")
    seen: defaultdict[tuple[str, ...], set[bool]] = defaultdict(set)
    wrong: list[list[tuple[str, ...]]] = []
    for sentence in read_sentences(trees, texts, on_error="skip", counts=Counts()):
        if sentence.number in rebuilt:
            continue
        found.num_sentences += 1
        words = [spell(word) for word in sentence.tree.words]
        found.num_equal_moses += moses is not None and moses(words) == sentence.text
        text = detokenise(sentence.tree.words, sentence.tree.tags)
        neighbours, spaces = _neighbours(sentence), _spaces(sentence.spans)
        for pair, is_space in zip(neighbours, spaces, strict=True):
            seen[pair].add(is_space)
        if text == sentence.text:
            found.num_equal += 1
            continue
        at = next(i for i, (a, b) in enumerate(zip(text + "\0", sentence.text + "\0", strict=False)) if a != b)
        kind = _kind(text, sentence, at)
        if kind != SPELLING:
            ours = _spaces(span for span in match_words(sentence.tree, text) or () if span)
            wrong.append([pair for pair, a, b in zip(neighbours, spaces, ours, strict=False) if a != b])
        found.differences[kind] += 1
        found.examples.setdefault(
            kind, f"{text[max(0, at - 20) : at + 20]!r} for {sentence.text[max(0, at - 20) :][:40]!r}"
        )
    found.num_open = sum(all(len(seen[pair]) == 2 for pair in pairs) for pairs in wrong)
    return found


SPELLING = "another spelling"


def _neighbours(sentence: Sentence) -> list[tuple[str, ...]]:
    words = [spell(word) for word in sentence.tree.words]
    named = [word if not any(map(str.isalnum, word)) else "9" if word[0].isdigit() else "a" for word in words]
    tagged = [f"{word}/{tag}" for word, tag in zip(named, sentence.tree.tags, strict=True)]
    return list(pairwise(tagged))


def _spaces(spans: Iterable[Span]) -> list[bool]:
    return [before[1] < after[0] for before, after in pairwise(spans)]


def _kind(text: str, sentence: Sentence, at: int) -> str:
    if text.replace(" ", "") != sentence.text.replace(" ", ""):
        return SPELLING
    words = zip(sentence.tree.words, sentence.tree.tags, sentence.spans, strict=True)
    named = [(word if not any(map(str.isalnum, word)) else "*", tag, span) for word, tag, span in words]
    position = len(sentence.text[:at].rstrip(" "))
    i = next((i for i, (_, _, (_, stop)) in enumerate(named) if stop == position), None)
    if i is None or i + 1 == len(named):
        return "a space inside a word"
    between = "space left out" if text[at] != " " else "space too many"
    return f"{between}: {named[i][0]}/{named[i][1]} {named[i + 1][0]}/{named[i + 1][1]}"


def _rebuilt_texts(stem: Path) -> frozenset[int]:
    table = stem.with_name(stem.name + ".ids.tsv")
    rows = [line.text.split("\t") for line in read_lines(table)] if table.is_file() else [[]]
    if "text_is_original" not in rows[0]:
        return frozenset()
    column = rows[0].index("text_is_original")
    return frozenset(number for number, row in enumerate(rows[1:]) if row[column] == "0")


if __name__ == "__main__":
    main()
