"""Run steps of training and inference on a device that does not exist, to find what would fail or wait on a GPU.

    python -m tests.pretend_device WORLD [CASE]

torch's fake tensors have a shape, a type and a device, but no values. So an operation that mixes devices fails, and so
does every read of a value: on a GPU it would make the host wait. torch builds for CPUs know no GPU at all, so this
module registers a device of another name, with an autocast that treats the operations of this project as CUDA's does.
That changes torch for the whole process. So the tests run this module as a program.

WORLD is the folder of the fixture ``small_world``, with dumps in ``topk`` and ``draws``. For each case, one line of
JSON is printed: its name, and the error or null.
"""

import contextlib
import itertools
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.backend_registration
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu import KINDS
from pipeline.corpus.dataset.dataset_store import load_dataset
from pipeline.corpus.dataset.oracle import REDUCE
from pipeline.dumping.reduction import reduce_logits
from pipeline.runtime import distributed
from pipeline.runtime.distributed import World
from pipeline.runtime.run_end import StopRequest
from pipeline.training.step_plan import Task
from pipeline.training.training_loop import Training
from storage.dump.reader import DumpReader
from student.model import Student
from student.rows import Rows
from student.student_config import StudentConfig, StudentTrainConfig
from student.targets import DumpTargets, TargetOptions
from student.train_student import StudentTask
from teacher.beam import BeamSearch
from teacher.rnng import Rnng
from teacher.stack_pool import StackPool
from teacher.teacher_config import BeamConfig, TeacherConfig, TeacherTrainConfig
from teacher.train_teacher import TeacherTask

NAME = "pretend"
NARROW = ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "scaled_dot_product_attention")
"""Operations that autocast computes in bfloat16 on a GPU, of those that this project uses."""
WIDE = ("layer_norm", "softmax.int", "log_softmax.int", "cumsum", "sum", "sum.dim_IntList", "exp", "log")
"""Operations that autocast computes in float32 on a GPU, of those that this project uses."""


class _Module(torch.utils.backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def register() -> torch.library.Library:
    """Register the device and its autocast. The registration ends with the result."""
    torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    operations = torch.library.Library("aten", "IMPL")
    library.operations = operations
    autocast = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(operation: Callable[..., Any], dtype: torch.dtype | None) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            wanted = dtype or torch.get_autocast_dtype(NAME)

            def converted(value: object) -> object:
                is_float = isinstance(value, Tensor) and value.dtype in {torch.float32, torch.bfloat16}
                return value.to(wanted) if is_float else value

            with torch._C._ExcludeDispatchKeyGuard(autocast):
                return operation(*map(converted, arguments), **{k: converted(v) for k, v in options.items()})

        return run

    for names, dtype in ((NARROW, None), (WIDE, torch.float32)):
        for name in names:
            packet, _, overload = name.partition(".")
            operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
            operations.impl(name, cast(operation, dtype), "AutocastPrivateUse1")
    return library


class _Allowed(TorchDispatchMode):
    """Answer the reads of values that inference is allowed, with values of its own."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if operation is torch.ops.aten.nonzero.default:  # rows with ties at the k-th place: none
            return arguments[0].new_empty((0, arguments[0].ndim), dtype=torch.int64)
        return operation(*arguments, **(options or {}))


def move(model: nn.Module) -> None:
    """Replace the weights by fake ones on the device."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype, device=NAME))
        if isinstance(module, Rnng):
            module.train(module.training)  # drops the cache


def training_step(task: Task, config: Any, run: Path) -> None:
    """Take one step of the training loop, up to where the loop itself waits for the device to write a row."""
    training = Training(task, config, run, World(), StopRequest())
    with unset_fake_temporarily():  # batches are made on the host
        place = next(iter(training.plan.batches(after_step=0)))
    training.backward(place)
    training.update(place)


def copy_as_fake(mode: FakeTensorMode) -> None:
    """Make ``pipeline.runtime.distributed.on_device`` return fake tensors, wherever it was imported."""

    def fake(array: np.ndarray, device: torch.device) -> Tensor:
        with unset_fake_temporarily():
            dtype = torch.from_numpy(array).dtype
        with mode:
            return torch.empty(array.shape, dtype=dtype, device=device)

    real = distributed.on_device
    for module in list(sys.modules.values()):
        if getattr(module, "on_device", None) is real:
            module.on_device = fake


class Cases:
    """The cases, by name."""

    def __init__(self, world: Path) -> None:
        self._dataset = load_dataset(world / "dataset")
        self._world = world
        self._tokens = self._dataset.split("dev").tokens.take(np.arange(12))
        self._actions = self._dataset.split("dev").actions.take(np.arange(12))

    def all(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield names and functions."""
        dtypes = ("float32", "bfloat16")
        for (strategy, composition), dtype in itertools.product(KINDS, dtypes):
            kind = {"strategy": strategy, "composition": composition}
            yield f"train {strategy} {composition} {dtype}", lambda k=kind, d=dtype: self._train_teacher(k, d)
        for strategy, composition in KINDS:
            kind = {"strategy": strategy, "composition": composition}
            yield f"infer {strategy} {composition}", lambda k=kind: self._infer(k)
            yield f"beam {strategy} {composition}", lambda k=kind: self._beam(k)
        for targets, dtype in itertools.product(("none", "topk", "draws"), dtypes):
            yield f"train student {targets} {dtype}", lambda t=targets, d=dtype: self._train_student(t, d)
        for options in (
            {"divergence": "reverse-kl"},
            {"divergence": "js", "temperature": 2.0},
            {"tail": "renormalise"},
            {"tail": "drop"},
        ):
            name = " ".join(f"{k} {v}" for k, v in options.items())
            yield f"train student topk {name}", lambda o=options: self._train_student("topk", "bfloat16", **o)
        # These must fail, or the cases above would show nothing.
        yield "wrong: a tensor of the CPU", lambda: torch.zeros(3, device=NAME) + torch.zeros(3)
        yield "wrong: .item()", lambda: torch.zeros(1, device=NAME).item()
        yield "wrong: a mask as an index", lambda: torch.zeros(3, device=NAME)[torch.zeros(3, device=NAME) > 0]

    def _teacher(self, kind: dict[str, Any]) -> Rnng:
        config = TeacherConfig(embed_dim=24, hidden_dim=32, num_layers=2, dropout=0.1, **kind)
        tokenizer = self._dataset.tokenizer
        sizes = {"vocab_size": tokenizer.vocab_size, "num_labels": len(self._dataset.labels)}
        model = Rnng(config, eos_id=tokenizer.eos_id, **sizes)
        move(model)
        return model

    def _train_teacher(self, kind: dict[str, Any], dtype: str) -> None:
        config = TeacherTrainConfig(dtype=dtype, batch_tokens=256, num_epochs=1)
        task = TeacherTask(self._teacher(kind), self._dataset, config, World())
        training_step(task, config, self._world / "none")

    def _train_student(self, targets: str, dtype: str, **options: Any) -> None:
        tokenizer = self._dataset.tokenizer
        sizes = {"embed_dim": 16, "num_blocks": 2, "num_heads": 2, "max_length": 128}
        config = StudentTrainConfig(dtype=dtype, batch_tokens=256, num_epochs=1, **options)
        model = Student(StudentConfig(vocab_size=tokenizer.vocab_size, **sizes), bos_id=tokenizer.bos_id, seed=1)
        splits = {name: self._dataset.split(name) for name in ("train", "dev")}
        rows = {name: Rows(each, context="sentence", max_length=128) for name, each in splits.items()}
        soft = None
        if targets != "none":
            chosen = {name: getattr(config, name) for name in ("temperature", "tail", "divergence")}
            ids = {"tokenizer_sha256": tokenizer.sha256, "eos_id": tokenizer.eos_id}
            soft = DumpTargets(DumpReader(self._world / targets), splits["train"], TargetOptions(**ids, **chosen))
        task = StudentTask(model, self._dataset, rows, soft, config, World(), num_initial_positions=0)
        move(model)
        training_step(task, config, self._world / "none")

    def _infer(self, kind: dict[str, Any]) -> None:
        model = self._teacher(kind).eval()
        with torch.no_grad():
            model.cache_inputs()
            inputs = model.prepare(self._tokens, self._actions)
            logits = model.logits(model.states(inputs))
            gold = torch.empty(len(logits), dtype=torch.int64, device=NAME)
            with _Allowed():
                for k, num_top in ((8, 8), (8, 3), (model.vocab_size, model.vocab_size)):
                    reduce_logits(logits, gold, k=k, num_top=num_top, temperatures=(1.0, 2.0), generator=None)

    def _beam(self, kind: dict[str, Any]) -> None:
        model = self._teacher(kind).eval()
        search = BeamSearch(model, BeamConfig(beam=4, word_beam=2, max_actions=6))
        with torch.no_grad(), random_numbers_on_host():
            search.search(self._tokens, with_states=True)


class _OnHost:
    """Stands for a tensor that was copied to the host: negative random numbers."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def numpy(self) -> np.ndarray:
        shape, dtype = tuple(self._tensor.shape), str(self._tensor.dtype).removeprefix("torch.")
        return -np.random.default_rng(len(self._tensor)).exponential(size=shape).astype(dtype)


@contextlib.contextmanager
def random_numbers_on_host() -> Iterator[None]:
    """Let ``.cpu()`` return random numbers, because a beam search decides on the host what to do next."""
    cpu, action_log_probs = Tensor.cpu, StackPool.action_log_probs

    def of_valid_actions(pool: StackPool, nodes: np.ndarray) -> np.ndarray:
        log_probs = action_log_probs(pool, nodes)
        can_reduce = pool._num_children[nodes] >= 1 + pool._is_binary
        log_probs[:, REDUCE] = np.where(can_reduce & ~pool.is_complete(nodes), log_probs[:, REDUCE], -np.inf)
        return log_probs

    Tensor.cpu, StackPool.action_log_probs = (lambda tensor: _OnHost(tensor)), of_valid_actions  # noqa: PLW0108  a class is no method
    try:
        yield
    finally:
        Tensor.cpu, StackPool.action_log_probs = cpu, action_log_probs


def main() -> None:
    """Run the cases."""
    _library = register()
    mode = FakeTensorMode()
    copy_as_fake(mode)
    cases = Cases(Path(sys.argv[1]))
    for name, run in cases.all():
        if sys.argv[2:] and sys.argv[2] not in name:
            continue
        error = None
        try:
            with mode:
                run()
        except Exception:  # noqa: BLE001  every failure is a result
            error = traceback.format_exc()
        print(json.dumps({"case": name, "error": error}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
