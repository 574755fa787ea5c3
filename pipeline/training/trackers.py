"""Send the rows of ``metrics.jsonl`` also to Weights & Biases or Trackio, if ``--log-to`` asks for it.

``metrics.jsonl`` and TensorBoard are written in any case. For Weights & Biases, the step is logged as a metric,
because the service's own step can only rise, and a resumed training repeats the steps after its last checkpoint.
"""

import hashlib
import importlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from pipeline.runtime.run_directory import FREE, RunInfo, open_run
from pipeline.runtime.train_config import LogTo, TrainConfig
from storage.errors import ConfigError

log = logging.getLogger(__name__)

_NOT_OF_A_GROUP = {*FREE, "seed", "out"}


class Tracker:
    """The copy of a run in Weights & Biases or Trackio. A resumed training continues the same copy.

    Args:
        log_to: The service: ``wandb`` or ``trackio``.
        project: The project in the service.
        run: The run. In the service it has the name of its directory.

    Raises:
        ConfigError: If the service does not accept the run, for example because nobody is logged in.
    """

    def __init__(self, log_to: LogTo, project: str, run: RunInfo) -> None:
        self._module = importlib.import_module(log_to)
        self._is_lost = False
        about = {"project": project, "name": run.path.name, "group": group_of(run), "config": run.configuration}
        if log_to == "wandb":
            _start_wandb(self._module, run.path, about)
        else:
            self._module.init(**about, resume="allow", embed=False)

    def row(self, split: str, step: int, figures: Mapping[str, float | int]) -> None:
        """Log one row, under names such as ``dev/cross_entropy``."""
        named = {f"{split}/{name}": value for name, value in figures.items()}
        if self._module.__name__ == "wandb":
            self._try(lambda: self._module.log({"step": step, **named}))
        else:
            self._try(lambda: self._module.log(named, step=step))

    def close(self) -> None:
        """Wait until everything is logged."""
        self._try(self._module.finish)

    def _try(self, call: Callable[[], object]) -> None:
        """Call the service. If it cannot be reached, log a warning and never call it again."""
        if self._is_lost:
            return
        try:
            call()
        except OSError as error:
            self._is_lost = True
            service = self._module.__name__
            log.warning("%s is lost (%s). Training goes on; metrics.jsonl has all metrics", service, error)


def tracker_of(config: TrainConfig, run: Path) -> Tracker | None:
    """Return the tracker that the options ask for."""
    return None if config.log_to == "tensorboard" else Tracker(config.log_to, config.log_project, open_run(run))


def group_of(run: RunInfo) -> str:
    """Return the group of a run. Two runs have the same group if only their seed, ``--out`` and free options differ.

    Free options are those that may change when a run is resumed, such as the device.
    """
    deciding = {name: value for name, value in run.configuration.items() if name not in _NOT_OF_A_GROUP}
    text = json.dumps([run.kind, deciding, run.model, run.fingerprints], sort_keys=True)
    return f"{run.kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _start_wandb(wandb: ModuleType, run: Path, about: Mapping[str, object]) -> None:
    """Start or continue the copy of a run in Weights & Biases. Its identifier follows from the run's host and path."""
    identity = hashlib.sha256(f"{os.uname().nodename}:{run.resolve()}".encode()).hexdigest()[:16]
    try:
        wandb.init(
            **about,
            id=identity,
            resume="allow",
            dir=str(run),
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.errors.Error as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"--log-to wandb: {reason}. Run 'wandb login', or set WANDB_MODE=offline and upload later with 'wandb sync'"
        ) from error
    wandb.define_metric("*", step_metric="step")
