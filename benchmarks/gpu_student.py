"""The student's part of `benchmarks.gpu`: its distilling step on a device, against a CPU in float64, and its rate.

A model of 12 blocks of size 768 and a vocabulary of 12,000, 64 soft targets a position, batches of 32,768 positions in
bfloat16: forward, backward, clipping and AdamW, everything on the device already.
"""

import statistics
import time

import numpy as np
import torch
from torch import Tensor

from pipeline.dumping.next_token import append_eos
from pipeline.runtime.distributed import device_model
from pipeline.runtime.peak_rates import peak_flops
from storage.ragged import Ragged
from student.loss import NUM_PARTS, DistillationRows
from student.model import Student, training_flops
from student.rows import StudentInputs
from student.student_config import StudentConfig
from student.targets import SoftTargets

BOS_ID, EOS_ID, K = 0, 1, 64


def correctness(device: torch.device) -> dict[str, float]:
    """Return the worst relative errors of losses and gradient, of both temperatures and both types of products."""
    config = StudentConfig(vocab_size=97, embed_dim=32, num_blocks=2, num_heads=4, dropout=0.0)
    lengths = np.random.default_rng(1).integers(0, 40, 30)
    tokens = Ragged.from_lengths(np.random.default_rng(2).integers(2, 97, int(lengths.sum())), lengths)
    errors: dict[str, float] = {}
    for temperature in (1.0, 2.0):
        exact = _loss_and_gradient(Student(config, bos_id=BOS_ID, seed=1).double(), tokens, temperature)
        student = Student(config, bos_id=BOS_ID, seed=1).to(device)
        for dtype in (torch.float32, torch.bfloat16):
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                found = _loss_and_gradient(student, tokens, temperature)
            errors[f"worst_student_t{temperature:g}_{str(dtype).removeprefix('torch.')}"] = max(
                float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(found, exact, strict=True)
            )
    return errors


def speed(device: torch.device, *, quick: bool) -> dict[str, float]:
    """Return positions/s and, where the device's peak is known, MFU: a sentence a row, and rows of 512 positions."""
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
        inputs, rows, num_positions = _batch(tokens, config.vocab_size, K, 1.0, device)
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


def _batch(
    tokens: Ragged,
    vocab_size: int,
    k: int,
    temperature: float,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> tuple[StudentInputs, DistillationRows, int]:
    """Return inputs, the loss over random soft targets, and the number of positions."""
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


def _loss_and_gradient(student: Student, tokens: Ragged, temperature: float) -> tuple[Tensor, Tensor]:
    weight = student.head_weight
    inputs, rows, _ = _batch(tokens, student.vocab_size, 8, temperature, weight.device, torch.float64)
    student.zero_grad()
    sums = student(inputs, rows, num_parts=NUM_PARTS)
    with torch.autocast(weight.device.type, enabled=False):
        sums[0].backward()
    gradients = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    return sums.detach().double().cpu(), torch.cat([each.double().flatten().cpu() for each in gradients])
