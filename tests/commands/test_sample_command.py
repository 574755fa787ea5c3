"""A sample is the same for any number of processes and any batch size, and a dataset reads back what was drawn."""

import json
import shutil
from itertools import compress
from pathlib import Path

import pytest
import torch

from pipeline.corpus.dataset.dataset_store import load_dataset
from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from pipeline.runtime.run_directory import save_weights
from teacher.rnng import Rnng
from teacher.sample_trees import OTHER_TOKENS, OTHER_TREE
from teacher.sampling import Sampler
from teacher.teacher_config import TeacherConfig
from teacher.train_teacher import load_teacher
from tests.processes import edit_run, finish, refused, run_cli, start_cli

NUM_SENTENCES = 64
MAX_ACTIONS = 60
OPTIONS = ["--num-sentences", NUM_SENTENCES, "--max-actions", MAX_ACTIONS, "--threads", 1]


def make_teacher(small_world: Path, path: Path, strategy: str = "top-down") -> Path:
    """Write a run of a teacher that generates short sentences without training: its tokens are as frequent as in text.

    A teacher of a few steps generates endless trees over random bytes.
    """
    shutil.copytree(small_world / "teacher", path)
    sizes = {"embed_dim": 8, "hidden_dim": 8, "strategy": strategy}
    edit_run(path, lambda described: described["configuration"].update(sizes))
    about = json.loads((path / "run.json").read_text())["model"]
    torch.manual_seed(0)
    sizes = {"vocab_size": about["vocab_size"], "num_labels": len(about["labels"]), "eos_id": about["eos_id"]}
    model = Rnng(TeacherConfig(embed_dim=8, hidden_dim=8, strategy=strategy), **sizes).requires_grad_(False)
    tokens = torch.from_numpy(load_dataset(small_world / "dataset").split("train").tokens.values.astype("int64"))
    model.token_bias.copy_(tokens.bincount(minlength=about["vocab_size"]).add(0.01).log())
    model.token_bias[about["eos_id"]] = model.token_bias.logsumexp(0) - 2
    model.action_head.bias[SHIFT] = 2
    model.action_head.bias[REDUCE] = 2 if strategy == "top-down" else 4
    model.action_head.bias[FIRST_NT:] = -1.5
    save_weights(path / "checkpoints/best/model.safetensors", model)
    return path


@pytest.fixture(scope="module")
def teacher(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(small_world, tmp_path_factory.mktemp("made") / "teacher")


@pytest.fixture(scope="module")
def sampled(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the STEM of a sample that was drawn in one batch."""
    stem = tmp_path_factory.mktemp("sampled") / "one"
    run_cli("sample", teacher, "--out", stem, *OPTIONS)
    return stem


def files_of(stem: Path) -> list[bytes]:
    return [stem.with_suffix(suffix).read_bytes() for suffix in (".mrg", ".txt", ".sample.json")]


def record_of(stem: Path) -> dict:
    return json.loads(stem.with_suffix(".sample.json").read_text())


@pytest.mark.processes
def test_batch_size_and_number_of_processes_change_nothing(teacher, sampled, tmp_path):
    command = ["sample", teacher, *OPTIONS]
    run_cli(*command, "--out", tmp_path / "alone", "--batch-sentences", 1)
    finish(start_cli(*command, "--out", tmp_path / "two", "--batch-sentences", 5, processes=2))
    assert files_of(tmp_path / "alone") == files_of(sampled)
    assert files_of(tmp_path / "two") == files_of(sampled)
    assert len(list(tmp_path.iterdir())) == 6


def test_a_dataset_has_the_tokens_and_actions_that_were_drawn(small_world, teacher, sampled, tmp_path):
    model, _ = load_teacher(teacher, torch.device("cpu"))
    drawn = Sampler(model.double(), seed=1, max_actions=MAX_ACTIONS).draw(range(NUM_SENTENCES))
    record = record_of(sampled)
    assert record["num_drawn"] == NUM_SENTENCES == record["num_kept"] + sum(record["dropped"].values())
    assert record["dropped"][f"more than {MAX_ACTIONS} actions"] == drawn.count(None)
    assert record["made_from"]["seed"] == 1

    options = ["--tokenizer", small_world / "tokenizer.json", "--out", tmp_path / "dataset"]
    run_cli("build-dataset", "--train", sampled, "--dev", small_world / "corpus/dev", *options)
    dataset = load_dataset(tmp_path / "dataset")
    assert f", sampled from teacher {record['made_from']['fingerprint'][:12]} with seed 1" in dataset.tree_source
    train, labels = dataset.split("train"), dataset.labels
    assert train.num_sentences == record["num_kept"] >= 20
    numbers = [json.loads((teacher / "run.json").read_text())["model"]["labels"].index(x) for x in labels]
    rows = [
        (tokens.tolist(), [action if action < 2 else 2 + numbers[action - 2] for action in actions.tolist()])
        for tokens, actions in zip(train.tokens, train.actions, strict=True)
    ]
    # The sentences that come back as drawn are in order. Between them are those that the record counts as repaired.
    expected = [(each.ids, each.actions) for each in drawn if each is not None]
    num_changed = sum(row not in expected for row in rows)
    assert num_changed == sum(record["repaired"].get(reason, 0) for reason in (OTHER_TOKENS, OTHER_TREE))
    unchanged = [row for row in rows if row in expected]
    assert unchanged == list(compress(expected, [each in unchanged for each in expected]))
    assert len(unchanged) >= 5
    assert record["num_tokens"] == len(train.tokens.values)


def test_a_binary_teacher_writes_constituents_without_labels(small_world, tmp_path):
    run_cli("sample", make_teacher(small_world, tmp_path / "binary", "binary"), "--out", tmp_path / "sampled", *OPTIONS)
    trees = tmp_path.joinpath("sampled.mrg").read_text()
    assert "(X " in trees
    assert not {"(NP ", "(S "} & set(trees.split("("))


def test_bad_input_is_refused_in_one_line(teacher, sampled, tmp_path):
    out = ["--out", tmp_path / "out"]
    assert "num-sentences is 0, expected at least 1" in refused("sample", teacher, *out, "--num-sentences", 0)
    for temperature in (0, -1):
        message = refused("sample", teacher, *out, "--num-sentences", 1, "--temperature", temperature)
        assert f"temperature is {float(temperature)}, expected more than 0" in message
    message = refused("sample", teacher, "--out", sampled, "--num-sentences", 1)
    assert f"{sampled}.mrg: already exists. Remove it, or choose another name" in message
    message = refused("sample", teacher, *out, "--num-sentences", 1, "--checkpoint", "words_1M")
    assert "no checkpoint here" in message

    copied = shutil.copytree(teacher, tmp_path / "teacher")
    (copied / "tokenizer.json").unlink()
    assert "tokenizer.json: sha256 is missing" in refused("sample", copied, *out, "--num-sentences", 1)
    shutil.copy(teacher / "tokenizer.json", copied)
    edit_run(copied, lambda described: described.update(kind="student"))
    assert "this run is a student's, expected a teacher's" in refused("sample", copied, *out, "--num-sentences", 1)
    # At a low temperature the most probable token comes first. It is <eos>, so all sentences are empty.
    command = ["sample", teacher, *out, "--num-sentences", 2, "--temperature", 0.01]
    last = run_cli(*command, fails=True).stderr.splitlines()[-1]
    assert "all 2 drawn sentences were dropped: {'no words': 2}; train the teacher longer" in last
    assert not list(tmp_path.glob("*out*"))
