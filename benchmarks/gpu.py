"""Teacher and student on a GPU: first whether they compute what a CPU does, then how fast.

    python -m benchmarks.gpu [--quick] [--json FILE] [--device cuda]

Needs torch and numpy alone, and no data: trees are drawn at random, about as long, deep and bushy as a treebank's.

worst_KIND_float32       largest relative error of losses and gradients of a small model on the device, against the
                         CPU in float64; KIND is a strategy and composition. worst_KIND_bfloat16: under autocast
teacher_tokens_per_s     training, size 650, vocabulary 12,000, 512 sentences a batch, bfloat16: forward, backward and
                         AdamW, schedules made ahead in another thread, over batches that differ
infer_positions_per_s    states, logits, log-softmax and top-64 of the same model in float32: what a dump computes
student_mfu              a distilling step of 12 blocks of size 768, rows of 512 positions, over the device's peak;
                         student_mfu_sentence_rows: rows of 23 (``benchmarks.gpu_student``)
peak_gb                  most memory that torch held on the device

``--device cpu`` runs the same code where there is no GPU; its rates mean nothing.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks import gpu_student
from benchmarks.common import parser, report
from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from pipeline.dumping.next_token import append_eos
from pipeline.dumping.reduction import reduce_logits
from pipeline.runtime.background import ReadAhead
from storage.ragged import Ragged
from teacher.levels import TreeBatch
from teacher.rnng import Rnng
from teacher.teacher_config import TeacherConfig

NUM_LABELS = 27
VOCAB_SIZE = 12_000
EOS_ID = 1
KINDS = (
    ("top-down", "bilstm"),
    ("top-down", "attention"),
    ("binary", "treelstm"),
    ("binary", "bilstm"),
    ("binary", "attention"),
)
LOGIT_ROWS = 4096


def main() -> None:
    """Check, measure and print."""
    options = parser(__doc__)
    options.add_argument("--device", default="cuda")
    given = options.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "no GPU: torch.cuda.is_available() is False; run where there is one, or try the code with --device cpu"
        )
    figures = correctness(device) | gpu_student.correctness(device)
    for name, value in figures.items():
        print(f"{name:<44}{value:>12.2e}")
    figures |= speed(device, quick=given.quick) | gpu_student.speed(device, quick=given.quick)
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device))
        figures["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    report(figures, given)


def correctness(device: torch.device) -> dict[str, float]:
    """Return the worst relative errors of loss and gradient, of every kind of model and both types of products."""
    tokens, actions = random_sentences(np.random.default_rng(1), 24, vocab_size=97)
    errors = {}
    for strategy, composition in KINDS:
        torch.manual_seed(0)
        config = TeacherConfig(embed_dim=40, hidden_dim=48, dropout=0.0, strategy=strategy, composition=composition)
        sizes = {"vocab_size": 97, "num_labels": NUM_LABELS, "eos_id": EOS_ID}
        model = Rnng(config, **sizes).double()
        batch = TreeBatch(schedule=model.prepare(tokens, actions), num_positions_global=1)
        exact = _loss_and_gradient(model, batch)
        model = model.float().to(device)
        for dtype in (torch.float32, torch.bfloat16):
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                found = _loss_and_gradient(model, batch)
            name = f"worst_{strategy}_{composition}_{str(dtype).removeprefix('torch.')}"
            errors[name] = max(
                float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(found, exact, strict=True)
            )
    return errors


def _loss_and_gradient(model: Rnng, batch: TreeBatch) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    sums = model(batch)
    with torch.autocast(sums.device.type, enabled=False):
        sums[0].backward()
    gradients = [
        parameter.grad.double().flatten().cpu() for parameter in model.parameters() if parameter.grad is not None
    ]
    return sums.detach().double().cpu(), torch.cat(gradients)


def speed(device: torch.device, *, quick: bool) -> dict[str, float]:
    """Return the rates."""
    on_gpu = device.type == "cuda"
    dim, num_sentences, rounds = (650, 512, 5 if quick else 30) if on_gpu else (64, 16, 2)
    torch.manual_seed(0)
    config = TeacherConfig(embed_dim=dim, hidden_dim=dim)
    model = Rnng(config, vocab_size=VOCAB_SIZE, num_labels=NUM_LABELS, eos_id=EOS_ID).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def train(batch: TreeBatch) -> int:
        with torch.autocast(device.type, torch.bfloat16):
            sums = model(batch)
        (sums[0] / batch.num_positions_global).backward()
        optimizer.step()
        optimizer.zero_grad()
        return batch.num_positions_global

    generator = np.random.default_rng(2)
    figures = {
        "teacher_tokens_per_s": _rate(device, train, _batches(model, generator, num_sentences), rounds),
    }
    model.eval()
    model.cache_inputs()

    @torch.no_grad()
    def infer(batch: TreeBatch) -> int:
        states = model.states(batch.schedule)
        gold = torch.from_numpy(batch.schedule.gold).to(device)
        draws = torch.Generator(device)
        for rows, targets in zip(states.split(LOGIT_ROWS), gold.split(LOGIT_ROWS), strict=True):
            reduce_logits(model.logits(rows), targets, k=64, num_top=64, temperatures=(1.0,), generator=draws)
        return batch.num_positions_global

    figures["infer_positions_per_s"] = _rate(device, infer, _batches(model, generator, num_sentences), rounds)
    figures["sequential_rounds"] = next(_batches(model, generator, num_sentences)).schedule.num_rounds
    return figures


def _rate(device: torch.device, step: Callable[[TreeBatch], int], batches: Iterator[TreeBatch], rounds: int) -> float:
    """Return positions a second, the median of rounds of four batches, after one round that is not counted."""
    rates = []
    with ReadAhead(itertools.islice(batches, 4 * (rounds + 1)), depth=4) as stream:
        ahead = iter(stream)
        for number in range(rounds + 1):
            start = time.perf_counter()
            positions = sum(step(batch) for batch in itertools.islice(ahead, 4))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                rates.append(positions / (time.perf_counter() - start))
    return statistics.median(rates)


def _batches(model: Rnng, generator: np.random.Generator, num_sentences: int) -> Iterator[TreeBatch]:
    while True:
        tokens, actions = random_sentences(generator, num_sentences, vocab_size=VOCAB_SIZE)
        num_positions = len(append_eos(tokens, EOS_ID).values)
        yield TreeBatch(schedule=model.prepare(tokens, actions), num_positions_global=num_positions)


def random_sentences(generator: np.random.Generator, num: int, *, vocab_size: int) -> tuple[Ragged, Ragged]:
    """Return tokens and top-down actions of random trees over about 22 tokens each."""
    lengths = generator.integers(4, 41, num)
    tokens = Ragged.from_lengths(generator.integers(2, vocab_size, int(lengths.sum())), lengths)
    return tokens, Ragged.from_lists([_actions(generator, int(length)) for length in lengths], np.int64)


def _actions(generator: np.random.Generator, num_tokens: int) -> list[int]:
    """Return the actions of a random tree: a span is cut into 2 to 4 parts until one token is left."""
    actions = [FIRST_NT]

    def phrase(size: int) -> None:
        actions.append(FIRST_NT + int(generator.integers(1, NUM_LABELS)))
        if size > 1:
            cuts = np.sort(generator.choice(size - 1, min(size, int(generator.integers(2, 5))) - 1, replace=False)) + 1
            for part in np.diff(np.concatenate([[0], cuts, [size]])).tolist():
                if part == 1 and generator.random() < 0.7:
                    actions.append(SHIFT)
                else:
                    phrase(part)
        else:
            actions.append(SHIFT)
        actions.append(REDUCE)

    phrase(num_tokens)
    return [*actions, SHIFT, REDUCE]


if __name__ == "__main__":
    main()
