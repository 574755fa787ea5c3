"""Which results of several runs are of the same items, scored in the same way: only these are set side by side."""

from collections.abc import Iterable, Sequence

from pipeline.evaluation.compare.run_records import RunRecord
from pipeline.evaluation.results import PairResult, SuiteResult

SetKey = tuple[str, str, str]
"""Subject, fingerprint and convention: two results compare only where all are the same."""


def pair_sets(runs: Sequence[RunRecord]) -> dict[str, SetKey]:
    """Return the sets of minimal pairs by title, which says what sets two of them apart."""
    return _titled(set_key(pairs) for run in runs for pairs in run.pairs)


def suite_sets(runs: Sequence[RunRecord]) -> dict[str, SetKey]:
    """Return the sets of SyntaxGym suites by title, as ``pair_sets``."""
    return _titled(set_key(suites) for run in runs for suites in run.suites)


def set_key(result: PairResult | SuiteResult) -> SetKey:
    """Return what another result must share to be compared with this one."""
    return result.subject, result.fingerprint, result.convention


def pairs_of(run: RunRecord, key: SetKey) -> PairResult | None:
    """Return a run's result on a set of minimal pairs."""
    return next((pairs for pairs in run.pairs if set_key(pairs) == key), None)


def suites_of(run: RunRecord, key: SetKey) -> SuiteResult | None:
    """Return a run's result on a set of suites."""
    return next((suites for suites in run.suites if set_key(suites) == key), None)


def item_counts(result: SuiteResult) -> tuple[int, int, int]:
    """Return right items, items, and ties of all suites together."""
    counts = [suite.items for suite in result.figures.by_suite.values()]
    return sum(c.num_right for c in counts), sum(c.num_items for c in counts), sum(c.num_ties for c in counts)


def mean_of_suites(result: SuiteResult) -> float:
    """Return the mean of the suites' accuracies, as Hu et al. (2020) report it."""
    accuracies = [suite.items.accuracy for suite in result.figures.by_suite.values()]
    return sum(accuracies) / len(accuracies)


def _titled(keys: Iterable[SetKey]) -> dict[str, SetKey]:
    distinct = list(dict.fromkeys(keys))
    titles = {}
    for key in distinct:
        subject, fingerprint, convention = key
        others = [other for other in distinct if other[0] == subject and other != key]
        title = subject
        if any(other[1] != fingerprint for other in others):
            title += f" ({fingerprint[:8]})"
        if any(other[2] != convention for other in others):
            title += f", {convention}"
        titles[title] = key
    return titles
