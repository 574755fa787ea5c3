"""Compare losses and gradients of teacher and student on a GPU with those on a CPU, then measure speed on the GPU.

    python -m benchmarks.gpu [--quick] [--json FILE] [--device cuda]

This benchmark needs only torch and numpy, and no data. It draws random trees of about the length, depth and branching
of a treebank's trees.

worst_KIND_float32       A small model computes its losses and their gradient twice: in float32 on the device, and in
                         float64 on the CPU. The figure is the relative error of the losses or of the gradient,
                         whichever is larger. KIND is a teacher's strategy and composition, or ``student_t`` and a
                         temperature. ``worst_KIND_bfloat16``: the same error under autocast to bfloat16.
teacher_tokens_per_s     Positions per second of training in bfloat16: size 650, vocabulary 12,000, 512 sentences per
                         batch, forward, backward and AdamW. A second thread prepares the batches. All batches differ.
infer_positions_per_s    Positions per second of inference with the same model in float32: states, logits, log-softmax
                         and top-64, as a dump needs them.
sequential_rounds        Number of LSTM steps that must run one after the other, in one stack layer and in the
                         composition, for a batch of inference.
student_mfu              Model FLOPs per second of a step with distillation / the device's peak rate: 12 blocks of size
                         768, vocabulary 12,000, 64 soft targets per position, 32,768 positions in rows of 512,
                         bfloat16, forward, backward, clipping and AdamW. All inputs are already on the device.
                         ``student_mfu_sentence_rows``: the same in rows of 23 positions.
                         ``student_positions_per_s_rows_of_512``, ``student_positions_per_s_sentence_rows``: positions
                         per second of the same steps.
peak_gb                  The most memory that torch held on the device.

``--device cpu`` runs the same code with smaller models where there is no GPU. Rates on a CPU mean nothing.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import parser, report
from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from pipeline.dumping.next_token import append_eos
from pipeline.dumping.reduction import reduce_logits
from pipeline.runtime.background import ReadAhead
from pipeline.runtime.distributed import device_model
from storage.ragged import Ragged
from student.flops import peak_flops, training_flops
from student.loss import NUM_PARTS, DistillationRows
from student.model import Student
from student.rows import StudentInputs
from student.student_config import StudentConfig
from student.targets import SoftTargets
from teacher.levels import TreeBatch
from teacher.rnng import Rnng
from teacher.teacher_config import TeacherConfig

NUM_LABELS = 27
VOCAB_SIZE = 12_000
BOS_ID = 0
EOS_ID = 1
K = 64
KINDS = (
    ("top-down", "bilstm"),
    ("top-down", "attention"),
    ("binary", "treelstm"),
    ("binary", "bilstm"),
    ("binary", "attention"),
)
LOGIT_ROWS = 4096


def main() -> None:
    """Check, measure and print the figures."""
    options = parser(__doc__)
    options.add_argument("--device", default="cuda")
    given = options.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU: torch.cuda.is_available() is False; run it where there is a GPU, or try it with --device cpu")
    figures = teacher_correctness(device) | student_correctness(device)
    for name, value in figures.items():
        print(f"{name:<44}{value:>12.2e}")
    figures |= teacher_speed(device, quick=given.quick) | student_speed(device, quick=given.quick)
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device))
        figures["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    report(figures, given)


def teacher_correctness(device: torch.device) -> dict[str, float]:
    """Return ``worst_KIND_float32`` and ``worst_KIND_bfloat16`` of every kind of teacher."""
    tokens, actions = random_sentences(np.random.default_rng(1), 24, vocab_size=97)
    errors: dict[str, float] = {}
    for strategy, composition in KINDS:
        torch.manual_seed(0)
        config = TeacherConfig(embed_dim=40, hidden_dim=48, dropout=0.0, strategy=strategy, composition=composition)
        sizes = {"vocab_size": 97, "num_labels": NUM_LABELS, "eos_id": EOS_ID}
        model = Rnng(config, **sizes).double()
        batch = TreeBatch(schedule=model.prepare(tokens, actions), num_positions_global=1)
        exact = _loss_and_gradient(model, batch)
        errors |= _errors(f"{strategy}_{composition}", exact, model.float().to(device), batch)
    return errors


def _errors(
    name: str, exact: tuple[Tensor, Tensor], model: nn.Module, *inputs: object, **options: int
) -> dict[str, float]:
    """Return the figures ``worst_NAME_float32`` and ``worst_NAME_bfloat16``."""
    errors = {}
    device = next(model.parameters()).device
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            found = _loss_and_gradient(model, *inputs, **options)
        errors[f"worst_{name}_{str(dtype).removeprefix('torch.')}"] = max(
            float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(found, exact, strict=True)
        )
    return errors


def _loss_and_gradient(model: nn.Module, *inputs: object, **options: int) -> tuple[Tensor, Tensor]:
    """Return a model's losses, and the gradient of the first of them, as float64 on the CPU."""
    model.zero_grad()
    sums = model(*inputs, **options)
    with torch.autocast(sums.device.type, enabled=False):
        sums[0].backward()
    gradients = [each.grad.double().flatten().cpu() for each in model.parameters() if each.grad is not None]
    return sums.detach().double().cpu(), torch.cat(gradients)


def teacher_speed(device: torch.device, *, quick: bool) -> dict[str, float]:
    """Return the rates of the teacher."""
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
        "teacher_tokens_per_s": _rate(device, train, _teacher_batches(model, generator, num_sentences), rounds),
    }
    model.eval()
    model.cache_inputs()

    @torch.no_grad()
    def infer(batch: TreeBatch) -> int:
        states = model.states(batch.schedule)
        gold = torch.from_numpy(batch.schedule.gold).to(device)
        draws = torch.Generator(device)
        for rows, targets in zip(states.split(LOGIT_ROWS), gold.split(LOGIT_ROWS), strict=True):
            reduce_logits(model.logits(rows), targets, k=K, num_top=K, temperatures=(1.0,), generator=draws)
        return batch.num_positions_global

    figures["infer_positions_per_s"] = _rate(device, infer, _teacher_batches(model, generator, num_sentences), rounds)
    figures["sequential_rounds"] = next(_teacher_batches(model, generator, num_sentences)).schedule.num_rounds
    return figures


def _rate(device: torch.device, step: Callable[[TreeBatch], int], batches: Iterator[TreeBatch], rounds: int) -> float:
    """Return positions per second, the median over rounds of four batches each. The first round is not counted."""
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


def _teacher_batches(model: Rnng, generator: np.random.Generator, num_sentences: int) -> Iterator[TreeBatch]:
    while True:
        tokens, actions = random_sentences(generator, num_sentences, vocab_size=VOCAB_SIZE)
        num_positions = len(append_eos(tokens, EOS_ID).values)
        yield TreeBatch(schedule=model.prepare(tokens, actions), num_positions_global=num_positions)


def random_sentences(generator: np.random.Generator, num: int, *, vocab_size: int) -> tuple[Ragged, Ragged]:
    """Return tokens and top-down actions of ``num`` random trees of about 22 tokens each."""
    lengths = generator.integers(4, 41, num)
    tokens = Ragged.from_lengths(generator.integers(2, vocab_size, int(lengths.sum())), lengths)
    return tokens, Ragged.from_lists([_actions(generator, int(length)) for length in lengths], np.int64)


def _actions(generator: np.random.Generator, num_tokens: int) -> list[int]:
    """Return the actions of a random tree: each span is cut into 2 to 4 parts until one token is left."""
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


def student_correctness(device: torch.device) -> dict[str, float]:
    """Return ``worst_KIND_float32`` and ``worst_KIND_bfloat16`` of the student, at two temperatures."""
    config = StudentConfig(vocab_size=97, embed_dim=32, num_blocks=2, num_heads=4, dropout=0.0)
    lengths = np.random.default_rng(1).integers(0, 40, 30)
    tokens = Ragged.from_lengths(np.random.default_rng(2).integers(2, 97, int(lengths.sum())), lengths)
    errors: dict[str, float] = {}
    for temperature in (1.0, 2.0):
        model = Student(config, bos_id=BOS_ID, seed=1).double()
        here, there = (
            _student_batch(tokens, config.vocab_size, 8, temperature, where, torch.float64)[:2]
            for where in (torch.device("cpu"), device)
        )
        exact = _loss_and_gradient(model, *here, num_parts=NUM_PARTS)
        errors |= _errors(f"student_t{temperature:g}", exact, model.float().to(device), *there, num_parts=NUM_PARTS)
    return errors


def student_speed(device: torch.device, *, quick: bool) -> dict[str, float]:
    """Return positions/s and, if the device's peak is known, MFU, for rows of 23 and of 512 positions."""
    on_gpu = device.type == "cuda"
    sizes = {"embed_dim": 768, "num_blocks": 12, "num_heads": 12} if on_gpu else {"embed_dim": 64, "num_blocks": 2}
    config = StudentConfig(vocab_size=12_000, **sizes)
    student = Student(config, bos_id=BOS_ID, seed=1).to(device).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=on_gpu)
    peak = peak_flops(device_model(device), "bfloat16")
    figures = {}
    for name, length in (("sentence_rows", 23), ("rows_of_512", 512)):
        num_rows = (32_768 if on_gpu else 1024) // length
        tokens = Ragged.from_lengths(np.full(num_rows * (length - 1), 5), np.full(num_rows, length - 1))
        inputs, rows, num_positions = _student_batch(tokens, config.vocab_size, K, 1.0, device)
        seconds = []
        for number in range(3 + (5 if quick else 30)):
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16):
                sums = student(inputs, rows, num_parts=NUM_PARTS)
            (sums[0] / num_positions).backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if on_gpu:
                torch.cuda.synchronize(device)
            if number >= 3:
                seconds.append(time.perf_counter() - start)
        step_s = statistics.median(seconds)
        figures[f"student_positions_per_s_{name}"] = num_positions / step_s
        if peak is not None:
            flops = float(training_flops(config, np.full(num_rows, length)).sum())
            figures["student_mfu" if name == "rows_of_512" else f"student_mfu_{name}"] = flops / step_s / peak
    return figures


def _student_batch(
    tokens: Ragged,
    vocab_size: int,
    k: int,
    temperature: float,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> tuple[StudentInputs, DistillationRows, int]:
    """Return a student's inputs, its gold tokens with random soft targets, and the number of positions."""
    gold = torch.from_numpy(append_eos(tokens, EOS_ID).values)
    generator = torch.Generator().manual_seed(3)
    log_p = torch.randn(min(len(gold), 512), vocab_size, generator=generator, dtype=dtype).log_softmax(1)
    top = log_p.topk(k)
    rest = (log_p / temperature).scatter(1, top.indices, -torch.inf).logsumexp(1)
    logz = (log_p / temperature).logsumexp(1)
    repeated = torch.arange(len(gold)) % len(log_p)
    targets = SoftTargets(
        **{
            name: tensor[repeated].to(device)
            for name, tensor in {"ids": top.indices, "log_probs": top.values, "tail": rest - logz, "logz": logz}.items()
        }
    )
    inputs = StudentInputs.of(tokens, np.arange(len(tokens) + 1), bos_id=BOS_ID).to(device)
    return inputs, DistillationRows(gold.to(device), targets, alpha=0.5, temperature=temperature), len(gold)


if __name__ == "__main__":
    main()
