"""Define the options of ``export-dump`` and ``import-dump``. This module imports no torch, so ``--help`` is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pipeline.runtime.options import refuse, too_small

ExportFormat: TypeAlias = Literal["datasets", "distillkit", "axolotl"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportDumpConfig:
    """What ``export-dump`` writes."""

    format: ExportFormat = "datasets"
    """Columns of the files. datasets: all arrays of the dump. distillkit: input_ids, token_ids and top_values. axolotl:
    a tokenized dataset with target_token_ids, target_logprobs and target_mask. distillkit and axolotl have only
    temperature 1."""
    tokenizer: Path | None = None
    """The tokenizer.json of the dataset. Needed only for dumps of an older version, which hold no tokenizer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportDumpConfig:
    """What ``import-dump`` reads and writes."""

    split: str = "train"
    """The split whose sentences the parquet files hold, one sentence per row."""
    shard_positions: int = 65_536
    """Positions per shard of the dump. A shard is the unit of writing."""

    def __post_init__(self) -> None:
        refuse("import-dump", too_small(self, 1, "shard_positions"))
