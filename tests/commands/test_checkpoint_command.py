"""Test that word checkpoints are evaluated by name, and that no result overwrites a result of another checkpoint."""

from pathlib import Path

import pytest

from pipeline.corpus.dataset.dataset_store import load_dataset
from pipeline.evaluation.compare.run_records import read_runs
from pipeline.evaluation.evaluation_config import SurprisalConfig
from pipeline.evaluation.minimal_pairs import read_minimal_pairs
from pipeline.evaluation.results import read_results
from pipeline.evaluation.sentence_models import evaluate_minimal_pairs, evaluate_split, evaluate_surprisal
from storage.errors import RunError
from storage.fingerprints import sha256_file
from student.student_commands import open_scorer, score_split
from student.student_config import StudentTrainConfig
from student.train_student import train_student
from teacher.teacher_commands import open_scorer as open_scorer_of_teacher
from teacher.teacher_commands import score_split as score_split_of_teacher
from teacher.teacher_config import TeacherConfig, TeacherTrainConfig
from teacher.train_teacher import train_teacher
from tests.processes import metrics, refused

SIZES = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2}
TRAINING = {
    "max_steps": 14, "batch_tokens": 500, "threads": 1, "device": "cpu", "log_every": 1, "lr": 0.01, "warmup_steps": 0,
    "word_checkpoints": ("1k", "2k", "1M"),
}  # fmt: skip


@pytest.fixture(scope="module")
def student(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("student") / "run"
    training = StudentTrainConfig(**TRAINING, peak_tflops=1e-3)
    train_student(small_world / "dataset", None, run, SIZES, training)
    return run


@pytest.fixture(scope="module")
def pairs(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    file = min((small_world / "corpus/minimal_pairs").glob("*.jsonl"))
    folder.joinpath(file.name).write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    return folder


def test_an_epoch_counts_the_words_of_the_text(small_world, tmp_path):
    run = tmp_path / "run"
    training = StudentTrainConfig(num_epochs=1, batch_tokens=4000, threads=1, device="cpu", log_every=1)
    train_student(small_world / "dataset", None, run, SIZES, training)
    words = len((small_world / "corpus/train.txt").read_text().split())
    dataset = load_dataset(small_world / "dataset").split("train")
    assert dataset.num_sentences == len((small_world / "corpus/train.txt").read_text().splitlines())
    assert metrics(run, "train")[-1]["words"] == metrics(run, "dev")[-1]["words"] == words


def test_a_students_metrics_have_perplexity_and_utilisation(student):
    for row in metrics(student, "train"):
        assert row["perplexity"] == pytest.approx(2.718281828 ** row["cross_entropy"])
        assert row["mfu"] == pytest.approx(row["model_flops_per_s"] / 1e9, abs=1e-4)
        assert 0 <= row["data_wait_share"] <= 1
    assert metrics(student, "dev")[0].keys() >= {"perplexity", "cross_entropy", "words"}


def test_each_checkpoint_of_a_student_has_its_own_results(small_world, student, pairs, tmp_path):
    data, text = small_world / "dataset", tmp_path / "text"
    text.write_text("the dog sees the cat\n")
    for which in ("words_1k", "best", "words_2k"):
        options = {"device": "cpu", "checkpoint": which, "beam": {}}
        with score_split(student, data, split="dev", marginal=False, **options) as scored:
            evaluate_split(scored)
        with open_scorer(student, **options) as model:
            evaluate_minimal_pairs(model, read_minimal_pairs(pairs), "pairs", prefix="none", eos=False)
            evaluate_surprisal(model, text, tmp_path / which, SurprisalConfig())
    results = read_results(student)
    assert len(results) == 9
    for name, result in results.items():
        which = result.settings["checkpoint"]
        assert f"-{which}" in name or (which == "best" and "words" not in name)
        assert result.fingerprints["weights"] == sha256_file(student / "checkpoints" / which / "model.safetensors")
    nats = {
        str(result.settings["checkpoint"]): result.figures[0]["nats"]
        for result in results.values()
        if result.kind == "perplexity"
    }
    assert nats["words_1k"] > nats["words_2k"] > nats["best"]
    [shown] = read_runs([student])
    assert shown.perplexities["dev"]["unconditional"].nats == nats["best"]
    assert len(shown.results.pairs) == 1
    at_words = shown.results.at_words
    assert {words: found.perplexities[0].figures["unconditional"].nats for words, found in at_words.items()} == {
        words: nats[f"words_{words // 1000}k"] for words in (1000, 2000)
    }
    assert [len(found.pairs) for found in at_words.values()] == [1, 1]
    notes = [missing for missing in shown.missing if "of checkpoint words_" in missing]
    assert len(notes) == 2
    assert all(note.startswith("results/surprisal-") for note in notes)


def test_each_checkpoint_of_a_teacher_has_its_own_results(small_world, pairs, tmp_path):
    data, run = small_world / "dataset", tmp_path / "run"
    sizes = TeacherConfig(embed_dim=16, hidden_dim=16, num_layers=1)
    train_teacher(data, run, sizes, TeacherTrainConfig(**TRAINING | {"max_steps": 8, "word_checkpoints": ("1k",)}))
    for which in ("best", "words_1k"):
        options = {"device": "cpu", "checkpoint": which}
        with score_split_of_teacher(run, data, split="dev", marginal=False, beam={}, **options) as scored:
            evaluate_split(scored)
        with open_scorer_of_teacher(run, beam={"beam": 3, "word_beam": 2}, **options) as model:
            evaluate_minimal_pairs(model, read_minimal_pairs(pairs), "pairs", prefix="none", eos=False)
    results = read_results(run)
    assert sorted(result.settings["checkpoint"] for result in results.values()) == ["best"] * 2 + ["words_1k"] * 2
    first, second = (result.figures for result in results.values() if result.kind == "perplexity")
    assert first != second
    unknown = {"perplexity", "mfu", "model_flops_per_s"}
    assert not any(unknown & row.keys() for split in ("train", "dev") for row in metrics(run, split))


def test_a_missing_checkpoint_gives_one_line_that_names_the_others(small_world, student):
    arguments = ["evaluate", "perplexity", student, "--data", small_world / "dataset", "--device", "cpu"]
    line = refused(*arguments, "--checkpoint", "words_1M")
    assert line.startswith("Error: ")
    assert line.endswith("no checkpoint here; the run has best, last, words_1k, words_2k")
    with (
        pytest.raises(RunError, match="expected best, last or a number of words"),
        open_scorer(student, device="cpu", checkpoint="../../run", beam={}),
    ):
        pass
