"""Count how often a test finds a difference between two trainings that differ only in their seed.

    python -m benchmarks.seeds RUN... [--json FILE]

The settings of two runs of one seed group do not differ. So a valid test of settings has p <= 0.05 in one of twenty
pairs of such runs. Runs need results with item rows (evaluate minimal-pairs, syntaxgym, perplexity). The figures of
each benchmark are:

pairs          pairs of runs
by_unit        pairs with p <= 0.05 over the units of ``compare``: paradigms or suites; for a perplexity, sentences
by_item        pairs with p <= 0.05 over all items, as if they were independent
groups         tests of single paradigms or suites; groups_by_item counts those with p <= 0.05
terms, fields  tests of single terms and fields; _by_unit and _by_item count those with p <= 0.05, over paradigms and
               over items
"""

import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.common import parser, report
from pipeline.evaluation.compare.item_scores import ItemScores, item_scores
from pipeline.evaluation.compare.run_records import read_runs
from pipeline.evaluation.compare.seed_groups import seed_groups
from pipeline.evaluation.compare.significance import ALPHA
from pipeline.evaluation.intervals_and_p_values import sign_flip_p_value


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("runs", type=Path, nargs="+", help="several seeds of at least one seed group")
    given = options.parse_args()
    counts: Counter[str] = Counter()
    left_out: list[str] = []
    for group in seed_groups(read_runs(given.runs)):
        by_seed = [
            {one.benchmark: one for one in item_scores(run.results, normaliser="token", left_out=left_out)}
            for run in group.runs.values()
        ]
        for first, second in combinations(by_seed, 2):
            for benchmark in first.keys() & second.keys():
                for name, count in alarms(first[benchmark], second[benchmark]).items():
                    counts[f"{benchmark.kind}_{name}"] += count
    report(dict(sorted(counts.items())), given)
    for sentence in left_out:
        print(sentence, file=sys.stderr)


def alarms(first: ItemScores, second: ItemScores) -> dict[str, int]:
    """Return how many tests there are between two trainings, and how many of them find a difference."""
    first.check_same_items(second)
    found, differences = {"pairs": 1, "by_unit": is_alarm(first.units - second.units)}, first.values - second.values
    if first.benchmark.is_outcome:
        found["by_item"] = is_alarm(differences)
        found["groups"] = len(first.groups)
        found["groups_by_item"] = sum(is_alarm(differences[first.group_of_item == i]) for i in range(len(first.groups)))
    for by, category_of in first.categories.items():
        for category in set(category_of.values()):
            mask = np.array([category_of[group] == category for group in first.groups])
            by_unit, by_item = first.units[mask] - second.units[mask], differences[mask[first.group_of_item]]
            more = {"": 1, "_by_unit": is_alarm(by_unit), "_by_item": is_alarm(by_item)}
            for name, count in more.items():
                found[f"{by}s{name}"] = found.get(f"{by}s{name}", 0) + count
    return found


def is_alarm(differences: ArrayLike) -> bool:
    """Return whether the test finds that the mean is not 0."""
    return sign_flip_p_value(differences, seed=1) <= ALPHA


if __name__ == "__main__":
    main()
