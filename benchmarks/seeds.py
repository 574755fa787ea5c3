"""Count how often a significance test finds a difference between trainings that differ only in their seed.

    python -m benchmarks.seeds RUN... [--json FILE]

A valid significance test finds p <= 0.05 in at most about one of twenty pairs of such trainings. The runs need results
with item rows (one row per sentence, pair or suite item). The commands evaluate perplexity, evaluate minimal-pairs and
evaluate syntaxgym write such results. Each figure has the evaluation before its name,
as in ``minimal_pairs_by_item``:

pairs           number of pairs of runs
by_unit         number of pairs of runs with p <= 0.05 in a test over the units that the command ``compare`` uses:
                sentences for a perplexity, paradigms for minimal pairs, suites for SyntaxGym
by_item         number of pairs of runs with p <= 0.05 in a test over all minimal pairs or suite items, as if these were
                independent
groups          number of tests, if each paradigm or suite is tested alone, over its items
groups_by_item  number of these tests with p <= 0.05
terms           number of tests, if each linguistic term of BLiMP is tested alone
terms_by_unit   number of these tests with p <= 0.05, over paradigms
terms_by_item   number of these tests with p <= 0.05, over minimal pairs
fields, fields_by_unit, fields_by_item   the same for the fields of BLiMP
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
    options.add_argument("runs", type=Path, nargs="+", help="runs, at least two of which differ only in their seed")
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
    """Return whether the sign-flip test finds that the mean of the differences is not 0."""
    return sign_flip_p_value(differences, seed=1) <= ALPHA


if __name__ == "__main__":
    main()
