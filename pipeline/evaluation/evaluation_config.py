"""Declare the options of ``evaluate``, ``compare`` and ``report``.

This module imports no torch, so that ``--help`` is quick.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.runtime import outputs
from pipeline.runtime.options import refuse, too_small


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Which weights of a model to measure, and where to compute."""

    checkpoint: str = "best"
    """Which checkpoint of the run: best (by loss on dev), last, or a word checkpoint such as words_1M (the weights
    after training on 1M words)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute. auto: on a GPU if there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PerplexityConfig:
    """How ``evaluate perplexity`` measures."""

    split: str = "dev"
    """Which split of the dataset."""
    truth: Path | None = None
    """Add the perplexity of the grammar that wrote the text (the floor), and the model's divergence from the grammar's
    exact distributions, in nats per position. Give the folder that sample-corpus wrote and that the dataset was built
    from."""
    marginal: bool = False
    """For a teacher: also measure without the trees, by beam search."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig:
    """How ``evaluate mixture`` measures a mixture: a weighted mean of the distributions of a teacher and a student."""

    split: str = "dev"
    """Which split of the dataset. Neither the teacher nor the student may have been trained on it."""
    max_sentences: int | None = None
    """Measure on this many sentences, evenly spaced over the split. Without this option, measure on the whole split."""
    marginal: bool = True
    """For a teacher: measure twice, without the trees (by beam search) and given the trees. With --no-marginal, measure
    only given the trees. This takes seconds, but then a gain from the mixture proves nothing, because trees can reveal
    later words."""

    def __post_init__(self) -> None:
        if self.max_sentences is not None:
            refuse("mixture", too_small(self, 4, "max_sentences"))


@dataclass(frozen=True, kw_only=True, slots=True)
class MinimalPairConfig:
    """How ``evaluate minimal-pairs`` scores a sentence."""

    prefix: Literal["none", "space"] = "none"
    """What precedes each sentence: nothing, or a space as in lm-evaluation-harness's stock task. With tokenizers that
    train-tokenizer makes now, the space changes nothing. With older ones, and with some tokenizers of other programs,
    the space is a token of its own."""
    eos: bool = False
    """Count <eos> as a token of the sentence. Programs such as lm-evaluation-harness do not count <eos>."""
    columns: tuple[str, ...] = ("sentence_good", "sentence_bad")
    """Columns of a table (CSV, TSV) or fields of JSON lines: GOOD,BAD or GOOD,BAD,PARADIGM. GOOD holds the grammatical
    sentence, BAD the ungrammatical one, PARADIGM the name of the paradigm. If a table has no header, give the numbers
    of its columns, from 1. In place of one name you can give two names with a plus sign, such as prefix+verb. The texts
    of these two columns are then joined with a space."""

    def __post_init__(self) -> None:
        if not 2 <= len(self.columns) <= 3 or len({*self.columns}) < len(self.columns):
            found = ",".join(self.columns)
            refuse("minimal pairs", [f"--columns is {found}, expected two or three different names: GOOD,BAD,PARADIGM"])


@dataclass(frozen=True, kw_only=True, slots=True)
class BabylmConfig:
    """How ``evaluate babylm`` scores, and where it writes the predictions."""

    rules: Literal["2026", "2025"] = "2026"
    """The year of BabyLM's pipeline to follow. The two years differ in EWoK, entity tracking and the age of
    acquisition. They also choose differently between texts that are equally probable."""
    out: Path | None = field(default=None, metadata={"writes": outputs.FOLDER})
    """Write the files of predictions below this folder, where BabyLM's collate_preds.py looks for them."""
    name: str = ""
    """The model's name in the paths below --out. Default: the name of the model's folder up to the last dot."""
    revision: str = ""
    """The model's revision in the paths below --out. Default: main, or chck_1M and so on for a word checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntaxGymConfig:
    """How ``evaluate syntaxgym`` joins regions into a sentence."""

    joining: Literal["text", "tokens"] = "text"
    """text: join regions as running text. tokens: keep a space before punctuation, as published results do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SurprisalConfig:
    """What ``evaluate surprisal`` writes."""

    by: Literal["word", "token"] = "word"
    """Write one row per word or one per token."""
    column: str = ""
    """If TEXT is a table (CSV, TSV) or JSON lines: the column that holds the text. If a table has no header, give the
    number of the column, from 1."""
    item: tuple[str, ...] = ()
    """Columns of the table that together identify a sentence, such as item,condition. The output has these columns
    too."""
    region: str = ""
    """Column of the table that identifies a region within a sentence. Each row is then a region. The rows with the same
    values in the columns of --item make a sentence, and the output has a row per region."""
    context: Path | None = None
    """File with the text before each sentence: line k holds the text before sentence k, and may be empty. For students
    that were trained with --context document."""
    context_sentences: int = 0
    """Let the model read up to this many lines before each sentence as its context. An empty line then separates two
    documents. For students that were trained with --context document."""
    spans: Path | None = None
    """File that says where each word is, if words are not the strings between spaces. Each line holds three numbers:
    the sentence, the first character of the word, and the character after the word (docs/surprisal.md)."""
    frequencies: Path | None = None
    """File with one word and its count per line, tab-separated. Adds the column log_frequency."""
    on_error: Literal["stop", "skip"] = "stop"
    """At a malformed line: stop and name the line, or leave the line out and count it."""

    def __post_init__(self) -> None:
        problems = too_small(self, 0, "context_sentences")
        if self.frequencies is not None and self.by == "token":
            problems.append(
                "--frequencies is for a table of words, but --by token writes a table of tokens: leave one out"
            )
        if (self.item or self.region) and not self.column:
            problems.append("--item or --region without --column: name the column of the text")
        if self.region and not self.item:
            problems.append("--region without --item: name the columns that identify a sentence")
        if self.region and self.spans is not None:
            problems.append("--region and --spans both say how a sentence is divided: leave one out")
        if self.context_sentences and self.context is not None:
            problems.append("--context and --context-sentences both give the text before a sentence: leave one out")
        refuse("surprisal", problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsesConfig:
    """What ``evaluate parses`` reads and writes."""

    trees_out: Path | None = field(default=None, metadata={"writes": outputs.PARSES})
    """Write the parses to this STEM, as STEM.mrg and STEM.txt."""
    on_error: Literal["stop", "skip"] = "stop"
    """At a malformed tree: stop and name the line, or leave the tree out and count it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig:
    """How ``compare`` compares perplexities."""

    normaliser: Literal["token", "word", "byte"] = "token"
    """Compare perplexities per token, per word or per byte. Runs with different tokenizers can only be compared per
    word or byte."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """What ``report`` writes."""

    data: tuple[Path | str, ...] = ()
    """Also describe this dataset."""
    format: Literal["html", "markdown", "latex", "csv"] = "html"
    """Write the page as HTML, or only its tables: as Markdown, as LaTeX with booktabs, or as CSV with one line per
    table cell."""
