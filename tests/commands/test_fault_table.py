"""Test that no damaged file makes a command print a traceback, give other figures, or change anything else.

The table has a row per command line, a column per file that the command opens, and a layer per fault. Files are found
by running the command on good files. A new command needs one line in ``COMMANDS``.
"""

import dataclasses
import json
import os
import random
import re
import shlex
import shutil
import signal
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

import cli
from tests.cells import Figures, Interrupt, Opened, Outcome, Snapshot, figures, run_command, snapshot
from tests.faults import FAULTS

pytestmark = pytest.mark.faults

TEACHER = "--embed-dim 8 --hidden-dim 8 --num-layers 1 --batch-tokens 256 --threads 1 --device cpu"
STUDENT = "--embed-dim 8 --num-blocks 1 --num-heads 2 --batch-tokens 256 --threads 1 --device cpu"
SHORT = "--max-steps 2 --log-every 1"
LONG = "--max-steps 6 --checkpoint-every 2 --eval-every 2 --log-every 1"
DUMP = "--k 8 --temperatures 1,2 --shard-positions 256 --batch-tokens 256 --device cpu"
PARSER = (
    "--embed-dim 16 --num-layers 1 --num-heads 2 --ff-dim 16 --char-embed-dim 8 --num-epochs 1 --batch-sentences 8 "
    "--min-label-count 1"
)
PARSE = "--model @parser.pt --doc-sentences 8 --shard-sentences 4 --device cpu"
NARROW = "--beam 2 --word-beam 2 --max-actions 2 --device cpu"


@dataclass(frozen=True)
class Line:
    """A command line. ``@name`` is a file or folder of the world, or one that the command writes."""

    typed: str
    own: str = ""
    """Names of what the user wrote: other content gives other figures, and that is right."""
    keeps: str = ""
    """Names of what the command writes and goes on from when it is run again, so that a failure may leave it behind."""
    skips: str = field(default="", repr=False)
    """Why a command has no row."""

    @property
    def command(self) -> str:
        return " ".join(word for word in self.typed.split("@")[0].split()[: 2 if self.typed.startswith("evaluate") else 1])

    @property
    def arguments(self) -> list[str]:
        return [word.removeprefix("@") for word in shlex.split(self.typed)]

    @property
    def names(self) -> list[str]:
        """The names at the start of all paths, those of outputs too."""
        found = [word[1:].split("/")[0] for word in shlex.split(self.typed) if word.startswith("@")]
        return sorted(set(found))


COMMANDS = [
    Line("sample-corpus @out --num-sentences 3"),
    Line("import-trees @raw --out @out", own="raw"),
    Line("import-trees @raw/b.mrg --text @text.txt --documents @b.docs --document-table @table.tsv --licence x --out @out", own="raw text.txt b.docs table.tsv"),
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
    Line("build-dataset --train @trees/train --dev @trees/dev --tokenizer @tokenizer.json --out @out", own="trees tokenizer.json"),
    Line(f"train-teacher --data @dataset --config @options.toml --out @out {TEACHER} {SHORT}", own="options.toml", keeps="out"),
    Line(f"train-teacher --data @dataset --out @half-teacher {TEACHER} {LONG}", keeps="half-teacher"),
    Line("sample @teacher --num-sentences 2 --max-actions 300 --threads 1 --device cpu --out @out"),
    Line(f"dump-teacher --data @dataset --teacher @teacher --split dev --out @out {DUMP}", keeps="out"),
    Line(f"dump-teacher --data @dataset --teacher @teacher --out @half-dump {DUMP}", keeps="half-dump"),
    Line(f"dump-teacher --data @dataset --teacher @baseline --split dev --out @out {DUMP}", keeps="out"),
    Line(f"dump-teacher --data @dataset --teacher @corpus --split dev --out @out {DUMP}", keeps="out", own="corpus"),
    Line(f"dump-teacher --data @dataset --teacher @exported --split dev --out @out {DUMP}", keeps="out", own="exported"),
    Line(f"dump-teacher --data @dataset --teacher @teacher --condition beam {NARROW} --plan"),
    Line("export-dump @dump @out --format datasets"),
    Line("export-dump @dump @out --format distillkit"),
    Line("import-dump @columns --data @dataset --split dev --shard-positions 256 --out @out", keeps="out", own="columns"),
    Line(f"train-student --data @dataset --out @out {STUDENT} {SHORT}", keeps="out"),
    Line(f"train-student --data @dataset --dump @dump --out @out {STUDENT} {SHORT}", keeps="out"),
    Line(f"train-student --data @dataset --dump @compact --dump @dump --out @out {STUDENT} {SHORT}", keeps="out"),
    Line(f"train-student --data @dataset --init @baseline --out @out {STUDENT} {SHORT}", keeps="out"),
    Line(f"train-student --data @dataset --dump @dump --out @half-student {STUDENT} {LONG}", keeps="half-student"),
    Line(f"train-student --data @dataset --dump @dump --out @distilled {STUDENT} {LONG} --word-checkpoints 100", keeps="distilled"),
    Line("evaluate perplexity @teacher --data @dataset --device cpu"),
    Line(f"evaluate perplexity @teacher --data @dataset --marginal {NARROW}"),
    Line("evaluate perplexity @baseline --data @dataset --device cpu"),
    Line("evaluate perplexity @reader --data @dataset --device cpu"),
    Line("evaluate perplexity @baseline --data @dataset --split test --truth @corpus --device cpu", own="corpus"),
    Line("evaluate perplexity @exported --data @dataset --device cpu", own="exported"),
    Line(f"evaluate mixture @teacher @baseline --data @dataset {NARROW}"),
    Line("evaluate minimal-pairs @baseline @pairs --device cpu", own="pairs"),
    Line(f"evaluate minimal-pairs @teacher @pairs {NARROW}", own="pairs"),
    Line("evaluate babylm @baseline @babylm --out @out --device cpu", own="babylm"),
    Line("evaluate syntaxgym @baseline @suites --device cpu", own="suites"),
    Line("evaluate surprisal @baseline @text.txt --frequencies @counts.tsv --spans @spans.tsv --out @out.tsv --device cpu", own="text.txt counts.tsv spans.tsv"),
    Line("evaluate surprisal @reader @reviews.csv --column review --context @text.txt --out @out.tsv --device cpu", own="reviews.csv text.txt"),
    Line(f"evaluate parses @teacher @few {NARROW} --trees-out @out", own="few.mrg few.txt"),
    Line("export @baseline @out --licence mit"),
    Line("export @distilled @out --all-checkpoints"),
    Line("report @teacher @baseline @distilled --data @dataset --out @out.html"),
    Line("report @baseline @distilled --format latex --out @out.tex"),
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
    Line("demo", skips="It reads no file; every command that it starts has its own row."),
]  # fmt: skip
"""One line or more per command. Add a line for a new command; everything else is found by running it."""

SUITE = {
    "meta": {"name": "number", "metric": "sum", "author": ""},
    "region_meta": {},
    "predictions": [{"type": "formula", "formula": "(2;%match%) < (2;%mismatch%)"}],
    "items": [
        {
            "item_number": n,
            "conditions": [
                {
                    "condition_name": name,
                    "regions": [{"region_number": i + 1, "content": x} for i, x in enumerate((f"The {noun}", verb, "."))],
                }
                for name, verb in (("match", good), ("mismatch", bad))
            ],
        }
        for n, noun, good, bad in ((1, "dog", "sleeps", "sleep"), (2, "dogs", "sleep", "sleeps"))
    ],
}


def head(source: Path, out: Path, num: int, first: int = 0) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(source.read_text().splitlines(keepends=True)[first : first + num]))


def write_texts(world: Path) -> None:
    """Write what a user brings: trees, text, tables, pairs and suites."""
    corpus = world / "corpus"
    for name, first in (("a", 0), ("b", 20)):
        head(corpus / "train.mrg", world / f"raw/{name}.mrg", 20, first)
    head(corpus / "train.txt", world / "text.txt", 20, 20)
    for suffix in ("mrg", "txt"):
        head(corpus / f"test.{suffix}", world / f"trees/test.{suffix}", 200)
        head(corpus / f"dev.{suffix}", world / f"trees/dev.{suffix}", 10)
        head(corpus / f"dev.{suffix}", world / f"few.{suffix}", 4)
    (world / "trees/dev.docs").write_text("d\n" * 10)
    (world / "list.txt").write_text("# train\na\n# dev\nb\n")
    (world / "b.docs").write_text("b\n" * 20)
    (world / "table.tsv").write_text("document\tsource\tlicence\nb\tme\tx\n")
    sentences = (world / "text.txt").read_text().splitlines()
    for name, part in (("a", sentences[:5]), ("b", sentences[5:10])):
        (world / "text").mkdir(exist_ok=True)
        (world / f"text/{name}.txt").write_text("\n\n".join(part) + "\n")
    (world / "babylm-text").mkdir()
    (world / "babylm-text/childes.train").write_text("".join(f"*MOT:\t{x}\n" for x in sentences[:5]))
    (world / "babylm-text/gutenberg.train").write_text(" ".join(sentences[:5]) + "\n")
    (world / "reviews.csv").write_text("review,stars\n" + "".join(f'"{x}",{i}\n' for i, x in enumerate(sentences)))
    (world / "reviews.jsonl").write_text("".join(json.dumps({"review": x, "n": i}) + "\n" for i, x in enumerate(sentences)))
    spans = [(n, m.start(), m.end()) for n, x in enumerate(sentences, 1) for m in re.finditer(r"\S+", x)]
    (world / "spans.tsv").write_text("".join("\t".join(map(str, span)) + "\n" for span in spans))
    words = sorted({word for x in sentences for word in x.split()})
    (world / "counts.tsv").write_text("".join(f"{word}\t{len(word)}\n" for word in words))
    (world / "options.toml").write_text("dropout = 0.1\nseed = 1\nlr = 0.01\nschedule = \"constant\"\n")
    for file in sorted((corpus / "minimal_pairs").glob("*.jsonl"))[:2]:
        head(file, world / "pairs" / file.name, 3)
    (world / "suites").mkdir()
    for name in ("number", "other"):
        (world / f"suites/{name}.json").write_text(json.dumps(SUITE | {"meta": SUITE["meta"] | {"name": name}}))  # type: ignore[operator]
    good, bad = sentences[0], " ".join(sentences[0].split()[::-1])
    folder = world / "babylm"
    (folder / "blimp_filtered").mkdir(parents=True)
    pair = {"sentence_good": good, "sentence_bad": bad, "UID": "agree", "field": "syntax", "linguistics_term": "t"}
    (folder / "blimp_filtered/agree.jsonl").write_text(json.dumps(pair) + "\n")
    (folder / "entity_tracking").mkdir()
    entities = [{"input_prefix": good, "options": [" a.", " b.", " c."], "numops": n % 2} for n in range(4)]
    (folder / "entity_tracking/regular.jsonl").write_text("".join(json.dumps(line) + "\n" for line in entities))


def build_world(world: Path, seed: int) -> None:
    """Make all files that the command lines read."""

    def run(typed: str, interrupt: Interrupt | None = None) -> None:
        done = run_command(Line(typed).arguments, world, interrupt=interrupt, limit_s=120)
        expected = {None: 0, signal.SIGTERM: 143, signal.SIGKILL: -9}[interrupt and interrupt.signal]
        assert done.status == expected, f"{typed}: status {done.status}\n{done.out}\n{done.err}"

    world.mkdir(parents=True)
    run(f"sample-corpus @corpus --num-sentences 60 --seed {seed}")
    write_texts(world)
    run("import-trees @raw --out @trees/train")
    run("clean-text @text --source plain --out @cleaned/few")
    run("train-tokenizer @corpus/train.txt --out @tokenizer.json --vocab-size 300")
    theirs = json.loads((world / "tokenizer.json").read_text()) | {"post_processor": None}
    (world / "theirs.json").write_text(json.dumps(theirs))
    run("build-dataset --train @trees/train --dev @trees/dev --test @trees/test --tokenizer @tokenizer.json --out @dataset")
    run(f"train-parser @few.mrg --dev @few.mrg {PARSER} --out @parser.pt")
    (world / "half").mkdir()
    run(f"parse @cleaned/few.txt {PARSE} --out @half/out", Interrupt("out.parts/", signal.SIGKILL, 8))
    run(f"train-teacher --data @dataset --out @teacher {TEACHER} --max-steps 60 --lr 0.1 --warmup-steps 0")
    run(f"train-teacher --data @dataset --out @half-teacher {TEACHER} {LONG}", Interrupt("training_state", signal.SIGTERM))
    run(f"dump-teacher --data @dataset --teacher @teacher --out @dump {DUMP}")
    run(f"dump-teacher --data @dataset --teacher @teacher --out @compact {DUMP} --profile compact")
    run(f"dump-teacher --data @dataset --teacher @teacher --out @half-dump {DUMP}", Interrupt("finished/", signal.SIGKILL, 2))
    run(f"train-student --data @dataset --out @baseline {STUDENT} {SHORT}")
    run(f"train-student --data @dataset --out @other {STUDENT} {SHORT} --seed 2")
    run(f"train-student --data @dataset --dump @dump --out @distilled {STUDENT} {LONG} --word-checkpoints 100")
    run(f"train-student --data @dataset --dump @dump --out @half-student {STUDENT} {LONG}", Interrupt("training_state", signal.SIGTERM))
    run(f"train-student --data @dataset --out @reader --context document --max-length 128 {STUDENT} {SHORT}")
    run("export @baseline @exported --licence mit")
    run(f"dump-teacher --data @dataset --teacher @baseline --split dev --out @dev-dump {DUMP}")
    run("export-dump @dev-dump @columns --format distillkit")
    run("evaluate perplexity @teacher --data @dataset --device cpu")
    for model in ("baseline", "other", "distilled"):
        run(f"evaluate perplexity @{model} --data @dataset --device cpu")
        run(f"evaluate minimal-pairs @{model} @pairs --device cpu")
        run(f"evaluate syntaxgym @{model} @suites --device cpu")
    run("evaluate perplexity @baseline --data @dataset --split test --truth @corpus --device cpu")
    run("evaluate surprisal @baseline @text.txt --out @surprisal.tsv --device cpu")
    run(f"evaluate parses @teacher @few {NARROW}")
    run(f"evaluate mixture @teacher @baseline --data @dataset {NARROW}")
    for name in ("teacher", "half-student", "distilled"):
        shutil.copytree(world / name, world / "runs" / name)


@dataclass
class Worlds:
    """Two worlds of the same commands with other seeds, and the folder in which commands run."""

    good: Path
    other: Path
    base: Path

    @property
    def cell(self) -> Path:
        return self.base / "cell"

    def fill(self, line: Line) -> Snapshot:
        """Make a fresh copy of what a command line names, and return what is there."""
        shutil.rmtree(self.base, ignore_errors=True)
        self.cell.mkdir(parents=True)
        for name in line.names:
            for source in [self.good / name, *self.good.glob(f"{name}.*")]:
                if source.is_dir():
                    shutil.copytree(source, self.cell / source.name, symlinks=True)
                elif source.exists():
                    shutil.copy2(source, self.cell / source.name)
        return snapshot(self.base)

    def run(self, line: Line, **how: bool) -> tuple[Outcome, set[str], Snapshot, Snapshot]:
        """Run the command; return how it ended, the files that it opened, and what was there before and after."""
        before, watch = snapshot(self.base), Opened(self.cell)
        outcome = run_command(line.arguments, self.cell, limit_s=40, **how)
        return outcome, watch.files(), before, self.after()

    def after(self) -> Snapshot:
        return {name: about for name, about in snapshot(self.base).items() if "/cell-output." not in name}


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    import_everything()
    keep = os.environ.get("FAULT_WORLD")
    folder = Path(keep) if keep else tmp_path_factory.mktemp("faults")
    for number, name in enumerate(("good", "other"), 1):
        if not (folder / name / "cell").exists():
            build_world(folder / name / "cell", number)
    return Worlds(folder / "good/cell", folder / "other/cell", folder / "run")


def import_everything() -> None:
    """Import the program and its libraries, so that forked processes need not."""
    import importlib
    import pkgutil

    for package in ("storage", "pipeline", "teacher", "student"):
        for module in pkgutil.walk_packages([package], f"{package}."):
            importlib.import_module(module.name)
    for name in ("spacy", "benepar", "transformers", "pyarrow.parquet", "torch.utils.tensorboard", "matplotlib.figure"):
        importlib.import_module(name)


@dataclass(frozen=True)
class Good:
    """What a command does with good files."""

    files: list[str]
    figures: Figures
    varying: set[tuple[str, str]]
    lines: set[str]
    max_rss_bytes: int


def run_on_good_files(worlds: Worlds, line: Line) -> Good:
    found: list[Figures] = []
    opened: set[str] = set()
    for _ in range(2):
        whole = worlds.fill(line)
        outcome, names, before, after = worlds.run(line)
        opened |= names
        assert outcome.status == 0, f"{line.typed}: status {outcome.status}\n{outcome.out}\n{outcome.err}"
        found.append(figures(outcome, whole, after, worlds.base))
    files = sorted(name for name in opened if stat.S_ISREG(before.get(f"run/cell/{name}", (0,))[0]))
    first, second = found
    varying = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    return Good(files, first, varying, {shape(x) for x in outcome.err.splitlines()}, outcome.max_rss_bytes)


def classes(files: Sequence[str]) -> list[str]:
    """Return at most two files of each kind: arrays and shards differ only in names and numbers."""
    kinds: dict[object, list[str]] = {}
    for file in files:
        top, name = file.split("/")[0], file.rsplit("/")[-1]
        inside = re.search(r"/(c|finished|data|zarr\.json|out\.parts)\b", file)
        kinds.setdefault((top, re.sub(r"\d+", "N", name)) if inside else file, []).append(file)
    chosen = random.Random(1)
    return [file for kind in kinds.values() for file in chosen.sample(kind, min(2, len(kind)))]


def shape(line: str) -> str:
    """Return a log line without its figures."""
    return re.sub(r"[\d.,:]+|nan", "N", line)


def verdict(worlds: Worlds, line: Line, good: Good, file: str, fault: str) -> tuple[str, str]:
    """Damage one file, run the command, and return what is wrong: a kind and details; the kind is empty if all is well.

    For cells that are well, the details are ``refused``, ``same``, ``other`` or ``does not apply``.
    """
    whole = worlds.fill(line)
    path = worlds.cell / file
    if not FAULTS[fault](path, worlds.other / file, random.Random(f"{file} {fault} {line.command}")):
        return "", "does not apply"
    outcome, _, before, after = worlds.run(line, rights=fault != "unreadable")
    if outcome.status is None:
        return "hang", ""
    if outcome.max_rss_bytes > good.max_rss_bytes + (1 << 30):
        return "memory", f"{outcome.max_rss_bytes >> 20} MiB"
    if "Traceback (most recent call last)" in outcome.err or "Error" not in outcome.err and outcome.status not in (0, 1):
        return "traceback", place_of(outcome.err) + f" status {outcome.status}"
    if any(before.get(name) != after.get(name) for name in (f"run/outside-{path.name}", "run/nowhere")):
        return "changed", "a file outside"
    if outcome.status == 0:
        if any(file.split("/")[0].startswith(name) for name in line.own.split()):
            return "", "other"
        left = {name for name in after if before.get(name) == after[name]}  # nobody mended what was damaged
        found = figures(outcome, whole, {name: after[name] for name in after if name not in left}, worlds.base)
        keys = {key for key in found.keys() | good.figures.keys() if found.get(key) != good.figures.get(key)}
        if different := sorted(keys - good.varying):
            if path.name in outcome.err or path.name in outcome.out:
                return "", "named"
            shown = ", ".join(":".join(key) for key in different[:3])
            return "other figures", f"{len(different)}: {shown}".replace("run/cell/", "")
        return "", "same"
    if outcome.status != 1:
        return "status", f"{outcome.status}: {outcome.err.splitlines()[-1:]}"
    lines = [text for text in outcome.err.splitlines() if shape(text) not in good.lines]
    if len(lines) != 1 or not lines[0].startswith("Error: "):
        return "lines", repr(lines[:3])
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    kept = {f"run/cell/{name}" for name in line.keeps.split()}
    if changed := sorted(name for name in changed if not any(name == x or name.startswith(x + "/") for x in kept)):
        return "changed", ", ".join(changed[:3])
    return "", "refused"


def place_of(err: str) -> str:
    """Return the last place of this program in a traceback, and the error."""
    here = str(Path(cli.__file__).parent)
    places = re.findall(rf'File "{re.escape(here)}/((?!\.venv|tests)[^"]+)", line (\d+), in (\S+)', err)
    last = next((x for x in reversed(err.splitlines()) if x and not x.startswith(" ")), "")
    place = "{}:{} {}".format(*places[-1]) if places else "?"
    return f"{place}: {last[:150]}"


def leaves(group: click.Group, path: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        whole = f"{path} {name}".strip()
        if isinstance(command, click.Group):
            yield from leaves(command, whole)
        else:
            yield whole


def test_every_command_has_a_row() -> None:
    assert set(leaves(cli.main)) == {line.command for line in COMMANDS}


@pytest.mark.parametrize("line", [line for line in COMMANDS if not line.skips], ids=lambda line: line.typed[:60])
def test_a_damaged_file_is_refused_in_one_line_or_does_not_matter(worlds: Worlds, line: Line) -> None:
    good = run_on_good_files(worlds, line)
    wrong = []
    for file in good.files:
        for fault in FAULTS:
            kind, details = verdict(worlds, line, good, file, fault)
            if kind:
                wrong.append(f"{file} {fault}: {kind}: {details}")
    assert not wrong, "\n".join(wrong)
