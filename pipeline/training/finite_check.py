"""Stop training at the first NaN or infinity in a loss, gradient or weight, without making a step wait for the device.

One integer on the device records the first step whose loss or gradient is NaN or infinite. The training loop reads this
integer only before it writes a row of metrics, evaluates dev or writes a checkpoint. The weights are checked only
before an evaluation and before a checkpoint. So rows and checkpoints never contain a NaN or infinity.
"""

import torch
from torch import Tensor

from pipeline.runtime.distributed import World
from pipeline.training.step_plan import StepPlan, Task
from storage.errors import RunError

FEW = 5
"""Maximum number of sentences that the message names."""
_INDICES = 2**32
_GRADIENT = _INDICES - 1
_NONE = torch.iinfo(torch.int64).max
REMEDY = "Earlier checkpoints are kept. Try a lower --lr or more --warmup-steps"


class DivergenceWatch:
    """Record the first loss or gradient norm that is not finite.

    The record is the integer ``step * 2**32 + index``. If a loss is not finite, ``index`` is the index of its batch in
    the epoch. If the gradient of a step is not finite, ``index`` is ``2**32 - 1``.
    """

    def __init__(self, task: Task, plan: StepPlan) -> None:
        self._task = task
        self._plan = plan
        device = next(task.model.parameters()).device
        self._first = torch.full((), _NONE, dtype=torch.int64, device=device)

    def see_loss(self, loss: Tensor, *, step: int, index: int) -> None:
        """Check this rank's loss of a batch."""
        self._see(loss, step * _INDICES + index)

    def see_gradient(self, norm: Tensor, *, step: int) -> None:
        """Check the norm of the gradient of a step."""
        self._see(norm, step * _INDICES + _GRADIENT)

    def check(self, world: World) -> None:
        """Stop if a rank recorded a value that is not finite. Waits for the device. Every rank must call it.

        Raises:
            RunError: If a value is not finite. The message names the step, the epoch, the batches and sentences.
        """
        first = int(world.gather(self._first).min())
        if first != _NONE:
            step, index = divmod(first, _INDICES)
            raise RunError(self._message(step, index))

    def check_weights(self, step: int) -> None:
        """Stop if a weight is not finite. Waits for the device.

        Raises:
            RunError: If a weight is not finite.
        """
        bad = [name for name, weight in self._task.model.named_parameters() if not torch.isfinite(weight).all()]
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise RunError(f"the weights {bad[0]}{more} are not finite numbers after step {step}. {REMEDY}")

    def _see(self, value: Tensor, code: int) -> None:
        # `torch.where(torch.isfinite(value), _NONE, code)` gives the same, but would wait for the device.
        seen = torch.full_like(self._first, code).masked_fill_(torch.isfinite(value), _NONE)
        torch.minimum(self._first, seen, out=self._first)

    def _message(self, step: int, index: int) -> str:
        what, (epoch, indices) = "gradient", self._plan.place(step)
        if index != _GRADIENT:
            what, indices = "loss", range(index, index + 1)
        sentences = [int(each) for i in indices for each in self._task.batch_sentences(epoch, i)]
        named = ", ".join(map(str, sentences[:FEW]))
        more = f" and {len(sentences) - FEW} more" if len(sentences) > FEW else ""
        batches = f"batch {indices.start}" if len(indices) == 1 else f"batches {indices.start} to {indices.stop - 1}"
        plural = "" if len(sentences) == 1 else "s"
        return (
            f"the {what} is not a finite number at step {step} (epoch {epoch}, {batches}). It was computed from "
            f"sentence{plural} {named}{more} of train. Epochs, batches and sentences are counted from 0. {REMEDY}"
        )
