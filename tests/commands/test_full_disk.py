"""Test each command that writes under a limit on the size of files, which acts like a full disk.

The command prints one line, changes no other file, and works when there is room. `make soak` tries more limits.
"""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import cli
from storage.files import list_files
from storage.fingerprints import sha256_file
from tests.commands.test_cli import every_command

LIMITS = [4_096, 100, 0, 700, 20_000]
"""Bytes of the largest file that can be written. Each command is tried with the first that makes it fail."""
TINY = "--max-steps 2 --batch-tokens 512 --threads 1 --device cpu"
CASES = {
    "sample-corpus": "OUT --num-sentences 300",
    "import-trees": "WORLD/corpus/dev.mrg --out OUT",
    "clean-text": "WORLD/corpus/dev.txt --source plain --out OUT",
    "parse": "WORLD/corpus/dev.txt --flat --out OUT",
    "train-parser": "WORLD/few.mrg --dev WORLD/few.mrg --out OUT --num-epochs 1 --embed-dim 8 --num-heads 1",
    "train-tokenizer": "WORLD/corpus/dev.txt --out OUT --vocab-size 300",
    "adopt-tokenizer": "WORLD/foreign.json --bos <bos> --eos <eos> --out OUT",
    "build-dataset": "--train WORLD/few --dev WORLD/few --tokenizer WORLD/tokenizer.json --out OUT --workers 1",
    "train-teacher": f"--data WORLD/dataset --out OUT --embed-dim 8 --hidden-dim 8 {TINY}",
    "dump-teacher": "--data WORLD/dataset --teacher WORLD/teacher --out OUT --k 4 --split dev --device cpu",
    "export-dump": "WORLD/dump OUT --format distillkit",
    "import-dump": "WORLD/parquet --data WORLD/dataset --split dev --out OUT",
    "train-student": f"--data WORLD/dataset --out OUT --embed-dim 8 --num-blocks 1 --num-heads 1 {TINY}",
    "evaluate perplexity": "WORLD/student --data WORLD/dataset --device cpu",
    "evaluate mixture": "WORLD/teacher WORLD/student --data WORLD/dataset --no-marginal --max-sentences 40",
    "evaluate minimal-pairs": "WORLD/student WORLD/pairs --device cpu",
    "evaluate surprisal": "WORLD/student WORLD/few.txt --out OUT --device cpu",
    "evaluate parses": "WORLD/teacher WORLD/few --trees-out OUT --device cpu --beam 2",
    "export": "WORLD/student OUT",
    "report": "WORLD/student --out OUT",
}
"""The arguments of each command that writes. WORLD is the folder of the fixture ``world``, OUT a new name."""
NOT_TRIED = {
    "": "writes nothing itself",
    "evaluate": "writes nothing itself",
    **dict.fromkeys(("evaluate babylm", "evaluate syntaxgym"), "writes a result as evaluate minimal-pairs does"),
    "demo": "starts the other commands",
    "sample": "needs a teacher of many steps, and writes by the same function as import-trees",
    **dict.fromkeys(("runs", "inspect", "verify", "compare"), "only reads"),
}
pytestmark = pytest.mark.faults


def test_every_command_is_tried_or_there_is_a_reason() -> None:
    assert {" ".join(path) for path, _ in every_command(cli.main)} == CASES.keys() | NOT_TRIED.keys()


def run(command: str, arguments: list[str]) -> Result:
    return CliRunner().invoke(cli.main, [*command.split(), *arguments])


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def world(small_world: Path) -> Path:
    """Add to the small world what other commands read."""
    folder, corpus = small_world, small_world / "corpus"
    for end in (".mrg", ".txt"):
        (folder / f"few{end}").write_text("".join((corpus / f"dev{end}").read_text().splitlines(keepends=True)[:8]))
    (folder / "pairs").mkdir()
    pairs = next((corpus / "minimal_pairs").iterdir())
    (folder / "pairs" / pairs.name).write_text("".join(pairs.read_text().splitlines(keepends=True)[:20]))
    foreign = json.loads((folder / "tokenizer.json").read_text())
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    foreign["added_tokens"] = [{"id": i, "content": name, **special} for i, name in enumerate(("<bos>", "<eos>"))]
    (folder / "foreign.json").write_text(json.dumps(foreign))
    for command, out in (("train-student", "student"), ("dump-teacher", "dump"), ("export-dump", "parquet")):
        done = run(command, [*arguments_of(command, folder, folder / out)])
        assert done.exit_code == 0, done.output
    return folder


def arguments_of(command: str, world: Path, out: Path) -> list[str]:
    return [word.replace("WORLD", str(world)).replace("OUT", str(out)) for word in CASES[command].split()]


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of a folder that was there before a command wrote its results."""
    return {
        name: sha256_file(folder / name)
        for name in list_files(folder)
        if not name.startswith(("student/results", "teacher/results"))
    }


@pytest.mark.parametrize("command", CASES)
def test_a_full_disk_gives_one_line_and_harms_nothing(
    command: str, world: Path, tmp_path: Path, soak_factor: int
) -> None:
    out = tmp_path / "out" / "new"
    arguments = arguments_of(command, world, out)
    before, num_failed = digests(world), 0
    for limit in LIMITS:
        with file_size_limit(limit):
            result = run(command, arguments)
        if result.exit_code:
            assert result.exit_code == 1, result.output
            assert isinstance(result.exception, SystemExit), result.exception
            last = result.stderr.splitlines()[-1]
            assert last.startswith("Error: "), last
            assert "File too large" in last, last
            assert "Traceback" not in result.stderr
            num_failed += 1
            if soak_factor == 1:
                break
        assert digests(world) == before
    assert num_failed
    assert run(command, arguments).exit_code == 0
