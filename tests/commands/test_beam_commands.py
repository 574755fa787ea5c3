"""Test commands that search trees for a text: their figures agree, and options that do not apply are refused."""

import contextlib
import csv
import json
import math
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from teacher import teacher_commands
from teacher.beam import BeamSearch
from tests.killing import attempt
from tests.pipeline.evaluation.test_syntaxgym import SUITE
from tests.processes import refused, run_cli

NARROW = ["--beam", 4, "--word-beam", 2, "--max-actions", 4]


@pytest.fixture(scope="module")
def few(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make STEM.mrg and STEM.txt with eight sentences of dev, and a dataset with them as its dev split."""
    folder = tmp_path_factory.mktemp("few")
    for suffix in (".mrg", ".txt"):
        lines = (small_world / "corpus" / f"dev{suffix}").read_text().splitlines(keepends=True)[:8]
        (folder / f"few{suffix}").write_text("".join(lines))
    train = ["--train", small_world / "corpus/train", "--dev", folder / "few"]
    run_cli("build-dataset", *train, "--tokenizer", small_world / "tokenizer.json", "--out", folder / "dataset")
    return folder


def test_the_marginal_perplexity_agrees_with_the_surprisals(small_world, few, tmp_path):
    teacher, table = small_world / "teacher", tmp_path / "surprisals.tsv"
    data = ["--data", few / "dataset", "--split", "dev"]
    found = json.loads(run_cli("evaluate", "perplexity", teacher, *data, "--marginal", *NARROW, "--json").stdout)
    marginal, lower_bound = found["marginal by beam search"], found["sum over trees by beam search"]
    assert marginal["per_token"] != lower_bound["per_token"]
    sentences = [json.loads(line)["log_probs"] for line in Path(found["sentences"]).read_text().splitlines()]
    for distribution in ("marginal by beam search", "sum over trees by beam search"):
        values = [value for sentence in sentences for value in sentence[distribution]]
        assert math.exp(-sum(values) / len(values)) == pytest.approx(found[distribution]["per_token"], rel=1e-4)

    sums = json.loads(
        run_cli("evaluate", "surprisal", teacher, few / "few.txt", "--out", table, *NARROW, "--json").stdout
    )
    positions = sums["num_tokens"] + sums["num_sentences"]
    assert math.log(marginal["per_token"]) == pytest.approx(sums["bits"] * math.log(2) / positions, rel=1e-5)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert sum(float(row["surprisal_bits"]) for row in rows) == pytest.approx(sums["bits"], abs=1e-3)
    assert all(0 < float(row["token_entropy_nats"]) < math.log(600) for row in rows)
    message = refused("evaluate", "surprisal", teacher, few / "few.txt", "--out", table, "--context-sentences", 1)
    assert "a teacher generates single sentences, so it reads each sentence alone" in message


def test_written_parses_can_be_imported_and_have_a_score(small_world, few, tmp_path):
    parsed = tmp_path / "parsed"
    command = ["evaluate", "parses", small_world / "teacher", few / "few", "--trees-out", parsed, *NARROW, "--json"]
    found = json.loads(run_cli(*command).stdout)
    assert found["num_sentences"] == 8
    assert 0 <= found["f1"]["value"] <= found["unlabelled_f1"]["value"] <= 1
    for figures in found["evalb"].values():
        assert figures["num_sentences"] == 8
        assert 0 <= figures["f1"]["value"] <= 1
    assert found["evalb"]["all"]["num_gold"] <= found["num_gold"]
    assert len(parsed.with_suffix(".mrg").read_text().splitlines()) == 8
    run_cli(
        "import-trees", parsed.with_suffix(".mrg"), "--text", parsed.with_suffix(".txt"), "--out", tmp_path / "again"
    )
    assert (tmp_path / "again.txt").read_text() == (few / "few.txt").read_text()


def test_a_teacher_ranks_minimal_pairs_without_trees(small_world, tmp_path):
    pairs = small_world / "corpus/minimal_pairs"
    one = min(pairs.glob("*.jsonl"))
    (tmp_path / one.name).write_text("".join(one.read_text().splitlines(keepends=True)[:6]))
    found = json.loads(
        run_cli("evaluate", "minimal-pairs", small_world / "teacher", tmp_path, *NARROW, "--json").stdout
    )
    assert found["overall"]["num_pairs"] == 6


def test_beam_options_are_refused_for_a_student(small_world, tmp_path):
    sizes = ["--embed-dim", 16, "--num-blocks", 1, "--num-heads", 2, "--max-steps", 1, "--threads", 1]
    run_cli("train-student", "--data", small_world / "dataset", "--out", tmp_path / "student", *sizes)
    data = ["--data", small_world / "dataset"]
    message = refused("evaluate", "perplexity", tmp_path / "student", *data, "--beam", 4)
    assert "only a teacher takes --beam" in message


def test_beam_sizes_are_refused_for_a_dump_given_the_tree(small_world, tmp_path):
    dumping = ["dump-teacher", "--data", tmp_path, "--teacher", small_world / "teacher", "--out", tmp_path / "dump"]
    message = refused(*dumping, "--word-beam", 4)
    assert "--word-beam: sizes of a beam search, expected only with --condition beam" in message


def test_beam_sizes_are_refused_for_a_perplexity_given_the_tree(small_world):
    teacher, data = small_world / "teacher", small_world / "dataset"
    message = refused("evaluate", "perplexity", teacher, "--data", data, *NARROW)
    assert "--beam, --word-beam, --max-actions: sizes of a beam search, expected only with --marginal" in message


def evaluations(world: Path, few: Path, folder: Path) -> list[list[object]]:
    """Return the commands that search sentences, for a copy of the teacher in ``folder``."""
    pairs = min((world / "corpus/minimal_pairs").glob("*.jsonl"))
    folder.mkdir(exist_ok=True)
    (folder / pairs.name).write_text("".join(pairs.read_text().splitlines(keepends=True)[:8]))
    (folder / "suite.json").write_text(json.dumps(SUITE))
    teacher = shutil.copytree(world / "teacher", folder / "teacher", ignore=shutil.ignore_patterns("results"))
    data = ["--data", few / "dataset", "--split", "dev"]
    return [
        ["perplexity", teacher, *data, "--marginal"],
        ["minimal-pairs", teacher, folder / pairs.name],
        ["syntaxgym", teacher, folder / "suite.json"],
        ["surprisal", teacher, few / "few.txt", "--out", folder / "table.tsv"],
        ["parses", teacher, few / "few", "--trees-out", folder / "parsed"],
    ]


def evaluate(command: list[object]) -> None:
    with contextlib.suppress(SystemExit):  # a helping process ends like this
        cli.main(["evaluate", *map(str, [*command, *NARROW])], standalone_mode=False)


@pytest.mark.faults
def test_two_processes_write_the_same_files_as_one(small_world, few, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_commands, "BLOCK_POSITIONS", 30)
    written, log = {}, tmp_path / "log"
    for size in (1, 2):
        folder = tmp_path / str(size)
        for command in evaluations(small_world, few, folder):
            if size == 1:
                evaluate(command)
            else:
                assert not attempt(partial(evaluate, command), size, log=log, patience_s=None)
        files = [*folder.glob("teacher/results/*"), *folder.glob("table*"), *folder.glob("parsed*")]
        written[size] = {file.name: file.read_bytes() for file in files}
    assert len(written[1]) == 3 * 2 + 2 + 3
    assert written[1].keys() == written[2].keys(), log.read_text()
    assert [name for name in written[1] if written[1][name] != written[2][name]] == []


def test_a_stopped_evaluation_goes_on_and_writes_the_same_files(small_world, few, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_commands, "BLOCK_POSITIONS", 30)
    search, num_searched = BeamSearch.search, [0]

    def stopped_at_second(self, tokens, **options):
        num_searched[0] += 1
        if num_searched[0] == 2:
            signal.raise_signal(signal.SIGTERM)
        return search(self, tokens, **options)

    monkeypatch.setattr(BeamSearch, "search", stopped_at_second)
    command = evaluations(small_world, few, tmp_path / "run")[0]
    arguments = ["evaluate", *map(str, [*command, *NARROW])]
    stopped = CliRunner().invoke(cli.main, arguments)
    assert stopped.exit_code == 128 + signal.SIGTERM
    (kept,) = (tmp_path / "run/teacher/results").iterdir()
    assert f"{kept}: stopped by a signal after 2 of " in stopped.stderr
    finished = CliRunner().invoke(cli.main, arguments)
    assert finished.exit_code == 0, finished.output
    in_two_parts, num_searched[0] = num_searched[0], 2
    assert not kept.exists()
    results = {file.name: file.read_bytes() for file in kept.parent.iterdir()}
    assert CliRunner().invoke(cli.main, arguments).exit_code == 0
    assert num_searched[0] - 2 == in_two_parts
    assert {file.name: file.read_bytes() for file in kept.parent.iterdir()} == results
