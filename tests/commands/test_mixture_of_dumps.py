"""Students that learn from a mixture of two dumps: an RNNG's and the grammar's."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from tests.processes import finish, metrics, start_cli

SIZES: list[object] = [
    *("--embed-dim", 32, "--num-blocks", 1, "--num-heads", 2, "--batch-tokens", 600, "--threads", 1, "--dropout", 0),
    *("--log-every", 1, "--warmup-steps", 0, "--alpha", 0, "--temperature", 2),
]


def run(*given: object) -> str:
    """Run a command in this process. Return what it prints on standard output and error."""
    done = CliRunner().invoke(cli.main, [*map(str, given)])
    assert done.exit_code == 0, done.output
    return done.output


def refused(*given: object) -> str:
    """Run a command that must fail with one line. Return the line."""
    done = CliRunner().invoke(cli.main, [*map(str, given)])
    assert done.exit_code != 0
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def dumps(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("dumps")
    for name in ("teacher", "corpus"):
        options = [
            "--data",
            small_world / "dataset",
            "--teacher",
            small_world / name,
            "--k",
            16,
            "--temperatures",
            "1,2",
        ]
        run("dump-teacher", *options, "--out", folder / name)
    return [folder / "teacher", folder / "corpus"]


def arguments(world: Path, dumps: list[Path], out: Path, *more: object) -> list[object]:
    given = [part for dump in dumps for part in ("--dump", dump)]
    return ["train-student", "--data", world / "dataset", *given, "--out", out, *SIZES, *more]


@pytest.mark.processes
def test_a_run_from_two_dumps_records_both_continues_and_reads_alike_in_two_processes(small_world, dumps, tmp_path):
    steps = ["--max-steps", 4, "--dump-weights", "3,1"]
    out = tmp_path / "run"
    run(*arguments(small_world, dumps, out, *steps))
    described = json.loads((out / "run.json").read_text())
    assert described["configuration"]["dump_weights"] == [0.75, 0.25]
    mixture = described["dump"]["mixture"]
    assert [(each["path"], each["weight"]) for each in mixture] == [(str(dumps[0]), 0.75), (str(dumps[1]), 0.25)]
    assert [each["schema"]["condition"] for each in mixture] == ["tree", "exact"]
    before = (out / "metrics.jsonl").read_bytes()
    run(*arguments(small_world, dumps, out, *steps))
    assert (out / "metrics.jsonl").read_bytes() == before
    message = refused(*arguments(small_world, dumps, out, "--max-steps", 4, "--dump-weights", "1,1"))
    assert "--dump-weights is [0.5, 0.5], expected [0.75, 0.25]" in message
    message = refused(*arguments(small_world, dumps[:1], out, "--max-steps", 4))
    assert "sha256 of the manifest is" in message
    finish(start_cli(*arguments(small_world, dumps, tmp_path / "two", *steps), processes=2))
    for one, two in zip(metrics(out, "train"), metrics(tmp_path / "two", "train"), strict=True):
        assert two["kl"] == pytest.approx(one["kl"], abs=1e-5)

    run("report", out, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "mixture of dump and the grammar&#39;s dump" in page
    run("export", out, tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "## Teachers" in card
    assert "| weight in the mixture | 0.75 |" in card


@pytest.mark.parametrize(
    ("chosen", "options", "expected"),
    [
        ([0, 1], ["--dump-weights", "0.5"], "--dump-weights has 1 values, but there are 2 dumps"),
        ([0, 1], ["--dump-weights", "1,0"], "dump-weights are 1, 0, expected all above 0"),
        ([], ["--dump-weights", "1"], "--dump-weights has 1 values, but there are 0 dumps"),
        ([0, 0], [], "are the same dump. Give it once, with a larger weight"),
    ],
)
def test_impossible_mixtures_are_refused_in_one_line(small_world, dumps, tmp_path, chosen, options, expected):
    message = refused(*arguments(small_world, [dumps[i] for i in chosen], tmp_path / "run", *options))
    assert expected in message
    assert not (tmp_path / "run").exists()
