"""Test that a damaged file gives no traceback, no other figures, and changes nothing else, for every command.

The table has a row per command line, a column per file that the command opens, and a layer per fault. A new command
needs a line in ``COMMANDS``, which runs on the files of ``tests.fault_world``. The files are found by running the line
once. CI damages up to 6 files of each line with one fault each; ``make soak`` tests all files with all faults.
"""

import importlib
import pkgutil
import random
import re
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import click
import pytest

import cli
from tests.cells import Figures, Opened, Outcome, Snapshot, figures, run_command, snapshot
from tests.fault_world import DUMP, LONG, NARROW, PARSE, PARSER, SHORT, STUDENT, TEACHER, build_world, typed
from tests.faults import FAULTS

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

PEAK_BYTES = 1 << 30
"""How much more memory than with good files a command may take."""
STEP = 7
"""In CI, the faults of a file in successive lines are so far apart. Has no factor in common with their number."""


@dataclass(frozen=True)
class Line:
    """A command line. ``@name`` is a file or folder of the world, or one that the command writes."""

    text: str
    own: str = ""
    """Beginnings of the names of what users write themselves: if it changes, other figures are right."""
    keeps: str = ""
    """Names of what the command goes on with when it is run again, so that a failure may leave it behind."""
    num_files: int = 6
    """In CI, so many of its files are damaged at most. Other lines read files of the same kinds."""
    without_row: str = ""
    """Why the command is not in the table."""

    @property
    def command(self) -> str:
        """The names of the group and the command."""
        return " ".join(self.text.split()[: 2 if self.text.startswith("evaluate ") else 1])

    @property
    def names(self) -> set[str]:
        """The names in the world that begin the paths."""
        return {name.split("/")[0] for name in re.findall(r"@(\S+)", self.text)}


COMMANDS = [
    Line("sample-corpus @out --num-sentences 3"),
    Line("import-trees @raw --out @out", own="raw"),
    Line("import-trees @raw/b.mrg --text @text.txt --documents @b.docs --document-table @t.tsv --licence x --out @out",
         own="raw text.txt b.docs t.tsv"),
    Line("import-trees @raw --split-list @list.txt --split train --out @out", own="raw list.txt"),
    Line("clean-text @text --source plain --out @out", own="text"),
    Line("clean-text @babylm-text --source babylm --out @out", own="babylm-text"),
    Line("clean-text @reviews.csv --source plain --column review --out @out", own="reviews.csv"),
    Line("clean-text @reviews.jsonl --source plain --column review --out @out", own="reviews.jsonl"),
    Line(f"parse @cleaned/few.txt {PARSE} --out @out", own="cleaned parser.pt.json", keeps="out"),
    Line(f"parse @cleaned/few.txt {PARSE} --out @half/out", own="cleaned parser.pt.json", keeps="half"),
    Line("parse @cleaned/few.txt --flat --out @out", own="cleaned parser.pt.json", keeps="out"),
    Line(f"train-parser @few.mrg --dev @few.mrg {PARSER} --out @out.pt", own="few.mrg"),
    Line("train-tokenizer @text.txt --out @out.json --vocab-size 290", own="text.txt"),
    Line("adopt-tokenizer @theirs.json --bos <bos> --eos <eos> --out @out.json", own="theirs.json"),
    Line("build-dataset --train @trees/train --dev @trees/dev --tokenizer @tokenizer.json --out @out",
         own="trees tokenizer.json"),
    Line(f"train-teacher --data @dataset --config @options.toml --out @out {TEACHER} {SHORT}",
         own="options.toml", keeps="out"),
    Line(f"train-teacher --data @dataset --out @half-teacher {TEACHER} {LONG}", keeps="half-teacher"),
    Line("sample @teacher --num-sentences 2 --max-actions 300 --threads 1 --device cpu --out @out"),
    Line(f"dump-teacher --data @dataset --teacher @teacher --split dev --out @out {DUMP}", keeps="out"),
    Line(f"dump-teacher --data @dataset --teacher @teacher --out @half-dump {DUMP}", keeps="half-dump"),
    Line(f"dump-teacher --data @dataset --teacher @baseline --split dev --out @out {DUMP}", keeps="out"),
    Line(f"dump-teacher --data @dataset --teacher @corpus --split dev --out @out {DUMP}", keeps="out", own="corpus"),
    Line(f"dump-teacher --data @dataset --teacher @exported --split dev --out @out {DUMP}",
         keeps="out", own="exported"),
    Line(f"dump-teacher --data @dataset --teacher @teacher --split dev --condition beam {NARROW} --plan --json"),
    Line("export-dump @dump @out --format datasets"),
    Line("export-dump @dump @out --format distillkit"),
    Line("import-dump @columns --data @dataset --split dev --shard-positions 256 --out @out",
         keeps="out", own="columns"),
    Line(f"train-student --data @dataset --out @out {STUDENT} {SHORT}", keeps="out"),
    Line(f"train-student --data @dataset --dump @dump --out @out {STUDENT} {SHORT}", keeps="out"),
    Line(f"train-student --data @dataset --dump @compact --dump @dump --out @out {STUDENT} {SHORT}", keeps="out"),
    Line(f"train-student --data @dataset --init @baseline --out @out {STUDENT} {SHORT}", keeps="out"),
    Line(f"train-student --data @dataset --dump @dump --out @half-student {STUDENT} {LONG}", keeps="half-student"),
    Line(f"train-student --data @dataset --dump @dump --out @distilled {STUDENT} {LONG} --word-checkpoints 100",
         keeps="distilled"),
    Line("evaluate perplexity @teacher --data @dataset --device cpu"),
    Line(f"evaluate perplexity @teacher --data @dataset --marginal {NARROW}"),
    Line("evaluate perplexity @baseline --data @dataset --device cpu"),
    Line("evaluate perplexity @reader --data @dataset --device cpu"),
    Line("evaluate perplexity @baseline --data @dataset --split test --truth @corpus --device cpu", own="corpus"),
    Line("evaluate perplexity @exported --data @dataset --device cpu", own="exported"),
    Line(f"evaluate mixture @teacher @baseline --data @dataset {NARROW}", keeps="teacher/results"),
    Line("evaluate minimal-pairs @baseline @pairs --device cpu", own="pairs"),
    Line(f"evaluate minimal-pairs @teacher @pairs {NARROW}", own="pairs"),
    Line("evaluate babylm @baseline @babylm --out @out --device cpu", own="babylm"),
    Line("evaluate syntaxgym @baseline @suites --device cpu", own="suites"),
    Line("evaluate surprisal @baseline @text.txt --frequencies @counts.tsv --spans @s.tsv --out @o.tsv --device cpu",
         own="text.txt counts.tsv s.tsv"),
    Line("evaluate surprisal @reader @reviews.csv --column review --context @text.txt --out @out.tsv --device cpu",
         own="reviews.csv text.txt"),
    Line(f"evaluate parses @teacher @few {NARROW} --trees-out @out", own="few.mrg few.txt"),
    Line("export @baseline @out --licence mit"),
    Line("export @distilled @out --all-checkpoints"),
    Line("report @teacher @baseline @distilled --data @dataset --out @out.html", num_files=3),
    Line("report @baseline @distilled --format latex --out @out.tex", num_files=3),
    Line("compare @baseline @distilled @other"),
    Line("runs @runs"),
    Line("inspect @dataset"),
    Line("inspect @dump"),
    Line("inspect @half-dump"),
    Line("inspect @distilled"),
    Line("inspect @tokenizer.json", own="tokenizer.json"),
    Line("verify @dataset"),
    Line("verify @dump"),
    Line("verify @compact"),
    Line("verify @dump --recompute 1 --teacher @teacher --data @dataset --device cpu"),
    Line("demo", without_row="It reads no file; every command that it starts has its own row."),
]  # fmt: skip
"""One line or more per command. Add a line for a new command; everything else is found by running it."""


@dataclass(frozen=True)
class Table:
    """Two worlds, and the folder in which commands run on copies of the first."""

    good: Path
    other: Path
    folder: Path

    @property
    def cell(self) -> Path:
        """Where a command runs. What is beside it counts as outside."""
        return self.folder / "cell"

    def fill(self, line: Line) -> Snapshot:
        """Make a fresh copy of what a command line names, and return what is there."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.cell.mkdir(parents=True)
        for name in line.names:
            for source in [self.good / name, *self.good.glob(f"{name}.*")]:
                if source.is_dir():
                    shutil.copytree(source, self.cell / source.name)
                elif source.exists():
                    shutil.copy2(source, self.cell / source.name)
        return snapshot(self.folder)

    def run(self, line: Line, *, may_read_all: bool = True) -> tuple[Outcome, set[str], Snapshot]:
        """Run a command line; return how it ended, which files it opened, and what is there afterwards."""
        opened = Opened(self.cell)
        outcome = run_command(typed(line.text), self.cell, may_read_all=may_read_all)
        names = opened.files()  # before the snapshot, which opens all files
        after = {name: entry for name, entry in snapshot(self.folder).items() if "cell-output." not in name}
        return outcome, names, after


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    import_everything()
    folder = tmp_path_factory.mktemp("faults")
    worlds = [folder / name / "cell" for name in ("good", "other")]
    for seed, world in enumerate(worlds, start=1):
        build_world(world, seed)
    return Table(*worlds, folder / "run")


def import_everything() -> None:
    """Import the program and its libraries once, so that the forked processes need not."""
    for package in ("storage", "pipeline", "teacher", "student"):
        for module in pkgutil.walk_packages([package], f"{package}."):
            importlib.import_module(module.name)
    for name in ("spacy", "benepar", "transformers", "pyarrow.parquet", "torch.utils.tensorboard", "matplotlib.figure"):
        importlib.import_module(name)


@dataclass(frozen=True)
class Good:
    """What a command does with good files."""

    files: list[str]
    """The files that it opens."""
    figures: Figures
    lines: set[str]
    """The lines on standard error, without numbers."""
    peak_bytes: int


def with_good_files(table: Table, line: Line) -> Good:
    whole = table.fill(line)
    outcome, names, after = table.run(line)
    assert outcome.status == 0, f"{line.text}: status {outcome.status}\n{outcome.out}\n{outcome.err}"
    files = sorted(name for name in names if f"cell/{name}" in whole and stat.S_ISREG(whole[f"cell/{name}"].type))
    found = figures(outcome, table.folder, whole, after)
    return Good(files, found, set(map(without_numbers, outcome.err.splitlines())), outcome.peak_bytes)


def without_numbers(line: str) -> str:
    return re.sub(r"[\d.,:]+|nan", "N", line)


def kind_of(file: str) -> str:
    """Return what a file is. Shards, arrays and their metadata differ only in names and numbers."""
    top, name = Path(file).parts[0], Path(file).name
    is_alike = re.search(r"/(c|finished|data|zarr\.json|out\.parts)\b", file)
    return f"{top}/{re.sub(r'[0-9]+', 'N', name)}" if is_alike else file


def sample_of(files: Sequence[str], num_each: int) -> list[str]:
    """Return at most ``num_each`` files of each kind."""
    kinds: dict[str, list[str]] = {}
    for file in files:
        kinds.setdefault(kind_of(file), []).append(file)
    chosen = random.Random(1)
    return [file for alike in kinds.values() for file in chosen.sample(alike, min(num_each, len(alike)))]


def verdict(table: Table, line: Line, good: Good, file: str, fault: str) -> tuple[str, str]:
    """Damage one file and run the command. Return what is wrong and details, or ``""`` and why nothing is.

    Nothing is wrong if the command refuses the file; gives the same figures; names the file and goes on without it; or
    if the file is the user's own, has no digest, or may be absent. If the fault does not apply, the details are empty.
    """
    whole = table.fill(line)
    path = table.cell / file
    if not FAULTS[fault](path, table.other / file, random.Random(f"{file} {fault} {line.command}")):
        return "", ""
    before = snapshot(table.folder)
    outcome, _, after = table.run(line, may_read_all=fault != "unreadable")
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if wrong := broken(outcome, good, changed):
        return wrong
    if outcome.status == 1:
        return refused(line, good, outcome, changed)
    found = figures(outcome, table.folder, whole, {name: after[name] for name in changed & after.keys()})
    return compared(line, good.figures, found, file, fault, outcome)


def broken(outcome: Outcome, good: Good, changed: set[str]) -> tuple[str, str] | None:
    """Return what is wrong in any case."""
    outside = ", ".join(name for name in changed if name != "cell" and not name.startswith("cell/"))
    for is_wrong, what, details in (
        (outcome.status is None, "hangs", "or takes too long"),
        (outcome.peak_bytes > good.peak_bytes + PEAK_BYTES, "memory", f"{outcome.peak_bytes >> 20} MiB"),
        ("Traceback (most recent call last)" in outcome.err, "traceback", place_of(outcome.err)),
        (outcome.status not in {0, 1}, "status", f"{outcome.status}: {outcome.err.splitlines()[-1:]}"),
        (bool(outside), "changed outside", outside),
    ):
        if is_wrong:
            return what, details
    return None


def refused(line: Line, good: Good, outcome: Outcome, changed: set[str]) -> tuple[str, str]:
    """Check that there is one line, and that nothing changed but what a later run goes on with."""
    lines = [text for text in outcome.err.splitlines() if without_numbers(text) not in good.lines]
    if len(lines) != 1 or not lines[0].startswith("Error: "):
        return "lines", repr(lines[:3])
    kept = tuple(f"cell/{name}" for name in line.keeps.split())
    wrong = sorted(name for name in changed if not kept or not name.startswith(kept))
    return ("changed", ", ".join(wrong[:3])) if wrong else ("", "refused")


MAY_LACK = re.compile(r"/results/|metrics\.jsonl$|words\.json$|README\.md$")
"""Files without which a run, dump or dataset is whole."""
ABSENT = {"missing", "dangling", "loop"}
UNUSABLE = {"dangling", "loop", "pipe", "unreadable"}
"""What is there cannot be read, so it must not be taken for something that is absent. A folder may hold folders."""
NO_DIGEST = re.compile(r"/results/|metrics\.jsonl$|words\.json$|\.parts/\d+\.jsonl$")
"""Files without a digest: types and ranges are checked, but another value in range is believed."""
OTHER_VALUE = {"bit", "huge", "string", "foreign", "sibling", "key", "twice"}
LOG = re.compile(r"[./]history\.jsonl$")
"""Files of which a killed writer may leave half a line, so that damaged lines are left out."""


def compared(line: Line, good: Figures, found: Figures, file: str, fault: str, outcome: Outcome) -> tuple[str, str]:
    """Compare the figures of a command that succeeded. See ``verdict``."""
    different = sorted(key for key in good.keys() | found.keys() if good.get(key) != found.get(key))
    if not different:
        return "", "same"
    if any(file.startswith(name) for name in line.own.split()) and fault not in UNUSABLE:
        return "", "own"
    if MAY_LACK.search(file) and fault in ABSENT:
        return "", "absent"
    if LOG.search(file) or (NO_DIGEST.search(file) and fault in OTHER_VALUE):
        return "", "believed"
    said, path = outcome.err + " ".join(found.values()), Path(file)
    if path.name in said or f"{path.parent.name} checkpoint is" in said:
        return "", "named"
    shown = ", ".join(": ".join(key) for key in different[:3])
    return "other figures", f"{len(different)}, such as {shown}"


def place_of(err: str) -> str:
    """Return the last place of this program in a traceback, and the error."""
    places = re.findall(rf'File "{re.escape(str(Path(cli.__file__).parent))}/(?!\.venv|tests)(.+)", line (\d+)', err)
    last = next((text for text in reversed(err.splitlines()) if text and not text.startswith(" ")), "")
    return f"{':'.join(places[-1]) if places else '?'}: {last[:150]}"


def leaves(group: click.Group, path: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        whole = f"{path} {name}".strip()
        if isinstance(command, click.Group):
            yield from leaves(command, whole)
        else:
            yield whole


def test_every_command_has_a_line() -> None:
    assert set(leaves(cli.main)) == {line.command for line in COMMANDS}


ROWS = [line for line in COMMANDS if not line.without_row]


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[f"{n} {line.text[:50]}" for n, line in enumerate(ROWS)])
def test_a_damaged_file_is_refused_in_one_line_or_does_not_matter(
    table: Table, number: int, soak_factor: int, capsys: pytest.CaptureFixture[str]
) -> None:
    line, wrong, num_cells, start = ROWS[number], [], 0, time.monotonic()
    good = with_good_files(table, line)
    names = list(FAULTS)
    files = sample_of(good.files, 1 if soak_factor == 1 else 2)
    if soak_factor == 1:
        files = random.Random(number).sample(files, min(line.num_files, len(files)))
    for file in files:
        first = crc32(kind_of(file).encode()) + STEP * number
        for fault in [names[(first + n) % len(names)] for n in range(len(names))]:
            kind, details = verdict(table, line, good, file, fault)
            if kind:
                wrong.append(f"{file}, {fault}: {kind}: {details}")
            num_cells += bool(kind or details)
            if soak_factor == 1 and (kind or details):
                break
    if soak_factor > 1:
        speed = num_cells / (time.monotonic() - start)
        with capsys.disabled():
            print(f"{number + 1}/{len(ROWS)} {num_cells} cells, {speed:.1f} cells/s: {line.text}")  # noqa: T201
    assert not wrong, "\n".join([line.text, *wrong])
