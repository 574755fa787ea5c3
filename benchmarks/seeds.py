"""How often a test between two trainings that differ by seed alone says that they differ: by items, by paradigms.

    python -m benchmarks.seeds RUN... [--json FILE]

Of every pair of runs of one configuration, which do not differ in truth; a valid test of configurations has p <= 0.05
in one of twenty. Runs need results by item (evaluate minimal-pairs, syntaxgym, perplexity). Of each benchmark:

pairs          pairs of runs
by_unit        of the overall figure, where ``compare`` takes it: whole paradigms or suites; of a perplexity, sentences
by_item        of all items together, as if they were independent
parts          tests of single paradigms or suites, and parts_by_item how many of these have p <= 0.05
"""

from collections import Counter
from itertools import combinations
from pathlib import Path

from numpy.typing import ArrayLike

from benchmarks.common import parser, report
from pipeline.evaluation.configurations import configurations_of
from pipeline.evaluation.item_results import ItemScores, read_item_scores
from pipeline.evaluation.report_runs import read_runs
from pipeline.evaluation.significance import ALPHA
from pipeline.evaluation.statistics import sign_flip_p_value


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("runs", type=Path, nargs="+", help="several seeds of at least one configuration")
    given = options.parse_args()
    counts: Counter[str] = Counter()
    for configuration in configurations_of(read_runs(given.runs)):
        by_seed = [
            {one.benchmark: one for one in read_item_scores(run.path, normaliser="token", missing=[])}
            for run in configuration.runs.values()
        ]
        for first, second in combinations(by_seed, 2):
            for benchmark in first.keys() & second.keys():
                for name, count in alarms(first[benchmark], second[benchmark]).items():
                    counts[f"{benchmark.kind}_{name}"] += count
    report(dict(sorted(counts.items())), given)


def alarms(first: ItemScores, second: ItemScores) -> dict[str, int]:
    """Return how many tests there are between two trainings, and how many of them say that they differ."""
    first.check_same_items(second)
    found = {"pairs": 1, "by_unit": is_alarm(first.units - second.units)}
    if first.benchmark.is_outcome:
        differences = first.values - second.values
        found["by_item"] = is_alarm(differences)
        found["parts"] = len(first.groups)
        found["parts_by_item"] = sum(is_alarm(differences[first.group_of_item == i]) for i in range(found["parts"]))
    return found


def is_alarm(differences: ArrayLike) -> bool:
    """Return whether a test says that the mean is not 0."""
    return sign_flip_p_value(differences, seed=1) <= ALPHA


if __name__ == "__main__":
    main()
