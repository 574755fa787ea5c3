"""A damaged run, or a folder that is not a run, is refused in one line. Loading executes nothing."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch

from pipeline.runtime.run_directory import (
    RunDescription,
    RunInfo,
    checkpoint_names,
    describe_run,
    load_weights,
    open_run,
    results_folder,
    save_weights,
)
from storage.errors import ConfigError, FingerprintMismatchError, RunError
from storage.fingerprints import sha256_file


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    path = tmp_path / "given.json"
    path.write_text("{}")
    return path


def make(path: Path, tokenizer: Path) -> None:
    fingerprints = {"tokenizer": sha256_file(tokenizer), "dataset": "d"}
    path.mkdir()
    run = RunDescription(
        kind="student", configuration={"lr": 1}, model={}, fingerprints=fingerprints, tokenizer=tokenizer
    )
    describe_run(path, run)


def test_a_run_is_read_back_as_written(tmp_path, tokenizer):
    make(tmp_path / "run", tokenizer)
    run = open_run(tmp_path / "run")
    assert (run.kind, run.configuration, run.dump) == ("student", {"lr": 1}, None)
    described = json.loads((tmp_path / "run/run.json").read_text())
    assert {"command", "versions", "git"} <= set(described)


@pytest.mark.parametrize("content", ["[]", "{", '{"format_version": 1}', '{"format_version": 2}', "\udcff"])
def test_a_damaged_description_is_refused(tmp_path, tokenizer, content):
    make(tmp_path / "run", tokenizer)
    (tmp_path / "run/run.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=r"run\.json"):
        open_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "parser"}, "kind: invalid enum value 'parser'"),
        ({"configuration": []}, "configuration: expected object, found array"),
        ({"fingerprints": {"tokenizer": 7}}, r"fingerprints\[...\]: expected str, found int"),
        ({"fingerprints": {}}, "no fingerprint of the tokenizer"),
        ({"trained_on": {}}, "trained_on: expected array | null, found object"),
        ({"init": {"run": "other"}}, "init: object missing required field sha256"),
        ({"git": {"commit": "a", "modified": 0}}, "git.modified: expected bool, found int"),
        ({"dump": "dump"}, "dump: expected object | null, found str"),
        (
            {"truncated": {"dev": {"num_sentences": 2}}},
            "truncated.*missing required field num_positions",
        ),
        ({"format_version": 2}, "format version 2, expected 1"),
        ({"more": 10**400}, "an integer of 1329 bits"),
    ],
)
def test_a_description_with_other_types_is_refused_in_one_line(tmp_path, tokenizer, change, message):
    make(tmp_path / "run", tokenizer)
    path = tmp_path / "run/run.json"
    described = json.loads(path.read_text()) | change
    del described["sha256"]
    path.write_text(json.dumps(described))
    with pytest.raises(RunError, match=f"run.json: {message}.*; restore the file from a copy, or train again$"):
        open_run(tmp_path / "run")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    num_layers: int
    """Layers."""
    kind: Literal["a", "b"] = "a"
    """Kind."""

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise ConfigError(f"num-layers is {self.num_layers}, expected at least 1")


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({}, "num_layers is missing"),
        ({"num_layers": "2"}, "num_layers is '2', expected int"),
        ({"num_layers": True}, "num_layers is True, expected int"),
        ({"num_layers": 2, "kind": ["a"]}, "kind is .*, expected one of a, b"),
        ({"num_layers": 0}, "num-layers is 0, expected at least 1"),
    ],
)
def test_recorded_options_have_the_types_of_their_class(tmp_path, configuration, message):
    run = RunInfo(path=tmp_path, kind="student", configuration=configuration)
    with pytest.raises(RunError, match=f"run.json: {message}; restore the file"):
        run.options(Sizes)
    run.configuration.update(num_layers=2, kind="b", more=1)
    assert run.options(Sizes) == Sizes(num_layers=2, kind="b")


def test_a_file_or_an_empty_folder_is_not_a_run(tmp_path, tokenizer):
    for path in (tokenizer, tmp_path):
        with pytest.raises(RunError, match=r"no run\.json here"):
            open_run(path)


def test_results_of_a_linked_folder_are_next_to_the_link(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/config.json").touch()
    (tmp_path / "link").symlink_to("cache")
    assert results_folder(tmp_path / "link") == tmp_path / "link-results"


def test_another_tokenizer_in_the_run_is_refused_with_both_digests(tmp_path, tokenizer):
    make(tmp_path / "run", tokenizer)
    before = sha256_file(tokenizer)[:12]
    (tmp_path / "run/tokenizer.json").write_text("{} ")
    after = sha256_file(tmp_path / "run/tokenizer.json")[:12]
    with pytest.raises(FingerprintMismatchError, match=f"{after}.*{before}"):
        open_run(tmp_path / "run")


def test_missing_weights_and_weights_of_another_size_are_refused(tmp_path, tokenizer):
    make(tmp_path / "run", tokenizer)
    run = open_run(tmp_path / "run")
    path = run.checkpoint()
    with pytest.raises(RunError, match="no checkpoint here"):
        load_weights(run, "best", torch.nn.Linear(2, 2))
    save_weights(path, torch.nn.Linear(2, 3))
    with pytest.raises(RunError, match="not a checkpoint of this model"):
        load_weights(run, "best", torch.nn.Linear(2, 2))
    torch.save({"weight": torch.zeros(2, 2)}, path)  # a pickle, which is never opened
    with pytest.raises(RunError, match="not a checkpoint of this model"):
        load_weights(run, "best", torch.nn.Linear(2, 2))


def test_a_changed_description_is_refused(tmp_path, tokenizer):
    make(tmp_path / "run", tokenizer)
    path = tmp_path / "run/run.json"
    whole = path.read_text()
    path.write_text(whole.replace('"lr": 1', '"lr": 3'))
    with pytest.raises(RunError, match=r"run\.json: changed since training"):
        open_run(tmp_path / "run")
    described = json.loads(whole)
    del described["sha256"]  # older versions wrote none
    path.write_text(json.dumps(described))
    assert open_run(tmp_path / "run").configuration == {"lr": 1}


def test_a_missing_checkpoint_is_refused_and_the_existing_ones_are_named(tmp_path, tokenizer):
    make(tmp_path / "run", tokenizer)
    run = open_run(tmp_path / "run")
    model = torch.nn.Linear(2, 2)
    for which in ("words_10M", "last", "words_500k", "words_2M", "best"):
        save_weights(run.checkpoint(which), model)
    assert checkpoint_names(run.path) == ["best", "last", "words_500k", "words_2M", "words_10M"]
    load_weights(run, "words_500k", model)
    with pytest.raises(RunError) as error:
        load_weights(run, "words_3M", model)
    assert str(error.value).endswith("no checkpoint here; the run has best, last, words_500k, words_2M, words_10M")
    for which in ("../best", "words_", "words_0", "", "best\n", "Best"):
        with pytest.raises(
            RunError, match=r"expected best, last or a number of words such as words_1M\. This run has best"
        ):
            run.checkpoint(which)
