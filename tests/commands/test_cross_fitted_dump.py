"""Test that a teacher can leave a fold out, and that a dump can take each sentence's rows from the teacher that did."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import cli
from pipeline.corpus.dataset.build import build_dataset
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.dataset_store import Dataset, load_dataset
from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_source import dump_run, plan_run, verify_run
from pipeline.dumping.next_token import gold_log_probs
from pipeline.evaluation.compare.run_records import read_runs
from pipeline.report.dump_section import dumps_of, dumps_section
from pipeline.report.reported_runs import ReportedRuns
from pipeline.report.run_tables import trained_on
from pipeline.runtime.distributed import World
from storage.dump.reader import DumpReader
from storage.errors import FingerprintMismatchError
from student.export import export
from student.student_config import StudentTrainConfig
from student.train_student import train_student
from teacher.beam import BeamTeacher
from teacher.teacher_commands import TeacherSource, beam_of_dump
from teacher.teacher_config import BeamConfig, TeacherConfig, TeacherTrainConfig
from teacher.train_teacher import TeacherTask, load_teacher, train_teacher
from tests.processes import edit_run, kill_when, start_cli, store_digest

CPU = torch.device("cpu")
SIZES = TeacherConfig(embed_dim=16, hidden_dim=24, num_layers=1)
TRAINING = TeacherTrainConfig(max_steps=2, batch_tokens=1024, warmup_steps=0, threads=1, device="cpu")
CONFIG = DumpConfig(k=8, shard_positions=256, batch_tokens=100, device="cpu")
OPTIONS: list[object] = ["--k", 8, "--shard-positions", 256, "--batch-tokens", 100, "--device", "cpu"]
BEAM = BeamConfig(beam=2, word_beam=2, max_actions=2)


@pytest.fixture(scope="module")
def folder(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a dataset of three folds, a run for each fold, and a run that left out none."""
    folder, corpus = tmp_path_factory.mktemp("cross-fitted"), small_world / "corpus"
    stems = {"train": (corpus / "dev",), "dev": (corpus / "test",), "tokenizer": small_world / "tokenizer.json"}
    build_dataset(BuildConfig(**stems, out=folder / "dataset", folds=3, max_words=8))
    for fold in range(4):
        train_teacher(folder / "dataset", folder / f"fold{fold}", SIZES, replace(TRAINING, leave_out=fold))
    return folder


def sources(folder: Path, folds: Sequence[int] = (1, 2, 3), beam: BeamConfig = BEAM) -> list[TeacherSource]:
    return [TeacherSource(folder / f"fold{fold}", beam) for fold in folds]


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return load_dataset(folder / "dataset")


@pytest.fixture(scope="module")
def dump(folder: Path) -> Path:
    dump_run(folder / "dataset", sources(folder), folder / "dump", CONFIG)
    return folder / "dump"


def test_a_teacher_is_trained_on_all_sentences_but_those_of_its_fold(folder, dataset):
    train = dataset.split("train")
    for fold in (0, 2):
        model, run = load_teacher(folder / f"fold{fold}", CPU)
        task = TeacherTask(model, dataset, TRAINING, World(), leave_out=fold)
        sentences = np.concatenate([task.batch_sentences(0, i) for i in range(len(task.batch_positions(0)))])
        assert np.array_equal(np.sort(sentences), np.flatnonzero(train.folds != fold))
        gold = np.sort(np.concatenate([batch.schedule.gold for batch in task.train_batches(0, 0)]))
        assert np.array_equal(gold[gold > 1], np.sort(np.concatenate([train.tokens[i] for i in sentences])))
        assert sum(batch.num_positions_global for batch in task.dev_batches()) == dataset.split("dev").num_positions
        assert run.configuration["leave_out"] == fold
        assert run.fingerprints == dataset.fingerprints


@pytest.mark.parametrize("condition", ["tree", "beam"])
def test_the_rows_of_a_sentence_come_from_the_teacher_that_left_its_fold_out(
    folder, dataset, dump, tmp_path, condition
):
    if condition == "beam":
        dump = tmp_path / "dump"
        config = replace(CONFIG, condition="beam", batch_tokens=1000)
        dump_run(folder / "dataset", sources(folder), dump, config)
        again = sources(folder, beam=beam_of_dump(dump))
        checked = verify_run(dump, folder / "dataset", again, num_shards=1, seed=1, device="cpu")
        assert checked["recomputed"]["is_identical"]
    train, reader = dataset.split("train"), DumpReader(dump)
    assert reader.schema.layout.num_shards > 1
    found = reader.read_range(0, train.num_positions)
    fold_of_position = np.repeat(train.folds, train.tokens.lengths + 1)
    models = [load_teacher(folder / f"fold{fold}", CPU)[0] for fold in (1, 2, 3)]
    for fold, model in enumerate(models, start=1):
        teacher = model if condition == "tree" else BeamTeacher(model, BEAM)
        of_fold = np.flatnonzero(train.folds == fold)
        tokens, actions = train.tokens.take(of_fold), train.actions.take(of_fold)
        expected = gold_log_probs(teacher, tokens, actions, eos_id=1, batch_tokens=5000).values
        np.testing.assert_allclose(found.gold_logp[fold_of_position == fold], expected, atol=1e-4)
        if condition == "tree":
            others = gold_log_probs(models[fold % 3], tokens, actions, eos_id=1, batch_tokens=5000).values
            assert (np.abs(others - expected) > 1e-3).mean() > 0.9


def test_the_order_of_the_runs_does_not_matter_and_all_fingerprints_are_recorded(folder, dump, tmp_path):
    dump_run(folder / "dataset", sources(folder, (3, 1, 2)), tmp_path / "dump", CONFIG)
    assert store_digest(tmp_path / "dump") == store_digest(dump)
    expected = {f"teacher of fold {i}": source.fingerprint() for i, source in enumerate(sources(folder), start=1)}
    recorded = DumpReader(dump).schema.fingerprints
    assert {name: value for name, value in recorded.items() if name.startswith("teacher")} == expected
    shown = CliRunner().invoke(cli.main, ["inspect", str(dump)]).stdout
    assert "perplexity, given the tree, cross-fitted over 3 folds" in shown
    for name, value in expected.items():
        assert f"sha256 {value[:12]}" in next(line for line in shown.splitlines() if name in line)


@pytest.mark.parametrize("options", [{}, {"selection": "sampled"}, {"profile": "compact"}], ids=str)
def test_recomputed_rows_are_identical_and_the_plan_knows_the_size(folder, dump, tmp_path, options):
    config = replace(CONFIG, **options)
    if options:
        dump = tmp_path / "dump"
        dump_run(folder / "dataset", sources(folder), dump, config)
    again = sources(folder, (2, 3, 1))
    found = verify_run(dump, folder / "dataset", again, num_shards=9, seed=1, device="cpu")["recomputed"]
    assert found["is_identical"]
    assert found["num_positions"] == DumpReader(dump).schema.num_positions
    if not options:
        planned = plan_run(folder / "dataset", sources(folder), None, config, (1,))
        assert planned["size_bytes"] == DumpReader(dump).summary.size_bytes


def test_verify_refuses_runs_that_the_dump_was_not_made_from(folder, dump, tmp_path):
    def verify(dump: Path, *runs: Path) -> None:
        given = [TeacherSource(run, BEAM) for run in runs]
        verify_run(dump, folder / "dataset", given, num_shards=1, seed=1, device="cpu")

    whole = tmp_path / "whole"
    dump_run(folder / "dataset", sources(folder, (0,)), whole, CONFIG)
    with pytest.raises(FingerprintMismatchError, match="number of teachers is 3, but 1 runs were given"):
        verify(dump, folder / "fold0")
    with pytest.raises(FingerprintMismatchError, match="number of teachers is 1, but 3 runs were given"):
        verify(whole, *(folder / f"fold{fold}" for fold in (1, 2, 3)))
    other = tmp_path / "other"
    train_teacher(folder / "dataset", other, SIZES, replace(TRAINING, leave_out=2, seed=2))
    with pytest.raises(
        FingerprintMismatchError, match=r"dump: teacher of fold 2 of the dump is \w{12}, but \w{12} was"
    ):
        verify(dump, folder / "fold1", other, folder / "fold3")


@pytest.mark.processes
def test_a_cross_fitted_dump_killed_in_two_processes_and_finished_in_one_is_identical(folder, dump, tmp_path):
    out = tmp_path / "dump"
    runs = [part for fold in (1, 2, 3) for part in ("--teacher", folder / f"fold{fold}")]
    processes = start_cli("dump-teacher", "--data", folder / "dataset", *runs, "--out", out, *OPTIONS, processes=2)
    kill_when(lambda: list(out.glob("finished/*.json")), processes)
    dump_run(folder / "dataset", sources(folder), out, CONFIG)
    assert store_digest(out) == store_digest(dump)


def invoked(*arguments: object) -> str:
    """Run a command that must fail with one line. Return that line."""
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit), result.output
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("folds", "options", "expected"),
    [
        ((1, 3), [], "no run left out fold 2 of 3. Train one with train-teacher --leave-out, and give it with"),
        ((1, 2, 2), [], "both left out fold 2, expected one run for each of 3 folds"),
        (
            (1, 2, 3, 0),
            [],
            "fold0: is one of 4 runs, but left out no fold. Give runs of train-teacher --leave-out 1 to",
        ),
        ((2,), [], "fold2: left out fold 2 of 3, so it was trained on some sentences of train and not on others"),
        (
            (1, 2, 3),
            ["--split", "dev"],
            "3 runs were given, but split dev has no folds. No teacher is trained on this split, so",
        ),
    ],
)
def test_runs_that_do_not_cover_the_folds_are_refused_in_one_line(folder, tmp_path, folds, options, expected):
    runs = [part for fold in folds for part in ("--teacher", folder / f"fold{fold}")]
    assert expected in invoked("dump-teacher", "--data", folder / "dataset", *runs, "--out", tmp_path / "d", *options)
    assert not (tmp_path / "d").exists()


def with_run_json(folder: Path, out: Path, **changes: dict[str, Any]) -> Path:
    """Copy the run of fold 3 with other entries in its ``run.json``."""
    shutil.copytree(folder / "fold3", out)
    edit_run(out, lambda described: [described[key].update(new) for key, new in changes.items()])
    return out


def test_runs_of_other_sizes_or_another_dataset_are_refused_in_one_line(folder, small_world, dataset, tmp_path):
    runs = ["--teacher", folder / "fold1", "--teacher", folder / "fold2", "--teacher"]
    dumping = ["dump-teacher", "--out", tmp_path / "dump", *runs]
    sizes = with_run_json(folder, tmp_path / "sizes", configuration={"embed_dim": 17, "lr": 0.5})
    found = invoked(*dumping, sizes, "--data", folder / "dataset")
    assert f"sizes: --embed-dim is 17, but 16 in {folder / 'fold1'}. Give runs with the same options" in found
    other = with_run_json(folder, tmp_path / "other", fingerprints={"dataset": "0" * 64})
    found = invoked(*dumping, other, "--data", folder / "dataset")
    assert f"other: dataset is 000000000000, but {dataset.sha256[:12]} was given." in found
    found = invoked(*dumping, folder / "fold3", "--data", small_world / "dataset")
    assert "3 runs were given, but split train has no folds. Build the dataset with build-dataset --folds" in found
    found = invoked(*dumping[:-1], "--data", folder / "dataset", "--out", "twice")
    assert "--out: given 2 times, expected once" in found


def test_a_run_that_left_a_fold_out_alone_dumps_a_split_without_folds(folder, tmp_path):
    dump_run(folder / "dataset", sources(folder, (2,)), tmp_path / "dump", replace(CONFIG, split="dev"))
    assert DumpReader(tmp_path / "dump").schema.fingerprints["teacher"] == sources(folder)[1].fingerprint()


def test_a_fold_that_the_dataset_does_not_have_is_refused_before_the_run_begins(folder, small_world, tmp_path):
    training = ["train-teacher", "--out", tmp_path / "run", "--device", "cpu", "--leave-out"]
    assert "--leave-out is 4, expected 1 to 3" in invoked(*training, 4, "--data", folder / "dataset")
    assert "has no folds, but --leave-out is 1" in invoked(*training, 1, "--data", small_world / "dataset")
    assert not (tmp_path / "run").exists()
    training[2] = folder / "fold2"
    assert "--leave-out is 1, expected 2" in invoked(*training, 1, "--data", folder / "dataset")


def test_a_student_its_card_and_the_report_name_all_teachers_of_a_cross_fitted_dump(folder, dump, tmp_path):
    training = StudentTrainConfig(max_steps=1, batch_tokens=600, warmup_steps=0, threads=1, device="cpu")
    sizes = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2}
    train_student(folder / "dataset", dump, tmp_path / "student", sizes, training)
    export(tmp_path / "student", tmp_path / "exported")
    card = (tmp_path / "exported/README.md").read_text()
    assert "| its distributions are conditioned on | the tree so far, cross-fitted over 3 folds |" in card
    for fold, source in enumerate(sources(folder), start=1):
        assert f"| sha256 of the teacher of fold {fold} | {source.fingerprint()} |" in card
    reported = ReportedRuns(read_runs([tmp_path / "student"]))
    cells = str(dumps_section(reported, dumps_of(reported)))
    assert "(given the tree, cross-fitted over 3 folds)" in cells
    assert "fingerprints: teacher of fold 3" in cells
    assert trained_on(reported.runs[0]).startswith("sentences and cross-fitted dump")
