"""A dump of the marginal over trees: what the search finds, the same bytes by anyone, and never taken for another."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from pipeline.corpus.dataset import load_dataset
from pipeline.dump_config import DumpConfig
from pipeline.next_token import gold_log_probs
from storage.errors import StoreError
from teacher.beam import BeamSearch, BeamTeacher
from teacher.beam_config import BeamConfig
from teacher.dump import dump_teacher
from teacher.recompute import verify_recomputing
from teacher.train import load_teacher
from tests.processes import run_cli, start_cli, store_digest

BEAM = BeamConfig(beam=3, word_beam=2, max_actions=3)
OPTIONS: list[object] = [
    "--split",
    "dev",
    "--k",
    8,
    "--shard-positions",
    640,
    "--batch-tokens",
    1000,
    "--device",
    "cpu",
]
SEARCH: list[object] = ["--condition", "beam", "--beam", 3, "--word-beam", 2, "--max-actions", 3]


def arguments(world: Path, out: Path) -> list[object]:
    return ["dump-teacher", "--data", world / "dataset", "--teacher", world / "teacher", "--out", out, *OPTIONS]


@pytest.fixture(scope="module")
def dump(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("beam") / "dump"
    run_cli(*arguments(small_world, out), *SEARCH)
    return out


def test_it_holds_what_the_search_finds_and_says_so(small_world, dump):
    model, _ = load_teacher(small_world / "teacher", torch.device("cpu"))
    tokens = load_dataset(small_world / "dataset").split("dev").tokens.take(range(40))
    found = BeamSearch(model, BEAM).search(tokens)
    group = zarr.open_group(dump, mode="r")
    np.testing.assert_allclose(
        group["gold_logp"][: len(found.token_log_probs.values)], found.token_log_probs.values, atol=1e-4
    )
    by_protocol = gold_log_probs(BeamTeacher(model, BEAM), tokens, None, eos_id=1, batch_tokens=10_000)
    np.testing.assert_allclose(by_protocol.values, found.token_log_probs.values, atol=1e-4)
    assert group.attrs["condition"] == "beam"
    assert group.attrs["tree_source"] == "none: marginal by beam search"
    sizes = {name: group.attrs["computation"][name] for name in ("beam", "word_beam", "max_actions")}
    assert sizes == {"beam": 3, "word_beam": 2, "max_actions": 3}
    assert "perplexity, marginal by beam search" in run_cli("inspect", dump).stdout


@pytest.mark.processes
def test_begun_by_two_processes_killed_and_finished_by_one_it_is_the_same(small_world, dump, tmp_path):
    out = tmp_path / "dump"
    processes = start_cli(*arguments(small_world, out), *SEARCH, processes=2)
    while not list(out.glob("finished/*.json")):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.002)
    for process in processes:
        process.kill()
        process.communicate()
    run_cli(*arguments(small_world, out), *SEARCH)
    assert store_digest(out) == store_digest(dump)


def test_computed_again_it_is_the_same_byte_for_byte(small_world, dump):
    found: dict[str, Any] = verify_recomputing(
        dump, small_world / "dataset", small_world / "teacher", num_shards=2, seed=1, device="cpu"
    )
    assert found["recomputed"]["is_identical"]


@pytest.mark.parametrize("change", [{"condition": "tree"}, {"beam": 4}], ids=["given the tree", "another beam"])
def test_it_is_not_finished_as_another_dump(small_world, dump, change):
    before = store_digest(dump)
    values = {"split": "dev", "k": 8, "shard_positions": 640, "batch_tokens": 1000, "device": "cpu"}
    config = DumpConfig(**values, condition=change.get("condition", "beam"))
    beam = replace(BEAM, beam=change.get("beam", BEAM.beam))
    with pytest.raises(StoreError, match=r"condition is 'beam'|computation\.beam is 3"):
        dump_teacher(small_world / "dataset", small_world / "teacher", dump, config, beam)
    assert store_digest(dump) == before
