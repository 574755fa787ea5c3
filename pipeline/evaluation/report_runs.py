"""What run directories say, for the report: description, curves and results of each, and what is missing.

Run directories may come from strangers: nothing in them is believed beyond its type, and nothing is executed. What is
damaged is refused by file; what is merely absent is collected in ``RunRecord.missing``, to be said in the page.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.evaluation.minimal_pairs import MinimalPairFigures
from pipeline.evaluation.perplexity import PerplexityFigure
from pipeline.evaluation.results import MINIMAL_PAIRS, PERPLEXITY, SYNTAXGYM, Result, read_results
from pipeline.evaluation.syntaxgym import SyntaxGymFigures
from pipeline.runtime.run_history import HISTORY, read_history
from storage.errors import InputError, RunError

KINDS = ("student", "teacher")

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairResult:
    """Minimal pairs of one folder, scored by one run."""

    subject: str
    """Name of the folder."""
    fingerprint: str
    """sha256 of the pairs."""
    convention: str
    """How sentences were scored: results of two conventions are two results."""
    figures: MinimalPairFigures
    command: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteResult:
    """SyntaxGym suites, scored by one run."""

    subject: str
    """Name of the folder."""
    fingerprint: str
    """sha256 of the suites."""
    convention: str
    """How regions became sentences."""
    figures: SyntaxGymFigures
    command: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSource:
    """Where the perplexities of a split are from."""

    sha256: str
    """Of the split: two runs were scored on the same tokens only where it is the same."""
    rows: Path
    """Log-probabilities of every token, where the evaluation kept them; the file need not be there."""
    command: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """All that the report knows of a run."""

    path: Path
    name: str
    """The directory's name; with its parents' where two runs share it."""
    kind: str
    configuration: Mapping[str, Any]
    fingerprints: Mapping[str, Any]
    versions: Mapping[str, Any]
    command: str
    dump: Mapping[str, Any] | None
    """Summary of the dump a student learned from."""
    train: Sequence[Row]
    """Rows of ``metrics.jsonl`` of the training split, in order."""
    dev: Sequence[Row]
    perplexities: Mapping[str, Mapping[str, PerplexityFigure]]
    """By split, then by distribution."""
    splits: Mapping[str, SplitSource]
    """By split, as ``perplexities``."""
    pairs: Sequence[PairResult]
    suites: Sequence[SuiteResult]
    starts: Sequence[Row]
    """Events of ``history.jsonl``: on what each training of the run began."""
    missing: Sequence[str]
    """One sentence for each thing that is not there, with what would make it."""

    @property
    def tokenizer(self) -> str:
        """sha256 of the tokenizer: figures a token compare only where it is the same."""
        return str(self.fingerprints.get("tokenizer", self.fingerprints.get("tokenizer_file")))

    @property
    def commands(self) -> list[str]:
        """What made the run and each of its results that is shown, each command once."""
        of_splits = [source.command for source in self.splits.values()]
        of_items = [result.command for results in (self.pairs, self.suites) for result in results]
        return list(dict.fromkeys([self.command, *of_splits, *of_items]))

    @property
    def last(self) -> Row:
        """The last row of either split; empty where there is none."""
        rows = [rows[-1] for rows in (self.train, self.dev) if rows]
        return max(rows, key=lambda row: value(row, "step") or 0) if rows else {}


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Return the runs in the order given, each under a name of its own.

    Raises:
        RunError: If a path is no run directory, or is given twice.
        InputError: If a result in one is damaged.
    """
    resolved = [path.resolve() for path in paths]
    if twice := {str(path) for path in resolved if resolved.count(path) > 1}:
        raise RunError(f"{', '.join(sorted(twice))}: given more than once; name each run once")
    return [_read_run(path, name) for path, name in zip(paths, _names(resolved), strict=True)]


def value(row: Row, name: str) -> float | None:
    """Return a finite number of a row, or None: a run that diverged writes NaN."""
    found = row.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return found


def _names(paths: Sequence[Path]) -> list[str]:
    for depth in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _read_run(path: Path, name: str) -> RunRecord:
    described = _description(path)
    missing: list[str] = []
    rows = _metrics(path, missing)
    train = [row for row in rows if row.get("split") == "train"]
    dev = [row for row in rows if row.get("split") == "dev"]
    if rows and not dev:
        missing.append("no evaluation on dev yet: the run ended, or was stopped, before its first")
    if any(value(row, "loss") is None for row in rows):
        missing.append("some losses are not finite numbers: training diverged; those points are not drawn")

    results = _results(path, missing)
    if not results.perplexities:
        missing.append("no perplexity: run evaluate perplexity")
    if not results.pairs and described["kind"] == "student":
        missing.append("no minimal pairs: run evaluate minimal-pairs")
    events = read_history(path) if (path / HISTORY).is_file() else []
    return RunRecord(
        path=path,
        name=name,
        kind=described["kind"],
        configuration=described["configuration"],
        fingerprints=_object(described, "fingerprints"),
        versions=_object(described, "versions"),
        command=str(described.get("command") or "not recorded"),
        dump=described["dump"] if isinstance(described.get("dump"), dict) else None,
        train=train,
        dev=dev,
        perplexities=results.perplexities,
        splits=results.splits,
        pairs=results.pairs,
        suites=results.suites,
        starts=[event for event in events if event["event"] == "start"],
        missing=missing,
    )


@dataclass(kw_only=True, slots=True)
class _Results:
    """The results of a run that a page can show."""

    perplexities: dict[str, dict[str, PerplexityFigure]] = field(default_factory=dict)
    splits: dict[str, SplitSource] = field(default_factory=dict)
    pairs: list[PairResult] = field(default_factory=list)
    suites: list[SuiteResult] = field(default_factory=list)


def _results(path: Path, missing: list[str]) -> _Results:
    """Return the results of a run's best checkpoint; what is left out is told to ``missing``."""
    found = _Results()
    for file, result in read_results(path).items():
        where = f"{path}/results/{file}.json"
        if (which := result.settings.get("checkpoint", "best")) != "best":
            missing.append(
                f"results/{file}.json is of checkpoint {which}, and this page compares the best: it is not shown"
            )
        elif result.kind == PERPLEXITY:
            figures = _perplexities(result, where)
            # Whole results only: a floor is of the very text of the figures recorded with it, and of no other.
            if result.subject in found.perplexities:
                missing.append(f"results/{file}.json repeats a perplexity of {result.subject}: it is not shown")
                continue
            found.perplexities[result.subject] = figures
            found.splits[result.subject] = SplitSource(
                sha256=str(result.fingerprints.get("split")),
                rows=path / "results" / f"{file}.jsonl",
                command=result.command,
            )
        elif result.kind == MINIMAL_PAIRS:
            found.pairs.append(
                PairResult(
                    subject=result.subject,
                    fingerprint=str(result.fingerprints.get("pairs")),
                    convention=_pair_convention(result.settings),
                    figures=_pair_figures(result, where),
                    command=result.command,
                )
            )
        elif result.kind == SYNTAXGYM:
            joining = result.settings.get("joining", "text")
            found.suites.append(
                SuiteResult(
                    subject=result.subject,
                    fingerprint=str(result.fingerprints.get("suites")),
                    convention="regions joined as running text"
                    if joining == "text"
                    else f"regions joined as {joining}",
                    figures=SyntaxGymFigures.from_json(result.figures, where=where),
                    command=result.command,
                )
            )
    return found


def _pair_figures(result: Result, where: str) -> MinimalPairFigures:
    figures = MinimalPairFigures.from_json(result.figures, where=where)
    parts = (figures.by_paradigm, figures.by_term, figures.by_field)
    for counts in (figures.overall, *(counts for part in parts for counts in part.values())):
        if min(counts.num_right, counts.num_ties) < 0 or counts.num_right + counts.num_ties > counts.num_pairs:
            raise InputError(
                f"{where}: {counts.num_right} right and {counts.num_ties} ties of {counts.num_pairs} pairs, expected "
                "no more; run evaluate minimal-pairs again"
            )
    return figures


def _pair_convention(settings: Mapping[str, Any]) -> str:
    """Return how sentences were scored."""
    before = {"none": "no space", "space": "a space"}.get(str(settings.get("prefix")), "an unknown prefix")
    eos = {"True": "counted", "False": "left out"}.get(str(settings.get("eos")), "unknown")
    return f"{before} before the sentence, <eos> {eos}"


def _description(path: Path) -> dict[str, Any]:
    remedy = "expected a directory made by train-teacher or train-student"
    try:
        described = json.loads((path / "run.json").read_bytes())
    except OSError as error:
        raise RunError(f"{path}: no run.json that can be read ({error.strerror}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path / 'run.json'}: not JSON ({error}); {remedy}") from error
    if not isinstance(described, dict) or described.get("kind") not in KINDS:
        raise RunError(f"{path / 'run.json'}: no kind of run, expected {' or '.join(KINDS)}; {remedy}")
    if not isinstance(described.get("configuration"), dict):
        raise RunError(f"{path / 'run.json'}: no configuration; {remedy}")
    return described


def _object(described: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = described.get(name)
    return found if isinstance(found, dict) else {}


def _metrics(path: Path, missing: list[str]) -> list[Row]:
    file = path / "metrics.jsonl"
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError:
        missing.append("no metrics.jsonl: no learning curve")
        return []
    if lines[-1]:
        missing.append("the last line of metrics.jsonl is cut off, as a killed run leaves it: it is not shown")
    rows: list[Row] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{file}:{number}: not JSON ({error}); remove the line") from error
        if not isinstance(row, dict):
            raise RunError(f"{file}:{number}: found {type(row).__name__}, expected an object; remove the line")
        rows.append(row)
    if not rows:
        missing.append("metrics.jsonl is empty: no learning curve")
    return rows


def _perplexities(result: Result, where: str) -> dict[str, PerplexityFigure]:
    if not isinstance(result.figures, list) or not all(isinstance(figure, dict) for figure in result.figures):
        raise InputError(f"{where}: figures are not a list of objects; run evaluate perplexity again")
    figures = [PerplexityFigure.from_json(figure, where=where) for figure in result.figures]
    by_distribution = {figure.distribution: figure for figure in figures}
    if len(by_distribution) != len(figures):
        raise InputError(f"{where}: two figures of one distribution, expected one; run evaluate perplexity again")
    return by_distribution
