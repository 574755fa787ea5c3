"""Make a small world for the table of faults: everything that the commands read, in seconds.

A world is made by the commands themselves. Two worlds with other seeds give each file a foreign counterpart.
"""

import json
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from tests.cells import Interrupt, run_command

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


def typed(line: str) -> list[str]:
    """Return the arguments of a command line. ``@name`` is a path in the world."""
    return [word.removeprefix("@") for word in shlex.split(line)]


def build_world(world: Path, seed: int) -> None:
    """Make the files that the command lines read.

    Names that begin with ``half-`` were interrupted.
    """
    world.mkdir(parents=True)

    def run(line: str, interrupt: Interrupt | None = None) -> None:
        done = run_command(typed(line), world, interrupt=interrupt)
        expected = {None: 0, signal.SIGTERM: 143, signal.SIGKILL: -9}[interrupt and interrupt.signal]
        assert done.status == expected, f"{line}: status {done.status}\n{done.out}\n{done.err}"

    at_checkpoint = Interrupt("training_state", signal.SIGTERM)
    run(f"sample-corpus @corpus --num-sentences 60 --seed {seed}")
    write_texts(world)
    run("import-trees @raw --out @trees/train")
    run("clean-text @text --source plain --out @cleaned/few")
    run("train-tokenizer @corpus/train.txt --out @tokenizer.json --vocab-size 300")
    theirs = json.loads((world / "tokenizer.json").read_text()) | {"post_processor": None}
    (world / "theirs.json").write_text(json.dumps(theirs))
    stems = "--train @trees/train --dev @trees/dev --test @trees/test"
    run(f"build-dataset {stems} --tokenizer @tokenizer.json --out @dataset")
    run(f"train-parser @few.mrg --dev @few.mrg {PARSER} --out @parser.pt")
    (world / "half").mkdir()
    run(f"parse @cleaned/few.txt {PARSE} --out @half/out", Interrupt("00001.jsonl", signal.SIGKILL))
    train_models(run, at_checkpoint)
    for name in ("teacher", "half-student", "distilled"):
        shutil.copytree(world / name, world / "runs" / name)


def train_models(run: Callable[..., None], at_checkpoint: Interrupt) -> None:
    """Make runs, dumps, exports and results."""
    teacher, student = f"train-teacher --data @dataset {TEACHER}", f"train-student --data @dataset {STUDENT}"
    dump = f"dump-teacher --data @dataset {DUMP}"
    # With fewer steps, the teacher draws no sentence that ends.
    run(f"{teacher} --out @teacher --max-steps 60 --lr 0.1 --warmup-steps 0")
    run(f"{teacher} --out @half-teacher {LONG}", at_checkpoint)
    run(f"{dump} --teacher @teacher --out @dump")
    run(f"{dump} --teacher @teacher --out @compact --profile compact")
    run(f"{dump} --teacher @teacher --out @half-dump", Interrupt("finished/.", signal.SIGKILL, 3))
    run(f"{student} --out @baseline {SHORT}")
    run(f"{student} --out @other {SHORT} --seed 2")
    run(f"{student} --dump @dump --out @distilled {LONG} --word-checkpoints 100")
    run(f"{student} --dump @dump --out @half-student {LONG}", at_checkpoint)
    run(f"{student} --out @reader --context document --max-length 128 {SHORT}")
    run("export @baseline @exported --licence mit")
    run(f"{dump} --teacher @baseline --split dev --out @dev-dump")
    run("export-dump @dev-dump @columns --format distillkit")
    for model in ("baseline", "other", "distilled"):
        run(f"evaluate perplexity @{model} --data @dataset --device cpu")
        run(f"evaluate minimal-pairs @{model} @pairs --device cpu")
        run(f"evaluate syntaxgym @{model} @suites --device cpu")
    run("evaluate perplexity @teacher --data @dataset --device cpu")
    run("evaluate perplexity @baseline --data @dataset --split test --truth @corpus --device cpu")
    run("evaluate surprisal @baseline @text.txt --out @surprisal.tsv --device cpu")
    run(f"evaluate parses @teacher @few {NARROW}")
    run(f"evaluate mixture @teacher @baseline --data @dataset {NARROW}")


def write_texts(world: Path) -> None:
    """Write what a user brings: trees, text, tables, minimal pairs and suites."""
    corpus = world / "corpus"
    for name, first in (("a", 0), ("b", 20)):
        _copy_lines(corpus / "train.mrg", world / f"raw/{name}.mrg", 20, first)
    _copy_lines(corpus / "train.txt", world / "text.txt", 20, 20)
    for suffix in ("mrg", "txt"):
        _copy_lines(corpus / f"test.{suffix}", world / f"trees/test.{suffix}", 200)
        _copy_lines(corpus / f"dev.{suffix}", world / f"trees/dev.{suffix}", 10)
        _copy_lines(corpus / f"dev.{suffix}", world / f"few.{suffix}", 4)
    for file in sorted((corpus / "minimal_pairs").glob("*.jsonl"))[:2]:
        _copy_lines(file, world / "pairs" / file.name, 3)
    sentences = (world / "text.txt").read_text().splitlines()
    words = sorted({word for sentence in sentences for word in sentence.split()})
    spans = [(n, m.start(), m.end()) for n, text in enumerate(sentences, 1) for m in re.finditer(r"\S+", text)]
    good, bad = sentences[0], " ".join(sentences[0].split()[::-1])
    pair = {"sentence_good": good, "sentence_bad": bad, "UID": "order", "field": "syntax", "linguistics_term": "t"}
    entities = [{"input_prefix": good, "options": [" a.", " b.", " c."], "numops": n % 2} for n in range(4)]
    texts = {
        "trees/dev.docs": "d\n" * 10,
        "list.txt": "# train\na\n# dev\nb\n",
        "b.docs": "b\n" * 20,
        "t.tsv": "document\tsource\tlicence\nb\tme\tx\n",
        "text/a.txt": "\n\n".join(sentences[:5]) + "\n",
        "text/b.txt": "\n\n".join(sentences[5:10]) + "\n",
        "babylm-text/childes.train": "".join(f"*MOT:\t{text}\n" for text in sentences[:5]),
        "babylm-text/gutenberg.train": " ".join(sentences[:5]) + "\n",
        "reviews.csv": "review,stars\n" + "".join(f'"{text}",{n}\n' for n, text in enumerate(sentences)),
        "reviews.jsonl": "".join(json.dumps({"review": text, "n": n}) + "\n" for n, text in enumerate(sentences)),
        "s.tsv": "".join("\t".join(map(str, span)) + "\n" for span in spans),
        "counts.tsv": "".join(f"{word}\t{len(word)}\n" for word in words),
        "options.toml": 'dropout = 0.1\nseed = 1\nlr = 0.01\nschedule = "constant"\n',
        "babylm/blimp_filtered/order.jsonl": json.dumps(pair) + "\n",
        "babylm/entity_tracking/regular.jsonl": "".join(json.dumps(line) + "\n" for line in entities),
        "suites/number.json": json.dumps(_suite("number")),
        "suites/other.json": json.dumps(_suite("other")),
    }
    for name, text in texts.items():
        (world / name).parent.mkdir(parents=True, exist_ok=True)
        (world / name).write_text(text)


def _copy_lines(source: Path, out: Path, num: int, first: int = 0) -> None:
    out.parent.mkdir(exist_ok=True)
    out.write_text("".join(source.read_text().splitlines(keepends=True)[first : first + num]))


def _suite(name: str) -> dict[str, object]:
    items = [
        {
            "item_number": number,
            "conditions": [
                {
                    "condition_name": condition,
                    "regions": [
                        {"region_number": n, "content": text} for n, text in enumerate((f"The {noun}", verb, "."), 1)
                    ],
                }
                for condition, verb in (("match", good), ("mismatch", bad))
            ],
        }
        for number, noun, good, bad in ((1, "dog", "sleeps", "sleep"), (2, "dogs", "sleep", "sleeps"))
    ]
    return {
        "meta": {"name": name, "metric": "sum", "author": ""},
        "region_meta": {},
        "predictions": [{"type": "formula", "formula": "(2;%match%) < (2;%mismatch%)"}],
        "items": items,
    }
