"""The first screen says whether distillation helped, or why the runs cannot answer."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.compare.run_records import read_runs
from pipeline.evaluation.perplexity import FLOOR, UNCONDITIONAL, PerplexityFigure
from pipeline.evaluation.results import read_results, write_result
from pipeline.report.answer import Answer, answer_of
from pipeline.report.answer_section import answer_section
from pipeline.report.comparisons import compare_for_report
from pipeline.report.page import write_report
from pipeline.report.page_blocks import Plot
from pipeline.report.reported_runs import ReportedRuns
from storage.json_files import convert
from tests.evaluated_runs import add_pairs, add_sentences, from_dump, write_run
from tests.pipeline.report.html_page import Page

NUM_SENTENCES, NUM_PARADIGMS = 60, 12


def add_run(folder: Path, name: str, seed: int, *, nats: float, share: float, **changes: Any) -> Path:
    """Write a student with a mean of about ``nats`` per position and a share of right pairs."""
    run = write_run(folder / f"{name}-seed{seed}", seed=seed, **changes)
    draw = np.random.default_rng([seed, len(name)])
    noise = np.random.default_rng(0).normal(0, 0.2, NUM_SENTENCES) + draw.normal(0, 0.002)
    add_sentences(run, [[-nats + one, -nats] for one in noise])
    rights = [round(40 * share) + int(draw.integers(0, 2)) for _ in range(NUM_PARADIGMS)]
    add_pairs(run, {f"paradigm {i}": [1] * right + [0] * (40 - right) for i, right in enumerate(rights)})
    return run


def pair_of_groups(folder: Path, seeds: Sequence[int], *, nats: float, share: float, **dump: Any) -> list[Path]:
    """Write a baseline of 2 nats and 60 % right, and students with a dump."""
    dump = dump or from_dump("1", "teacher")
    baseline = [add_run(folder, "baseline", seed, nats=2.0, share=0.6) for seed in seeds]
    return baseline + [add_run(folder, "distilled", seed, nats=nats, share=share, **dump) for seed in seeds]


def answer(runs: Sequence[Path]) -> Answer:
    records = read_runs(runs)
    return answer_of(ReportedRuns(records), compare_for_report(records))


def text_of(runs: Sequence[Path]) -> str:
    return " ".join(answer(runs).sentences).replace("\u00a0", " ")


def test_a_clear_gain_over_seeds_is_answered_with_yes_and_its_size(tmp_path: Path) -> None:
    text = text_of(pair_of_groups(tmp_path, (1, 2, 3), nats=1.95, share=0.8))
    found = re.fullmatch(
        r"Yes: distillation lowered dev perplexity by ([\d.]+) % \(95 % interval ([\d.]+) to ([\d.]+)\) over "
        r"3 seeds and raised minimal-pair accuracy by ([\d.]+) points \(95 % interval ([\d.]+) to ([\d.]+)\); both "
        r"are clear of zero\.",
        text,
    )
    assert found, text
    change, low, high, points, *_ = map(float, found.groups())
    assert low < change < high
    assert change == pytest.approx(100 * (1 - np.exp(-0.05)), abs=0.5)
    assert points == pytest.approx(20, abs=2.5)


def test_changes_and_floor_are_ratios_of_perplexities_to_the_baseline(tmp_path: Path) -> None:
    runs = pair_of_groups(tmp_path, (1, 2), nats=1.9, share=0.6)
    means = []
    for run in runs:
        (name,) = (name for name in read_results(run) if name.startswith("perplexity"))
        result = read_results(run)[name]
        (figure,) = (convert(one, PerplexityFigure, where=name, remedy="") for one in result.figures)
        means.append(np.log(figure.per_token))
        floor = figure.to_json() | {"distribution": FLOOR, "nats": 1.5 * figure.num_positions, "nats_eos": None}
        write_result(run, name, type(result)(**{**fields(result), "figures": [*result.figures, floor]}))
    measure = answer(runs).measures[0]
    (effect,) = measure.effects
    assert effect.change == pytest.approx(100 * np.expm1(np.mean(means[2:]) - np.mean(means[:2])))
    assert measure.floor == pytest.approx(100 * np.expm1(1.5 - np.mean(means[:2])))


def fields(result: Any) -> Mapping[str, Any]:
    return {name: getattr(result, name) for name in result.__slots__}


@pytest.mark.parametrize(
    ("nats", "share", "start"),
    [
        (2.05, 0.4, "No, the students became worse: distillation raised dev perplexity by"),
        (1.95, 0.4, "Mixed: distillation lowered dev perplexity by"),
        (1.95, 0.6, "In part: distillation lowered dev perplexity by"),
        (2.05, 0.6, "No: distillation raised dev perplexity by"),
        (2.0, 0.6, "Not shown: distillation changed dev perplexity by"),
    ],
)
def test_the_answer_names_losses_and_unclear_differences(tmp_path: Path, nats: float, share: float, start: str) -> None:
    text = text_of(pair_of_groups(tmp_path, (1, 2, 3), nats=nats, share=share))
    assert text.startswith(start)
    assert ("which is not clear of zero" in text) == (share == 0.6)


def test_one_seed_cannot_answer(tmp_path: Path) -> None:
    found = answer(pair_of_groups(tmp_path, (1,), nats=1.9, share=0.8))
    (sentence,) = found.sentences
    assert sentence.startswith("One seed cannot answer. Here distillation lowered dev perplexity by")
    assert "interval over sentences" in sentence
    assert sentence.endswith("Another seed may reverse this. Train two seeds or more of each group.")
    assert not any(effect.is_over_seeds for measure in found.measures for effect in measure.effects)


def test_the_page_says_which_runs_are_missing_for_an_answer(tmp_path: Path, helpers: Any) -> None:
    baseline, distilled = pair_of_groups(tmp_path, (1,), nats=1.9, share=0.8)
    teacher = helpers.made_up_run(tmp_path / "teacher", "teacher", 2.0)
    assert "it has no baseline" in text_of([distilled, teacher])
    assert "no student here learned from a dump" in text_of([baseline, teacher])
    assert "it has teachers only" in text_of([teacher])
    for path in (baseline / "results").glob("*.jsonl"):
        path.unlink()
    assert "cannot be compared item by item" in text_of([baseline, distilled])


def test_each_of_a_few_groups_gets_a_sentence_and_many_groups_are_counted(tmp_path: Path) -> None:
    runs = pair_of_groups(tmp_path, (1, 2, 3), nats=1.95, share=0.6)
    for i in range(2, 5):
        dump = from_dump(str(i), f"teacher {i}")
        runs += [add_run(tmp_path, f"other{i}", seed, nats=2 - 0.1 * (i == 3), share=0.6, **dump) for seed in (1, 2, 3)]
        found = answer(runs)
        others = [f"other{j}" for j in range(2, i + 1)]
        assert [effect.group for effect in found.measures[0].effects] == ["distilled", *others]
        assert len(found.sentences) == (i if i < 4 else 1)
        start = (
            "In part: distilled, compared with baseline, lowered dev"
            if i < 4
            else "Compared with baseline in dev perplexity, "
        )
        assert found.sentences[0].startswith(start)
    assert (
        "2 of 4 groups of runs are clearly better (distilled, other3) and none is clearly worse." in found.sentences[0]
    )


def test_shuffled_targets_are_named_and_the_first_group_without_a_dump_is_the_baseline(
    tmp_path: Path,
) -> None:
    dump = from_dump("1", "teacher") | {"targets": "shuffled"}
    runs = pair_of_groups(tmp_path, (1, 2), nats=1.95, share=0.6, **dump)
    assert text_of(runs).startswith("Control: distilled, compared with baseline, lowered")
    runs += [add_run(tmp_path, "faster", seed, nats=2.0, share=0.6, lr=0.01) for seed in (1, 2)]
    assert text_of(runs).endswith("baseline is the baseline here, because it was named first.")


def test_a_born_again_student_is_a_control_and_never_an_answer(tmp_path: Path) -> None:
    """README and docs/teacher.md call it a control: its soft targets come from a model without trees."""
    again = from_dump("2", "baseline", condition="none")
    runs = pair_of_groups(tmp_path / "alone", (1, 2), nats=1.95, share=0.8, **again)
    assert text_of(runs).startswith("Control: distilled, compared with baseline, lowered")
    one_seed = text_of([runs[0], runs[2]])
    assert one_seed.startswith("One seed cannot answer. Here the control distilled, compared with baseline, lowered")

    runs = pair_of_groups(tmp_path / "both", (1, 2), nats=2.0, share=0.6)
    runs += [add_run(tmp_path / "both", "again", seed, nats=1.95, share=0.8, **again) for seed in (1, 2)]
    distilled, control = answer(runs).sentences
    assert distilled.startswith("Not shown: distilled, compared with baseline, changed")
    assert control.startswith("Control: again, compared with baseline, lowered")
    first, second = answer([run for run in runs if str(run).endswith("1")]).sentences
    assert first.startswith("One seed cannot answer. Here distilled, compared with baseline, ")
    assert second.startswith("Here the control again, compared with baseline, lowered")
    for i in (3, 4):
        dump = from_dump(str(i), f"teacher {i}")
        runs += [add_run(tmp_path / "both", f"other{i}", seed, nats=2, share=0.6, **dump) for seed in (1, 2)]
    assert "1 of 4 groups of runs is clearly better (the control again) and" in text_of(runs)


def test_a_student_of_the_grammar_itself_is_the_ceiling_and_never_an_answer(tmp_path: Path) -> None:
    exact = from_dump("2", "corpus", condition="exact")
    runs = pair_of_groups(tmp_path / "alone", (1, 2), nats=1.95, share=0.8, **exact)
    assert text_of(runs).startswith("Ceiling: distilled, compared with baseline, lowered")
    assert text_of([runs[0], runs[2]]).startswith("One seed cannot answer. Here the ceiling distilled")


def test_a_run_that_does_not_record_what_wrote_its_dump_is_not_called_distilled(tmp_path: Path) -> None:
    unknown = from_dump("1", "teacher") | {"dump": {"path": "dump"}}
    runs = pair_of_groups(tmp_path, (1, 2), nats=1.95, share=0.8, **unknown)
    assert text_of(runs).startswith("Control: ")


def test_the_page_begins_with_the_answer_the_figure_and_the_table(tmp_path: Path) -> None:
    runs = pair_of_groups(tmp_path / "runs", (1, 2), nats=1.95, share=0.8)
    write_report(runs, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    order = ["Did distillation help?", "Yes: distillation lowered", "Difference from baseline", "p adjusted"]
    places = [page.text.index(text) for text in order]
    assert places == sorted(places)
    header = ["run", f"dev perplexity per token, {UNCONDITIONAL}", "pairs right, %: made-up", "time of training"]
    assert page.tables[1][0] == header
    reported = ReportedRuns(read_runs(runs))
    plot, _ = answer_section(reported, answer(runs)).blocks
    assert isinstance(plot, Plot)
    assert [str(cell) for cell in plot.data.rows[0][:2]] == ["dev perplexity", "distilled"]
    assert "Hollow marks" not in plot.caption
