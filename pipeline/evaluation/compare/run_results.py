"""What the results of a run say, for the report: only those of its best checkpoint as it is now.

What is damaged is refused by file. What is left out is told to the caller's ``missing``, with what would mend it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.evaluation.minimal_pairs import MinimalPairFigures
from pipeline.evaluation.perplexity import PerplexityFigure
from pipeline.evaluation.results import MINIMAL_PAIRS, PERPLEXITY, SYNTAXGYM, Result, best_weights_sha256, read_results
from pipeline.evaluation.syntaxgym import SyntaxGymFigures
from storage.errors import InputError

_BEFORE_SENTENCE = {"none": "no space", "space": "a space"}
"""By the setting ``prefix`` of minimal pairs."""


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
    """How regions became sentences, and how these were scored."""
    figures: SyntaxGymFigures
    command: str


class SplitKey(NamedTuple):
    """What a perplexity is of: two texts may be splits of one name."""

    name: str
    text_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSource:
    """Where the perplexities of a split are from."""

    key: SplitKey
    sha256: str
    """Of the split: two runs were scored on the same tokens only where it is the same."""
    rows: Path
    """Log-probabilities of every token, where the evaluation kept them; the file need not be there."""
    command: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResults:
    """The results of a run that a page can show."""

    perplexities: dict[SplitKey, dict[str, PerplexityFigure]] = field(default_factory=dict)
    """By split, then by distribution."""
    splits: dict[SplitKey, SplitSource] = field(default_factory=dict)
    """By split, as ``perplexities``; of several results of a split that with the most distributions."""
    pairs: list[PairResult] = field(default_factory=list)
    suites: list[SuiteResult] = field(default_factory=list)


def run_results(path: Path, missing: list[str]) -> RunResults:
    """Return the results of a run's best checkpoint; what is left out is told to ``missing``.

    Raises:
        InputError: If a result is damaged.
        RunError: If the checkpoint is there and cannot be read.
    """
    found = RunResults()
    of_splits: list[tuple[dict[str, PerplexityFigure], SplitSource]] = []
    weights = best_weights_sha256(path)
    for file, result in read_results(path).items():
        where = f"{path}/results/{file}.json"
        if (which := result.settings.get("checkpoint")) != "best":
            missing.append(
                f"results/{file}.json is of checkpoint {which}, and this page compares the best: it is not shown"
            )
        elif weights is not None and (of := str(result.fingerprints.get("weights"))) != weights:
            missing.append(
                f"results/{file}.json is of weights {of[:8]}, and the best checkpoint is {weights[:8]} now: it is not "
                f"shown; evaluate again: {result.command}"
            )
        elif result.kind == PERPLEXITY:
            source = SplitSource(
                key=SplitKey(result.subject, _fingerprint(result, "text", where)),
                sha256=_fingerprint(result, "split", where),
                rows=path / "results" / f"{file}.jsonl",
                command=result.command,
            )
            of_splits.append((_perplexities(result, where), source))
        elif result.kind == MINIMAL_PAIRS:
            found.pairs.append(
                PairResult(
                    subject=result.subject,
                    fingerprint=_fingerprint(result, "pairs", where),
                    convention=_pair_convention(result, where),
                    figures=_pair_figures(result, where),
                    command=result.command,
                )
            )
        elif result.kind == SYNTAXGYM:
            found.suites.append(
                SuiteResult(
                    subject=result.subject,
                    fingerprint=_fingerprint(result, "suites", where),
                    convention=_suite_convention(result, where),
                    figures=SyntaxGymFigures.from_json(result.figures, where=where),
                    command=result.command,
                )
            )
    _add_perplexities(found, of_splits, missing)
    return found


def split_titles(keys: Iterable[SplitKey]) -> dict[SplitKey, str]:
    """Return what to call each split: its name, and the first digits of its text's sha256 where two share the name."""
    distinct = list(dict.fromkeys(keys))
    names = [key.name for key in distinct]
    return {key: f"{key.name} ({key.text_sha256[:8]})" if names.count(key.name) > 1 else key.name for key in distinct}


def _add_perplexities(
    found: RunResults, of_splits: Sequence[tuple[dict[str, PerplexityFigure], SplitSource]], missing: list[str]
) -> None:
    """Merge the results of each split by distribution; that with more of them goes first.

    A teacher evaluated with ``--marginal`` has all distributions in that result, and in another those given the trees.
    """
    for key in dict.fromkeys(source.key for _, source in of_splits):
        merged = found.perplexities[key] = {}
        known: list[set[str]] = []
        of_split = [one for one in of_splits if one[1].key == key]
        for figures, source in sorted(of_split, key=lambda one: -len(one[0])):
            if (distributions := set(figures)) in known:
                missing.append(f"results/{source.rows.stem}.json repeats a perplexity of {key.name}: it is not shown")
                continue
            known.append(distributions)
            merged.update({name: figure for name, figure in figures.items() if name not in merged})
            found.splits.setdefault(key, source)


def _perplexities(result: Result, where: str) -> dict[str, PerplexityFigure]:
    if not isinstance(result.figures, list) or not all(isinstance(figure, dict) for figure in result.figures):
        raise InputError(f"{where}: figures are not a list of objects; run evaluate perplexity again")
    figures = [PerplexityFigure.from_json(figure, where=where) for figure in result.figures]
    by_distribution = {figure.distribution: figure for figure in figures}
    if len(by_distribution) != len(figures):
        raise InputError(f"{where}: two figures of one distribution, expected one; run evaluate perplexity again")
    return by_distribution


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


def _pair_convention(result: Result, where: str) -> str:
    prefix, eos = result.settings.get("prefix"), result.settings.get("eos")
    if not isinstance(prefix, str) or prefix not in _BEFORE_SENTENCE or not isinstance(eos, bool):
        raise InputError(
            f"{where}: prefix is {prefix!r} and eos {eos!r}, expected {' or '.join(_BEFORE_SENTENCE)}, and true or "
            f"false, without which nothing compares; evaluate again: {result.command}"
        )
    how = f"{_BEFORE_SENTENCE[prefix]} before the sentence, <eos> {'counted' if eos else 'left out'}"
    return how + _scored_by(result.settings)


def _suite_convention(result: Result, where: str) -> str:
    joining = result.settings.get("joining")
    if not isinstance(joining, str):
        raise InputError(
            f"{where}: joining is {joining!r}, expected how regions were joined; evaluate again: {result.command}"
        )
    how = "regions joined as running text" if joining == "text" else f"regions joined as {joining}"
    return how + _scored_by(result.settings)


def _scored_by(settings: Mapping[str, Any]) -> str:
    """Return the distribution and the sizes of the search, as far as they are recorded; a student makes no search."""
    names = {"distribution": "", "beam": "beam ", "word_beam": "word beam "}
    found = [f"{label}{settings[name]}" for name, label in names.items() if name in settings]
    return "; " + ", ".join(found) if found else ""


def _fingerprint(result: Result, name: str, where: str) -> str:
    found = result.fingerprints.get(name)
    if not isinstance(found, str):
        raise InputError(
            f"{where}: no sha256 of the {name}, which says what compares with it; evaluate again: {result.command}"
        )
    return found
