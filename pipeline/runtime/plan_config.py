"""Define the options of ``--plan``. This module imports no torch, so that ``--help`` is quick."""

from dataclasses import dataclass

from storage.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """Whether a command only estimates what its work will cost."""

    plan: bool = False
    """Write nothing: measure a small part of the work, and estimate hours, memory and bytes."""
    plan_processes: tuple[int, ...] = (1, 2, 4, 8)
    """With --plan: the numbers of processes to estimate for."""

    def __post_init__(self) -> None:
        if not self.plan_processes or min(self.plan_processes) < 1:
            given = ",".join(map(str, self.plan_processes))
            raise ConfigError(f"--plan-processes is {given}, expected numbers of at least 1")
