"""Options of the dump. Imports no torch, so that ``--help`` can read it."""

from dataclasses import dataclass
from typing import Literal

from storage.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpConfig:
    """What ``dump-teacher`` writes, and how it is computed."""

    split: str = "train"
    """Which split of the dataset."""
    k: int = 64
    """Tokens kept a position, most probable first."""
    temperatures: tuple[float, ...] = (1.0,)
    """Temperatures a student may ask for, comma-separated; 1 must be among them."""
    shard_positions: int = 65_536
    """Positions a shard: the unit of writing, owned by one process."""
    batch_tokens: int = 4096
    """Positions computed at a time. Another number can change last bits, so it must match on resume."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: a GPU if there is one."""
    threads: int = 1
    """CPU threads a process. Another number can change last bits, so it must match on resume."""

    def __post_init__(self) -> None:
        problems = [
            f"{name.replace('_', '-')} is {value}, expected at least 1"
            for name in ("k", "shard_positions", "batch_tokens", "threads")
            if (value := getattr(self, name)) < 1
        ]
        if 1.0 not in self.temperatures:
            problems.append(f"temperatures are {self.temperatures}, expected 1 among them")
        if any(t <= 0 for t in self.temperatures):
            problems.append(f"temperatures are {self.temperatures}, expected all above 0")
        if problems:
            raise ConfigError("dump: " + "; ".join(problems))
