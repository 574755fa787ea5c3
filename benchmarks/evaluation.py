"""Compare the speed of scoring minimal pairs with the speed of a plain batched loop over transformers' GPT-2.

    python -m benchmarks.evaluation [--quick] [--json FILE] [--pairs FOLDER --tokenizer FILE]

This project and the loop both use the default student with the same random weights, and one thread. Both encode the
text and add up the log-probabilities of all tokens and <eos>. Without --pairs and --tokenizer, the pairs and the
tokenizer come from the sample corpus. The plain loop takes 64 sentences at a time, in the given order, padded to
the longest of these sentences.

pairs_vs_transformers    pairs per second of this project / pairs per second of the plain loop, median over rounds
pairs_per_s              pairs per second of this project
largest_difference_nats  largest absolute difference between this project's and the loop's log-probability of the same
                         sentence, over the first 64 sentences
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.common import interleaved, parser, ratio, report, use_one_thread
from pipeline.corpus.dataset.tokenizer import Tokenizer, train_tokenizer
from pipeline.corpus.sample.sample_corpus import write_sample_corpus
from pipeline.evaluation.minimal_pairs import MinimalPair, evaluate_minimal_pairs, read_minimal_pairs
from pipeline.evaluation.scorer import NextTokenScorer
from student.model import Student
from student.student_commands import batch_tokens
from student.student_config import StudentConfig

BATCH_SENTENCES = 64


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--pairs", type=Path, help="a folder of minimal pairs")
    options.add_argument("--tokenizer", type=Path, help="a tokenizer.json")
    given = options.parse_args()
    if (given.pairs is None) != (given.tokenizer is None):
        options.error("give both --pairs and --tokenizer, or neither")
    use_one_thread()
    with inputs(given.pairs, given.tokenizer) as (pairs, tokenizer):
        step = max(1, len(pairs) // (300 if given.quick else 3_000))
        report(measure(pairs[::step], tokenizer, rounds=3 if given.quick else 5), given)


@contextlib.contextmanager
def inputs(pairs: Path | None, tokenizer: Path | None) -> Iterator[tuple[list[MinimalPair], Tokenizer]]:
    """Yield the given pairs and tokenizer, or those of the sample corpus."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if pairs is None or tokenizer is None:
            write_sample_corpus(folder, 2_000, 1)
            pairs, tokenizer = folder / "minimal_pairs", folder / "tokenizer.json"
            train_tokenizer([folder / "train.txt"], tokenizer)
        yield read_minimal_pairs(pairs), Tokenizer.load(tokenizer)


def measure(pairs: list[MinimalPair], tokenizer: Tokenizer, *, rounds: int) -> dict[str, float]:
    """Return all figures."""
    config = StudentConfig(vocab_size=tokenizer.vocab_size)
    student = Student(config, bos_id=tokenizer.bos_id, seed=1).eval()
    theirs = GPT2LMHeadModel(GPT2Config(**config.to_hf())).eval()
    theirs.load_state_dict(student.state_dict(), strict=False)
    scorer = NextTokenScorer(student, eos_id=tokenizer.eos_id, batch_tokens=batch_tokens(torch.device("cpu")))
    texts = [text for pair in pairs for text in (pair.good, pair.bad)]
    some = texts[:BATCH_SENTENCES]
    ours = [row.sum() for row in scorer.log_probs([np.array(ids) for ids in tokenizer.encode_batch(some)])]
    runs = {
        "ours": lambda: evaluate_minimal_pairs(scorer, tokenizer, pairs, eos=True),
        "theirs": lambda: plain_loop(theirs, tokenizer, texts),
    }
    seconds = interleaved(runs, rounds)
    return {
        "pairs_vs_transformers": ratio(seconds, "ours", "theirs"),
        "pairs_per_s": len(pairs) / float(np.median(seconds["ours"])),
        "largest_difference_nats": float(np.abs(np.array(ours) - plain_loop(theirs, tokenizer, some).numpy()).max()),
        "num_pairs": len(pairs),
    }


@torch.no_grad()
def plain_loop(model: GPT2LMHeadModel, tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """Return the log-probability of each text, including ``<eos>``."""
    found = []
    for first in range(0, len(texts), BATCH_SENTENCES):
        batch = [
            torch.tensor([tokenizer.bos_id, *ids, tokenizer.eos_id])
            for ids in tokenizer.encode_batch(texts[first : first + BATCH_SENTENCES])
        ]
        padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=tokenizer.pad_id)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in batch], batch_first=True)
        log_probs = model(input_ids=padded, attention_mask=mask).logits[:, :-1].log_softmax(-1)
        gold = log_probs.gather(-1, padded[:, 1:, None])[..., 0]
        found.append((gold * mask[:, 1:]).sum(1))
    return torch.cat(found)


if __name__ == "__main__":
    main()
