"""Options of the dump. Imports no torch, so that ``--help`` can read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from storage.errors import ConfigError

Condition: TypeAlias = Literal["tree", "beam", "none"]
"""What distributions are given beside the words before; see ``condition`` in `storage.dump.schema`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpConfig:
    """What ``dump-teacher`` writes, and how it is computed."""

    split: str = "train"
    """Which split of the dataset."""
    condition: Condition = "tree"
    """Of a teacher: given the tree so far; or the words alone, by beam search over trees, which none can leak. Of a
    student always none, also by default: the words alone, without a search."""
    k: int = 64
    """Tokens kept a position, most probable first; with draws, the most that are kept."""
    select: Literal["topk", "sampled", "stratified"] = "topk"
    """The k most probable tokens; or k draws, of which a student's gradients are unbiased; or some of either."""
    num_top: int = 0
    """With --select stratified, the most probable tokens kept; the other k - num-top are draws. 0: half of k."""
    draw_seed: int = 1
    """Seed of the draws."""
    profile: Literal["exact", "compact"] = "exact"
    """How rows are stored: as they are, or in less than half the room at a cost of 6e-5 nats (docs/decisions/0005)."""
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
        problems += self._draw_problems()
        if 1.0 not in self.temperatures:
            problems.append(f"temperatures are {self.temperatures}, expected 1 among them")
        if any(t <= 0 for t in self.temperatures):
            problems.append(f"temperatures are {self.temperatures}, expected all above 0")
        if problems:
            raise ConfigError("dump: " + "; ".join(problems))

    @property
    def num_exact(self) -> int:
        """How many of the k are the exact most probable tokens; the others are draws."""
        if self.select == "stratified":
            return self.num_top or self.k // 2
        return self.k if self.select == "topk" else 0

    def _draw_problems(self) -> list[str]:
        if self.draw_seed < 0:
            return [f"draw-seed is {self.draw_seed}, expected at least 0"]
        if self.num_top and self.select != "stratified":
            return [f"num-top is {self.num_top}, expected none with select {self.select}; give --select stratified"]
        if self.select == "stratified" and not 0 < self.num_exact < self.k:
            return [f"num-top is {self.num_exact}, expected at least 1 and less than k ({self.k})"]
        return []


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpCommandConfig:
    """What ``dump-teacher`` does besides writing: nothing here changes the bytes of a dump."""

    take_over: bool = False
    """For a dump in an object store: write although another process holds the lease."""
    plan: bool = False
    """Write nothing: time a few batches, and estimate bytes and hours."""
    plan_processes: tuple[int, ...] = (1, 2, 4, 8)
    """With --plan: the numbers of processes to estimate for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecomputeConfig:
    """How ``verify`` checks a dump against its teacher."""

    recompute: int = 0
    """Also compute this many random shards of a dump again. 0: none."""
    teacher: Path | None = None
    """With --recompute: the run that the dump was made with."""
    data: Path | str | None = None
    """With --recompute: the dataset that the dump was made from."""
    seed: int = 1
    """With --recompute: seed for choosing the shards."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """With --recompute: where to compute. auto: on a GPU if there is one."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}, expected at least 0"
            for name in ("recompute", "seed")
            if getattr(self, name) < 0
        ]
        if self.recompute and (self.teacher is None or self.data is None):
            problems.append("--recompute needs --teacher and --data; give both")
        if problems:
            raise ConfigError("verify: " + "; ".join(problems))
