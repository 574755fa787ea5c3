"""Test ``evaluate mixture``: its result, the report that shows it, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from pipeline.evaluation.compare.run_records import read_runs
from pipeline.evaluation.perplexity import GIVEN_TREE, MARGINAL
from pipeline.evaluation.results import load_results
from pipeline.report.page import render_report
from student.student_commands import score_split
from student.student_config import StudentTrainConfig
from student.train_student import train_student
from tests.pipeline.report.html_page import Page
from tests.processes import run_cli

SIZES = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2}
NARROW = ["--beam", 3, "--word-beam", 2, "--max-actions", 4]


@pytest.fixture(scope="module")
def few(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a dataset with documents: a dev split of 20 sentences and a test split of three."""
    folder = tmp_path_factory.mktemp("few")
    options: list[object] = []
    for split, most in (("train", 600), ("dev", 20), ("test", 3)):
        for suffix in (".mrg", ".txt"):
            lines = (small_world / f"corpus/{split}{suffix}").read_text().splitlines(keepends=True)[:most]
            (folder / f"{split}{suffix}").write_text("".join(lines))
        (folder / f"{split}.docs").write_text("".join(f"{line // 5}\n" for line in range(len(lines))))
        options += [f"--{split}", folder / split]
    run_cli("build-dataset", *options, "--tokenizer", small_world / "tokenizer.json", "--out", folder / "dataset")
    return folder / "dataset"


def trained(data: Path, run: Path, **options: Any) -> Path:
    training = StudentTrainConfig(
        max_steps=3, batch_tokens=500, threads=1, device="cpu", lr=0.01, warmup_steps=0, **options
    )
    train_student(data, None, run, SIZES, training)
    return run


@pytest.fixture(scope="module")
def student(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(few, tmp_path_factory.mktemp("student") / "baseline")


@pytest.fixture
def teacher(small_world: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_world / "teacher", tmp_path / "rnng")
    return tmp_path / "rnng"


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(cli.main, ["evaluate", *map(str, arguments), "--device", "cpu"])


def evaluated(*arguments: object) -> dict[str, Any]:
    done = invoke(*arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(*arguments: object) -> str:
    done = invoke(*arguments)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]  # a warning may come before it
    assert (done.exit_code, len(errors)) == (1, 1), done.output
    return str(errors[0])


def test_a_mixture_is_recorded_and_the_report_shows_it(few: Path, student: Path, teacher: Path) -> None:
    found = evaluated("mixture", teacher, student, "--data", few, *NARROW)
    assert [figure["distribution"] for figure in found["by_distribution"]] == [MARGINAL, GIVEN_TREE]
    assert found["distribution"] == MARGINAL
    assert 0 <= found["teacher_weight"] <= 1
    assert found["interval"][0] <= found["gain_nats"] <= found["interval"][1]
    assert found["halves"] == "documents"
    assert found["num_fitted"] == found["num_sentences"] == 10
    assert "evaluate minimal-pairs" in found["notes"][0]

    (result,) = (each for each in load_results(student).mixtures if str(each.path) == found["written"])
    assert result.figures.first.gain_nats == found["gain_nats"]
    assert result.convention == "beam 3, word beam 2"

    written = {
        "s": evaluated("perplexity", student, "--data", few)["sentences"],
        "t": evaluated("perplexity", teacher, "--data", few, "--marginal", *NARROW)["sentences"],
    }
    log_probs = {
        name: [json.loads(line)["log_probs"] for line in Path(rows).read_text().splitlines()]
        for name, rows in written.items()
    }
    held = [i for i in range(20) if i // 5 in {1, 3}]  # documents take turns
    of_student = np.concatenate([log_probs["s"][i]["unconditional"] for i in held])
    for figure in found["by_distribution"]:
        of_teacher = np.concatenate([log_probs["t"][i][figure["distribution"]] for i in held])
        weight = figure["teacher_weight"]
        gain = np.log(weight * np.exp(of_teacher) + (1 - weight) * np.exp(of_student)) - of_student
        assert figure["gain_nats"] == pytest.approx(gain.mean(), abs=2e-5)  # rows keep six decimals

    page = Page(render_report(read_runs([student, teacher])))
    assert found["conclusion"] in page.text
    shown = [[" ".join(cell.split()) for cell in row] for row in page.table("teacher's distribution")[1:]]
    shown = [row for row in shown if row[1].startswith("rnng (")]
    assert [row[3] for row in shown] == ["marginal by beam search, beam 3, word beam 2", GIVEN_TREE]
    assert shown[0][0].endswith("baseline")
    assert shown[0][5] == f"{found['gain_nats']:+.4f}"


def test_the_paradigms_of_recorded_pairs_are_compared(few: Path, student: Path, teacher: Path, tmp_path: Path) -> None:
    lines = [
        {"sentence_good": "The dog sleeps.", "sentence_bad": "The dog sleep.", "UID": uid} for uid in ("one", "two")
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for model, search in ((student, []), (teacher, NARROW)):
        evaluated("minimal-pairs", model, tmp_path / "pairs.jsonl", *search)
    found = evaluated("mixture", teacher, student, "--data", few, "--no-marginal")
    assert found["distribution"] == GIVEN_TREE
    assert found["notes"] == []
    (pairs,) = found["minimal_pairs"]
    assert set(pairs["paradigms"]) == {"one", "two"}
    text = invoke("mixture", teacher, student, "--data", few, "--no-marginal").stdout
    assert text.startswith("Given the tree, the mixture gains ")
    assert "The teacher is better on 0 of 2 paradigms" in text


def test_a_student_can_be_the_teacher_and_gains_nothing_from_itself(few: Path, student: Path) -> None:
    found = evaluated("mixture", student, student, "--data", few)
    assert (found["distribution"], found["teacher_weight"], found["gain_nats"]) == ("unconditional", 0, 0)


@pytest.mark.parametrize("context", ["sentence", "document"])
def test_a_sample_of_sentences_has_the_log_probabilities_of_the_whole_split(
    few: Path, tmp_path: Path, context: Any
) -> None:
    run = trained(few, tmp_path / "run", context=context)
    common = {"split": "dev", "device": "cpu", "checkpoint": "best", "marginal": False, "beam": {}}
    with score_split(run, few, **common) as whole, score_split(run, few, **common, max_sentences=6) as some:
        taken = [0, 3, 6, 10, 13, 16]
    for distribution, rows in some.log_probs.items():
        expected = whole.log_probs[distribution].take(taken)
        # The last digits of float32 depend on the batch.
        assert rows.values == pytest.approx(expected.values, abs=1e-5)
        assert np.array_equal(rows.offsets, some.split.position_offsets)
    found = evaluated("mixture", run, run, "--data", few, "--max-sentences", 6)
    assert found["num_fitted"] + found["num_sentences"] == 6
    assert found["written"].endswith("-6sentences.json")


def test_what_cannot_be_mixed_is_refused(
    small_world: Path, few: Path, student: Path, teacher: Path, tmp_path: Path
) -> None:
    data = ["--data", few]
    assert "this run is a teacher's, expected a student's" in refused("mixture", student, teacher, *data)
    assert "only a teacher takes --beam" in refused("mixture", student, student, *data, "--beam", 4)
    assert "only a teacher takes --marginal" in refused("mixture", student, student, *data, "--marginal")
    assert "expected only with --marginal" in refused("mixture", teacher, student, *data, "--no-marginal", "--beam", 4)
    assert "max-sentences is 3, expected at least 4" in refused(
        "mixture", teacher, student, *data, "--max-sentences", 3
    )
    message = refused("mixture", teacher, student, *data, "--split", "test", *NARROW)
    assert "split test has 3 sentences, expected at least 4" in message
    assert "no split 'other'" in refused("mixture", teacher, student, *data, "--split", "other")

    run_cli("train-tokenizer", small_world / "corpus/train.txt", "--out", tmp_path / "t.json", "--vocab-size", 400)
    stems = ["--train", small_world / "corpus/dev", "--dev", small_world / "corpus/test"]
    run_cli("build-dataset", *stems, "--tokenizer", tmp_path / "t.json", "--out", tmp_path / "other")
    other = trained(tmp_path / "other", tmp_path / "stranger")
    tokenizers = [json.loads((run / "run.json").read_text())["fingerprints"]["tokenizer"] for run in (teacher, other)]
    for models, dataset in (((teacher, other), few), ((other, student), few), ((teacher, other), tmp_path / "other")):
        message = refused("mixture", *models, "--data", dataset)
        assert all(sha256[:12] in message for sha256 in tokenizers)
