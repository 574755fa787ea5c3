"""Measure speed and peak memory of ``train-tokenizer`` and ``build-dataset`` on a large corpus.

    python -m benchmarks.corpus_scale [--words 20_000_000] [--workers 2] [--quick] [--json FILE]

The generated corpus is the same every time. The frequency rank of each word is drawn log-uniformly up to a million
(Zipf's law with exponent 1). A third of the distinct words occurs only once, fewer than in real text. Each tree is an S
whose children are flat phrases of three words. The memory of a command is the largest sum of its processes' resident
sets, measured 20 times per second. This sum counts shared libraries once per process.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, parser, report
from pipeline.runtime.workers import usable_cores

NUM_RANKS = 1_000_000
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwxyz" for vowel in "aeiou"]
LABELS = ("NP", "VP", "PP")
BLOCK_WORDS = 1_000_000
QUICK_WORDS = 600_000


def main() -> None:
    """Generate the corpus, run both commands and report the figures."""
    options = parser(__doc__ or "")
    options.add_argument("--words", type=int, default=2_000_000, help="Number of words of train, such as 20_000_000.")
    options.add_argument(
        "--workers", type=int, default=usable_cores(), help="Number of worker processes of build-dataset."
    )
    options.add_argument("--vocab-size", type=int, default=12_000)
    given = options.parse_args()
    num_words = QUICK_WORDS if given.quick else given.words
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        num_sentences = write_corpus(folder / "train", num_words, seed=1)
        num_dev = write_corpus(folder / "dev", max(num_words // 100, 1_000), seed=2)
        figures: dict[str, float] = {"num_words": num_words, "num_sentences": num_sentences + num_dev}
        figures["generate_s"] = time.perf_counter() - start
        tokenizer = folder / "tokenizer.json"
        size = ["--vocab-size", str(given.vocab_size)]
        seconds, peak = measure(["train-tokenizer", str(folder / "train.txt"), "--out", str(tokenizer), *size])
        figures |= {"tokenizer_s": seconds, "tokenizer_words_per_s": num_words / seconds, "tokenizer_peak_mb": peak}
        stems = ["--train", str(folder / "train"), "--dev", str(folder / "dev"), "--workers", str(given.workers)]
        out = folder / "dataset"
        seconds, peak = measure(["build-dataset", *stems, "--tokenizer", str(tokenizer), "--out", str(out)])
        size_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        figures |= {
            "build_workers": given.workers,
            "build_s": seconds,
            "build_sentences_per_s": (num_sentences + num_dev) / seconds,
            "build_words_per_s": num_words / seconds,
            "build_peak_mb": peak,
            "dataset_bytes_per_word": size_bytes / num_words,
        }
    report(figures, given)


def write_corpus(stem: Path, num_words: int, *, seed: int) -> int:
    """Write STEM.mrg and STEM.txt. Return the number of sentences."""
    generator = np.random.default_rng(seed)
    num_sentences = 0
    with stem.with_suffix(".mrg").open("w") as trees, stem.with_suffix(".txt").open("w") as texts:
        for words in sentences(num_words, generator):
            texts.write(" ".join(words) + ".\n")
            trees.write(flat_tree(words) + "\n")
            num_sentences += 1
    return num_sentences


def sentences(num_words: int, generator: np.random.Generator) -> Iterator[list[str]]:
    """Yield sentences of 5 to 35 words, with ``num_words`` words or a few fewer in total."""
    for first in range(0, num_words, BLOCK_WORDS):
        number = min(BLOCK_WORDS, num_words - first)
        ranks = np.exp(generator.random(number) * np.log(NUM_RANKS)).astype(np.int64).tolist()
        at = 0
        for length in generator.integers(5, 36, number // 5 + 1).tolist():
            if at + 5 > number:
                break
            yield [word(rank) for rank in ranks[at : at + length]]
            at += length


def word(rank: int) -> str:
    """Return the word with this frequency rank. Frequent words are short."""
    syllables = SYLLABLES[rank % 100]
    while rank := rank // 100:
        syllables += SYLLABLES[rank % 100]
    return syllables


def flat_tree(words: Sequence[str]) -> str:
    """Return a tree with phrases of three words under one S, and a full stop."""
    phrases = [
        f"({LABELS[i // 3 % 3]} {' '.join(f'(XX {each})' for each in words[i : i + 3])})"
        for i in range(0, len(words), 3)
    ]
    return f"(TOP (S {' '.join(phrases)} (. .)))"


def measure(arguments: Sequence[str]) -> tuple[float, float]:
    """Run a command. Return its duration in seconds and its peak memory in MB.

    Raises:
        RuntimeError: If the command fails.
    """
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "cli.py", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(resident_bytes, family(process.pid))))
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"{arguments[0]} ended with status {process.returncode}, expected 0")
    return time.perf_counter() - start, peak / 1e6


def family(pid: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [pid, *(each for child in children for each in family(child))]


def resident_bytes(pid: int) -> int:
    """Return the resident set of a process, or 0 if it has just ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


if __name__ == "__main__":
    main()
