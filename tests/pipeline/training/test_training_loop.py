"""The training loop: which parameters decay, the seeds of dropout, interruption, accumulation, patience and divergence.

Most tests use a model of two weights, so that a test can choose its batches. tests/commands/test_training_faults.py
repeats the interruptions with the real models.
"""

import dataclasses
import itertools
import json
import logging
import math
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.runtime.checkpoint import state_path
from pipeline.runtime.distributed import World
from pipeline.runtime.run_directory import checkpoint_path, load_weights, open_run
from pipeline.runtime.run_end import StoppedBySignal
from pipeline.runtime.run_history import HISTORY, read_history
from pipeline.runtime.train_config import TrainConfig
from pipeline.training.finite_check import DivergenceWatch
from pipeline.training.metrics import Tally, perplexity
from pipeline.training.step_plan import StepPlan
from pipeline.training.training_loop import _step_seed, adamw, train
from storage.errors import ConfigError, RunError
from student.model import Student
from student.student_config import StudentConfig
from teacher.rnng import Rnng
from teacher.teacher_config import TeacherConfig
from tests.processes import describe


def decayed_names(model: torch.nn.Module) -> set[str]:
    groups = adamw(model, TrainConfig()).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    return {name for name, parameter in model.named_parameters() if id(parameter) in decayed}


def test_only_matrices_of_the_teacher_decay():
    model = Rnng(TeacherConfig(embed_dim=6, hidden_dim=8, num_layers=1), vocab_size=9, num_labels=3, eos_id=1)
    assert decayed_names(model) == {
        "composition.input_weight",
        "composition.recurrent_weight",
        "composition.output.weight",
        "stack.0.input.weight",
        "stack.0.recurrent.weight",
        "action_head.weight",
        "projection.weight",
    }


def test_only_matrices_of_the_student_decay():
    config = StudentConfig(vocab_size=9, embed_dim=8, num_blocks=1, num_heads=2)
    block = "transformer.h.0."
    assert decayed_names(Student(config, bos_id=0, seed=0)) == {
        block + "attn.c_attn.weight",
        block + "attn.c_proj.weight",
        block + "mlp.c_fc.weight",
        block + "mlp.c_proj.weight",
    }


@pytest.mark.parametrize("seed", [0, 1, 1_234_567_890, 2**62])
def test_each_step_and_rank_has_a_seed_that_torch_takes(seed):
    seeds = {_step_seed(seed, step, rank) for step, rank in itertools.product(range(50), range(8))}
    assert len(seeds) == 400
    for one in seeds:
        torch.manual_seed(one)


@dataclasses.dataclass
class Points:
    values: Tensor
    num_positions_global: int


class Line(nn.Module):
    """The sum of (w x + b - 1)^2, with dropout on x, which depends on the seed of the step."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.0))
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Points) -> Tensor:
        loss = ((self.w * self.dropout(batch.values) + self.b - 1) ** 2).sum()
        return torch.stack([loss, loss.detach()])


class LineTask:
    """Batches of given sizes in each epoch. The batch ``poison``, (epoch, index), contains a NaN."""

    parts = ("loss", "again")
    dev_parts = ("loss",)
    peak_flops = None

    def __init__(
        self, sizes: Sequence[int], *, poison: tuple[int, int] | None = None, dropout: float = 0.0, dev: float = 1.0
    ) -> None:
        self.model = self.objective = Line(dropout)
        self.sizes, self.poison, self.dev = sizes, poison, dev
        self.made: list[tuple[int, int]] = []

    def batch_positions(self, _epoch: int) -> np.ndarray:
        return np.array(self.sizes)

    def batch_words(self, _epoch: int) -> np.ndarray:
        return 10 * np.array(self.sizes)

    def batch_flops(self, _epoch: int) -> None:
        return None

    def batch_sentences(self, _epoch: int, index: int) -> np.ndarray:
        return sum(self.sizes[:index]) + np.arange(self.sizes[index])

    def weights_metadata(self, _epoch: int, _num_batches: int) -> dict[str, str]:
        return {}

    def train_batches(self, epoch: int, first: int) -> Iterator[Points]:
        every = torch.sin(torch.arange(sum(self.sizes)) + 0.1 + epoch)
        for index, values in list(enumerate(every.split(list(self.sizes))))[first:]:
            self.made.append((epoch, index))
            chosen = torch.full_like(values, torch.nan) if (epoch, index) == self.poison else values
            yield Points(chosen, len(values))

    def dev_batches(self) -> Iterator[Points]:
        yield Points(torch.tensor([self.dev]), 1)

    def sample_batches(self) -> Iterator[Points]:
        yield Points(torch.tensor([2.0, 3.0]), 2)


OPTIONS = {"lr": 0.05, "warmup_steps": 0, "log_every": 3}


def rows(run: Path, split: str) -> list[dict]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = {"elapsed_s", "positions_per_s", "data_wait_s", "data_wait_share"}
    return [{name: row[name] for name in row.keys() - times} for row in found if row["split"] == split]


def trained(task: LineTask, run: Path, **options: object) -> LineTask:
    if not run.exists():
        describe(run)
    train(task, TrainConfig(**(OPTIONS | options)), run=run, world=World())
    return task


def weights(task: LineTask) -> list[float]:
    return [float(weight) for weight in task.model.state_dict().values()]


def test_batches_accumulate_to_the_gradient_of_one_large_batch(tmp_path):
    # The last step of an epoch has fewer batches, and the batches differ in size.
    options = {"num_epochs": 3, "log_every": 1, "weight_decay": 0.0}
    one = trained(LineTask([10, 6]), tmp_path / "one", **options)
    several = trained(LineTask([2, 5, 3, 4, 2]), tmp_path / "several", accumulate_batches=3, **options)
    # The same numbers are added in another order.
    assert weights(several) == pytest.approx(weights(one), rel=1e-5)
    for a, b in zip(rows(tmp_path / "one", "train"), rows(tmp_path / "several", "train"), strict=True):
        assert (a["step"], a["positions"], a["epoch"]) == (b["step"], b["positions"], b["epoch"])
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-5)
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)


class StopHereError(Exception):
    pass


class Interrupting(LineTask):
    """A task that fails when a certain batch is made."""

    def __init__(self, *arguments: object, at: tuple[int, int], **more: object) -> None:
        super().__init__(*arguments, **more)
        self.at = at

    def train_batches(self, epoch: int, first: int) -> Iterator[Points]:
        for batch in super().train_batches(epoch, first):
            if self.made[-1] == self.at:
                raise StopHereError
            yield batch


def test_training_continues_inside_an_epoch_to_the_same_bits_without_making_earlier_batches(tmp_path):
    options = {"num_epochs": 3, "accumulate_batches": 2, "checkpoint_every": 2, "eval_every": 5, "log_every": 4}
    sizes = [3, 4, 5, 3, 4, 2, 3]
    whole = trained(LineTask(sizes, dropout=0.3), tmp_path / "whole", **options)
    with pytest.raises(StopHereError):
        trained(Interrupting(sizes, at=(1, 6), dropout=0.3), tmp_path / "run", **options)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"split": "train", "step": 7, "loss"')
    rest = trained(LineTask(sizes, dropout=0.3), tmp_path / "run", **options)
    assert rest.made[0] == (1, 4)
    assert weights(rest) == weights(whole)
    for split in ("train", "dev"):
        assert rows(tmp_path / "run", split) == rows(tmp_path / "whole", split)
    for name in ("best", "last"):
        file = Path("checkpoints") / name / "model.safetensors"
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_training_a_finished_run_again_says_so_and_changes_nothing(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    trained(LineTask([3]), tmp_path / "run", num_epochs=4)
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file() and file.name != HISTORY]
    before = [file.stat().st_mtime_ns for file in files]
    task = trained(LineTask([3]), tmp_path / "run", num_epochs=4)
    assert not task.made
    assert "finished: all 4 steps are done" in caplog.messages[-1]
    assert [file.stat().st_mtime_ns for file in files] == before
    assert set(files) == {file for file in (tmp_path / "run").rglob("*") if file.is_file() and file.name != HISTORY}


def test_a_damaged_best_checkpoint_of_a_finished_run_is_named_with_what_still_works(tmp_path, caplog):
    run = tmp_path / "run"
    trained(LineTask([3], dev=0.0), run, num_epochs=4, lr=1.0)
    best, last = (checkpoint_path(run, which) for which in ("best", "last"))
    assert best.read_bytes() != last.read_bytes()
    best.write_bytes(best.read_bytes()[:-3])
    trained(LineTask([3], dev=0.0), run, num_epochs=4, lr=1.0)
    (warning,) = (message for message in caplog.messages if "are lost" in message)
    assert "best/model.safetensors: damaged" in warning
    assert "--checkpoint last" in warning
    with pytest.raises(RunError, match="give another --checkpoint"):
        load_weights(open_run(run), "best", Line())
    load_weights(open_run(run), "last", Line())


@pytest.mark.parametrize("change", [{"step": 99}, {"row_sums": torch.zeros(1, 7, dtype=torch.float64)}])
def test_a_state_that_does_not_fit_the_training_is_refused(tmp_path, change):
    trained(LineTask([3]), tmp_path / "run", num_epochs=4)
    path = state_path(tmp_path / "run")
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(RunError, match=r"so it is damaged or of another training\. Restore"):
        trained(LineTask([3]), tmp_path / "run", num_epochs=4)


def test_sigterm_is_heeded_while_many_epochs_are_planned(tmp_path):
    class Planned(LineTask):
        def batch_words(self, epoch: int) -> np.ndarray:
            if epoch == 7:
                signal.raise_signal(signal.SIGTERM)
            assert epoch < 9
            return super().batch_words(epoch)

    with pytest.raises(StoppedBySignal):
        trained(Planned([3]), tmp_path / "run", num_epochs=10**9)
    assert read_history(tmp_path / "run")[-1]["state"] == "stopped"


class Terminating(LineTask):
    """A task that gets SIGTERM while it computes the loss of a certain batch, counted from 1."""

    def __init__(self, *arguments: object, at: int, **more: object) -> None:
        super().__init__(*arguments, **more)
        calls = itertools.count(1)

        def terminate(model: nn.Module, *_: object) -> None:
            if model.training and next(calls) == at:
                signal.raise_signal(signal.SIGTERM)

        self.model.register_forward_hook(terminate)


def test_training_stopped_by_a_signal_inside_a_step_continues_to_the_same_bits(tmp_path, caplog):
    options = {"num_epochs": 3, "accumulate_batches": 2, "eval_every": 5, "log_every": 4}
    sizes = [3, 4, 5, 3, 4, 2, 3]
    whole = trained(LineTask(sizes, dropout=0.3), tmp_path / "whole", **options)
    for at in (5, 3):  # within steps 3 and, after that, 5, where dev is evaluated
        with pytest.raises(StoppedBySignal):
            trained(Terminating(sizes, at=at, dropout=0.3), tmp_path / "run", **options)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.partition(": ")[2] for message in warnings] == [
        f"stopped by a signal after step {step} of 12. Run the same command to continue" for step in (3, 5)
    ]
    rest = trained(LineTask(sizes, dropout=0.3), tmp_path / "run", **options)
    assert rest.made[0] == (1, 2)
    assert weights(rest) == weights(whole)
    for split in ("train", "dev"):
        assert rows(tmp_path / "run", split) == rows(tmp_path / "whole", split)
    for name in ("best", "last"):
        file = Path("checkpoints") / name / "model.safetensors"
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_signal_in_the_last_step_does_not_stop_training(tmp_path):
    trained(Terminating([3, 4], at=4), tmp_path / "run", num_epochs=2)
    assert ends(tmp_path / "run") == [("finished", "all 4 steps are done", 4)]


def ends(run: Path) -> list[tuple[str, str, int]]:
    found = [event for event in read_history(run) if event["event"] == "end"]
    return [(event["state"], event["reason"], event["step"]) for event in found]


def test_the_history_records_each_end_with_reason_and_step(tmp_path):
    run, options = tmp_path / "run", {"num_epochs": 9, "checkpoint_every": 2}
    with pytest.raises(StoppedBySignal):
        trained(Terminating([2, 2], at=3), run, **options)
    with pytest.raises(RunError):
        trained(LineTask([2, 2], poison=(2, 1)), run, **options)
    with pytest.raises(StopHereError):
        trained(Interrupting([2, 2], at=(3, 0)), run, **options)
    state = state_path(run).read_bytes()
    state_path(run).write_bytes(b"damaged")
    with pytest.raises(RunError):
        trained(LineTask([2, 2]), run, **options)
    state_path(run).write_bytes(state)
    trained(LineTask([2, 2]), run, **options)
    found = ends(run)
    assert [(state, step) for state, _, step in found] == [
        ("stopped", 3), ("failed", 6), ("failed", 6), ("failed", 0), ("finished", 18)
    ]  # fmt: skip
    reasons = [reason for _, reason, _ in found]
    assert reasons[0] == "a signal"
    assert reasons[1].startswith("the loss is not a finite number at step 6 ")
    assert reasons[2] == "StopHereError: "
    assert "training_state.pt: is damaged" in reasons[3]
    assert reasons[4] == "all 18 steps are done"


def test_weights_that_a_killed_process_did_not_write_are_rewritten_from_the_state(tmp_path):
    options = {"num_epochs": 3, "eval_every": 1}
    trained(LineTask([3, 4]), tmp_path / "run", **options)
    files = sorted((tmp_path / "run").rglob("*.safetensors"))
    assert len(files) == 2
    written = [file.read_bytes() for file in files]
    files[0].unlink()
    files[1].write_bytes(b"of an earlier step")
    trained(LineTask([3, 4]), tmp_path / "run", **options)
    assert [file.read_bytes() for file in files] == written


WORDS = {"num_epochs": 3, "accumulate_batches": 2, "eval_every": 5, "word_checkpoints": ("70", "100", "1k", "90", "90")}
"""Batches have 30, 40, 50 and 30 words. So 70, 150, 220 and so on are seen after the steps, 450 in total."""


def word_files(run: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in run.glob("checkpoints/words_*/model.safetensors")}


def test_weights_are_kept_after_the_first_step_that_reaches_a_number_of_words(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    trained(LineTask([3, 4, 5, 3]), tmp_path / "run", **WORDS)
    assert [row["words"] for row in rows(tmp_path / "run", "train")] == [220, 450]
    found = word_files(tmp_path / "run")
    constant = WORDS | {"schedule": "constant"}
    trained(LineTask([3, 4, 5, 3]), tmp_path / "constant", **constant)
    for name, step in {"words_70": 1, "words_90": 2, "words_100": 2}.items():
        # With a constant rate, a shorter training is the first part of a longer one.
        trained(LineTask([3, 4, 5, 3]), tmp_path / name, **constant | {"max_steps": step})
        last = (tmp_path / name / "checkpoints/last/model.safetensors").read_bytes()
        assert word_files(tmp_path / "constant")[name] == last
    assert found.keys() == {"words_70", "words_90", "words_100"}
    assert caplog.messages[0] == f"{tmp_path / 'run'}: training ends after 450 words, so it will not write words_1k"


def test_an_interruption_does_not_change_word_checkpoints(tmp_path):
    sizes = [3, 4, 5, 3]
    trained(LineTask(sizes), tmp_path / "whole", **WORDS)
    expected = word_files(tmp_path / "whole")
    with pytest.raises(StopHereError):
        trained(Interrupting(sizes, at=(1, 0)), tmp_path / "run", **WORDS)
    # A process killed between the training state and the weights: only the state shows that weights are missing.
    assert torch.load(state_path(tmp_path / "run"), weights_only=True)["step"] == 2
    for name, content in {"words_90": None, "words_100": b"half of"}.items():
        file = tmp_path / "run" / "checkpoints" / name / "model.safetensors"
        file.unlink() if content is None else file.write_bytes(content)
    trained(LineTask(sizes), tmp_path / "run", **WORDS)
    assert word_files(tmp_path / "run") == expected
    assert rows(tmp_path / "run", "train") == rows(tmp_path / "whole", "train")


def test_perplexity_is_computed_only_from_a_cross_entropy():
    assert perplexity({"loss": 1.0, "cross_entropy": 2.0, "kl": 3.0}) == {"perplexity": pytest.approx(math.exp(2))}
    assert perplexity({"loss": 1.0, "token_loss": 2.0}) == {}
    assert perplexity({"cross_entropy": 1e4}) == {}


def test_the_rates_of_a_row_follow_from_its_batches_times_and_waits(monkeypatch):
    clock = iter([10.0, 11.0, 12.0, 14.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    tally = Tally(("loss",), torch.device("cpu"), peak_flops=1000.0)
    tally.add(torch.tensor([6.0]), 3, flops=600.0)
    tally.add(torch.tensor([2.0]), 1, flops=200.0)
    assert tally.close(World(), wait_s=0.5) == {
        "loss": 2.0, "positions_per_s": 1.0, "data_wait_s": 0.5, "data_wait_share": 0.125, "model_flops_per_s": 200,
        "mfu": 0.2,
    }  # fmt: skip


def test_training_ends_after_patience_evaluations_without_a_new_best(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    # An update that lowers the loss at sin(x) raises it at -100.
    trained(LineTask([5], dev=-100.0), tmp_path / "run", max_steps=50, eval_every=2, patience=3)
    dev = rows(tmp_path / "run", "dev")
    best = min(range(len(dev)), key=lambda i: dev[i]["loss"])
    assert len(dev) == best + 1 + 3
    assert f"no better dev loss in 3 evaluations, after {dev[-1]['step']} of 50 steps" in caplog.messages[-1]
    assert f"after step {dev[best]['step']}" in caplog.messages[-1]
    assert not trained(LineTask([5], dev=-100.0), tmp_path / "run", max_steps=50, eval_every=2, patience=3).made


def test_a_dev_row_has_only_the_dev_parts(tmp_path):
    trained(LineTask([3]), tmp_path / "run", num_epochs=1)
    assert rows(tmp_path / "run", "dev")[0].keys() == {"split", "step", "epoch", "positions", "words", "loss"}
    assert rows(tmp_path / "run", "train_sample")[0].keys() == rows(tmp_path / "run", "dev")[0].keys()
    more = {"loss", "again", "lr", "grad_norm"}
    assert rows(tmp_path / "run", "train")[0].keys() == {"split", "step", "epoch", "positions", "words"} | more


def test_each_evaluation_also_measures_a_sample_of_train_without_dropout(tmp_path):
    task = trained(LineTask([3], dropout=0.9), tmp_path / "run", num_epochs=2)
    sample = rows(tmp_path / "run", "train_sample")
    assert [row["step"] for row in sample] == [row["step"] for row in rows(tmp_path / "run", "dev")] == [1, 2]
    w, b = weights(task)
    assert sample[-1]["loss"] == pytest.approx(((2 * w + b - 1) ** 2 + (3 * w + b - 1) ** 2) / 2, rel=1e-6)


class Seeing(Line):
    """A model that records the precision of each forward pass."""

    def forward(self, batch: Points) -> Tensor:
        self.seen = getattr(self, "seen", [])
        column = self.w.expand(1, 1)
        self.seen.append((self.training, (column @ column).dtype))
        return super().forward(batch)


@pytest.mark.parametrize(("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_only_training_forwards_multiply_in_bfloat16(tmp_path, dtype, expected):
    task = LineTask([3, 3])
    task.model = task.objective = Seeing()
    trained(task, tmp_path / "run", num_epochs=1, dtype=dtype)
    assert task.model.seen == [(True, expected)] * 2 + [(False, torch.float32)] * 2
    state = torch.load(state_path(tmp_path / "run"), weights_only=True)
    moments = [value for kept in state["optimizer"]["state"].values() for value in kept.values()]
    assert {value.dtype for value in [*state["model"].values(), *moments]} == {torch.float32}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_first_loss_that_is_not_finite_is_named_exactly_and_never_saved(tmp_path, accumulate):
    task = LineTask([3, 7, 4, 4], poison=(2, 1))
    options = {"accumulate_batches": accumulate, "log_every": 50, "num_epochs": 9, "eval_every": 4 // accumulate}
    step = 10 if accumulate == 1 else 5
    with pytest.raises(RunError) as refusal:
        trained(task, tmp_path / "run", **options)
    where = f"at step {step} (epoch 2, batch 1). It was computed from sentences 3, 4, 5, 6, 7 and 2 more of train. "
    assert f"the loss is not a finite number {where}" in str(refusal.value)
    state = torch.load(state_path(tmp_path / "run"), weights_only=True)
    assert state["step"] == 8 // accumulate
    assert all(bool(weight.isfinite()) for weight in state["model"].values())
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_gradient_that_is_not_finite_is_named_with_all_batches_of_its_step(tmp_path):
    task = LineTask([2, 2, 2, 2])
    # The gradient of a finite sum overflows.
    task.model.w.register_hook(lambda grad: grad * (torch.inf if len(task.made) > 6 else 1.0))
    with pytest.raises(RunError, match=r"the gradient is not a finite number at step \d \(epoch 1, batches \d to \d"):
        trained(task, tmp_path / "run", num_epochs=5, accumulate_batches=2)


def test_watching_a_step_does_not_wait_for_the_device():
    # The meta device holds no numbers, so reading one fails.
    task = LineTask([3])
    task.model.to("meta")
    watch = DivergenceWatch(task, StepPlan(task, TrainConfig()))
    number = torch.empty((), device="meta")
    watch.see_loss(number, step=1, index=0)
    watch.see_gradient(number, step=1)
    tally = Tally(task.parts, number.device)
    tally.add(torch.empty(2, device="meta"), 3)
    with pytest.raises(RuntimeError, match="meta"):
        watch.check(World())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    task = LineTask([3])
    task.model.unused = nn.Parameter(torch.tensor(torch.nan))
    with pytest.raises(RunError, match="the weights unused are not finite numbers after step 2"):
        trained(task, tmp_path / "run", max_steps=2, eval_every=2)
    assert not list((tmp_path / "run").rglob("*.safetensors"))
    assert not state_path(tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["lr", "clip_norm", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_options_that_are_no_usable_numbers_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name.replace('_', '-')} is {value}, expected"):
        TrainConfig(**{name: value})
