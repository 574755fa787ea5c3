"""Test dumps of the marginal over trees: values of the search, repeatable bytes, no mixing with other conditions."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from pipeline.corpus.dataset.dataset_store import load_dataset
from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_description import describe_dump, dump_for_people
from pipeline.dumping.dump_source import dump_run, verify_run
from pipeline.dumping.next_token import gold_log_probs
from storage.dump.dump_statistics import summarise
from storage.dump.manifest import Manifest
from storage.dump.reader import DumpReader, verify_dump
from storage.errors import CorruptStoreError, StoreError
from storage.locations import open_folder
from teacher.beam import BeamResult, BeamSearch, BeamTeacher
from teacher.rnng import Rnng
from teacher.teacher_commands import TeacherSource, beam_of_dump
from teacher.teacher_config import BeamConfig
from teacher.train_teacher import load_teacher
from tests.processes import kill_when, start_cli, store_digest

BEAM = BeamConfig(beam=3, word_beam=2, max_actions=3)
CONFIG = DumpConfig(split="dev", condition="beam", k=8, shard_positions=640, batch_tokens=1000, device="cpu", threads=1)
OPTIONS: list[object] = [
    *("--split", "dev", "--condition", "beam", "--k", 8, "--shard-positions", 640, "--batch-tokens", 1000),
    *("--device", "cpu", "--threads", 1, "--beam", 3, "--word-beam", 2, "--max-actions", 3),
]
SHOWN = "effective hypotheses, mean"


def dumped(world: Path, out: Path, config: DumpConfig = CONFIG, beam: BeamConfig = BEAM) -> Path:
    dump_run(world / "dataset", [TeacherSource(world / "teacher", beam)], out, config)
    return out


def recomputed(world: Path, dump: Path) -> dict[str, Any]:
    source = TeacherSource(world / "teacher", beam_of_dump(dump))
    found = verify_run(dump, world / "dataset", [source], num_shards=2, seed=1, device="cpu")
    figures: dict[str, Any] = found["recomputed"]
    return figures


@pytest.fixture(scope="module")
def dump(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dumped(small_world, tmp_path_factory.mktemp("beam") / "dump")


@pytest.fixture(scope="module")
def model(small_world: Path) -> Rnng:
    return load_teacher(small_world / "teacher", torch.device("cpu"))[0]


@pytest.fixture(scope="module")
def found(small_world: Path, model: Rnng) -> BeamResult:
    return BeamSearch(model, BEAM).search(load_dataset(small_world / "dataset").split("dev").tokens)


def with_sums(dump: Path, out: Path, **sums: float | None) -> Path:
    """Copy a dump with other sums in the figures of all shards, and matching statistics. A sum of None is left out."""
    shutil.copytree(dump, out)
    folder = open_folder(out)
    manifest = Manifest.read(folder)
    shards = []
    for entry in manifest.shards:
        changed = {name: value for name, value in {**entry.figures.sums, **sums}.items() if value is not None}
        shards.append(replace(entry, figures=replace(entry.figures, sums=changed)))
    summary = summarise(manifest.schema, [entry.figures for entry in shards], manifest.size_bytes())
    replace(manifest, shards=tuple(shards), statistics=summary).write(folder)
    return out


def test_a_beam_dump_holds_the_values_of_the_search_and_names_its_condition(small_world, dump, model, found):
    group = zarr.open_group(dump, mode="r")
    np.testing.assert_allclose(group["gold_logp"][:], found.token_log_probs.values, atol=1e-4)
    tokens = load_dataset(small_world / "dataset").split("dev").tokens.take(range(40))
    by_protocol = gold_log_probs(BeamTeacher(model, BEAM), tokens, None, eos_id=1, batch_tokens=10_000)
    np.testing.assert_allclose(by_protocol.values, np.concatenate(list(found.token_log_probs)[:40]), atol=1e-4)
    assert group.attrs["condition"] == "beam"
    assert group.attrs["tree_source"] == "none: marginal by beam search"
    sizes = {name: group.attrs["computation"][name] for name in ("beam", "word_beam", "max_actions")}
    assert sizes == {"beam": 3, "word_beam": 2, "max_actions": 3}
    shown = dump_for_people(describe_dump(dump))["distributions at temperature 1"]
    assert "perplexity, marginal by beam search" in shown


def test_the_mean_effective_number_of_hypotheses_matches_the_search(dump, found):
    mean = float(found.num_effective.values.mean())
    assert 1.01 < mean < 3
    about = describe_dump(dump)
    assert about["statistics"]["mean_num_effective"] == pytest.approx(mean, abs=1e-5)
    assert dump_for_people(about)["distributions at temperature 1"][SHOWN] == f"{mean:.2f} per position"


def test_a_dump_given_the_tree_has_no_effective_number_of_hypotheses(small_world, tmp_path):
    about = describe_dump(dumped(small_world, tmp_path / "dump", replace(CONFIG, condition="tree")))
    assert "mean_num_effective" not in about["statistics"]
    assert SHOWN not in dump_for_people(about)["distributions at temperature 1"]


def test_a_dump_without_effective_numbers_can_be_read_and_recomputed(small_world, dump, tmp_path):
    older = with_sums(dump, tmp_path / "older", num_effective=None)
    assert verify_dump(older) == replace(DumpReader(dump).summary, mean_num_effective=None)
    assert "mean_num_effective" not in describe_dump(older)["statistics"]
    assert recomputed(small_world, older)["is_identical"]


def test_a_forged_effective_number_is_found(small_world, dump, tmp_path):
    forged = with_sums(dump, tmp_path / "forged", num_effective=700.0)
    verify_dump(forged)
    with pytest.raises(CorruptStoreError, match="its sums or its histogram in the manifest"):
        recomputed(small_world, forged)


@pytest.mark.processes
def test_a_beam_dump_killed_in_two_processes_and_finished_in_one_is_identical(small_world, dump, tmp_path):
    out = tmp_path / "dump"
    data, teacher = small_world / "dataset", small_world / "teacher"
    processes = start_cli("dump-teacher", "--data", data, "--teacher", teacher, "--out", out, *OPTIONS, processes=2)
    kill_when(lambda: list(out.glob("finished/*.json")), processes)
    assert store_digest(dumped(small_world, out)) == store_digest(dump)


def test_a_recomputed_beam_dump_is_byte_identical(small_world, dump):
    assert recomputed(small_world, dump)["is_identical"]


@pytest.mark.parametrize("change", [{"condition": "tree"}, {"beam": 4}], ids=["given the tree", "another beam"])
def test_a_beam_dump_is_not_continued_with_another_condition_or_beam(small_world, dump, change):
    before = store_digest(dump)
    config = replace(CONFIG, condition=change.get("condition", "beam"))
    beam = replace(BEAM, beam=change.get("beam", BEAM.beam))
    with pytest.raises(StoreError, match=r"condition is 'beam'|computation\.beam is 3"):
        dumped(small_world, dump, config, beam)
    assert store_digest(dump) == before
