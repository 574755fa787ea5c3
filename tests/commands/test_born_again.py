"""Test dumps of a student: they hold what it computes, and a student with the same weights has nothing to learn."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner

import cli
from pipeline.corpus.dataset.dataset_store import load_dataset
from pipeline.corpus.text.word_budget import budget, from_json
from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_source import dump_run, plan_run, verify_run
from pipeline.dumping.grouped_by_length import MOST_PADDING, GroupedByLength, _groups
from pipeline.runtime.run_directory import open_run
from storage.dump.reader import DumpReader
from storage.ragged import Ragged
from student.model import Student
from student.student_commands import StudentSource
from student.student_config import StudentConfig, StudentTrainConfig
from student.student_run import load_student
from student.train_student import train_student
from teacher.teacher_commands import TeacherSource
from teacher.teacher_config import BeamConfig, TeacherConfig, TeacherTrainConfig
from teacher.train_teacher import train_teacher
from tests.processes import edit_run, kill_when, metrics, start_cli, store_digest

SIZES = {"embed_dim": 32, "num_blocks": 2, "num_heads": 2}
SHORT = {"batch_tokens": 600, "warmup_steps": 0, "threads": 1, "device": "cpu", "log_every": 1}
CONFIG = DumpConfig(
    condition="none", k=16, temperatures=(1.0, 2.0), shard_positions=1024, batch_tokens=700, device="cpu"
)
OPTIONS: list[object] = [
    *("--k", 16, "--temperatures", "1,2", "--shard-positions", 1024, "--batch-tokens", 700, "--device", "cpu"),
]


@pytest.fixture(scope="module")
def student(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("born-again") / "student"
    train_student(small_world / "dataset", None, run, SIZES, StudentTrainConfig(**SHORT, max_steps=25))
    return run


@pytest.fixture(scope="module")
def dump(small_world: Path, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("born-again") / "dump"
    dump_run(small_world / "dataset", [StudentSource(student)], out, CONFIG)
    return out


def test_plain_zarr_reads_what_the_student_computes_and_the_condition_none(small_world, student, dump):
    split = load_dataset(small_world / "dataset").split("train")
    group = zarr.open_group(dump, mode="r")
    assert group.attrs["condition"] == "none"
    assert group.attrs["tree_source"] == "none: the words before alone"
    model, _ = load_student(student, torch.device("cpu"))
    sentences = np.arange(0, split.num_sentences, 7)
    with torch.no_grad():
        log_probs = (
            model.logits(model.states(model.prepare(split.tokens.take(sentences), None))).double().log_softmax(1)
        )
    offsets = split.position_offsets
    rows = np.concatenate([np.arange(offsets[m], offsets[m + 1]) for m in sentences])
    gold = torch.from_numpy(group["tokens"][:][rows].astype(np.int64))
    gold_log_probs = log_probs.gather(1, gold[:, None])[:, 0].numpy()
    np.testing.assert_allclose(group["gold_logp"][:][rows], gold_log_probs, atol=1e-5)
    ids = torch.from_numpy(group["ids"][:][rows].astype(np.int64))
    expected = log_probs.gather(1, ids).numpy()
    np.testing.assert_allclose(group["logp"][:][rows], expected, rtol=2**-10)  # float16 rounds to a relative 2^-11
    assert (expected[:, -1] >= log_probs.topk(16, dim=1).values[:, -1].numpy() - 1e-5).all()


@pytest.mark.processes
def test_a_students_dump_killed_in_two_processes_and_finished_in_one_is_identical(small_world, student, dump, tmp_path):
    out, data = tmp_path / "dump", small_world / "dataset"
    processes = start_cli("dump-teacher", "--data", data, "--teacher", student, "--out", out, *OPTIONS, processes=2)
    kill_when(lambda: list(out.glob("finished/*.json")), processes)
    dump_run(data, [StudentSource(student)], out, CONFIG)
    assert store_digest(out) == store_digest(dump)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_student_that_starts_as_its_teacher_has_nothing_to_learn(small_world, student, dump, tmp_path, temperature):
    training = StudentTrainConfig(**SHORT, alpha=0, temperature=temperature, max_steps=1)
    first = {}
    for name, init in (("same", student), ("other", None)):
        sizes = SIZES | {"dropout": 0.0}
        train_student(small_world / "dataset", dump, tmp_path / name, sizes, training, init=init)
        first[name] = metrics(tmp_path / name)[0]
    reader = DumpReader(dump)
    rows, at = reader.read_range(0, reader.schema.num_positions), reader.temperature_index(temperature)
    log_probs = rows.logp.astype(np.float64)
    p = np.exp(log_probs / temperature - rows.logz[:, at, None])
    # float16 rounds log p by a relative 2^-11. With other padding, float32 logits differ by about 1e-6.
    bound = temperature * (p * 2**-11 * np.abs(log_probs)).sum(1).max() + 1e-5
    assert bound < 2e-3
    assert abs(first["same"]["loss"]) <= bound
    assert first["same"]["grad_norm"] < first["other"]["grad_norm"] / 50
    assert first["other"]["loss"] > 20 * bound


def test_a_recomputed_students_dump_is_identical_and_its_planned_size_is_right(small_world, student, dump):
    found = verify_run(dump, small_world / "dataset", [StudentSource(student)], num_shards=3, seed=1, device="cpu")
    assert found["recomputed"]["is_identical"]
    planned = plan_run(small_world / "dataset", [StudentSource(student)], None, CONFIG, (1,))
    assert planned["size_bytes"] == DumpReader(dump).summary.size_bytes


def invoked(*arguments: object) -> str:
    """Run a command that must fail. Return its standard error."""
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exit_code != 0, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.stderr


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("student", ["--condition", "tree"], "--condition is tree, expected none because this is a student's run"),
        ("student", ["--condition", "beam"], "--condition is beam, expected none because this is a student's run"),
        (
            "teacher",
            ["--condition", "none"],
            "--condition is none, expected tree or beam because this is a teacher's run",
        ),
        ("student", ["--beam", 4], "--beam: sizes of a beam search, expected only with an RNNG teacher"),
    ],
)
def test_a_condition_that_the_run_cannot_have_is_refused(small_world, student, tmp_path, kind, options, expected):
    run = student if kind == "student" else small_world / "teacher"
    dumping = ["dump-teacher", "--data", small_world / "dataset", "--teacher", run]
    for more in (["--out", tmp_path / "dump"], ["--plan"]):
        message = invoked(*dumping, *more, *options).splitlines()
        assert expected in message[-1]
        assert len(message) == 1 or "--beam" in options  # a usage error also shows how to get help
    assert not (tmp_path / "dump").exists()


def test_verify_and_inspect_accept_a_students_dump(small_world, student, dump):
    where = ["--teacher", student, "--data", small_world / "dataset"]
    arguments = ["verify", dump, "--recompute", 1, *where, "--device", "cpu"]
    done = CliRunner().invoke(cli.main, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(cli.main, ["inspect", str(dump)]).stdout
    assert "perplexity, unconditional" in shown
    arguments[arguments.index(student)] = small_world / "teacher"
    assert "teacher of the dump is " in invoked(*arguments)


def test_a_sentence_too_long_for_the_student_is_refused_in_one_line(small_world, student, tmp_path):
    shorter = tmp_path / "shorter"
    shutil.copytree(student, shorter)
    edit_run(shorter, lambda described: described["configuration"].update(max_length=20))
    lengths = load_dataset(small_world / "dataset").split("dev").tokens.lengths + 1
    message = invoked(
        "dump-teacher", "--data", small_world / "dataset", "--teacher", shorter, "--out", tmp_path / "dump",
        "--split", "dev",
    )  # fmt: skip
    assert len(message.splitlines()) == 1
    assert f"sentence {lengths.argmax()} of split dev has {lengths.max()} positions" in message
    assert f"at most 20; train a student with --max-length {lengths.max()} or more" in message
    assert f"without the {(lengths > 20).sum()} longer sentences" in message
    assert not (tmp_path / "dump").exists()


def test_grouping_by_length_pads_little_and_changes_no_state():
    model = Student(StudentConfig(vocab_size=40, embed_dim=16, num_blocks=2, num_heads=2), bos_id=0, seed=3).eval()
    generator = np.random.default_rng(4)
    lengths = generator.integers(0, 60, 80)
    tokens = Ragged.from_lists([generator.integers(2, 40, length).tolist() for length in lengths], "int64")
    grouped = GroupedByLength(model)
    groups = _groups(np.argsort(-lengths, kind="stable"), lengths + 1)
    assert len(groups) > 2
    assert sorted(np.concatenate(groups)) == list(range(len(lengths)))
    for group in groups:
        num_positions = (lengths[group] + 1).sum()
        assert num_positions >= (1 - MOST_PADDING) * len(group) * (lengths[group].max() + 1)
    with torch.no_grad():
        expected = model.states(model.prepare(tokens, None))
        torch.testing.assert_close(grouped.states(grouped.prepare(tokens, None)), expected, rtol=0, atol=1e-5)


def test_a_student_counts_the_words_of_its_dump_and_a_parser_only_if_its_teacher_read_trees(
    small_world: Path, dump: Path, tmp_path: Path
) -> None:
    data = tmp_path / "dataset"
    shutil.copytree(small_world / "dataset", data)
    parser = {"of": "parser", "name": "p", "num_words": 7, "part": "p", "files": {"p": 7}, "sources": {}, "note": ""}
    record = [*json.loads((data / "words.json").read_bytes()), parser]
    (data / "words.json").write_text(json.dumps(record))
    once = StudentTrainConfig(**SHORT, max_steps=1)
    train_student(data, None, tmp_path / "baseline", SIZES, once)
    sizes, training = TeacherConfig(embed_dim=8, hidden_dim=8), TeacherTrainConfig(**SHORT, max_steps=1)
    train_teacher(data, tmp_path / "teacher", sizes, training)
    given_trees = dataclasses.replace(CONFIG, condition="tree")
    dump_run(data, [TeacherSource(tmp_path / "teacher", BeamConfig())], tmp_path / "dump", given_trees)
    train_student(data, tmp_path / "dump", tmp_path / "distilled", SIZES, once)
    train_student(small_world / "dataset", dump, tmp_path / "born-again", SIZES, once)
    num_words = load_dataset(data).split("train").num_words.sum()
    found = {}
    for name in ("baseline", "teacher", "distilled", "born-again"):
        texts = from_json(open_run(tmp_path / name).trained_on, of="", name="", where="")
        found[name] = ([text.of for text in texts], budget(texts).num_words)
    assert found == {
        "baseline": (["student", "tokenizer"], num_words),
        "teacher": (["teacher", "tokenizer", "parser"], num_words + 7),
        "distilled": (["student", "tokenizer", "teacher", "parser"], num_words + 7),
        "born-again": (["student", "tokenizer"], num_words),
    }
    # Without its history, nobody knows what the teacher of the dump read.
    (tmp_path / "dump.history.jsonl").unlink()
    train_student(data, tmp_path / "dump", tmp_path / "copied", SIZES, once)
    texts = from_json(open_run(tmp_path / "copied").trained_on, of="", name="", where="")
    assert budget(texts).not_known == ("teacher (of the dump)",)
