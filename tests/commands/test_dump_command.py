"""Test that a dump is byte-identical for any processes and interruptions, and that plain zarr reads its values."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from pipeline.corpus.dataset.dataset_store import load_dataset
from pipeline.dumping.next_token import append_eos
from tests.processes import finish, kill_when, metrics, refused, run_cli, start_cli, store_digest

OPTIONS = ["--k", 16, "--temperatures", "1,2", "--shard-positions", 384, "--batch-tokens", 512]


def dump_arguments(world: Path, out: Path) -> list[object]:
    return ["dump-teacher", "--data", world / "dataset", "--teacher", world / "teacher", "--out", out, *OPTIONS]


@pytest.fixture(scope="module")
def dump(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dump") / "dump"
    run_cli(*dump_arguments(small_world, out))
    return out


@pytest.mark.processes
def test_two_processes_write_the_same_bytes_as_one(small_world, dump, tmp_path):
    finish(start_cli(*dump_arguments(small_world, tmp_path / "dump"), processes=2))
    assert store_digest(tmp_path / "dump") == store_digest(dump)


@pytest.mark.processes
def test_a_dump_killed_halfway_and_finished_in_another_number_of_processes_is_identical(small_world, dump, tmp_path):
    out = tmp_path / "dump"
    num_shards = len(list((dump / "ids" / "c").iterdir()))
    assert num_shards >= 16
    processes = start_cli(*dump_arguments(small_world, out), processes=2)
    kill_when(lambda: len(list(out.glob("finished/*.json"))) >= num_shards // 3, processes)
    assert json.loads((out / "manifest.json").read_text())["state"] == "writing"
    assert "dump-teacher" in run_cli("verify", out, fails=True).stderr
    run_cli(*dump_arguments(small_world, out))
    assert store_digest(out) == store_digest(dump)
    history = (tmp_path / "dump.history.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in history] == ["begin", "begin", "complete"]


def test_a_finished_dump_is_not_changed(small_world, dump):
    before = store_digest(dump)
    run_cli(*dump_arguments(small_world, dump))
    assert store_digest(dump) == before


def test_plain_zarr_reads_what_the_teacher_computes(small_world, dump):
    from teacher.train_teacher import load_teacher

    split = load_dataset(small_world / "dataset").split("train")
    group = zarr.open_group(dump, mode="r")
    offsets = group["offsets"][:]
    assert offsets[-1] == (split.tokens.lengths + 1).sum() == group["ids"].shape[0]
    assert np.array_equal(offsets, split.position_offsets)

    model, _ = load_teacher(small_world / "teacher", torch.device("cpu"))
    sentences = np.arange(0, split.num_sentences, 7)
    with torch.no_grad():
        logits = model.logits(model.states(model.prepare(split.tokens.take(sentences), split.actions.take(sentences))))
    log_probs = logits.double().log_softmax(1)
    rows = np.concatenate([np.arange(offsets[m], offsets[m + 1]) for m in sentences])
    gold = append_eos(split.tokens.take(sentences), 1).values
    assert np.array_equal(group["tokens"][:][rows], gold)
    assert np.array_equal(offsets, split.position_offsets)

    ids, logp = group["ids"][:][rows].astype(np.int64), group["logp"][:][rows].astype(np.float64)
    expected = log_probs.gather(1, torch.from_numpy(ids)).numpy()
    np.testing.assert_allclose(logp, expected, rtol=2**-10, atol=1e-3)  # float16 rounds to a relative 2^-11
    kth = log_probs.topk(ids.shape[1], dim=1).values[:, -1].numpy()
    assert (expected[:, -1] >= kth - 1e-4).all()
    gold_log_probs = log_probs.gather(1, torch.from_numpy(gold)[:, None])[:, 0].numpy()
    np.testing.assert_allclose(group["gold_logp"][:][rows], gold_log_probs, atol=1e-4)
    outside = log_probs.scatter(1, torch.from_numpy(ids), -torch.inf)
    for t, temperature in enumerate(group.attrs["temperatures"]):
        logz = (log_probs / temperature).logsumexp(1).numpy()
        tail = (outside / temperature).logsumexp(1).numpy() - logz
        np.testing.assert_allclose(group["logz"][:][rows, t], logz, atol=1e-4)
        np.testing.assert_allclose(group["tail"][:][rows, t], tail, atol=1e-4)


SELECTIONS = {
    "sampled": ["--selection", "sampled", "--draw-seed", 5],
    "stratified": ["--select", "stratified", "--num-top", 6],
}


@pytest.fixture(scope="module", params=SELECTIONS)
def drawn(request, small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[object]]:
    out = tmp_path_factory.mktemp(request.param) / "dump"
    run_cli(*dump_arguments(small_world, out), *SELECTIONS[request.param])
    return out, SELECTIONS[request.param]


@pytest.mark.processes
def test_one_process_and_two_write_the_same_draws(small_world, drawn, tmp_path):
    one, options = drawn
    finish(start_cli(*dump_arguments(small_world, tmp_path / "two"), *options, processes=2))
    assert store_digest(tmp_path / "two") == store_digest(one)
    run_cli(*dump_arguments(small_world, tmp_path / "other"), *options, "--draw-seed", 6)
    for array in ("counts", "ids"):
        assert store_digest(tmp_path / "other" / array) != store_digest(one / array)
    assert store_digest(tmp_path / "other" / "gold_logp") == store_digest(one / "gold_logp")


def test_plain_zarr_reads_draws_that_agree_with_the_top_k(drawn, dump):
    group, other = zarr.open_group(drawn[0], mode="r"), zarr.open_group(dump, mode="r")
    num_top, k = group.attrs["num_top"], group.attrs["k"]
    ids, logp, counts = (group[name][:] for name in ("ids", "logp", "counts"))
    top_ids, top_logp = other["ids"][:], other["logp"][:]
    used = (counts > 0) | (np.arange(k) < num_top)
    assert (counts.sum(1) == k - num_top).all()
    assert (ids[~used] == 65_535).all()
    assert np.isnan(logp[~used]).all()
    assert 0 < used.mean() < 1
    assert np.array_equal(ids[:, :num_top], top_ids[:, :num_top])
    for name in ("tokens", "gold_logp", "logz"):
        assert np.array_equal(group[name][:], other[name][:])
    # A token that is in both dumps has the same values in both.
    rows, mine, theirs = np.nonzero(ids[:, :, None] == top_ids[:, None, :])
    assert len(rows) > 1000
    assert np.array_equal(logp[rows, mine], top_logp[rows, theirs])
    # The number of draws of the 16 top tokens agrees with these tokens' mass, to 5 standard deviations.
    exact, kept = (1 - np.exp(each["tail"][:, 0].astype(np.float64)) for each in (group, other))
    p, num_draws = (kept - exact) / (1 - exact), k - num_top
    found, expected = counts[rows, mine].sum(), num_draws * p.sum()
    assert expected > 1000
    assert abs(found - expected) <= 5 * np.sqrt((num_draws * p * (1 - p)).sum())


def test_a_student_learns_from_draws(small_world, drawn, tmp_path):
    temperature = 2 if "sampled" in drawn[1] else 1
    run_cli(
        "train-student", "--data", small_world / "dataset", "--dump", drawn[0], "--out", tmp_path / "run",
        "--embed-dim", 32, "--num-blocks", 1, "--num-heads", 2, "--batch-tokens", 600, "--max-steps", 30,
        "--warmup-steps", 0, "--log-every", 5, "--threads", 1, "--dropout", 0, "--alpha", 0.2,
        "--temperature", temperature,
    )  # fmt: skip
    losses = metrics(tmp_path / "run", "train")
    assert len(losses) == 6
    for line in losses:
        assert "kl" not in line
        expected = 0.2 * line["cross_entropy"] + 0.8 * temperature**2 * line["soft_cross_entropy"]
        assert line["loss"] == pytest.approx(expected, rel=1e-4)
        # The teacher was trained for only a few steps, so its distribution over the 600 tokens is nearly uniform.
        assert line["soft_cross_entropy"] == pytest.approx(np.log(600), abs=0.1)
    assert losses[-1]["loss"] < losses[0]["loss"]
    training = ["train-student", "--data", small_world / "dataset", "--dump", drawn[0], "--out", tmp_path / "other"]
    assert "--tail drop" in refused(*training, "--tail", "drop")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--select", "sampled", "--k", 256], "256 draws per position (k - num_top), expected at most 255"),
        (["--select", "stratified", "--k", 300, "--num-top", 44], "256 draws per position"),
        (["--select", "sampled", "--num-top", 4], "num-top is 4, expected none with selection sampled"),
        (["--num-top", 4], "num-top is 4, expected none with selection topk"),
        (["--select", "stratified", "--num-top", 16], "num-top is 16, expected at least 1 and less than k (16)"),
        (["--select", "stratified", "--k", 1], "num-top is 0, expected at least 1 and less than k (1)"),
        (["--draw-seed", -1], "draw-seed is -1, expected at least 0"),
    ],
)
def test_impossible_options_for_draws_are_refused_in_one_line(small_world, tmp_path, options, expected):
    assert expected in refused(*dump_arguments(small_world, tmp_path / "dump"), *options)
    assert not (tmp_path / "dump").exists()


def test_resuming_with_another_option_or_teacher_is_refused(small_world, dump, tmp_path):
    other_k = refused(*dump_arguments(small_world, dump), "--k", 8)
    assert "16" in other_k
    assert " 8" in other_k
    run_cli(
        "train-teacher", "--data", small_world / "dataset", "--out", tmp_path / "other", "--embed-dim", 8,
        "--hidden-dim", 8, "--max-steps", 1, "--threads", 1,
    )  # fmt: skip
    arguments = dump_arguments(small_world, dump)
    arguments[arguments.index(small_world / "teacher")] = tmp_path / "other"
    assert "teacher" in refused(*arguments)


def test_k_above_the_vocabulary_is_refused(small_world, tmp_path):
    assert "k is 100000" in refused(*dump_arguments(small_world, tmp_path / "dump"), "--k", 100_000)
    assert not (tmp_path / "dump").exists()


@pytest.mark.processes
def test_in_two_processes_a_refusal_prints_one_line_and_both_end(small_world, dump):
    processes = start_cli(*dump_arguments(small_world, dump), "--k", 8, processes=2)
    messages = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert messages[0].startswith("Error: ")
    assert len(messages[0].strip().splitlines()) == 1
    assert not messages[1]
