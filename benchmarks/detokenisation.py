"""Measure how often ``import-trees`` rebuilds the exact text of a tree from its words.

    python -m benchmarks.detokenisation FOLDER [--quick] [--json FILE]

FOLDER has a folder for each treebank, with the files ``train`` and ``dev`` as .mrg and .txt. Line n of both files is
the same sentence. There may be an ``.ids.tsv`` with a column text_is_original. Where it is 0, the text itself was
rebuilt from a tree, and the sentence does not count. The benchmark prints the share of sentences whose normalised text
is rebuilt exactly, and the most frequent kinds of the first difference in the other sentences.

NAME_train, NAME_dev    share of the sentences, between 0 and 1
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common import parser, report
from pipeline.corpus.text.text_files import find_file, read_lines
from pipeline.corpus.trees.detokenisation import detokenise
from pipeline.corpus.trees.readers import Counts, Sentence, read_sentences

NUM_KINDS = 12


@dataclass(kw_only=True)
class Comparison:
    """Counts of equal and different texts of a file."""

    num_sentences: int = 0
    num_equal: int = 0
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
    figures = {}
    for split in ("dev",) if given.quick else ("train", "dev"):
        for found in sorted(given.folder.glob(f"*/{split}.mrg*")):
            compared = compare(found.parent / split)
            figures[f"{found.parent.name}_{split}"] = compared.share
            print(f"{found.parent.name} {split}: {compared.share:.4f} of {compared.num_sentences}")
            for kind, count in compared.differences.most_common(NUM_KINDS):
                print(f"    {count:5}  {kind:40} {compared.examples[kind]}")
    report(figures, given)


def compare(stem: Path) -> Comparison:
    """Compare the rebuilt sentences of STEM.mrg with STEM.txt."""
    found = Comparison()
    rebuilt = _rebuilt_texts(stem)
    trees, texts = find_file(stem, ".mrg"), find_file(stem, ".txt")
    for sentence in read_sentences(trees, texts, on_error="skip", counts=Counts()):
        if sentence.number in rebuilt:
            continue
        found.num_sentences += 1
        text = detokenise(sentence.tree.words, sentence.tree.tags)
        if text == sentence.text:
            found.num_equal += 1
            continue
        at = next(i for i, (a, b) in enumerate(zip(text + "\0", sentence.text + "\0", strict=False)) if a != b)
        kind = _kind(text, sentence, at)
        found.differences[kind] += 1
        found.examples.setdefault(
            kind, f"{text[max(0, at - 20) : at + 20]!r} for {sentence.text[max(0, at - 20) :][:40]!r}"
        )
    return found


def _kind(text: str, sentence: Sentence, at: int) -> str:
    if text.replace(" ", "") != sentence.text.replace(" ", ""):
        return "another spelling"
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
