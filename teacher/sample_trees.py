"""Run ``sample``: write sentences that a teacher generates, with their trees, as training text for students.

This is distillation at the level of sentences (Kim and Rush 2016, section 3.2, where the text comes from a beam search
and not from sampling).

OUT.mrg and OUT.txt are a pair of files as ``import-trees`` writes them. ``build-dataset`` divides this text into tokens
again, and the result can differ from the tokens that were drawn. So this module reads each sentence back exactly as
``build-dataset`` will read it. A sentence that cannot be read back is dropped and counted by reason. A sentence that
comes back with other tokens or another tree than were drawn is kept and counted.

The number of processes does not change the output. If the command is interrupted, it starts again from the first
sentence.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import torch

from pipeline.corpus.dataset.token_trees import NOT_REVERSIBLE, fit_to_tokens, tree_over_words
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.documents import COMPANION_SUFFIXES, SAMPLE_RECORD_SUFFIX
from pipeline.corpus.text.text_files import normalise_text
from pipeline.corpus.trees.matching import Span
from pipeline.corpus.trees.raw_trees import NOT_UTF8, RawTree
from pipeline.corpus.trees.readers import Counts, RawPair, Sentence, read_sentence
from pipeline.corpus.trees.trees import Phrase, format_tree
from pipeline.dumping.dump_source import run_fingerprint
from pipeline.runtime.distributed import World, device_model, joined
from pipeline.runtime.progress import Progress
from pipeline.runtime.run_directory import RunInfo, Which, open_run, versions
from storage.errors import InputError, RunError, StoreError
from storage.files import beside, written_whole
from storage.fingerprints import Json
from teacher.beam import phrases_of
from teacher.rnng import Rnng
from teacher.sampling import Drawn, Sampler
from teacher.teacher_config import SampleConfig, TeacherConfig
from teacher.train_teacher import described_model, load_teacher

SPECIAL = "special token inside the sentence"
LINE_END = "line end inside the sentence"
NOT_NORMALISED = "white space or characters that build-dataset would change"
OTHER_TOKENS = "the tokenizer divides the text into other tokens"
OTHER_TREE = (
    "another tree: a phrase and its only child have the same label, or a phrase begins or ends inside a character"
)
"""The tree that is read back is not the one that was drawn, because a bracketed tree cannot express such phrases."""


def sample_trees(
    teacher: Path, out_stem: Path, config: SampleConfig, *, checkpoint: Which, device: str
) -> dict[str, Json] | None:
    """Write one drawn tree per line of ``OUT.mrg``, its text on the same line of ``OUT.txt``, and ``OUT.sample.json``.

    OUT is ``out_stem``. Unlabelled constituents of a binary teacher get the label X. ``OUT.sample.json`` records the
    teacher, the options and the counts.

    Returns:
        Counts and speed on the main process, None on the others.

    Raises:
        RunError: If ``teacher`` is not a teacher's run, has no such checkpoint, or changes while it is read.
        StoreError: If OUT exists already, or cannot be written.
        InputError: If every sentence was dropped.
    """
    with joined(device, threads=config.threads) as (world, where):
        world.on_main(lambda: _check_absent(out_stem))
        model, run, fingerprint = _load(teacher, checkpoint, where, world)
        labels = described_model(run).labels if model.config.strategy == "top-down" else ["TOP", "X"]
        drawer = _Drawer(model.double(), Tokenizer.load(run.tokenizer_path), labels, config)
        start = time.monotonic()
        # OUT.mrg is renamed last: if it exists, all files are complete.
        paths = [beside(out_stem, suffix) for suffix in (".txt", SAMPLE_RECORD_SUFFIX, ".mrg")]
        with written_whole(paths) if world.is_main else nullcontext() as files:
            output = _Output(files) if files is not None else None
            _draw_all(drawer, output, world, config)
            if output is None:
                return None
            summary = output.to_json()
            if not output.num_kept:
                raise InputError(
                    f"{teacher}: all {config.num_sentences} drawn sentences were dropped: {summary['dropped']}; "
                    "train the teacher longer, or raise --max-actions"
                )
            made_from = {
                "teacher": str(teacher),
                "checkpoint": checkpoint,
                "fingerprint": fingerprint,
                "tokenizer": run.fingerprints["tokenizer"],
                **{name: getattr(config, name) for name in ("seed", "temperature", "max_actions")},
                "device": device_model(where),
                "versions": versions(),
            }
            output.record.write(
                json.dumps({**summary, "made_from": made_from, "words": {"teacher": run.trained_on}}, indent=2) + "\n"
            )
        elapsed_s = time.monotonic() - start
        speed = {"elapsed_s": elapsed_s, "sentences_per_s": config.num_sentences / elapsed_s}
        return {"trees": str(beside(out_stem, ".mrg")), **summary, **speed}


def _check_absent(out_stem: Path) -> None:
    """Check that no file of OUT exists yet: OUT.mrg, OUT.txt, or a file that describes OUT.txt, such as OUT.docs.

    ``build-dataset`` would read an old OUT.docs as if it described the new OUT.txt.
    """
    for suffix in (".mrg", ".txt", *COMPANION_SUFFIXES):
        if (path := beside(out_stem, suffix)).exists():
            raise StoreError(f"{path}: already exists; remove it, or give another --out")


def _load(path: Path, which: Which, where: torch.device, world: World) -> tuple[Rnng, RunInfo, str]:
    """Return the teacher, its run, and a fingerprint of its weights and sizes.

    The run may still be training. So the fingerprint is taken before and after loading, and both must agree.
    """
    run = open_run(path, "teacher")

    def fingerprint() -> str:
        return run_fingerprint(run, TeacherConfig, which) if run.checkpoint(which).is_file() else ""

    before = world.share(fingerprint().encode()).decode()
    model, _ = load_teacher(path, where, which)
    if fingerprint() != before:
        raise RunError(f"{path}: its checkpoint {which} was replaced while it was read. Run the command again")
    return model, run, before


def _draw_all(drawer: "_Drawer", output: "_Output | None", world: World, config: SampleConfig) -> None:
    """Draw all batches, together with the other processes. Only the main process has an ``output``."""
    size = config.batch_sentences
    num_batches = -(-config.num_sentences // size)
    with Progress("sample", total=config.num_sentences, unit="sentences", shown=world.is_main) as progress:
        while (batch := world.claim("sample")) < num_batches:
            numbers = range(batch * size, min((batch + 1) * size, config.num_sentences))
            world.post(f"sample/{batch}", json.dumps(drawer.draw(numbers)).encode())
            progress.reached(world.tally("sampled", len(numbers)))
            if output is not None:
                output.write_next(world)
        world.barrier()
        progress.reached(config.num_sentences)
        if output is not None:
            output.write_next(world)


class _Drawer:
    """Draw batches of sentences, and turn them into lines of OUT.mrg and OUT.txt."""

    def __init__(self, model: Rnng, tokenizer: Tokenizer, labels: Sequence[str], config: SampleConfig) -> None:
        self._model, self._tokenizer, self._labels = model, tokenizer, labels
        self._max_actions = config.max_actions
        self._sampler = Sampler(model, seed=config.seed, max_actions=config.max_actions, temperature=config.temperature)
        self._special = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}

    def draw(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Return the lines of the sentences that are kept, and counts, as JSON values."""
        counts = Counts()
        found: list[tuple[Drawn, list[Phrase], str, Sentence]] = []
        for readable in map(self._readable, self._sampler.draw(numbers)):
            if isinstance(readable, str):
                counts.num_trees += 1
                counts.dropped[readable] += 1
                continue
            drawn, text, spans = readable
            phrases = [(self._labels[i], start, stop) for i, start, stop in phrases_of(self._model, drawn.actions)]
            line = format_tree(tree_over_words(phrases, text, spans))
            pair = RawPair(0, RawTree(1, line), text)
            if (sentence := read_sentence(Path(), pair, on_error="skip", counts=counts)) is not None:
                found.append((drawn, phrases, line, sentence))
        lines = []
        num_tokens = num_actions = num_cut = 0
        fitted = fit_to_tokens([sentence for *_, sentence in found], self._tokenizer)
        for (drawn, phrases, line, sentence), again in zip(found, fitted, strict=True):
            if again is None:
                counts.num_kept -= 1
                counts.dropped[NOT_REVERSIBLE] += 1
                continue
            lines.append((line, sentence.text))
            if again.ids != drawn.ids:
                counts.repaired[OTHER_TOKENS] += 1
            elif again.tree.phrases != phrases:
                counts.repaired[OTHER_TREE] += 1
            num_tokens += len(again.ids)
            num_actions += len(drawn.actions)
            num_cut += _has_cut_word(sentence)
        sums = {"num_tokens": num_tokens, "num_actions": num_actions, "num_with_cut_words": num_cut}
        return {"lines": lines, "counts": counts.to_json(), "sums": sums}

    def _readable(self, drawn: Drawn | None) -> tuple[Drawn, str, list[Span]] | str:
        """Return a sentence, its text and the span of each token. If the sentence is dropped, return the reason."""
        if drawn is None:
            return f"more than {self._max_actions} actions"
        if not self._special.isdisjoint(drawn.ids):
            return SPECIAL
        if (decoded := self._tokenizer.decode_with_spans(drawn.ids)) is None:
            return NOT_UTF8
        text, spans = decoded
        if "\n" in text or "\r" in text:
            return LINE_END
        if not text.strip():
            return "no words"
        return (drawn, text, spans) if text == normalise_text(text) else NOT_NORMALISED


def _has_cut_word(sentence: Sentence) -> bool:
    """Return whether a phrase begins or ends inside a word, between two letters or digits."""
    ends = [stop for (_, stop), (start, _) in pairwise(sentence.spans) if stop == start]
    return any(sentence.text[end - 1].isalnum() and sentence.text[end].isalnum() for end in ends)


class _Output:
    """The files of OUT and the counts of the batches written to them."""

    def __init__(self, files: Sequence[IO[str]]) -> None:
        self._text, self.record, self._trees = files
        self._num_batches = 0
        self._numbers: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._repaired: Counter[str] = Counter()

    @property
    def num_kept(self) -> int:
        """The number of sentences written so far."""
        return self._numbers["num_kept"]

    def write_next(self, world: World) -> None:
        """Write the next batches in order, up to the first that is not drawn yet."""
        while (data := world.take(f"sample/{self._num_batches}")) is not None:
            self._num_batches += 1
            batch = json.loads(data)
            for line, text in batch["lines"]:
                self._trees.write(line + "\n")
                self._text.write(text + "\n")
            counts = batch["counts"]
            self._dropped.update(counts.pop("dropped"))
            self._repaired.update(counts.pop("repaired"))
            self._numbers.update(counts | batch["sums"])

    def to_json(self) -> dict[str, Any]:
        """Return the counts. Tokens and actions are those of the sentences that were kept."""
        numbers = self._numbers
        return {
            "num_drawn": numbers["num_trees"],
            "num_kept": numbers["num_kept"],
            "dropped": dict(sorted(self._dropped.items())),
            "repaired": dict(sorted(self._repaired.items())),
            "num_with_cut_words": numbers["num_with_cut_words"],
            "num_tokens": numbers["num_tokens"],
            "mean_tokens": numbers["num_tokens"] / max(1, numbers["num_kept"]),
            "mean_actions": numbers["num_actions"] / max(1, numbers["num_kept"]),
        }
