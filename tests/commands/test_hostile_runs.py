"""Whatever the files of a run hold, a command prints one line or does its work. It never shows a traceback."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import cli
from tests.processes import run_cli

STRANGE = ["x", -1, 2**70, 10**400, 1.5, True, None, [], {}, [[1]], {"a": {"b": []}}, "\ud800", "\x1b[31m"]
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated": lambda data: data[: len(data) * 2 // 3],
    "one bit": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
    "brackets": lambda _: b"[" * 100_000,
    "objects": lambda _: b'{"a":' * 100_000,
    "infinity": lambda data: data.replace(b": 1", b": Infinity"),
    "digits": lambda data: data.replace(b": 1", b": " + b"1" * 400),
    "surrogate": lambda data: data.replace(b'": "', b'": "\\udc80'),
    "not UTF-8": lambda data: data.replace(b'": "', b'": "\xff'),
    "array": lambda _: b"[]\n",
    "foreign": lambda _: b"\x89PNG\r\n\x1a\n\0\0",
}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, small_world: Path) -> Path:
    """Return a finished student with a perplexity and minimal pairs."""
    run = tmp_path_factory.mktemp("student") / "run"
    sizes = ["--embed-dim", 16, "--num-blocks", 1, "--num-heads", 2, "--max-steps", 4, "--log-every", 2]
    run_cli("train-student", "--data", small_world / "dataset", "--out", run, *sizes, "--threads", 1)
    pairs = run.parent / "pairs.jsonl"
    pairs.write_text('{"sentence_good": "the dog sleeps .", "sentence_bad": "the dog sleep ."}\n')
    for evaluation in (["perplexity", run, "--data", small_world / "dataset"], ["minimal-pairs", run, pairs]):
        run_cli("evaluate", *evaluation, "--device", "cpu")
    return run


@pytest.fixture
def run(student: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(student, tmp_path / "runs" / "run"))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def checked(result: Result, *, context: object) -> None:
    """Check that a command succeeded, or failed with one line."""
    assert result.exception is None or isinstance(result.exception, SystemExit), (context, result.exception)
    if result.exit_code:
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1, (context, result.stderr)
        assert len(errors[0]) < 1000, context


def read_by_all(run: Path, context: object) -> None:
    """Run every cheap command that reads the files of a run."""
    listed = call("runs", run.parent)
    assert listed.exit_code == 0, (context, listed.stderr)
    assert "run" in listed.stdout
    for command in ("inspect", "compare"):
        checked(call(command, run), context=(context, command))
    if random.Random(str(context)).random() < 0.2:  # a page has drawings, which take most of the time
        checked(call("report", run, "--out", run.parent / "report.html"), context=(context, "report"))


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "history.jsonl", "tokenizer.json", "results"])
def test_damaged_files_of_a_run_give_one_line(run: Path, name: str) -> None:
    files = sorted((run / "results").iterdir()) if name == "results" else [run / name]
    for file in files:
        whole = file.read_bytes()
        for kind, damage in DAMAGE.items():
            file.write_bytes(damage(whole))
            read_by_all(run, (file.name, kind))
        file.unlink()
        read_by_all(run, (file.name, "missing"))
        file.mkdir()
        read_by_all(run, (file.name, "folder"))
        file.rmdir()
        file.write_bytes(whole)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to the values inside a JSON value, only the first of each list."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [path] + [place for key, each in inside for place in places(each, (*path, key))]


def changed(value: Any, place: tuple[Any, ...], to: Any) -> Any:
    if not place:
        return to
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[place[0]] = changed(value[place[0]], place[1:], to)
    return copy


@pytest.mark.parametrize("name", ["run.json", "perplexity", "minimal-pairs", "metrics.jsonl", "history.jsonl"])
def test_values_of_other_types_give_one_line(run: Path, name: str, soak_factor: int) -> None:
    (file,) = [run / name] if (run / name).exists() else (run / "results").glob(f"{name}*.json")
    whole = file.read_text()
    first, _, rest = whole.partition("\n") if file.suffix == ".jsonl" else (whole, "", "")
    value = json.loads(first)
    value.pop("sha256", None)  # as in a run of an older version, which nothing else protects
    cases = [(place, strange) for place in places(value)[1:] for strange in STRANGE]
    for place, strange in random.Random(1).sample(cases, min(len(cases), 30 * soak_factor)):
        file.write_text(json.dumps(changed(value, place, strange)) + "\n" + rest)
        read_by_all(run, (place, strange))


@pytest.mark.parametrize("size", ["--embed-dim", "--num-blocks"])
def test_a_model_larger_than_memory_is_refused_before_it_is_made(small_world: Path, tmp_path: Path, size: str) -> None:
    result = call("train-student", "--data", small_world / "dataset", "--out", tmp_path / "run", size, 10**12)
    checked(result, context=size)
    assert "GB are free. Give smaller sizes" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("configuration", "embed_dim", 2 * 10**9),
        ("configuration", "num_blocks", 10**9),
        ("configuration", "max_length", 10**14),
        ("configuration", "num_heads", 3),
        ("model", "bos_id", 600),
        ("model", "bos_id", "0"),
    ],
)
def test_sizes_in_a_description_are_compared_with_the_weights(run: Path, part: str, name: str, value: object) -> None:
    described = json.loads((run / "run.json").read_text())
    del described["sha256"]
    described[part][name] = value
    (run / "run.json").write_text(json.dumps(described))
    result = call("export", run, run.parent / "exported")
    checked(result, context=name)
    assert result.exit_code == 1
    assert not (run.parent / "exported").exists()
