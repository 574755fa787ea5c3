"""Write and read the results of evaluations.

An evaluation of MODEL writes ``NAME.json`` and, if it scores items, also ``NAME.jsonl``. If MODEL is a run directory,
the files are in ``MODEL/results``. If MODEL is a folder in Hugging Face's format, the files are in ``MODEL-results``,
so that MODEL can be uploaded to the hub without them:

    NAME.json     the result: figures (what was measured), settings, fingerprints, versions and the command line
    NAME.jsonl    the item rows: one JSON line per sentence, pair or item, for tests between models

The function ``record`` writes the two files, and ``load_results`` reads the results of a run's best checkpoint and of
its word checkpoints. Item rows are read one by one, because a split may have millions of sentences.

Results may come from strangers. So values are checked before they are used, averages are computed again from the
counts, and errors name the file and the line. Only the figures of parses and of BabyLM's tasks are not checked.
"""

import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from pipeline.evaluation.minimal_pairs import MinimalPairFigures, ScoredPair
from pipeline.evaluation.mixture import MixtureFigures
from pipeline.evaluation.perplexity import DISTRIBUTIONS, PerplexityFigure
from pipeline.evaluation.surprisal import SurprisalFigure
from pipeline.evaluation.syntaxgym import SyntaxGymFigures
from pipeline.runtime.run_directory import Which, checkpoint_path, command_line, results_folder, versions
from pipeline.runtime.train_config import num_words_of, words_name
from pipeline.training.model_files import EXPORTED, ModelFiles
from storage.errors import InputError, RunError
from storage.files import write_atomically, written_whole
from storage.fingerprints import sha256_file
from storage.json_files import Number, convert, read_json, read_json_lines

log = logging.getLogger(__name__)

FORMAT_VERSION: Final = 2
PERPLEXITY: Final = "perplexity"
MINIMAL_PAIRS: Final = "minimal_pairs"
SURPRISAL: Final = "surprisal"
PARSES: Final = "parses"
SYNTAXGYM: Final = "syntaxgym"
MIXTURE: Final = "mixture"
BABYLM: Final = "babylm"

DATA: Final = {
    PERPLEXITY: "split", MINIMAL_PAIRS: "pairs", SYNTAXGYM: "suites", SURPRISAL: "text", PARSES: "trees",
    MIXTURE: "split", BABYLM: "data",
}  # fmt: skip
"""For each kind of evaluation, the key of ``Result.fingerprints`` under which the sha256 of its data is recorded. The
file name has the first digits of this sha256."""
_AT_WORDS: Final = (PERPLEXITY, MINIMAL_PAIRS, SYNTAXGYM)
"""The kinds of results that are loaded for word checkpoints too."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BEFORE_SENTENCE: Final = {"none": "no space", "space": "a space"}
"""What precedes a sentence, by the setting ``prefix`` of minimal pairs."""

Figures = TypeVar("Figures")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The content of a result file. The fields ``figures`` and ``settings`` are not checked yet."""

    kind: str
    """One of ``perplexity``, ``minimal_pairs``, ``surprisal``, ``parses``, ``syntaxgym``, ``mixture`` and ``babylm``. A
    mixture mixes the model's distributions with those of a teacher."""
    subject: str
    """Name of the data: the name of a split, folder or file. Names of pairs, suites and trees have no suffix."""
    figures: list[Any] | dict[str, Any]
    """What was measured, as a JSON object, such as ``MinimalPairFigures.to_json`` returns. For a perplexity, a list of
    such objects, one per distribution. For ``babylm``, an object with the scores by task."""
    settings: dict[str, Any]
    """Everything that could change ``figures``: checkpoint, batch size, device, dtype and so on."""
    fingerprints: dict[str, str]
    """The sha256 of the ``weights``, of the ``tokenizer`` and of the data (``DATA``). A mixture also has the sha256 of
    the weights of the ``teacher``."""
    versions: dict[str, str]
    command: str
    """The command line."""


def record(
    model: ModelFiles,
    kind: str,
    subject: str,
    figures: Any,  # noqa: ANN401 - JSON
    *,
    settings: Mapping[str, Any],
    fingerprints: Mapping[str, str],
    rows: Iterable[Mapping[str, Any]] | None = None,
) -> tuple[Path, Path]:
    """Write the item rows, then the result. Return the path of the result, then that of the rows.

    A result replaces an earlier result of the same name. Names differ if the data, the checkpoint, the way of scoring,
    or the teacher of a mixture differs.

    ``kind``, ``subject`` and ``figures`` are as in ``Result``. This function adds the checkpoint to the settings, and
    the sha256 of the weights and the tokenizer to the fingerprints. ``rows`` is None for surprisals, parses and
    mixtures.
    """
    name = "-".join([kind.replace("_", "-"), _file_name_part(subject), fingerprints[DATA[kind]][:8]])
    name += "".join(f"-{part}" for part in _name_parts(model.which, settings, fingerprints))
    if rows is not None:
        write_rows(model.path, name, rows)
    result = Result(
        kind=kind,
        subject=subject,
        figures=figures,
        settings={"checkpoint": model.which, **settings},
        fingerprints={"weights": model.weights_sha256, "tokenizer": model.tokenizer_sha256, **fingerprints},
        versions=versions(),
        command=command_line(),
    )
    written = write_result(model.path, name, result)
    return written, written.with_suffix(".jsonl")


def _name_parts(which: str, settings: Mapping[str, Any], fingerprints: Mapping[str, str]) -> list[str]:
    """Return the parts of a result's file name that tell checkpoints, ways of scoring and teachers apart."""
    joining, rules = settings.get("joining", "text"), settings.get("rules", "2026")
    digests = {name: settings.get(f"{name} sha256") for name in ("spans", "context")}
    digests["teacher"] = fingerprints.get("teacher")
    parts = [
        which if which not in {"best", EXPORTED} else "",
        f"beam{settings['beam']}-{settings['word_beam']}" if "beam" in settings else "",
        "space" if settings.get("prefix") == "space" else "",
        "eos" if settings.get("eos") else "",
        joining if joining != "text" else "",
        rules if rules != "2026" else "",
        _file_name_part(settings.get("column", "")),
        _file_name_part(settings.get("region", "")),
        *(f"{name}{digest[:8]}" for name, digest in digests.items() if digest),
        f"context{settings['context_sentences']}" if settings.get("context_sentences") else "",
        f"{settings['max_sentences']}sentences" if settings.get("max_sentences") is not None else "",
    ]
    return [part for part in parts if part]


def _file_name_part(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def write_result(model: Path, name: str, result: Result) -> Path:
    """Write ``NAME.json`` into the folder of results atomically, and return its path.

    Raises:
        RunError: If ``model`` is neither a run nor an exported folder.
        InputError: If ``name`` has other characters than letters, digits and ``._-``.
    """
    path = _path_of(model, name, ".json")
    content = {"format_version": FORMAT_VERSION} | {field: getattr(result, field) for field in Result.__slots__}
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False, default=dict)
    write_atomically(path, text.encode() + b"\n")
    return path


def write_rows(model: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write ``NAME.jsonl`` into the folder of results, one JSON object per line, and return its path.

    The file appears under its name only when all rows are written.

    Raises:
        RunError: If ``model`` is neither a run nor an exported folder.
        InputError: If ``name`` has other characters than letters, digits and ``._-``.
        StoreError: If the file cannot be written.
    """
    path = _path_of(model, name, ".jsonl")
    with written_whole([path]) as (file,):
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False, default=dict) + "\n")
    return path


def read_results(run: Path) -> dict[str, Result]:
    """Return the results of a run by file name, in alphabetical order.

    Raises:
        InputError: If a file is damaged or has another format version.
    """
    folder = results_folder(run)
    if folder != run / "results" and any((run / "results").glob("*.json")):
        log.warning(
            "%s: not read. Results of an exported folder are now in %s. Move them there", run / "results", folder
        )
    return {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}


class SplitKey(NamedTuple):
    """The text whose perplexity was measured. The name is not enough, because two texts may both be called ``dev``."""

    name: str
    text_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedResult(Generic[Figures]):
    """A result whose ``figures`` and ``settings`` are parsed and checked."""

    path: Path
    """The JSON file."""
    kind: str
    """As ``Result.kind``."""
    subject: str
    """As ``Result.subject``."""
    figures: Figures
    convention: str
    """How sentences were scored, in words. Results with different conventions are not comparable."""
    fingerprints: Mapping[str, str]
    command: str
    """The command line that made the result."""

    @property
    def fingerprint(self) -> str:
        """sha256 of the data, such as the split or the pairs."""
        return self.sha256_of(DATA[self.kind])

    @property
    def rows(self) -> Path:
        """Path of the item rows. The file may not exist."""
        return self.path.with_suffix(".jsonl")

    @property
    def remedy(self) -> str:
        """The instruction for replacing a damaged result."""
        return f"evaluate again: {self.command}"

    def sha256_of(self, name: str) -> str:
        """Return the fingerprint with a name, such as ``weights``.

        Raises:
            InputError: If the result has no such fingerprint.
        """
        found = self.fingerprints.get(name)
        if not isinstance(found, str):
            raise InputError(f"{self.path}: no sha256 of the {name}, expected one; {self.remedy}")
        return found


class PerplexityResult(LoadedResult[Mapping[str, PerplexityFigure]]):
    """The perplexities of a split, by distribution."""

    __slots__ = ()

    @property
    def key(self) -> SplitKey:
        """The name of the split and the sha256 of its text."""
        return SplitKey(self.subject, self.sha256_of("text"))


class PairResult(LoadedResult[MinimalPairFigures]):
    """Accuracies on minimal pairs."""

    __slots__ = ()

    @property
    def reading(self) -> str:
        """The part of the convention that says how a sentence is read. The rest names the distribution and the beam."""
        return self.convention.partition("; ")[0]

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield the item rows."""
        for _, pair in read_json_lines(self.rows, ScoredPair, remedy=self.remedy):
            yield pair


class SuiteResult(LoadedResult[SyntaxGymFigures]):
    """Accuracies on SyntaxGym suites."""

    __slots__ = ()

    def items(self) -> Iterator[tuple[str, int, bool]]:
        """Yield the suite and number of each item, and whether it is right. A tie is not right."""
        for _, row in read_json_lines(self.rows, _ItemRow, remedy=self.remedy):
            yield row.suite, row.item, row.outcome == "right"


@dataclass(frozen=True, kw_only=True, slots=True)
class _ItemRow:
    """An item row of SyntaxGym."""

    suite: str
    item: int
    outcome: Literal["right", "wrong", "tie"]


class Skipped(NamedTuple):
    """A result that ``load_results`` did not load."""

    kind: str
    is_outdated: bool
    """True if the result was skipped because of its weights: they are not the weights that ``load_results`` looks for.
    A result that was skipped because of its checkpoint or its kind, or a result of a word checkpoint, is not outdated.
    """
    note: str
    """The file and why it was skipped. If that is because of its weights, also the command that evaluates again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResults:
    """The results of one checkpoint, by kind and in the order of the file names."""

    run: Path
    at_words: dict[int, "RunResults"] = field(default_factory=dict)
    """With the results of the best checkpoint: those of each word checkpoint, by its number of words."""
    perplexities: list[PerplexityResult] = field(default_factory=list)
    pairs: list[PairResult] = field(default_factory=list)
    suites: list[SuiteResult] = field(default_factory=list)
    surprisals: list[LoadedResult[SurprisalFigure]] = field(default_factory=list)
    parses: list[LoadedResult[Mapping[str, Any]]] = field(default_factory=list)
    mixtures: list[LoadedResult[MixtureFigures]] = field(default_factory=list)
    babylm: list[LoadedResult[Mapping[str, Any]]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def load_results(run: Path, *, weights_sha256: str | None = None) -> RunResults:
    """Return the results of the weights that are now a run's best checkpoint, and of its word checkpoints.

    A result counts if the sha256 of its weights is the sha256 of the file of its checkpoint. In a copy of a run without
    this file, every result of the checkpoint counts.

    If ``weights_sha256`` is given, return the results of the weights with this sha256 instead, whatever checkpoint they
    were recorded for.

    Raises:
        InputError: If a result of these checkpoints is damaged.
        RunError: If a checkpoint exists but cannot be read.
    """
    loaded, now = RunResults(run=run), dict[str, str | None]()  # now: the sha256 of the weights of each checkpoint
    if weights_sha256:
        now["best"] = weights_sha256
    for name, result in read_results(run).items():
        file, which = f"results/{name}.json", "best" if weights_sha256 else str(result.settings.get("checkpoint"))
        found, num_words, is_outdated = result.fingerprints.get("weights"), num_words_of(which), False
        is_shown = which == "best" or (num_words > 0 and which == words_name(num_words) and result.kind in _AT_WORDS)
        if is_shown and which not in now:
            now[which] = _weights_sha256(run, which)
        if not is_shown:
            reason = f"of checkpoint {which}, and only results of the best checkpoint are shown"
            reason += ", and perplexities, minimal pairs and SyntaxGym of word checkpoints"
        elif now[which] is not None and found != now[which]:
            is_outdated = which == "best"
            reason = f"of weights {str(found)[:8]}, but the {which} weights are {str(now[which])[:8]} now; "
            reason += f"evaluate again: {result.command}"
        elif result.kind not in DATA:
            reason = f"of kind {result.kind!r}, expected one of {', '.join(DATA)}; this result is not shown"
        else:
            of_checkpoint = loaded.at_words.setdefault(num_words, RunResults(run=run)) if num_words else loaded
            _load(of_checkpoint, run / file, result)
            continue
        loaded.skipped.append(Skipped(result.kind, is_outdated=is_outdated, note=f"{file} is {reason}"))
    return loaded


def read_sentence_rows(path: Path, *, remedy: str) -> Iterator[dict[str, NDArray[np.float64]]]:
    """Read the item rows of a perplexity. Yield the log-probabilities of each sentence, by distribution.

    The row of a sentence of n tokens is ``{"sentence": int, "log_probs": {distribution: [n + 1 floats]}}``. The floats
    are finite natural logarithms, and the last one is for ``<eos>``. They become float64 arrays. Sentences are numbered
    from 0. All rows have the same distributions. ``remedy`` is the instruction at the end of an error message.

    Raises:
        InputError: If a line is not such a row. The error names the line.
    """
    expected: set[str] = set()
    for sentence, (where, row) in enumerate(read_json_lines(path, _SentenceRow, remedy=remedy)):
        found = row.log_probs
        if row.sentence != sentence:
            raise InputError(f"{where}: sentence {row.sentence}, expected sentence {sentence}; {remedy}")
        if unknown := [name for name in found if name not in DISTRIBUTIONS]:
            named = ", ".join(DISTRIBUTIONS)
            raise InputError(f"{where}: distribution {unknown[0]!r}, expected one of {named}; {remedy}")
        if len({len(values) for values in found.values()}) > 1:
            raise InputError(f"{where}: distributions of different lengths, expected n + 1 values in each; {remedy}")
        expected = expected or set(found)
        if found.keys() != expected:
            raise InputError(f"{where}: distributions {sorted(found)}, expected {sorted(expected)}; {remedy}")
        yield {name: np.array(values, np.float64) for name, values in found.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class _SentenceRow:
    """An item row of a perplexity."""

    sentence: int
    log_probs: Annotated[dict[str, Annotated[list[Number], Meta(min_length=1)]], Meta(min_length=1)]


def _load(loaded: RunResults, path: Path, result: Result) -> None:
    """Check a result of a known kind and add it to ``loaded``."""
    name, result_class, figures_class = _KINDS[result.kind]
    remedy = f"evaluate again: {result.command}"
    figures = convert(result.figures, figures_class, where=str(path), remedy=remedy)
    if result.kind == PERPLEXITY:
        by_distribution = {figure.distribution: figure for figure in figures}
        if len(by_distribution) != len(figures):
            raise InputError(f"{path}: two figures of one distribution, expected one; {remedy}")
        figures = by_distribution
    common = {name: getattr(result, name) for name in ("kind", "subject", "fingerprints", "command")}
    getattr(loaded, name).append(
        result_class(**common, path=path, figures=figures, convention=_convention(path, result))
    )


_KINDS: Final[Mapping[str, tuple[str, type[LoadedResult[Any]], Any]]] = {
    PERPLEXITY: ("perplexities", PerplexityResult, list[PerplexityFigure]),
    MINIMAL_PAIRS: ("pairs", PairResult, MinimalPairFigures),
    SYNTAXGYM: ("suites", SuiteResult, SyntaxGymFigures),
    SURPRISAL: ("surprisals", LoadedResult, SurprisalFigure),
    PARSES: ("parses", LoadedResult, dict[str, Any]),
    MIXTURE: ("mixtures", LoadedResult, MixtureFigures),
    BABYLM: ("babylm", LoadedResult, dict[str, Any]),
}
"""For each kind of evaluation: the field of ``RunResults``, the class of the result, and the type of the figures in the
file."""


def _convention(path: Path, result: Result) -> str:
    """Return how sentences were scored, in the words that the report and all commands use."""

    def setting(name: str, expected: type, choices: Collection[str] = ()) -> Any:  # noqa: ANN401 - of the type expected
        found = result.settings.get(name)
        if type(found) is not expected or (choices and found not in choices):
            named = " or ".join(choices) or {str: "text", int: "a whole number", bool: "true or false"}[expected]
            raise InputError(
                f"{path}: settings.{name} is {found!r}, expected {named}; evaluate again: {result.command}"
            )
        return found

    parts = []
    if result.kind == MINIMAL_PAIRS:
        before = _BEFORE_SENTENCE[setting("prefix", str, _BEFORE_SENTENCE)]
        parts = [f"{before} before the sentence, <eos> {'counted' if setting('eos', bool) else 'left out'}"]
    elif result.kind == SYNTAXGYM:
        joining = setting("joining", str)
        parts = [f"regions joined as {'running text' if joining == 'text' else joining}"]
    elif result.kind == BABYLM:
        parts = [f"by the rules of {setting('rules', str)}"]
    scored_by = [setting("distribution", str)] if "distribution" in result.settings else []
    if {"beam", "word_beam"} & result.settings.keys():
        scored_by += [f"beam {setting('beam', int)}", f"word beam {setting('word_beam', int)}"]
    return "; ".join([*parts, ", ".join(scored_by)] if scored_by else parts)


def _weights_sha256(run: Path, which: Which) -> str | None:
    """Return the sha256 of a checkpoint of a run; None in a copy of a run without this checkpoint."""
    path = checkpoint_path(run, which)
    if not path.is_file():
        return None
    try:
        return sha256_file(path)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read ({error.strerror}), expected the weights; fix its permissions"
        ) from error


def _path_of(model: Path, name: str, suffix: str) -> Path:
    """Create the folder of results and return the path of a file in it."""
    if not any((model / file).is_file() for file in ("run.json", "config.json")):
        raise RunError(
            f"{model}: neither run.json nor config.json here, expected a run directory or an exported folder; give the "
            "--out of a training command"
        )
    if not _NAME.fullmatch(name):
        raise InputError(f"result name {name!r}: expected letters, digits and ._- only; choose another")
    folder = results_folder(model)
    folder.mkdir(exist_ok=True)
    return folder / f"{name}{suffix}"


def _read(path: Path) -> Result:
    remedy = "evaluate again, or remove the file"
    content = read_json(path, dict[str, Any], remedy=remedy)
    if (found := content.get("format_version")) != FORMAT_VERSION:
        raise InputError(f"{path}: format version {found!r:.20}, expected {FORMAT_VERSION}; {remedy}")
    return convert(content, Result, where=str(path), remedy=remedy)
