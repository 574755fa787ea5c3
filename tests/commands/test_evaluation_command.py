"""Test that figures of evaluate commands agree with their item rows, for a student and for a teacher."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from pipeline.evaluation.sentence_models import pairs_as_text, suites_as_text
from student.student_config import StudentTrainConfig
from student.train_student import train_student

NARROW = ["--beam", "3", "--word-beam", "2"]
SUITE = {
    "meta": {"name": "number_made_up", "metric": "sum", "author": ""},
    "region_meta": {},
    "predictions": [{"type": "formula", "formula": "(2;%match%) < (2;%mismatch%)"}],
    "items": [
        {
            "item_number": n,
            "conditions": [
                {
                    "condition_name": name,
                    "regions": [
                        {"region_number": 1, "content": f"The {noun}"},
                        {"region_number": 2, "content": verb},
                        {"region_number": 3, "content": "."},
                    ],
                }
                for name, verb in (("match", good), ("mismatch", bad))
            ],
        }
        for n, noun, good, bad in ((1, "dog", "sleeps", "sleep"), (2, "dogs", "sleep", "sleeps"))
    ],
}


@pytest.fixture(scope="module")
def student(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("student") / "run"
    training = StudentTrainConfig(max_steps=5, batch_tokens=500, threads=1, device="cpu", lr=0.02, warmup_steps=0)
    train_student(small_world / "dataset", None, run, {"embed_dim": 16, "num_blocks": 1, "num_heads": 2}, training)
    return run


def evaluated(*arguments: object) -> dict:
    done = CliRunner().invoke(cli.main, ["evaluate", *map(str, arguments), "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def rows_of(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_suite_items_add_up_to_figures_and_regions_to_surprisals(
    small_world: Path, student: Path, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "suite.json").write_text(json.dumps(SUITE))
    model, search = (student, []) if kind == "student" else (small_world / "teacher", NARROW)
    found = evaluated("syntaxgym", model, tmp_path / "suite.json", *search)
    items = rows_of(found["items"])
    assert [item["item"] for item in items] == [1, 2]
    assert sum(item["outcome"] == "right" for item in items) == found["by_suite"]["number_made_up"]["num_right"]
    for item in items:
        surprisals = item["surprisals"]
        assert (item["outcome"] == "right") == (surprisals["match"]["2"] < surprisals["mismatch"]["2"])
    (tmp_path / "text").write_text("The dog sleeps.\nThe dog sleep.\n")
    table = tmp_path / "table"
    evaluated("surprisal", model, tmp_path / "text", "--out", table, *search)
    words = [line.split("\t") for line in table.read_text().splitlines()[1:] if "<eos>" not in line]
    for number, condition in (("1", "match"), ("2", "mismatch")):
        bits = sum(float(row[3]) for row in words if row[0] == number)
        assert sum(items[0]["surprisals"][condition].values()) == pytest.approx(bits, abs=1e-4)


def test_sentence_rows_add_up_to_the_perplexity_under_every_distribution(small_world: Path, student: Path) -> None:
    data = ["--data", small_world / "dataset", "--split", "dev"]
    for model in (student, small_world / "teacher"):
        found = evaluated("perplexity", model, *data)
        assert found["context"] == "sentence by sentence"
        rows = rows_of(found["sentences"])
        assert [row["sentence"] for row in rows] == list(range(len(rows)))
        figures = json.loads(Path(found["written"]).read_bytes())["figures"]
        assert list(rows[0]["log_probs"]) == [figure["distribution"] for figure in figures]
        for figure in figures:
            values = [row["log_probs"][figure["distribution"]] for row in rows]
            assert -math.fsum(map(math.fsum, values)) == pytest.approx(figure["nats"], abs=1e-6 * figure["num_tokens"])
            assert -math.fsum(row[-1] for row in values) == pytest.approx(figure["nats_eos"], abs=1e-3)


def test_pair_rows_agree_with_their_figures_and_file_names_show_the_convention(student: Path, tmp_path: Path) -> None:
    lines = [
        {"right": "The dog sleeps.", "wrong": "The dog sleep.", "UID": uid, "field": "syntax"}
        for uid in ("one", "two", "one")
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = set()
    for prefix in ("none", "space"):
        for eos in ("--eos", "--no-eos"):
            found = evaluated(
                "minimal-pairs", student, tmp_path / "pairs.jsonl", "--columns", "right,wrong", "--prefix", prefix, eos
            )
            names.add(Path(found["pairs"]).stem.removeprefix("minimal-pairs-pairs-")[8:])
            rows = rows_of(found["pairs"])
            assert [(row["paradigm"], row["pair"]) for row in rows] == [("one", 0), ("two", 0), ("one", 1)]
            assert sum(row["good"] > row["bad"] for row in rows) == found["overall"]["num_right"]
            assert found["by_field"]["syntax"]["num_pairs"] == 3
            differences = [row["good"] - row["bad"] for row in rows]
            assert found["overall"]["mean_difference"] == pytest.approx(np.mean(differences))
    assert names == {"", "-eos", "-space", "-space-eos"}
    (row,) = (line.split() for line in pairs_as_text(found).splitlines() if line.startswith("one "))
    one = found["by_paradigm"]["one"]
    assert row[-6:-2] == ["2", f"{50 * one['num_right']:.1f}", f"{100 * one['interval'][0]:.1f}", "to"]


def test_all_suites_of_hu_et_al_run(shared_data: Path, student: Path) -> None:
    found = evaluated("syntaxgym", student, shared_data / "syntaxgym")
    assert len(found["by_suite"]) == 7
    assert found["overall"]["num_items"] == len(rows_of(found["items"]))
    assert all(suite["num_tokens_over_two_regions"] == 0 for suite in found["by_suite"].values())
    lines = suites_as_text(found).splitlines()
    assert ["all", "items,", "%", f"{100 * found['overall']['accuracy']:.1f}"] in [line.split() for line in lines]
    assert [line.split()[0] for line in lines[-10:-3]] == list(found["by_suite"])
