"""Measure how fast text is parsed: with 256 sentences in each spaCy Doc, and with one sentence in each Doc.

    python -m benchmarks.parsing [--quick] [--json FILE] [--model parser.pt] [--text FILE]

The sentences have exactly nine words. They come from --text (one sentence per line) or from the sample corpus. One
thread parses them with --model, or with a model of train-parser's default size, which the benchmark first trains on the
sample corpus.

packed_vs_single_9_words  speed with 256 sentences per Doc, divided by the speed with one (median over rounds)
sentences_per_s_9_words   sentences/s with 256 sentences per Doc, in the fastest round
same_trees_share          share of the sentences that get the same tree both ways; must be 1
"""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import spacy
import torch

from benchmarks.common import interleaved, parser, ratio, report, use_one_thread
from pipeline.corpus.sample.sample_corpus import write_sample_corpus
from pipeline.corpus.text.text_files import read_texts
from pipeline.parsing.parse_config import ParseConfig, ParserConfig
from pipeline.parsing.sentence_parser import SentenceParser
from pipeline.parsing.train_parser import train_parser

NUM_WORDS = 9


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="a model of train-parser")
    options.add_argument("--text", type=Path, help="text with one sentence per line")
    given = options.parse_args()
    use_one_thread()
    with inputs(given.model, given.text) as (model, text):
        sentences = nine_words(text, 256 if given.quick else 1024)
        packed_config = ParseConfig(model=str(model))
        single_config = replace(packed_config, doc_sentences=1)
        single_parser, packed_parser = (
            SentenceParser(config, torch.device("cpu")) for config in (single_config, packed_config)
        )
        single, packed = single_parser.parse(sentences), packed_parser.parse(sentences)
        runs = {"single": lambda: single_parser.parse(sentences), "packed": lambda: packed_parser.parse(sentences)}
        seconds = interleaved(runs, rounds=3 if given.quick else 7)
    report(
        {
            "packed_vs_single_9_words": ratio(seconds, "packed", "single"),
            "sentences_per_s_9_words": len(sentences) / min(seconds["packed"]),
            "same_trees_share": sum(a == b for a, b in zip(single, packed, strict=True)) / len(sentences),
            "num_sentences": len(sentences),
        },
        given,
    )


@contextlib.contextmanager
def inputs(model: Path | None, text: Path | None) -> Iterator[tuple[Path, Path]]:
    """Yield the given model and text. If one of them is not given, make it from the sample corpus."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if model is None or text is None:
            write_sample_corpus(folder, 4_000, 1)
        if model is None:
            model = folder / "parser.pt"
            trees = folder / "some.mrg"
            trees.write_text("".join((folder / "train.mrg").read_text().splitlines(keepends=True)[:200]))
            train_parser([trees], [trees], model, ParserConfig(num_epochs=2, warmup_steps=5))
        yield model, text or folder / "train.txt"


def nine_words(text: Path, num_sentences: int) -> list[str]:
    """Return the first sentences that have nine words by spaCy's count."""
    nlp = spacy.blank("en")
    found: list[str] = []
    for sentence in read_texts(text):
        if sentence and len(nlp.make_doc(sentence)) == NUM_WORDS:
            found.append(sentence)
        if len(found) == num_sentences:
            return found
    raise SystemExit(f"{text}: {len(found)} sentences of {NUM_WORDS} words, expected {num_sentences}")


if __name__ == "__main__":
    main()
