"""Compare two ways to put sentences into rows for a student: one sentence per row, or as many as fit into a row.

    python -m benchmarks.rows [--quick] [--json FILE] [--data DATASET] [--device cpu]

In both ways, the transformer blocks of a student run forward and backward over the same sentences, without logits and
loss. By default, ``train-student`` uses one sentence per row, with sentences of similar length in a batch. Packed rows
have 512 positions. An attention mask separates their sentences, and positions count from 0 in each sentence.

bucketed_vs_packed    Seconds for packed rows / seconds for one sentence per row, in batches of 4,096 positions. Above
                      1, one sentence per row is faster.
padding_share         The share of positions that are padding, with one sentence per row.
packed_padding_share  The share of positions that are padding, in packed rows.
"""

import argparse
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import interleaved, parser, ratio, report, use_one_thread
from benchmarks.dump import temporary_dataset
from pipeline.corpus.dataset.dataset_store import Split
from pipeline.runtime.distributed import World
from pipeline.training.batching import BatchPlan
from student.model import Student
from student.rows import Rows, StudentInputs
from student.student_config import StudentConfig, StudentTrainConfig

VOCAB_SIZE = 12_000
LENGTH = 512
NUM_BATCHES = 4
BOS_ID = 0


def main() -> None:
    """Measure and print the figures."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, help="a dataset")
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    use_one_thread()
    with temporary_dataset(given.data, num_sentences=2000) as dataset:
        figures = measure(dataset.split("train"), given)
    report(figures, given)


def measure(split: Split, given: argparse.Namespace) -> dict[str, float]:
    """Return all figures."""
    device = torch.device(given.device)
    config = StudentConfig(vocab_size=VOCAB_SIZE, dropout=0.0)
    student = Student(config, bos_id=BOS_ID, seed=1).to(device)
    rows = Rows(split, context="sentence", max_length=LENGTH)
    slices = BatchPlan(rows.lengths, StudentTrainConfig(), World()).slices(0)
    batches = [next(slices)[0] for _ in range(NUM_BATCHES)]
    tokens = [split.tokens.take(batch) for batch in batches]
    bucketed = [StudentInputs.of(each, np.arange(len(each) + 1), bos_id=BOS_ID).to(device) for each in tokens]
    packed = [pack(each.input_ids.cpu(), each.valid.cpu(), device) for each in bucketed]
    for one, other in zip(bucketed, packed, strict=True):
        with torch.no_grad():  # both ways must compute the same states
            expected = student.states(one).sort(0).values
            torch.testing.assert_close(packed_states(student, *other).sort(0).values, expected, rtol=1e-3, atol=1e-4)
    runs = {
        "bucketed": _pass(student, cycle(bucketed), student.states),
        "packed": _pass(student, cycle(packed), lambda inputs: packed_states(student, *inputs)),
    }
    seconds = interleaved(runs, NUM_BATCHES * (2 if given.quick else 8))
    positions = sum(len(each.valid) for each in bucketed)
    return {
        "bucketed_vs_packed": ratio(seconds, "bucketed", "packed"),
        "padding_share": 1 - positions / sum(each.input_ids.numel() for each in bucketed),
        "packed_padding_share": 1 - positions / sum(each[0].numel() for each in packed),
        "mean_positions_a_sentence": positions / sum(len(batch) for batch in batches),
    }


def pack(input_ids: Tensor, valid: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pack the sentences of a batch into B rows of 512 positions, for ``packed_states``.

    Returns:
        Four tensors:

        - int64 ``[B, 512]``: the token ids.
        - int64 ``[B, 512]``: the position of each token in its sentence.
        - bool ``[B, 1, 512, 512]``: the attention mask.
        - int64 ``[P]``: the P positions that are not padding, as indices into the B * 512 positions of all rows.
    """
    is_valid = torch.zeros(input_ids.numel(), dtype=torch.bool)
    is_valid[valid] = True
    sentences = [row[mask] for row, mask in zip(input_ids, is_valid.view_as(input_ids), strict=True)]
    rows: list[list[Tensor]] = []
    for sentence in sentences:  # longest first; each goes into the first row that has room for it
        fits = next((row for row in rows if sum(map(len, row)) + len(sentence) <= LENGTH), None)
        if fits is None:
            rows.append([sentence])
        else:
            fits.append(sentence)
    ids = torch.full((len(rows), LENGTH), BOS_ID)
    positions, owner = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, inside in enumerate(rows):
        at = 0
        for number, sentence in enumerate(inside, 1):
            here = slice(at, at + len(sentence))
            ids[row, here], positions[row, here], owner[row, here] = sentence, torch.arange(len(sentence)), number
            at += len(sentence)
    same = (owner[:, :, None] == owner[:, None, :]) & torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    parts = (ids, positions, same[:, None], owner.flatten().nonzero()[:, 0])
    first, second, mask, kept = (part.to(device) for part in parts)
    return first, second, mask, kept


def packed_states(student: Student, ids: Tensor, positions: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
    """Return the states ``[P, D]`` of all positions but padding. ``Student.states`` does this for unpacked rows."""
    body = student.transformer
    stream = body.wte(ids) + body.wpe(positions)
    for block in body.h:
        inputs = block.ln_1(stream)
        heads = block.attn.c_attn(inputs).unflatten(2, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*heads.unbind(0), attn_mask=mask)
        stream = stream + block.attn.c_proj(mixed.transpose(1, 2).flatten(2))
        stream = stream + block.mlp(block.ln_2(stream))
    return body.ln_f(stream).flatten(0, 1).index_select(0, valid)


def _pass(student: Student, batches: "cycle", states: Callable[..., Tensor]) -> Callable[[], None]:  # type: ignore[type-arg]
    def run() -> None:
        student.zero_grad()
        total = states(next(batches)).square().sum()
        total.backward()
        total.detach().item()  # waits for the device

    return run


if __name__ == "__main__":
    main()
