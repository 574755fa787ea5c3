"""Measure what a teacher knows and a student does not know.

``evaluate_mixture`` takes the log-probabilities that both models give to a split, fits their mixture
(``evaluation.mixture``), and records it with the student's results. ``paradigms_of_both`` compares the accuracies of
both models on each paradigm of minimal pairs, from results that exist already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluation.compare.item_scores import outcomes
from pipeline.evaluation.compare.significance import Better, Difference, better_of, compare_seed_groups
from pipeline.evaluation.mixture import NEXT_TOKEN, MixtureFigures, halves_of, mixture_figure
from pipeline.evaluation.perplexity import check_log_probs
from pipeline.evaluation.results import MIXTURE, PairResult, load_results, record
from pipeline.evaluation.sentence_models import ScoredSplit
from pipeline.training.model_files import ModelFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class ParadigmsOfBoth:
    """The accuracies of a teacher and a student on the same minimal pairs."""

    title: str
    """A line that names the pairs and says how each model scored them."""
    paradigms: Mapping[str, Difference]
    """Accuracy of the teacher (``first``) and of the student (``second``) by paradigm. The p-values are adjusted over
    all paradigms."""

    def better_by(self, which: Better) -> dict[str, Difference]:
        """Return the paradigms on which the teacher (``first``), the student (``second``) or ``neither`` is better.

        The largest difference comes first. The tests are about these two trained models and not about other seeds.
        """
        found = {name: each for name, each in self.paradigms.items() if better_of(each, more_is_better=True) == which}
        return dict(sorted(found.items(), key=lambda item: -abs(item[1].difference)))

    def to_json(self) -> dict[str, Any]:
        """Return all paradigms, ordered by the teacher's accuracy minus the student's, the largest first."""
        ordered = sorted(self.paradigms.items(), key=lambda item: -item[1].difference)
        return {
            "title": self.title,
            "paradigms": {
                name: {
                    "teacher": each.first,
                    "student": each.second,
                    "difference": each.difference,
                    "interval": each.interval,
                    "num_pairs": each.num_units,
                    "p_value": each.p_value,
                    "adjusted_p_value": each.adjusted_p_value,
                    "better": {"first": "teacher", "second": "student", "neither": "neither"}[
                        better_of(each, more_is_better=True)
                    ],
                }
                for name, each in ordered
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherAndStudent:
    """The result of ``evaluate mixture``."""

    student: str
    split: str
    figures: MixtureFigures
    pairs: Sequence[ParadigmsOfBoth]
    notes: Sequence[str]
    written: Path
    """The file of the result."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object.

        ``by_distribution`` lists the figures of all mixtures. The figures of the first mixture in this list are also at
        the top level of the object.
        """
        first, *_ = figures = self.figures.to_json()["by_distribution"]
        return {
            "teacher": self.figures.teacher,
            "student": self.student,
            "split": self.split,
            "conclusion": self.figures.first.conclusion,
            **first,
            "halves": self.figures.halves,
            "by_distribution": figures,
            "minimal_pairs": [pairs.to_json() for pairs in self.pairs],
            "notes": list(self.notes),
            "written": str(self.written),
        }


def evaluate_mixture(
    teacher: ScoredSplit, student: ScoredSplit, *, max_sentences: int | None = None
) -> TeacherAndStudent:
    """Fit the mixtures of a teacher and a student, record them with the student's results, and return them.

    A teacher may have several distributions. Each one that is named in ``NEXT_TOKEN`` is mixed with the student's
    distribution. The others cannot be mixed, because they are not distributions over the next token. An example is the
    joint probability of words and tree.

    Args:
        teacher: The teacher, or any other model that predicts the same tokens as the student.
        student: The student, on the same sentences.
        max_sentences: The value of ``--max-sentences``, which the result records; None for the whole split.

    Raises:
        InputError: If there are fewer than four sentences, or a result of minimal pairs is damaged.
        RunError: If a log-probability is not finite.
    """
    of_both = [_pairs_of(model.files) for model in (teacher, student)]  # a damaged result is found before any work
    split = student.split
    is_fitted, halves = halves_of(split)
    ((student_distribution, of_student),) = student.log_probs.items()
    check_log_probs(of_student, split)
    by_distribution = []
    for distribution in NEXT_TOKEN:
        if distribution in teacher.log_probs:
            of_teacher = teacher.log_probs[distribution]
            check_log_probs(of_teacher, split)
            names = {"distribution": distribution, "student_distribution": student_distribution}
            by_distribution.append(mixture_figure(of_teacher, of_student, is_fitted, **names))
    figures = MixtureFigures(teacher=str(teacher.files.path), halves=halves, by_distribution=by_distribution)
    settings = {**teacher.settings, **{f"student_{name}": value for name, value in student.settings.items()}}
    fingerprints = {"split": split.sha256, "text": split.text_sha256, "teacher": teacher.files.weights_sha256}
    written, _ = record(
        student.files,
        MIXTURE,
        split.name,
        figures.to_json(),
        settings=settings | {"max_sentences": max_sentences},
        fingerprints=fingerprints,
    )
    notes = []
    if not (pairs := paradigms_of_both(*of_both)):
        notes.append(
            "The two models have no minimal pairs in common. To see which paradigms the teacher knows better, run "
            f"'evaluate minimal-pairs {teacher.files.path} FOLDER', 'evaluate minimal-pairs {student.files.path} "
            "FOLDER', and then 'report' with both runs."
        )
    return TeacherAndStudent(
        student=str(student.files.path), split=split.name, figures=figures, pairs=pairs, notes=notes, written=written
    )


def paradigms_of_both(teacher: Sequence[PairResult], student: Sequence[PairResult]) -> list[ParadigmsOfBoth]:
    """Return the comparison of two models on every set of minimal pairs that both were evaluated on.

    Two results are compared if they have the same pairs and the same conventions on ``<eos>`` and on the space before a
    sentence.

    Args:
        teacher: Results of the teacher. There may be several results for the same pairs, with different beams.
        student: Results of the student.

    Raises:
        InputError: If item rows are damaged, or differ between the two models.
    """
    found = []
    for first in teacher:
        for second in student:
            same = first.fingerprint == second.fingerprint and first.reading == second.reading
            if same and first.rows.exists() and second.rows.exists():
                scores = {"teacher": {0: outcomes(first)}, "student": {0: outcomes(second)}}
                if not all(len(of_model[0].values) for of_model in scores.values()):
                    continue
                (comparison,) = compare_seed_groups(scores)
                how = f"teacher: {first.convention}; student: {second.convention}"
                title = f"{first.subject} ({first.fingerprint[:8]}), {how}"
                found.append(ParadigmsOfBoth(title=title, paradigms=comparison.parts["paradigm"]))
    return found


def _pairs_of(files: ModelFiles) -> list[PairResult]:
    return load_results(files.path, weights_sha256=files.weights_sha256).pairs
