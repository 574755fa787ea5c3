"""How much the level-parallel RNNG gains over one action at a time, on the same sentences with the same weights.

    python -m benchmarks.teacher [--quick] [--json FILE]

Rounds of the two alternate; figures are medians. Rates are positions a second on one thread, sample corpus, so they
compare with each other and with nothing else.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline.corpus.build import BuildConfig, build_dataset
from pipeline.corpus.dataset import Split, load_dataset
from pipeline.corpus.sample import write_sample_corpus
from pipeline.corpus.tokenizer import train_tokenizer
from teacher.config import TeacherConfig
from teacher.levels import TreeBatch, build_schedule
from teacher.rnng import Rnng
from tests.reference import sentence_log_probs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of a small batch")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = measure(num_sentences=16 if options.quick else 128, rounds=1 if options.quick else 5)
    for name, value in figures.items():
        print(f"{name:<34}{value:>14,.1f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(*, num_sentences: int, rounds: int) -> dict[str, float]:
    """Return medians over interleaved rounds, for one batch of the sample corpus at size 256."""
    with tempfile.TemporaryDirectory() as folder:
        split, vocab_size, num_labels, eos_id = _sample(Path(folder))
    model = Rnng(TeacherConfig(dropout=0.0), vocab_size=vocab_size, num_labels=num_labels, eos_id=eos_id)
    rows = np.arange(num_sentences)
    tokens, actions = split.tokens.take(rows), split.actions.take(rows)
    schedule = build_schedule(tokens, actions, eos_id=eos_id)
    batch = TreeBatch(schedule=schedule, num_positions_global=len(schedule.gold))

    def levels() -> None:
        model(TreeBatch(schedule=build_schedule(tokens, actions, eos_id=eos_id), num_positions_global=1))[0].backward()

    def levels_inference() -> None:
        with torch.no_grad():
            model(batch)

    def reference() -> None:
        loss = torch.zeros(())
        for sentence, its_actions in zip(tokens, actions, strict=True):
            action_log_probs, token_log_probs = sentence_log_probs(model, sentence.tolist(), its_actions.tolist())
            loss = loss - action_log_probs.sum() - token_log_probs.sum()
        loss.backward()

    seconds: dict[str, list[float]] = {"levels": [], "levels_inference": [], "reference": []}
    levels()  # the first call pays for allocations
    for _ in range(rounds):
        for name, run in (("levels", levels), ("levels_inference", levels_inference), ("reference", reference)):
            seconds[name].append(_time(run))
    positions = len(schedule.gold)
    ratios = [slow / fast for slow, fast in zip(seconds["reference"], seconds["levels"], strict=True)]
    return {
        "sentences": num_sentences,
        "positions": positions,
        "sequential_rounds": schedule.num_rounds,
        "actions_of_the_longest_sentence": int(actions.lengths.max()),
        "train_positions_per_s": positions / statistics.median(seconds["levels"]),
        "infer_positions_per_s": positions / statistics.median(seconds["levels_inference"]),
        "reference_train_positions_per_s": positions / statistics.median(seconds["reference"]),
        "train_vs_reference": statistics.median(ratios),
    }


def _sample(folder: Path) -> tuple[Split, int, int, int]:
    write_sample_corpus(folder / "corpus", 1000, 1)
    stem = folder / "corpus" / "train"
    train_tokenizer([stem.with_suffix(".txt")], folder / "tokenizer.json", vocab_size=1000)
    build_dataset(BuildConfig(train=stem, dev=stem, tokenizer=folder / "tokenizer.json", out=folder / "dataset"))
    dataset = load_dataset(folder / "dataset")
    return dataset.split("train"), dataset.tokenizer.vocab_size, len(dataset.labels), dataset.tokenizer.eos_id


def _time(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
