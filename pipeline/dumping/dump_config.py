"""Define the options of ``dump-teacher`` and ``verify``. This module imports no torch, so that ``--help`` is quick."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pipeline.runtime.options import refuse, too_small
from pipeline.runtime.plan_config import PlanConfig

Condition: TypeAlias = Literal["tree", "beam", "none", "exact"]
"""What a distribution depends on. ``tree``: the words and the tree so far. All other conditions: only the words so far,
computed in different ways (see ``DumpConfig.condition``)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpConfig:
    """What ``dump-teacher`` writes, and how it is computed."""

    split: str = "train"
    """Dump this split of the dataset."""
    condition: Condition = "tree"
    """What the distributions of a teacher depend on. tree: the words and the tree so far. beam: the words alone; a beam
    search sums over trees, so no later word can leak in. For a student or another language model, the condition is
    always none: the words alone. For a sample corpus it is always exact: the words alone, by an exact sum over all
    trees."""
    k: int = 64
    """Keep this number of tokens per position, most probable first. If tokens are drawn at random (--selection), fewer
    are kept where a token is drawn twice."""
    selection: Literal["topk", "sampled", "stratified"] = field(default="topk", metadata={"aliases": ("--select",)})
    """How to choose the tokens. topk: the k most probable. sampled: k random draws, which give a student unbiased
    gradients. stratified: the --num-top most probable tokens, and draws from the others."""
    num_top: int = 0
    """With --selection stratified: keep this number of most probable tokens; the other k - num-top are draws. 0: half
    of k."""
    draw_seed: int = 1
    """Seed of the draws."""
    profile: Literal["exact", "compact"] = "exact"
    """How to store the distributions. exact: as computed. compact: in less than half the space. Compact
    distributions differ from exact ones by a KL divergence of 6e-5 nats per position (docs/decisions/0005)."""
    temperatures: tuple[float, ...] = (1.0,)
    """Temperatures that students may use, comma-separated. 1 must be among them."""
    shard_positions: int = 65_536
    """Positions per shard. A shard is the unit of writing; one process computes it."""
    batch_tokens: int = 4096
    """Positions to compute at a time. Keep the number when you resume a dump: another number can change the last bits
    of the values."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: on a GPU if there is one."""
    threads: int = 1
    """CPU threads per process. Keep the number when you resume a dump: another number can change the last bits of the
    values."""

    def __post_init__(self) -> None:
        problems = too_small(self, 1, "k", "shard_positions", "batch_tokens", "threads")
        problems += self._draw_problems()
        if 1.0 not in self.temperatures:
            problems.append(f"--temperatures are {self.temperatures}, expected 1 among them")
        if any(t <= 0 for t in self.temperatures):
            problems.append(f"--temperatures are {self.temperatures}, expected all above 0")
        refuse("dump", problems)

    def schema_fields(self) -> dict[str, Any]:
        """Return the options that are also fields of a dump's schema, with the values that the schema records."""
        values = {name: value for name, value in asdict(self).items() if name not in _COMPUTATION}
        values["temperatures"] = (1.0, *(t for t in self.temperatures if t != 1))
        if self.selection == "topk":
            values |= {"num_top": self.k, "draw_seed": 0}
        elif self.selection == "stratified":
            values["num_top"] = self._stratified_top
        return values

    @property
    def _stratified_top(self) -> int:
        return self.num_top or self.k // 2

    def _draw_problems(self) -> list[str]:
        if self.draw_seed < 0:
            return [f"--draw-seed is {self.draw_seed}, expected at least 0"]
        if self.num_top and self.selection != "stratified":
            remedy = "Give --selection stratified"
            return [f"--num-top is {self.num_top}, expected none with selection {self.selection}. {remedy}"]
        if self.selection == "stratified" and not 0 < self._stratified_top < self.k:
            return [f"--num-top is {self._stratified_top}, expected at least 1 and less than k ({self.k})"]
        return []


_COMPUTATION = ("batch_tokens", "device", "threads")
"""Options that the schema records under ``computation``, not as fields of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpCommandConfig(PlanConfig):
    """The options of ``dump-teacher`` that do not change the bytes of a dump."""

    take_over: bool = False
    """For a dump in an object store: write even if another process holds the lease (the permission to write)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecomputeConfig:
    """How ``verify`` checks a dump against its teacher."""

    recompute: int = 0
    """Also compute this many random shards of a dump again, and compare them with the dump. 0: none."""
    teacher: tuple[Path, ...] = ()
    """With --recompute: the run, sample corpus or Hugging Face folder that the dump was made with. If several runs made
    the dump, give the option once for each run."""
    data: Path | str | None = None
    """With --recompute: the dataset that the dump was made from."""
    seed: int = 1
    """With --recompute: seed for choosing the shards."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """With --recompute: where to compute. auto: on a GPU if there is one."""

    def __post_init__(self) -> None:
        refuse("verify", too_small(self, 0, "recompute", "seed"))
