"""Test the age of acquisition: the surprisals are those of transformers, and the curves are known ones."""

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

import cli
from pipeline.evaluation.age_of_acquisition import (
    AGES,
    acquisition_scores,
    age_of_children,
    age_of_model,
    num_tokens,
    read_acquisition_task,
)
from storage.errors import InputError
from student.export import export
from student.student_config import StudentTrainConfig
from student.train_student import train_student

NUM_WORDS = np.array([*range(1, 10), *range(10, 101, 10)]) * 1e6
WORDS = {
    "dog": ["The", " A child sees the ", "I have a"],
    "cat": ["The old"],
    "ice cream": ["", "The children see the"],
    "unwuggability": ["The dog laughs about"],
    "sees": ["The cat", "The dog"],
    "a": ["This is"],
    "house": [],
}


def logistic(x: np.ndarray, a: float, b: float, c: float, d: float) -> np.ndarray:
    return a / (1 + np.exp(-b * (x - c))) + d


def inverse(y: float, a: float, b: float, c: float, d: float) -> float:
    return c - math.log(a / (y - d) - 1) / b


@pytest.mark.parametrize("curve", [(8.0, 3.0, 6.8, -14.0), (8.0, 6.0, 7.2, -13.5), (12.0, 2.0, 6.6, -16.0)])
def test_a_model_knows_a_word_halfway_between_chance_and_its_best_point(curve: tuple[float, ...]) -> None:
    pytest.importorskip("scipy", reason="scipy is not installed: pip install '.[babylm]'")
    points, chance = logistic(np.log10(NUM_WORDS + 1), *curve), math.log(10_000)
    for rules, of_chance in ("2026", chance), ("2025", math.log2(300_000)):
        expected = inverse((points.max() - of_chance) / 2, *curve)
        found = age_of_model(-points[:, None], NUM_WORDS, rules=rules, chance=chance)
        assert found == pytest.approx(expected, abs=1e-3)
    # 2026 takes the mean over the contexts, and 2025 the lowest surprisal of any context.
    moved = -points[:, None] + [[-1.0, 1.0]]
    by_mean = age_of_model(moved, NUM_WORDS, rules="2026", chance=chance)
    assert by_mean == pytest.approx(inverse((points.max() - chance) / 2, *curve), abs=1e-3)
    by_lowest = age_of_model(moved, NUM_WORDS, rules="2025", chance=0.0)
    assert by_lowest == pytest.approx(inverse((points.max() + 1 - math.log2(300_000)) / 2, *curve), abs=1e-3)


@pytest.mark.parametrize("curve", [(0.9, 0.5, 23.0, 0.05), (1.0, 0.3, 20.0, 0.0), (0.8, 0.9, 27.0, 0.1)])
def test_children_know_a_word_when_half_of_them_do(curve: tuple[float, ...]) -> None:
    pytest.importorskip("scipy", reason="scipy is not installed: pip install '.[babylm]'")
    shares = logistic(np.array(AGES, np.float64), *curve)
    assert age_of_children(shares) == pytest.approx(inverse(0.5, *curve), abs=0.01)
    shares[[2, 5]] = np.nan
    assert age_of_children(shares) == pytest.approx(inverse(0.5, *curve), abs=0.01)


def test_curves_that_reach_nothing_are_left_out() -> None:
    pytest.importorskip("scipy", reason="scipy is not installed: pip install '.[babylm]'")
    ages = np.array(AGES, np.float64)
    assert age_of_children(logistic(ages, 0.3, 0.5, 23.0, 0.05)) is None
    assert age_of_children(np.full(len(AGES), 0.9)) is None
    assert age_of_children(np.where(ages < 18, 0.4, np.nan)) is None
    for rules in ("2026", "2025"):
        for surprisals in (np.full((19, 2), 9.0), np.linspace(5, 9, 19)[:, None]):
            assert age_of_model(surprisals, NUM_WORDS, rules=rules, chance=9.2) is None
        assert age_of_model(np.array([[9.0], [3.0]]), NUM_WORDS[:2], rules=rules, chance=9.2) is None


def test_the_score_is_a_correlation_and_2026_sets_uncertain_ones_to_zero() -> None:
    pytest.importorskip("scipy", reason="scipy is not installed: pip install '.[babylm]'")
    pairs = [(6.1, 20.0), (None, 19.0), (6.5, 21.5), (7.2, None), (7.0, 22.0), (6.9, 24.0)]
    known = np.array([pair for pair in pairs if None not in pair])
    expected = np.corrcoef(known.T)[0, 1]
    figures = {rules: acquisition_scores(pairs, rules) for rules in ("2025", "2026")}
    assert figures["2026"]["p_value"] > 0.1
    assert [figures[rules]["score"] for rules in ("2025", "2026")] == [pytest.approx(expected), 0.0]
    assert figures["2026"]["correlation"] == pytest.approx(expected)
    assert figures["2026"]["num_words"] == 4
    sure = acquisition_scores([(x, 3 * x + 0.01 * (-1) ** i) for i, x in enumerate((6.0, 6.3, 6.7, 7.1, 7.6))], "2026")
    assert sure["score"] == sure["correlation"] > 0.99
    assert acquisition_scores(pairs[:3], "2025") == {"score": 0.0, "correlation": None, "p_value": None, "num_words": 2}


def test_the_tokens_of_a_word_are_those_after_another_word() -> None:
    assert num_tokens(lambda texts: [text.split("a") for text in texts], ["banana", "x"]) == {"banana": 4 - 1, "x": 1}


@pytest.fixture(scope="module")
def run(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    training = StudentTrainConfig(
        max_steps=12, batch_tokens=300, threads=1, device="cpu", lr=0.02, warmup_steps=0,
        word_checkpoints=("100", "300", "700", "1500"),
    )  # fmt: skip
    sizes = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2}
    train_student(small_world / "dataset", None, folder / "run", sizes, training)
    export(folder / "run", folder / "exported", all_checkpoints=True)
    return folder / "run"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write made-up data with the files and fields of BabyLM's full_eval."""
    folder = tmp_path_factory.mktemp("evaluation_data") / "full_eval"
    (folder / "aoa").mkdir(parents=True)
    words = {word: [{"context": text, "count": 1} for text in contexts] for word, contexts in WORDS.items()}
    (folder / "aoa/cdi_childes.json").write_text(json.dumps(words))
    with (folder / "aoa/cdi_human.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["word", "category", *AGES])
        for i, word in enumerate([*WORDS, "dog"]):
            shares = logistic(np.array(AGES, np.float64), 0.9, 0.5, 20.0 + i, 0.02)
            writer.writerow([word, "x", *(f"{share:.4f}" for share in shares[:-1]), "NA" if i == 1 else "0.95"])
    return folder


def evaluated(*given: object) -> Any:
    done = CliRunner().invoke(cli.main, ["evaluate", "babylm", *map(str, given), "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def expected_surprisals(folder: Path) -> list[float]:
    """Return what the pipeline computes with transformers: the tokens that end after the context and a space."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for word, contexts in WORDS.items():
        for context in contexts if len(word) > 1 else ():
            text = f"{context.strip()} {word}"
            encoded = tokenizer(text, return_offsets_mapping=True)
            ids = torch.tensor(encoded["input_ids"])
            with torch.no_grad():
                log_probs = model(ids[None]).logits[0].log_softmax(-1)
            scored = [i for i, (_, stop) in enumerate(encoded["offset_mapping"]) if stop > len(text) - len(word)]
            found.append(-sum(float(log_probs[i - 1, ids[i]]) for i in scored))
    return found


def test_the_surprisals_at_all_checkpoints_are_written_as_the_pipeline_does(
    run: Path, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("scipy", reason="scipy is not installed: pip install '.[babylm]'")
    summary = evaluated(run, data, "--out", tmp_path)
    assert summary["left_out"] == {}
    written: dict[str, Any] = json.loads((tmp_path / "run/main/zero_shot/causal/AoA_word/surprisal.json").read_bytes())
    assert written["metadata"] == {"model_name": "run", "use_bos_only": False, "total_steps": 4, "completed_steps": 4}
    steps = ["chck_100", "chck_300", "chck_700", "chck_1500"]
    assert list(dict.fromkeys(row["step"] for row in written["results"])) == steps
    for step in steps:
        rows = [row for row in written["results"] if row["step"] == step]
        expected = expected_surprisals(run.parent / "exported" / step)
        assert [row["surprisal"] for row in rows] == pytest.approx(expected, abs=1e-4)
        assert rows[1] | {"surprisal": 0} == {
            "step": step, "word_count": int(step.removeprefix("chck_")), "target_word": "dog", "context_id": 1,
            "context": " A child sees the ", "surprisal": 0,
        }  # fmt: skip
    figures = summary["tasks"]["aoa"]
    assert set(figures["checkpoints"]) == {*steps}
    assert figures["num_items"] == 5
    score = json.loads((tmp_path / "run/main/zero_shot/causal/AoA_word/aoa_score.json").read_bytes())
    assert score == {"aoa": figures["score"]}
    # The same from the exported folder, whose checkpoints are next to it, and by the rules of the other year.
    other = evaluated(run.parent / "exported/main", data, "--rules", "2025")["tasks"]["aoa"]
    assert other["score"] == pytest.approx(figures["score_by_the_rules_of_2025"])
    assert other["score_by_the_rules_of_2026"] == pytest.approx(figures["score"])


def test_without_the_childrens_file_only_surprisals_are_written(run: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "full_eval/cdi_childes").mkdir(parents=True)
    (tmp_path / "full_eval/cdi_childes/cdi_childes.json").write_bytes((data / "aoa/cdi_childes.json").read_bytes())
    summary = evaluated(run, tmp_path / "full_eval", "--out", tmp_path)
    assert summary["tasks"]["cdi_childes"]["score"] is None
    folder = tmp_path / "run/main/zero_shot/causal/AoA_word"
    assert [path.name for path in folder.iterdir()] == ["surprisal.json"]
    # A word checkpoint by itself has no such figure, and neither has an export without word checkpoints.
    for model, reason in (
        ([run, "--checkpoint", "words_300"], "compares all word checkpoints; leave out --checkpoint"),
        ([run.parent / "exported/chck_700"], "needs at least 3 word checkpoints, found 0; train with"),
    ):
        assert evaluated(*model, tmp_path / "full_eval")["left_out"]["cdi_childes"].startswith(reason)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("cdi_childes.json", "[]", "object"),
        ("cdi_childes.json", "{", "JSON"),
        ("cdi_childes.json", '{"dog": [{"text": "The"}]}', "context"),
        ("cdi_childes.json", '{"dog": {"context": "The"}}', "array"),
        ("cdi_childes.json", '{"dog": [{"context": 3}]}', "context"),
        ("cdi_childes.json", '{"a": [{"context": "The"}]}', "no word with contexts"),
        ("cdi_human.csv", "item,16,17\ndog,0.1,0.2\n", "found item, 16, 17, expected word and the months"),
        ("cdi_human.csv", "word,age\ndog,0.1\n", "expected word and the months 16 to 30"),
        ("cdi_human.csv", "word,16\ncat,0.1\ndog,many\n", "row 2: could not convert string to float: 'many'"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, data: Path, file: str, content: str, message: str) -> None:
    (tmp_path / "aoa").mkdir()
    (tmp_path / "aoa/cdi_childes.json").write_bytes((data / "aoa/cdi_childes.json").read_bytes())
    (tmp_path / "aoa" / file).write_text(content)
    with pytest.raises(InputError, match=rf"{file}") as error:
        read_acquisition_task(tmp_path)
    assert message in str(error.value)
    assert "fetch the evaluation data again" in str(error.value)


def test_a_missing_scipy_is_said_before_anything_is_scored(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    done = CliRunner().invoke(cli.main, ["evaluate", "babylm", str(run), str(data), "--device", "cpu"])
    assert done.exit_code == 1
    assert "needs the module scipy" in done.stderr
    assert "pip install 'rnng-distill[babylm]'" in done.stderr
