"""Read minimal pairs in BLiMP's format, and measure how often a model prefers the grammatical sentence.

A pair is right if log p(good) > log p(bad). Each log-probability is the sum over the tokens of the sentence. A tie
(equal log-probabilities) is never right. If ties were right, a model that gives every token the same probability would
reach 100 % on paradigms whose sentences have the same length. BLiMP has some pairs of two identical sentences. They are
left out and counted.

Two conventions change accuracies, so every result names them (docs/decisions/0011):

    eos       whether <eos> counts as a token of the sentence. lm-evaluation-harness and BabyLM's pipeline leave it out
    prefix    what the tokenizer gets before a sentence: nothing, or a space as in the stock task of
              lm-evaluation-harness. With a tokenizer from the current version of train-tokenizer, this space makes
              no difference (docs/decisions/0015)

A second accuracy, ``per_token``, compares means instead of sums: log p divided by the number of tokens in the sum.
Means do not favour the shorter sentence, but they depend on how the tokenizer divides words.

Files have one JSON object per line, with ``sentence_good`` and ``sentence_bad``, as in BLiMP and in BabyLM's filtered
and supplement sets. A file may also be a table (CSV or TSV), and the caller may give other names for the two keys or
columns. The keys ``UID``, ``linguistics_term`` and ``field`` are read if a line has them. Other keys and blank lines
are ignored. Text is normalised as in a corpus, but line ends inside a sentence stay, as in BabyLM's pipeline. Files of
BabyLM's other tasks are refused.

Warstadt et al. (2020), TACL 8.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.file_forms import check_columns, form_of, read_head, read_records
from pipeline.corpus.text.text_files import normalise_text, read_lines
from pipeline.evaluation.intervals_and_p_values import Interval, wilson_interval
from pipeline.evaluation.scorer import Scorer
from storage.errors import InputError, RunError
from storage.files import list_files
from storage.fingerprints import canonical_json, sha256_bytes
from storage.json_files import Count, Number, read_json_lines

Prefix = Literal["none", "space"]
_PREFIXES: Final[Mapping[Prefix, str]] = {"none": "", "space": " "}
NOT_SPECIFIED: Final = "unspecified"
_FIELDS: Final = {"syntax/semantics": "syntax_semantics"}
"""BLiMP spells one of its fields in two ways."""
SENTENCES: Final = ("sentence_good", "sentence_bad")
OTHER_TASKS: Final[Mapping[str, frozenset[str]]] = {
    "EWoK": frozenset({"Context1", "Target1"}),
    "entity tracking": frozenset({"input_prefix", "options"}),
    "COMPS": frozenset({"prefix_acceptable", "prefix_unacceptable"}),
    "WUG": frozenset({"sentences", "ratio"}),
    "VQA": frozenset({"question", "target_ans", "distractors"}),
    "Winoground": frozenset({"caption_0", "caption_1"}),
    "Global PIQA": frozenset({"solution0", "solution1"}),
    "SyntaxGym": frozenset({"predictions", "items"}),
}
"""For each task, keys that all its lines have. The tasks are SyntaxGym and the BabyLM tasks without minimal pairs."""
_REMEDIES: Final = {
    "SyntaxGym": "score suites with evaluate syntaxgym",
    **dict.fromkeys(("VQA", "Winoground", "Global PIQA"), "score this task with BabyLM's pipeline"),
}
_REMEDY: Final = "correct or remove the line, or fetch the file again"
_FORMAT: Final = 'one JSON object per line, {"sentence_good": "...", "sentence_bad": "..."}, or a table'
_COLUMNS: Final = (
    "name the columns of your pairs with --columns GOOD,BAD or PREFIX+GOOD,PREFIX+BAD; if each row has one sentence, "
    "make pairs of the rows first (docs/evaluation.md)"
)
_AS_TABLE: Final = (
    "if its lines are a good and a bad sentence in turn, make a table with paste - - < FILE > pairs.tsv, and give "
    "--columns 1,2"
)
_LINES: Final = (".jsonl", ".jsonl.gz")
_TABLES: Final = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_MISSING: Final = frozenset({"NA", "NaN"})
"""What R and pandas write into a cell without a value."""
_LINE_END: Final = re.compile(r"\r\n?|\n")
_NUMBER: Final = re.compile(r"[-+]?\d[\d.,]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class MinimalPair:
    r"""A grammatical and an ungrammatical sentence, both normalised. A line end inside them is ``\n``."""

    good: str
    bad: str
    paradigm: str
    """The value of ``UID``. If the line has none, the name of its file."""
    term: str = NOT_SPECIFIED
    """The value of ``linguistics_term``: the phenomenon, as BLiMP calls it."""
    field: str = NOT_SPECIFIED
    """The value of ``field``, which is morphology, syntax, semantics or syntax_semantics in BLiMP."""
    number: int = 0
    """Number of the pair in its paradigm, from 0."""
    where: str = ""
    """File and line, for error messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairCounts:
    """How many pairs a model has right."""

    num_pairs: Count
    num_right: Count
    num_ties: Count
    mean_difference: Number
    """Mean of log p(good) - log p(bad) over the pairs, in nats; 0 if there is no pair."""
    standard_deviation: Number
    """Sample standard deviation of the differences (divisor n - 1); 0 if there are fewer than two pairs."""

    def __post_init__(self) -> None:
        """Check that the counts are possible.

        Raises:
            InputError: If they are not.
        """
        if self.num_right + self.num_ties > self.num_pairs:
            raise InputError(
                f"{self.num_right} right and {self.num_ties} ties of {self.num_pairs} pairs, expected at most "
                f"{self.num_pairs} right and tied pairs together"
            )

    @property
    def accuracy(self) -> float | None:
        """``num_right / num_pairs``. A tie is not right. None if there is no pair."""
        return self.num_right / self.num_pairs if self.num_pairs else None

    @property
    def interval(self) -> Interval | None:
        """The 95 % Wilson interval of the accuracy; None if there is no pair."""
        return wilson_interval(self.num_right, self.num_pairs)

    def to_json(self) -> dict[str, Any]:
        """Return the counts, the accuracy, and its Wilson interval."""
        return asdict(self) | {"accuracy": self.accuracy, "interval": self.interval}


@dataclass(frozen=True, kw_only=True, slots=True)
class ParadigmCounts(PairCounts):
    """The counts of a paradigm, and the linguistic term and field that it belongs to."""

    linguistics_term: str
    field: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MinimalPairFigures:
    """Accuracies on a set of minimal pairs: overall, by paradigm, by linguistic term, and by field."""

    overall: PairCounts
    """Counts over all pairs. Their accuracy is the micro average."""
    by_paradigm: Mapping[str, ParadigmCounts]
    by_term: Mapping[str, PairCounts]
    by_field: Mapping[str, PairCounts]
    num_identical: Count
    """Pairs that were left out because their sentences are the same after normalisation."""
    per_token: "MinimalPairFigures | None" = None
    """The same pairs scored by the mean log-probability per token, with differences in nats per token. None in results
    of older versions. The object ``per_token`` has no ``per_token`` of its own."""

    @property
    def macro_accuracy(self) -> float | None:
        """Mean of the paradigms' accuracies, as BLiMP reports it; None if no paradigm has a pair."""
        accuracies = [c.accuracy for c in self.by_paradigm.values() if c.accuracy is not None]
        return sum(accuracies) / len(accuracies) if accuracies else None

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object, with paradigms, terms and fields in alphabetical order."""
        per_token = {} if self.per_token is None else {"per_token": self.per_token.to_json()}
        return {
            "accuracy_macro": self.macro_accuracy,
            "accuracy_micro": self.overall.accuracy,
            "num_identical": self.num_identical,
            "overall": self.overall.to_json(),
            "by_field": {name: counts.to_json() for name, counts in sorted(self.by_field.items())},
            "by_term": {name: counts.to_json() for name, counts in sorted(self.by_term.items())},
            "by_paradigm": {name: counts.to_json() for name, counts in sorted(self.by_paradigm.items())},
            **per_token,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredPair:
    """A model's log-probabilities of the two sentences of a pair: one line of a result's ``.jsonl`` file."""

    paradigm: str
    pair: Count
    """Number of the pair in its paradigm, from 0."""
    good: Number
    """log p of the grammatical sentence, in nats."""
    bad: Number
    """log p of the ungrammatical sentence, in nats."""
    good_tokens: int | None = None
    """Number of tokens in the sum ``good``. None in results of older versions."""
    bad_tokens: int | None = None
    """Number of tokens in the sum ``bad``."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        return asdict(self)


def read_minimal_pairs(path: Path, columns: Sequence[str] = SENTENCES) -> list[MinimalPair]:
    """Return the pairs of a file, or of all files below a folder, ordered by name.

    In a folder, the files ``*.jsonl`` and ``*.jsonl.gz`` are read. If there are no such files, the tables ``*.csv`` and
    ``*.tsv``, plain or gzipped, are read instead. Hidden files and folders are not read.

    ``columns`` names two or three fields of an object, or columns of a table. The first has the grammatical sentence,
    the second the ungrammatical one, and the third, if there is one, the paradigm. In a table without a header, the
    columns are given by number, from 1. The name ``prefix+verb`` joins the columns ``prefix`` and ``verb`` with a
    space.

    Raises:
        InputError: If there is no such file or no pair, if a folder has two files of one name (such as a plain and a
            gzipped one), if a file holds another task, or if a line is malformed. The error names the file and the
            line.
    """
    files = [path]
    if path.is_dir():
        below = [name for name in list_files(path) if not any(p.startswith((".", "__")) for p in Path(name).parts)]
        of_kinds = ([path / name for name in below if name.endswith(suffixes)] for suffixes in (_LINES, _TABLES))
        files = next(filter(None, of_kinds), [])
        if not files:
            raise InputError(
                f"{path}: no .jsonl, .csv or .tsv file in this folder; give a folder with minimal pairs: {_FORMAT}"
            )
        _refuse_other_tasks(files, columns)
        _refuse_twice(path, files)
    seen: Counter[str] = Counter()
    pairs: list[MinimalPair] = []
    for file in files:
        num_before = len(pairs)
        for pair in _pairs_of_file(file, columns):
            pairs.append(replace(pair, number=seen[pair.paradigm]))
            seen[pair.paradigm] += 1
        if len(pairs) == num_before and len(files) > 1:
            raise InputError(
                f"{file}: no minimal pair, expected a JSON object per line; remove the file or fetch it again"
            )
    if not pairs:
        raise InputError(
            f"{path}: no minimal pair in {len(files)} file(s), expected a JSON object per line; fetch the file again"
        )
    return pairs


def pairs_name(folder: Path) -> str:
    """Return the name under which results record a folder or file of pairs."""
    return _stem(folder.resolve())


def pairs_sha256(pairs: Sequence[MinimalPair]) -> str:
    """Return a fingerprint of the pairs and their order. Results are comparable only with the same fingerprint."""
    return sha256_bytes(canonical_json([[pair.paradigm, pair.term, pair.good, pair.bad] for pair in pairs]))


def evaluate_minimal_pairs(
    scorer: Scorer,
    tokenizer: Tokenizer,
    pairs: Sequence[MinimalPair],
    *,
    prefix: Prefix = "none",
    eos: bool = False,
    max_tokens: int | None = None,
) -> tuple[MinimalPairFigures, list[ScoredPair]]:
    """Score pairs, each distinct sentence once. Return the accuracies, and the two log-probabilities of each pair.

    The scorer's float32 log-probabilities are added up in float64. ``max_tokens`` is the length of the longest sentence
    that the model can score, without ``<eos>``; None if there is no limit.

    Raises:
        InputError: If a sentence is too long. The error names the file and the line.
        RunError: If the model gives a log-probability that is not finite.
    """
    kept = [pair for pair in pairs if pair.good != pair.bad]
    where: dict[str, str] = {}
    for pair in kept:
        where.setdefault(pair.good, pair.where)
        where.setdefault(pair.bad, pair.where)
    ids = tokenizer.encode_batch([_PREFIXES[prefix] + sentence for sentence in where])
    for place, found in zip(where.values(), ids, strict=True):
        if max_tokens is not None and len(found) > max_tokens:
            raise InputError(
                f"{place}: a sentence of {len(found)} tokens, expected at most {max_tokens}, the limit of the "
                "model; remove the line"
            )
    log_probs = scorer.log_probs(ids)
    counted = [row if eos else row[:-1] for row in log_probs]
    num_tokens = {sentence: len(row) for sentence, row in zip(where, counted, strict=True)}
    scores = {sentence: float(row.sum(dtype=np.float64)) for sentence, row in zip(where, counted, strict=True)}
    for sentence, score in scores.items():
        if not math.isfinite(score):
            raise RunError(
                f"minimal pairs: log p({sentence!r}) is {score}, expected a finite number; training diverged or the "
                "checkpoint is damaged: use another checkpoint"
            )
    scored = [
        ScoredPair(
            paradigm=pair.paradigm,
            pair=pair.number,
            good=scores[pair.good],
            bad=scores[pair.bad],
            good_tokens=num_tokens[pair.good],
            bad_tokens=num_tokens[pair.bad],
        )
        for pair in kept
    ]
    means = {sentence: score / num_tokens[sentence] for sentence, score in scores.items()}
    figures = _figures(pairs, kept, np.array([pair.good - pair.bad for pair in scored], np.float64))
    per_token = _figures(pairs, kept, np.array([means[pair.good] - means[pair.bad] for pair in kept], np.float64))
    return replace(figures, per_token=per_token), scored


def _figures(
    pairs: Sequence[MinimalPair], kept: Sequence[MinimalPair], differences: NDArray[np.float64]
) -> MinimalPairFigures:
    # The first pair of a paradigm decides the paradigm's term and field.
    first = {pair.paradigm: pair for pair in reversed(pairs)}
    by_paradigm = _counts_by(pairs, kept, differences, lambda pair: pair.paradigm)
    return MinimalPairFigures(
        overall=_counts(differences),
        by_paradigm={
            name: ParadigmCounts(**asdict(counts), linguistics_term=first[name].term, field=first[name].field)
            for name, counts in by_paradigm.items()
        },
        by_term=_counts_by(pairs, kept, differences, lambda pair: pair.term),
        by_field=_counts_by(pairs, kept, differences, lambda pair: pair.field),
        num_identical=len(pairs) - len(kept),
    )


def _stem(file: Path) -> str:
    name = file.name.removesuffix(".gz")
    return next((name.removesuffix(suffix) for suffix in (*_LINES, *_TABLES) if name.endswith(suffix)), name)


def _refuse_twice(folder: Path, files: Sequence[Path]) -> None:
    """Refuse two files with the same name, because their paradigms would be counted together."""
    found: dict[str, Path] = {}
    for file in files:
        other = found.setdefault(_stem(file), file)
        if other != file and other.parent == file.parent:
            raise InputError(f"{folder}: both {other.name} and {file.name}, expected one of them; remove one")
        if other != file:
            raise InputError(
                f"{folder}: {_stem(file)} is in {other.parent} and in {file.parent}; give one of these folders"
            )


def _refuse_other_tasks(files: Sequence[Path], columns: Sequence[str]) -> None:
    """Refuse a folder if the first line of a file belongs to another task. The error names folders with only pairs."""
    others, folders = [], dict[Path, None]()
    for file in files:
        for where, value in islice(_objects(file, columns), 1):
            if found := _other_task(value, columns):
                others.append((where, *found))
            else:
                folders[file.parent] = None
    if others:
        where, problem, remedy = others[0]
        pure = [str(folder) for folder in folders if not any(Path(place).parent == folder for place, *_ in others)]
        alone = f"give a folder with only minimal pairs{': ' * bool(pure)}{' or '.join(pure[:4])}"
        raise InputError(f"{where}: {problem}; {alone}, or {remedy}")


def _other_task(value: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, str] | None:
    """Return None for an object with a sentence of a pair. For any other object, return what is wrong, and a remedy."""
    if any(part in value for name in columns[:2] for part in _parts(name, value)):
        return None
    expected = f"expected the fields {' and '.join(columns)}"
    for task, names in OTHER_TASKS.items():
        if names <= value.keys():
            problem = f"a line of {task}, which is another task than minimal pairs, {expected}"
            return problem, _REMEDIES.get(task, "score BabyLM's tasks with evaluate babylm")
    return f"an object with the fields {', '.join(value) or 'none'}, {expected}", _COLUMNS


def _pairs_of_file(file: Path, columns: Sequence[str]) -> Iterator[MinimalPair]:
    good, bad, paradigm = (*columns, "UID")[:3]
    for where, value in _objects(file, columns):
        if found := _other_task(value, columns):
            problem, remedy = found
            raise InputError(f"{where}: {problem}; give a file or folder with only minimal pairs, or {remedy}")
        field = _text(value, "field", where, NOT_SPECIFIED)
        yield MinimalPair(
            good=_text(value, good, where, is_sentence=True),
            bad=_text(value, bad, where, is_sentence=True),
            paradigm=_text(value, paradigm, where, None if len(columns) > 2 else _stem(file)),
            term=_text(value, "linguistics_term", where, NOT_SPECIFIED),
            field=_FIELDS.get(field, field),
            where=where,
        )


def _objects(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield, for each line of JSON or row of a table, its place (for messages) and its fields."""
    try:
        yield from read_json_lines(file, dict[str, Any], remedy=_REMEDY)
    except InputError as error:
        if not str(error).startswith(f"{file}:1: "):
            raise
        # The first line is no JSON object, so the whole file may have another form.
        lines = read_lines(file)
        head = read_head(read_lines(file, "skip"))
        # form_of trusts the suffix of a path. A file without the suffix of a table, such as a .jsonl file, may hold a
        # table all the same. For such a file, form_of gets an empty path, and judges only by the lines.
        form = form_of(head, file if file.name.endswith(_TABLES) else Path())
        if form.kind == "table":
            names = [part for name in columns for part in _parts(name, form.columns)]
            check_columns(form, names, file, f"; {_COLUMNS}")
            for record in read_records(form, lines, names[0]):
                if record.fault:
                    raise InputError(f"{file}:{record.number}: {record.fault}; {_REMEDY}") from error
                yield f"{file}:{record.number}", record.cells
            return
        if form.kind == "JSON lines" or (form.kind == "text" and head[0].text.lstrip()[:1] in "{["):
            raise
        remedy = form.remedy or _AS_TABLE
        if any('"predictions"' in line.text for line in head):
            remedy = "score SyntaxGym suites with evaluate syntaxgym"
        raise InputError(
            f"{str(error).removesuffix(f'; {_REMEDY}')}; the file looks like {form.found}, expected {_FORMAT}; {remedy}"
        ) from error


def _parts(name: str, known: Container[str]) -> list[str]:
    """Return the columns that ``name`` joins, such as two for ``prefix+verb``.

    A name that is itself in ``known`` is a single column, even with ``+`` in it.
    """
    return [name] if name in known else name.split("+")


def _text(
    value: Mapping[str, Any], name: str, where: str, default: str | None = None, *, is_sentence: bool = False
) -> str:
    if len(parts := _parts(name, value)) > 1:
        return " ".join(_text(value, part, where, is_sentence=is_sentence) for part in parts)
    found = value.get(name)
    if found is None:
        found = default  # null means the same as a missing key
    if not isinstance(found, str):
        raise InputError(f"{where}: {name} is {found!r:.60}, expected a string; {_REMEDY}")
    # The name of a paradigm, term or field becomes one line. A sentence keeps its line ends.
    lines = _LINE_END.split(found) if is_sentence else [found]
    if not (normalised := "\n".join(map(normalise_text, lines)).strip("\n")):
        raise InputError(f"{where}: {name} is empty, expected text; {_REMEDY}")
    if is_sentence and normalised in _MISSING:
        raise InputError(f"{where}: {name} is {normalised}, which stands for a missing value, expected text; {_REMEDY}")
    if is_sentence and _NUMBER.fullmatch(normalised):
        raise InputError(f"{where}: {name} is the number {normalised}, expected a sentence; {_COLUMNS}")
    return normalised


def _counts_by(
    pairs: Sequence[MinimalPair],
    kept: Sequence[MinimalPair],
    differences: NDArray[np.float64],
    key: Callable[[MinimalPair], str],
) -> dict[str, PairCounts]:
    index: dict[str, list[int]] = {key(pair): [] for pair in pairs}
    for i, pair in enumerate(kept):
        index[key(pair)].append(i)
    return {name: _counts(differences[places]) for name, places in sorted(index.items())}


def _counts(differences: NDArray[np.float64]) -> PairCounts:
    return PairCounts(
        num_pairs=len(differences),
        num_right=int((differences > 0).sum()),
        num_ties=int((differences == 0).sum()),
        mean_difference=float(differences.mean()) if len(differences) else 0.0,
        standard_deviation=float(differences.std(ddof=1)) if len(differences) > 1 else 0.0,
    )
