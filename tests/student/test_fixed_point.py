"""If the student's logits are the teacher's, the loss and its gradient are 0. Known wrong losses do not have this."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from storage.dump.positions import Positions
from storage.dump.reader import DumpReader
from storage.dump.schema import FINGERPRINTS, DumpSchema
from storage.dump.writer import DumpWriter
from student.loss import DistillationRows, Divergence, Tail
from student.targets import SoftTargets
from tests.student.reference import distillation_terms, soft_targets, tempered

VOCAB_SIZE = 300
NUM_ROWS = 120
TEMPERATURES = (1.0, 2.0)
KEPT = (1, 8, 64, VOCAB_SIZE)


def teacher_logits() -> Tensor:
    """Return rows from nearly uniform to nearly certain, like those of a teacher."""
    generator = torch.Generator().manual_seed(5)
    scales = torch.logspace(-1, 1, NUM_ROWS, dtype=torch.float64)
    return scales[:, None] * torch.randn(NUM_ROWS, VOCAB_SIZE, generator=generator, dtype=torch.float64)


def loss_and_gradient(
    logits: Tensor,
    targets: SoftTargets,
    temperature: float,
    tail: Tail = "bucket",
    divergence: Divergence = "kl",
) -> tuple[Tensor, Tensor]:
    """Return the loss of each row at alpha = 0, and its gradient."""
    gold = torch.zeros(len(logits), dtype=torch.int64)
    rows = DistillationRows(gold, targets, alpha=0.0, temperature=temperature, tail=tail, divergence=divergence)
    terms, gradient = rows.terms(logits.clone(), slice(0, len(logits)), with_gradient=True)
    assert gradient is not None
    return terms[0], gradient


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> dict[int, DumpReader]:
    folder = tmp_path_factory.mktemp("dumps")
    return {k: write_dump(folder / f"k{k}", k) for k in KEPT}


def write_dump(path: Path, k: int) -> DumpReader:
    exact = [soft_targets(teacher_logits(), k, temperature) for temperature in TEMPERATURES]
    ids = exact[0].ids.numpy().astype(np.uint16)
    log_probs = exact[0].log_probs.numpy()
    positions = Positions(
        tokens=ids[:, 0].copy(),
        ids=ids,
        logp=log_probs.astype(np.float16),
        gold_logp=log_probs[:, 0].astype(np.float32),
        tail=np.stack([each.tail.numpy() for each in exact], 1).astype(np.float32),
        logz=np.stack([each.logz.numpy() for each in exact], 1).astype(np.float32),
    )
    schema = DumpSchema(
        num_positions=NUM_ROWS,
        num_sentences=NUM_ROWS // 10,
        vocab_size=VOCAB_SIZE,
        k=k,
        temperatures=TEMPERATURES,
        shard_positions=64,
        chunk_positions=16,
        tree_source="none",
        split="train",
        fingerprints=dict.fromkeys(FINGERPRINTS, "0" * 64),
        computation={},
    )
    with DumpWriter.open(path, schema, np.arange(0, NUM_ROWS + 1, 10), main=True) as writer:
        for shard in writer.pending():
            rows = schema.layout.rows_of(shard)
            writer.write_shard(shard, positions.slice(rows.start, rows.stop))
        writer.finish()
    return DumpReader(path)


@pytest.mark.parametrize("k", KEPT)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("divergence", get_args(Divergence))
def test_loss_and_gradient_are_zero_before_storage(k: int, temperature: float, divergence: Divergence) -> None:
    teacher = teacher_logits()
    targets = soft_targets(teacher, k, temperature)
    loss, gradient = loss_and_gradient(teacher, targets, temperature, divergence=divergence)
    assert loss.abs().max() <= 1e-9
    assert gradient.abs().max() <= 1e-9


@pytest.mark.parametrize("k", KEPT)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_through_the_store_only_the_rounding_of_float16_remains(
    dumps: dict[int, DumpReader], k: int, temperature: float
) -> None:
    teacher = teacher_logits()
    dump = dumps[k]
    order = np.random.default_rng(0).permutation(len(dump))
    rows = torch.from_numpy((order[:, None] * 10 + np.arange(10)).ravel())
    targets = SoftTargets.from_positions(
        dump.read_sentences(order), dump.temperature_index(temperature), torch.device("cpu")
    )
    loss, gradient = loss_and_gradient(teacher[rows], targets, temperature)

    exact = soft_targets(teacher[rows], k, temperature)
    p = (exact.log_probs / temperature - exact.logz[:, None]).exp()
    # float16 rounds log p by 2^-11 of itself, or below 2^-14 by 2^-25; float32 the tail and the normaliser by 2^-24.
    half = temperature * (p * (2**-11 * exact.log_probs.abs() + 2**-25)).sum(1)
    tail = torch.where(exact.tail.isfinite(), exact.tail.exp() * exact.tail.abs(), 0.0)
    single = temperature**2 * 2**-24 * (tail + exact.logz.abs())
    assert (loss.abs() <= half + single + 1e-12).all()
    assert loss.abs().max() > 1e-7, "nothing was rounded: this is not the store's float16"
    assert gradient.abs().max() <= 2e-4


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("k", [1, 8])
def test_a_teacher_tail_of_1e_8_keeps_float32_finite_and_at_the_fixed_point(k: int, temperature: float) -> None:
    teacher = teacher_logits()[: NUM_ROWS // 2].clone()
    ids = teacher.topk(k).indices
    rest = (teacher / temperature).scatter(1, ids, -torch.inf).logsumexp(1)
    selected = (teacher / temperature).gather(1, ids).logsumexp(1)
    raised = temperature * (rest - selected - np.log(1e-8))
    teacher = teacher.scatter_add(1, ids, raised[:, None].expand(-1, k)).float().double()
    targets = soft_targets(teacher, k, temperature)
    torch.testing.assert_close(targets.tail.exp(), torch.full_like(rest, 1e-8), rtol=1e-3, atol=0)
    loss, gradient = loss_and_gradient(teacher.float(), targets, temperature)
    # Logits of about 20 to 40 have 2e-6 of float32 rounding.
    assert loss.abs().max() <= 1e-5
    assert gradient.abs().max() <= 1e-5


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_renormalising_the_top_k_is_not_zero_at_the_fixed_point(temperature: float) -> None:
    teacher = teacher_logits()
    targets = soft_targets(teacher, 8, temperature)
    loss, _ = loss_and_gradient(teacher, targets, temperature, "renormalise")
    kept_mass = torch.log1p(-targets.tail.exp())
    torch.testing.assert_close(loss, -(temperature**2) * kept_mass, rtol=1e-9, atol=1e-12)
    assert loss.mean() > 0.1


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_dropping_the_tail_pulls_the_student_away_from_the_fixed_point(temperature: float) -> None:
    teacher = teacher_logits()
    targets = soft_targets(teacher, 8, temperature)
    loss, gradient = loss_and_gradient(teacher, targets, temperature, "drop")
    assert loss.abs().max() <= 1e-9
    # Nothing keeps the tail up. Each token outside the top k is pushed down by its share, and the top k are pushed up.
    q = tempered(teacher, temperature).exp()
    outside = torch.ones_like(q).scatter(1, targets.ids, 0.0)
    expected = temperature * q * (outside - targets.tail.exp()[:, None])
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_a_tail_tempered_as_one_token_is_not_zero_at_the_fixed_point() -> None:
    teacher = teacher_logits()
    at_1, at_2 = (soft_targets(teacher, 8, temperature) for temperature in TEMPERATURES)
    as_one = torch.cat([at_1.log_probs, at_1.tail[:, None]], 1) / 2
    wrong = SoftTargets(
        ids=at_1.ids,
        log_probs=at_1.log_probs,
        tail=at_1.tail / 2 - as_one.logsumexp(1),
        logz=as_one.logsumexp(1),
    )
    gold = torch.zeros(NUM_ROWS, dtype=torch.int64)
    assert distillation_terms(teacher, gold, at_2, temperature=2.0)[1].abs().max() <= 1e-9
    assert distillation_terms(teacher, gold, wrong, temperature=2.0)[1].mean() > 0.1
