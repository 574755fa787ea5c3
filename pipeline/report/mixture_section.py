"""Show what a teacher knows that a student does not, in the report and on a terminal.

Two measures show it: the gain of a mixture of both models, and the paradigms on which the teacher is better.
"""

from collections.abc import Iterable, Sequence

from pipeline.evaluation.compare.run_records import RunRecord
from pipeline.evaluation.compare.significance import ALPHA
from pipeline.evaluation.compare.teacher_and_student import ParadigmsOfBoth, TeacherAndStudent, paradigms_of_both
from pipeline.evaluation.intervals_and_p_values import Interval
from pipeline.evaluation.mixture import MixtureFigure, MixtureFigures
from pipeline.evaluation.perplexity import MARGINAL
from pipeline.evaluation.results import LoadedResult, PairResult
from pipeline.report.page_blocks import Block, Details, Items, Paragraph, Section, TitledTable
from pipeline.report.reported_runs import ReportedRuns
from pipeline.report.tables import NOTHING, Cells, Number, Table, plural
from pipeline.runtime import display

_EXPLANATION = (
    "A mixture gives each token the probability \u03bb p(teacher) + (1 \u2212 \u03bb) p(student). The weight \u03bb is "
    "fitted on one half of the sentences. The gain over the student alone is measured on the other half, in nats per "
    "position, with a 95 % interval over sentences. If the mixture is no better than the student alone, there is no "
    "sign that the teacher has anything to teach. If the teacher is given the tree, a gain is no proof: the tree was "
    "made from the whole sentence, so the tree can reveal later words."
)
_FIGURES = (
    "teacher's distribution", "\u03bb", "gain, nats", "95 %", "without <eos>", "student, nats", "teacher, nats",
    "sentences",
)  # fmt: skip
_PARADIGMS = ("paradigm", "teacher, %", "student, %", "in points", "95 % over pairs", "p adjusted")


def mixtures_section(reported: ReportedRuns) -> Section | None:
    """Return the section of the page; None if no run has a result of ``evaluate mixture``."""
    found = [(run, result) for run in reported.runs for result in run.results.mixtures]
    if not found:
        return None
    rows: dict[tuple[str, ...], Cells] = {}
    for run, result in found:
        teacher = f"{result.figures.teacher.rstrip('/').rpartition('/')[2]} ({result.sha256_of('teacher')[:8]})"
        for figure in result.figures.by_distribution:
            cells = [run.name, teacher, result.subject, *map(str, _cells(figure, result.convention))]
            rows.setdefault(tuple(cells), [reported.label(run), *cells[1:]])
    header = ["student", "teacher", "split", *_FIGURES]
    table = Table(header=header, rows=list(rows.values()))
    conclusions = [
        f"{run.name}, with {result.figures.teacher} as the teacher, on {result.subject}: "
        f"{result.figures.first.conclusion}"
        for run, result in found
    ]
    return Section(
        name="mixtures",
        title="Is the teacher worth a dump?",
        link="Mixtures",
        blocks=[
            Paragraph(_EXPLANATION),
            Items(list(dict.fromkeys(conclusions))),
            TitledTable(title="Mixtures of teacher and student", note=_EXPLANATION, table=table, style="second-text"),
            *_paradigm_blocks(reported.runs, found),
        ],
    )


def mixture_as_text(found: TeacherAndStudent) -> str:
    """Return the result of ``evaluate mixture`` for a terminal."""
    figures, first = found.figures.by_distribution, found.figures.first
    halves = (
        "No document is in both sets of sentences"
        if found.figures.halves == "documents"
        else "Every second sentence was used for the fit"
    )
    explanation = (
        f"\u03bb is the weight of the teacher, fitted on {first.num_fitted:,} sentences of {found.split}. All other "
        f"numbers are nats per position on the other {first.num_sentences:,} sentences. {halves}."
    )
    parts = ["\n".join(figure.conclusion for figure in figures), _as_text(_FIGURES, map(_cells, figures)), explanation]
    for pairs in found.pairs:
        parts.append(_sentence(pairs))
        if rows := _paradigm_rows(pairs):
            parts.append(_as_text(_PARADIGMS, rows))
    return "\n\n".join([*parts, *found.notes, f"written  {found.written}"])


def _as_text(header: Sequence[str], rows: Iterable[Cells]) -> str:
    return display.table([list(map(str, row)) for row in rows], header=header)


def _cells(figure: MixtureFigure, search: str = "") -> Cells:
    return [
        f"{figure.distribution}, {search}" if search and figure.distribution == MARGINAL else figure.distribution,
        Number(figure.teacher_weight, ".3f"),
        Number(figure.gain_nats, "+.4f"),
        _interval(figure.interval, 1, "+.4f"),
        Number(figure.gain_nats_without_eos, "+.4f"),
        Number(figure.student_nats, ".4f"),
        Number(figure.teacher_nats, ".4f"),
        Number(figure.num_sentences, ","),
    ]


def _paradigm_blocks(
    runs: Sequence[RunRecord], found: Iterable[tuple[RunRecord, LoadedResult[MixtureFigures]]]
) -> list[Block]:
    """Say which paradigms each teacher knows better than its student, if both are among the runs."""
    by_weights: dict[str, list[PairResult]] = {}
    for run in runs:
        for result in run.results.pairs:
            by_weights.setdefault(str(result.fingerprints.get("weights")), []).append(result)
    blocks: list[Block] = []
    for name, sha256 in dict.fromkeys((run.name, result.sha256_of("teacher")) for run, result in found):
        of_student = next(run.results.pairs for run in runs if run.name == name)
        for pairs in paradigms_of_both(by_weights.get(sha256, []), of_student):
            text, title = f"{name}: {_sentence(pairs)}", f"Paradigms that the teacher of {name} knows better"
            if rows := _paradigm_rows(pairs):
                table = TitledTable(title=title, note=text, table=Table(header=_PARADIGMS, rows=rows))
                blocks.append(Details(text, [table]))
            else:
                blocks.append(Paragraph(text))
    return blocks


def _sentence(pairs: ParadigmsOfBoth) -> str:
    """Say on how many paradigms each model is better."""
    better = {which: len(pairs.better_by(which)) for which in ("first", "second")}
    return (
        f"Minimal pairs, {pairs.title}. The teacher is better on {better['first']} of "
        f"{plural(len(pairs.paradigms), 'paradigm')}, the student on {better['second']} (p \u2264 {ALPHA} after "
        "correction for all paradigms; these numbers may differ for other training seeds)."
    )


def _paradigm_rows(pairs: ParadigmsOfBoth) -> list[Cells]:
    """Return the paradigms that the teacher knows better."""
    return [
        [
            name,
            Number(100 * each.first, ".1f"),
            Number(100 * each.second, ".1f"),
            Number(100 * each.difference, "+.1f"),
            _interval(each.interval, 100, "+.1f"),
            Number(each.adjusted_p_value, ".2g"),
        ]
        for name, each in pairs.better_by("first").items()
    ]


def _interval(found: Interval | None, factor: float, form: str) -> str:
    return NOTHING if found is None else f"[{factor * found.low:{form}}, {factor * found.high:{form}}]"
