"""Measure how fast sentences are drawn from a teacher, on one thread, and how many of them are grammatical.

    python -m benchmarks.sampling --teacher RUN [--num-sentences 2000] [--temperature 1] [--quick] [--json FILE]

RUN is a teacher that was trained on the corpus that the command ``sample-corpus`` wrote. A sentence counts as
grammatical if the grammar of this corpus generates it.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, parser, report, run_python
from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.inside import Inside


def main() -> None:
    """Sample, and print the figures."""
    options = parser(__doc__ or "")
    options.add_argument("--teacher", type=Path, required=True, help="a teacher trained on the built-in corpus")
    options.add_argument("--num-sentences", type=int, default=2000)
    options.add_argument("--temperature", type=float, default=1.0)
    chosen = options.parse_args()
    number = 200 if chosen.quick else chosen.num_sentences
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "sampled"
        command = [ROOT / "cli.py", "sample", chosen.teacher, "--num-sentences", number, "--out", out, "--json"]
        drawn = json.loads(run_python([*command, "--temperature", chosen.temperature, "--threads", 1]))
        texts = out.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    report(
        {
            "num_drawn": drawn["num_drawn"],
            "num_kept": drawn["num_kept"],
            "mean_tokens": drawn["mean_tokens"],
            "sentences_per_s": drawn["sentences_per_s"],
            "share_with_other_tokens": sum(drawn["repaired"].values()) / drawn["num_kept"],
            "share_grammatical": float(are_grammatical(texts).mean()),
        },
        chosen,
    )


def are_grammatical(texts: Sequence[str]) -> np.ndarray:
    """Return bool ``[n]``: whether the grammar of the built-in corpus generates each text."""
    grammar = english_grammar()
    sentences = [grammar.words_of_text(text) for text in texts]
    return Inside(grammar).log_probs(sentences) > -np.inf


if __name__ == "__main__":
    main()
