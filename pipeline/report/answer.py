"""Answer whether distillation helped, from the comparisons of seed groups.

A seed group is a set of runs that differ only in their seed. The baseline is the first seed group of students without a
dump. Each other group is compared with the baseline. Its role in the answer depends on the source of its soft targets:

    the dump of an RNNG                           The group can show that distillation helps.
    the exact distributions of the grammar        The group is the ceiling: no teacher can be better than the grammar
                                                  that wrote the corpus.
    shuffled targets, a student's dump, no dump   The group is a control.

The 95 % interval of the difference between a group and the baseline is over seeds if each of the two has two seeds or
more. Otherwise the interval is over the evaluated sentences, paradigms or suites, and the report says that one seed is
not enough for an answer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.evaluation.compare.compare_runs import BenchmarkComparison, Comparisons
from pipeline.evaluation.compare.item_scores import Benchmark
from pipeline.evaluation.compare.run_records import RunRecord
from pipeline.evaluation.compare.significance import PairComparison, better_of
from pipeline.evaluation.intervals_and_p_values import Interval
from pipeline.evaluation.perplexity import IN_DOCUMENT
from pipeline.evaluation.results import MINIMAL_PAIRS, PERPLEXITY
from pipeline.report.reported_runs import ReportedRuns
from pipeline.report.tables import plural

_MOST_SENTENCES: Final = 3
"""Up to this number of groups, each group gets a sentence. With more groups, one sentence says how many are better and
how many are worse."""

Verdict = Literal["better", "worse", "unclear"]
Role = Literal["", "control", "ceiling"]
"""The role of a seed group in the answer. Groups that learned from an RNNG have the empty role."""
_ORDER: Final[Sequence[Role]] = ("", "control", "ceiling")
"""The order of the sentences, by the role of their groups."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """How a group differs from the baseline on one measure: in percent for a perplexity, in points for an accuracy."""

    group: str
    change: float
    interval: Interval | None
    verdict: Verdict
    num_seeds: int
    num_baseline_seeds: int
    is_over_seeds: bool
    """Whether the interval is over seeds and not over the evaluated items."""
    p_value: float
    """p-value of the test over items, adjusted for the number of tests."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval is not None and not self.interval.low <= 0 <= self.interval.high

    @property
    def decimals(self) -> int:
        """Number of decimals with which the change and its interval are written."""
        return 2 if self.interval is not None and self.interval.high - self.interval.low < 0.5 else 1

    def signed(self, value: float) -> str:
        """Return the change or an end of the interval, with its sign."""
        return f"{value:+.{self.decimals}f}".replace("-", "\u2212")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A benchmark on which groups are compared."""

    benchmark: Benchmark
    name: str
    """Short name, such as ``test perplexity``."""
    effects: Sequence[Effect]
    floor: float | None
    """Change in percent from the baseline's perplexity to the perplexity of the grammar that wrote the corpus. None if
    the grammar's perplexity is not recorded."""

    @property
    def unit(self) -> str:
        """Unit of the changes: ``%`` or ``points``."""
        return "points" if self.benchmark.is_outcome else "%"

    @property
    def units(self) -> str:
        """What the interval is computed over if a group has a single seed: sentences, paradigms or suites."""
        units = {PERPLEXITY: "sentences", MINIMAL_PAIRS: "paradigms"}
        return units.get(self.benchmark.kind, "suites")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the first screen of the report shows."""

    sentences: Sequence[str]
    baseline: str
    """Name of the seed group that is the baseline. Empty if there is no comparison."""
    measures: Sequence[Measure]


def answer_of(reported: ReportedRuns, found: Comparisons | None, *, failed: bool = False) -> Answer:
    """Return whether distillation helped, as far as the runs show it.

    Args:
        reported: The runs.
        found: The comparisons of their seed groups, if there are any.
        failed: Whether the comparison ended with an error, which the report shows as a note.
    """
    students = reported.of_kind("student")
    without = [run for run in students if not run.has_dump]
    if not students:
        return _no_answer("it has teachers only. Add the runs of students")
    if not without:
        return _no_answer("it has no baseline, which is a student without a dump. Run train-student without --dump")
    if len(without) == len(students):
        return _no_answer("no student here learned from a dump. Run train-student with --dump")
    groups = [group for group in found.groups if group.kind == "student"] if found is not None else []
    baselines = [group for group in groups if not any(run.has_dump for run in group.runs.values())]
    measures = _measures(reported, found, baselines[0].name) if found is not None and baselines else []
    if failed:
        return _no_answer("the groups of runs could not be compared. A note below says why")
    if not measures:
        return _no_answer(
            "the runs cannot be compared item by item. Run 'evaluate perplexity' and 'evaluate minimal-pairs' on each "
            "run"
        )
    baseline = baselines[0].name
    names = list(dict.fromkeys(effect.group for measure in measures for effect in measure.effects))
    roles = {group.name: _role(list(group.runs.values())) for group in groups}
    if len(names) == 1 and not roles[names[0]]:
        sentences = [_sentence("distillation", measures, names[0])]
    elif len(names) <= _MOST_SENTENCES:
        names.sort(key=lambda name: _ORDER.index(roles[name]))
        sentences = [
            _sentence(f"{name}, compared with {baseline},", measures, name, role=roles[name], is_first=name == names[0])
            for name in names
        ]
    else:
        sentences = [_summary(measures[0], baseline, roles)]
    if len(baselines) > 1:
        sentences.append(
            f"{plural(len(baselines), 'group')} of runs learned without a dump. {baseline} is the baseline here, "
            "because it was named first."
        )
    unbroken = [sentence.replace(" %", "\u00a0%") for sentence in sentences]
    return Answer(sentences=unbroken, baseline=baseline, measures=measures)


def _role(runs: Sequence[RunRecord]) -> Role:
    """Return the role of a seed group."""
    if all(run.is_distilled for run in runs):
        return ""
    return "ceiling" if all(run.is_distilled_from_grammar for run in runs) else "control"


def _no_answer(reason: str) -> Answer:
    return Answer(sentences=[f"This page cannot say whether distillation helped: {reason}."], baseline="", measures=[])


def _measures(reported: ReportedRuns, found: Comparisons, baseline: str) -> list[Measure]:
    """Return how all groups differ from the baseline.

    The measures are perplexity, minimal pairs and SyntaxGym. Perplexity is compared on one split: on test if there are
    perplexities on test, else on dev. If neither split has perplexities, each of the remaining splits gives a measure.
    """
    benchmarks = [each for each in found.benchmarks if each.kind == "student" and baseline in each.figures]
    subjects = {each.benchmark.subject for each in benchmarks if each.benchmark.kind == PERPLEXITY}
    subject = next((name for name in ("test", "dev") if name in subjects), None)
    shown = [
        each
        for each in benchmarks
        if each.pairs and (each.benchmark.is_outcome or subject is None or each.benchmark.subject == subject)
    ]
    shown.sort(key=lambda each: each.benchmark.is_outcome)
    names = _names([each.benchmark for each in shown])
    measures = []
    for each in shown:
        effects = [effect for pair in each.pairs if (effect := _effect(each, pair, baseline)) is not None]
        if effects:
            name, floor = names[each.benchmark], _floor(reported, found, each, baseline)
            measures.append(Measure(benchmark=each.benchmark, name=name, effects=effects, floor=floor))
    return measures


def _names(benchmarks: Sequence[Benchmark]) -> dict[Benchmark, str]:
    """Return a short name for each benchmark. Benchmarks that would share a name get longer names."""
    short = {}
    for benchmark in benchmarks:
        if benchmark.kind == PERPLEXITY:
            in_document = benchmark.conventions.startswith(IN_DOCUMENT)
            name = f"{benchmark.subject} perplexity{f' {IN_DOCUMENT}' if in_document else ''}"
        else:
            name = "minimal-pair accuracy" if benchmark.kind == MINIMAL_PAIRS else "SyntaxGym accuracy"
        short[benchmark] = name
    return {
        benchmark: name if list(short.values()).count(name) == 1 else f"{name} of {benchmark.title}"
        for benchmark, name in short.items()
    }


def _effect(found: BenchmarkComparison, pair: PairComparison, baseline: str) -> Effect | None:
    """Return how a group differs from the baseline, or None if the pair does not contain the baseline."""
    if baseline not in {pair.first, pair.second}:
        return None
    benchmark, overall, is_first = found.benchmark, pair.overall, pair.second == baseline
    sign, group = (1, pair.first) if is_first else (-1, pair.second)

    def change(difference: float) -> float:
        return 100 * (sign * difference if benchmark.is_outcome else _ratio_minus_one(sign * difference))

    over_seeds = overall.over_seeds.interval
    interval = over_seeds if over_seeds is not None else overall.interval
    better = better_of(overall, more_is_better=benchmark.is_outcome)
    verdict: Verdict = "unclear" if better == "neither" else "better" if (better == "first") == is_first else "worse"
    return Effect(
        group=group,
        change=change(overall.difference),
        interval=None if interval is None else Interval(*sorted((change(interval.low), change(interval.high)))),
        verdict=verdict,
        num_seeds=found.figures[group].num_seeds,
        num_baseline_seeds=found.figures[baseline].num_seeds,
        is_over_seeds=over_seeds is not None,
        p_value=overall.adjusted_p_value,
    )


def _floor(reported: ReportedRuns, found: Comparisons, compared: BenchmarkComparison, baseline: str) -> float | None:
    """Return the value of ``Measure.floor``."""
    benchmark = compared.benchmark
    group = next(group for group in found.groups if group.name == baseline)
    for run in group.runs.values():
        for title, source in run.splits.items():
            fingerprints = {source.fingerprint, source.key.text_sha256}
            floor = reported.floors.get((run.name, title))
            if floor is not None and source.key.name == benchmark.subject and benchmark.fingerprint in fingerprints:
                nats = floor.nats_per_position if benchmark.tokenizer else math.log(floor.per_word)
                return 100 * _ratio_minus_one(nats - compared.figures[baseline].mean)
    return None


def _ratio_minus_one(nats: float) -> float:
    """Return the relative growth of a perplexity whose logarithm grows by ``nats``.

    More than 100 nats count as 100, so that the result is finite and can be drawn.
    """
    return math.expm1(min(nats, 100.0))


def _sentence(subject: str, measures: Sequence[Measure], group: str, *, role: Role = "", is_first: bool = True) -> str:
    """Return the answer for one group.

    ``is_first`` says whether this is the first sentence of the whole answer. If one seed cannot answer, only the first
    sentence explains this.
    """
    cases = [(measure, effect) for measure in measures for effect in measure.effects if effect.group == group]
    effects = [effect for _, effect in cases]
    phrases = [_phrase(measure, effect) for measure, effect in cases]
    if not all(effect.is_over_seeds for effect in effects):
        here = f"Here the {role}" if role else "Here"
        sentence = f"{here} {subject} {_joined(phrases)}."
        if is_first:
            sentence = (
                f"One seed cannot answer. {sentence} Another seed may reverse this. Train two seeds or more of each "
                "group."
            )
        return sentence
    num_seeds, num_baseline_seeds = effects[0].num_seeds, effects[0].num_baseline_seeds
    phrases[0] += f" over {plural(num_seeds, 'seed')}"
    if num_seeds != num_baseline_seeds:
        phrases[0] += f" against {plural(num_baseline_seeds, 'seed')} of the baseline"
    verdicts = {effect.verdict for effect in effects}
    if role:
        start = role.capitalize()
    elif "better" in verdicts:
        start = "Yes" if verdicts == {"better"} else "Mixed" if "worse" in verdicts else "In part"
    elif "worse" in verdicts:
        start = "No, the students became worse" if verdicts == {"worse"} else "No"
    else:
        start = "Not shown"
    end = ""
    if "unclear" not in verdicts:
        end = {1: "; the difference is", 2: "; both are"}.get(len(effects), "; all are") + " clear of zero"
    return f"{start}: {subject} {_joined(phrases)}{end}."


def _phrase(measure: Measure, effect: Effect) -> str:
    over = "" if effect.is_over_seeds else f" over {measure.units}"
    if effect.verdict != "unclear" and effect.is_clear and effect.interval is not None:
        verb = "raised" if effect.change > 0 else "lowered"
        low, high = sorted(map(abs, (effect.interval.low, effect.interval.high)))
        form = f".{effect.decimals}f"
        return (
            f"{verb} {measure.name} by {abs(effect.change):{form}} {measure.unit} "
            f"(95 % interval{over} {low:{form}} to {high:{form}})"
        )
    text = f"changed {measure.name} by {effect.signed(effect.change)} {measure.unit}"
    if effect.interval is None:
        return f"{text}, for which there is no interval"
    text += f" (95 % interval{over} {effect.signed(effect.interval.low)} to {effect.signed(effect.interval.high)})"
    if effect.is_clear:
        return f"{text}, which the test over {measure.units} does not confirm (p = {effect.p_value:.2g})"
    return f"{text}, which is not clear of zero"


def _joined(phrases: Sequence[str]) -> str:
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]


def _summary(measure: Measure, baseline: str, roles: Mapping[str, Role]) -> str:
    """Return one sentence about many groups."""
    by_verdict = {
        verdict: [
            f"the {roles[effect.group]} {effect.group}" if roles[effect.group] else effect.group
            for effect in measure.effects
            if effect.verdict == verdict and effect.is_over_seeds
        ]
        for verdict in ("better", "worse")
    }
    better, worse = (
        f"{'are' if len(groups) > 1 else 'is'} clearly {verdict} ({', '.join(groups)})"
        if groups
        else f"is clearly {verdict}"
        for verdict, groups in by_verdict.items()
    )
    text = (
        f"Compared with {baseline} in {measure.name}, {len(by_verdict['better']) or 'none'} of {len(measure.effects)} "
        f"groups of runs {better} and {len(by_verdict['worse']) or 'none'} {worse}."
    )
    if num_single := sum(not effect.is_over_seeds for effect in measure.effects):
        groups = plural(num_single, "group")
        text += f" For {groups} there is no answer, because the group or the baseline has only one seed."
    return text
