"""The section on word checkpoints shows their figures, and says when a group is as good as the baseline at its best."""

import json
import math
from pathlib import Path

import pytest

from pipeline.evaluation.compare.run_records import read_runs
from pipeline.report.page import render_report
from pipeline.report.page_blocks import Items, Plot
from pipeline.report.reported_runs import ReportedRuns
from pipeline.report.words_section import words_section
from tests.evaluated_runs import add_pairs, add_sentences, from_dump, write_run
from tests.pipeline.report.html_page import texts


def made_up(path: Path, perplexities: dict[str, float], *, seed: int, alpha: float | None = None) -> Path:
    """Write a run with perplexities, whose best checkpoint has seen 4,000 words. Without ``alpha`` it has no dump."""
    run = write_run(path, seed=seed, **({} if alpha is None else from_dump("f", "1" * 64) | {"alpha": alpha}))
    rows = [{"split": "dev", "step": step, "words": step * 10, "loss": 9.0 - step / 100} for step in (200, 400)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0] | {"step": 500}]))
    for which, perplexity in perplexities.items():
        settings = {"checkpoint": which, "batch_tokens": 8}
        add_sentences(run, [[-math.log(perplexity)] * 3], name=f"dev-{which}", settings=settings)
    return run


def four_runs(folder: Path) -> list[Path]:
    return [
        made_up(folder / "baseline-seed1", {"words_1k": 90, "words_2k": 50, "best": 20}, seed=1),
        made_up(folder / "baseline-seed2", {"words_1k": 80, "words_2k": 52, "best": 22}, seed=2),
        made_up(folder / "distilled-seed1", {"words_1k": 19.9, "words_2k": 19.0, "best": 15}, seed=1, alpha=0.5),
        made_up(folder / "distilled-seed2", {"words_1k": 41, "words_2k": 19.5, "best": 16}, seed=2, alpha=0.5),
    ]


def section_of(runs: list[Path]) -> tuple[list[str], list[Plot]]:
    """Return the sentences and the plots of the section."""
    section = words_section(ReportedRuns(read_runs(runs)), "baseline")
    assert section is not None
    texts = [
        text.replace("\u00a0", " ") for block in section.blocks if isinstance(block, Items) for text in block.texts
    ]
    return texts, [block for block in section.blocks if isinstance(block, Plot)]


def test_a_group_is_as_good_as_the_baseline_once_its_worst_run_is_as_good_as_the_best_run(tmp_path: Path) -> None:
    runs = four_runs(tmp_path)
    worse = made_up(tmp_path / "worse-seed1", {"words_1k": 19, "best": 20.5}, seed=1, alpha=0.1)
    sentences, (plot,) = section_of([*runs, worse])
    begin, as_good = "dev perplexity: ", "as good as baseline at its best checkpoint (20.00)"
    assert sentences == [
        f"{begin}distilled is {as_good} after 50 % of the words (2,000 of 4,000), and stays so.",
        f"{begin}worse does not become {as_good}.",
        f"{begin}Here a group is as good if its worst run is as good as the best run of the other group.",
    ]
    assert texts(plot.data.rows)[:3] == [
        ["baseline-seed1", "1,000", "90.00"],
        ["baseline-seed1", "2,000", "50.00"],
        ["baseline-seed1", "4,000", "20.00"],
    ]
    assert len(plot.sources) == 14
    assert ">2 k<" in plot.svg


def test_checkpoints_after_the_best_one_are_left_out(tmp_path: Path) -> None:
    runs = [
        made_up(tmp_path / "baseline-seed1", {"words_1k": 90, "words_5k": 10, "best": 20}, seed=1),
        made_up(tmp_path / "distilled-seed1", {"words_1k": 60, "words_5k": 10, "best": 19}, seed=1, alpha=0.5),
    ]
    sentences, (plot,) = section_of(runs)
    assert len(sentences) == 1
    assert sentences[0].endswith("(20.00) after 100 % of the words (4,000 of 4,000), and stays so.")
    assert [row[1] for row in texts(plot.data.rows)] == ["1,000", "4,000"] * 2


@pytest.mark.parametrize("at_1k", [[1, 0], [0, 0]], ids=["a flat baseline", "a rising baseline"])
def test_accuracies_are_better_if_they_are_higher(tmp_path: Path, at_1k: list[int]) -> None:
    runs = four_runs(tmp_path)
    for run in runs:
        for which, outcomes in (("words_1k", at_1k if "baseline" in run.name else [1, 1]), ("best", [1, 0])):
            add_pairs(run, {"a": outcomes})
            written = run / "results/minimal-pairs-made-up.json"
            result = json.loads(written.read_text())
            changed = result | {"settings": result["settings"] | {"checkpoint": which}}
            written.with_name(f"at-{which}.json").write_text(json.dumps(changed))
            written.unlink()
    sentences, _ = section_of(runs)
    if at_1k == [1, 0]:
        expected = "baseline was as good before its best checkpoint. So these curves do not show who needs fewer words."
    else:
        expected = "distilled is as good as baseline at its best checkpoint (50.0) after 25 % of the words "
        expected += "(1,000 of 4,000), and stays so."
    assert f"minimal-pair accuracy on made-up: {expected}" in sentences


def test_words_are_written_only_where_there_is_room(tmp_path: Path) -> None:
    words = {f"words_{number}k": 100 - number for number in range(1, 4)} | {"words_3900": 70, "best": 20}
    _, (plot,) = section_of([made_up(tmp_path / "baseline-seed1", words, seed=1)])
    narrow = plot.svg.split("</svg>")[1]
    assert ">4 k<" in narrow
    assert ">3.9 k<" not in narrow
    assert plot.key[0][1] == "baseline-seed1: 20.00"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("which", [["words_1k"], ["words_1k", "best"]], ids=["one", "all"])
def test_an_infinite_perplexity_is_in_the_table_only(tmp_path: Path, which: list[str]) -> None:
    run = made_up(tmp_path / "baseline-seed1", {"words_1k": 90, "best": 20}, seed=1)
    for name in which:
        path = run / f"results/perplexity-dev-{name}.json"
        result = json.loads(path.read_text())
        result["figures"][0]["nats"] = 1e6
        path.write_text(json.dumps(result))
    _, (plot,) = section_of([run])
    assert [row[2] for row in texts(plot.data.rows)] == ["inf", "inf" if len(which) == 2 else "20.00"]


def test_the_page_has_the_section_only_if_word_checkpoints_were_evaluated(tmp_path: Path) -> None:
    page = render_report(read_runs(four_runs(tmp_path / "with")))
    assert "Results by words of training" in page
    assert "distilled is as good as baseline at its best checkpoint" in page
    assert "words_1k" not in page  # no note says that a result is not shown
    without = [made_up(tmp_path / "without" / name, {"best": 20}, seed=1) for name in ("a", "b")]
    assert words_section(ReportedRuns(read_runs(without[:1])), "") is None
    assert "Results by words of training" not in render_report(read_runs(without[:1]))
