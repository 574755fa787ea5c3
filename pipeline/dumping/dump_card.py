"""Write the two files that make a dump usable without its dataset: the tokenizer, and a card for people.

The bytes of both files depend only on the dump.
"""

from collections.abc import Iterator

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.dumping.dump_description import distribution_of
from storage.dump.dump_statistics import DumpSummary
from storage.dump.manifest import CARD, TOKENIZER, Manifest
from storage.dump.schema import DumpSchema
from storage.errors import CorruptStoreError, StoreError
from storage.fingerprints import check_fingerprint
from storage.folder import Folder

_CARD = """---
tags:
- rnng-distill
- knowledge-distillation
---

# Next-token distributions of a teacher

A dump of rnng-distill: for each position of a corpus, the most probable next tokens of a teacher with their
log-probabilities, and the mass of all others. It is a Zarr v3 group.

| | |
| --- | --- |
{rows}

The corpus itself can be read back from `tokens` with `tokenizer.json`. So share the dump only if the licence of the
corpus allows it.

```python
import zarr
from tokenizers import Tokenizer

dump, tokenizer = zarr.open_group("PATH", mode="r"), Tokenizer.from_file("PATH/tokenizer.json")
dump["ids"][0], dump["logp"][0], dump["tail"][0]
```

Check every byte with `rnng-distill verify PATH`. Train a student on the same dataset with `rnng-distill train-student
--data DATASET --dump PATH --out RUN`. `docs/format.md` of rnng-distill describes the arrays.
"""


def companions(schema: DumpSchema, summary: DumpSummary, tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the content of a complete dump's tokenizer file and card."""
    rows = "\n".join(f"| {_plain(label)} | {_plain(value)} |" for label, value in _facts(schema, summary))
    return {TOKENIZER: tokenizer.data, CARD: _CARD.format(rows=rows).encode()}


def tokenizer_of_dump(folder: Folder) -> Tokenizer:
    """Return the tokenizer of a dump, from the dump itself.

    Raises:
        StoreError: If the dump has no tokenizer, because an older version wrote it, or the file cannot be read.
        FingerprintMismatchError: If the file is not the tokenizer of the dump.
    """
    manifest = Manifest.read(folder)
    if TOKENIZER not in manifest.companions:
        raise StoreError(
            f"{folder}: holds no {TOKENIZER}, because an older version wrote it. Give --tokenizer, or dump again"
        )
    try:
        data = folder.read(TOKENIZER)
    except OSError as error:
        raise CorruptStoreError(
            f"{folder}/{TOKENIZER}: cannot be read: {error.strerror}. Restore it from a copy, or give --tokenizer"
        ) from error
    tokenizer = Tokenizer(data, where=f"{folder}/{TOKENIZER}")
    expected = manifest.schema.fingerprints["tokenizer"]
    remedy = "Restore the file from a copy"
    check_fingerprint(f"{folder}/{TOKENIZER}", found=tokenizer.sha256, expected=expected, remedy=remedy)
    return tokenizer


def _facts(schema: DumpSchema, summary: DumpSummary) -> Iterator[tuple[str, object]]:
    yield "distributions", distribution_of(schema.condition, schema.fingerprints)
    yield "trees", schema.tree_source
    yield "split", schema.split
    yield "positions", f"{schema.num_positions:,} in {schema.num_sentences:,} sentences"
    yield "tokens kept per position", f"{schema.k:,} of {schema.vocab_size:,} ({schema.selection})"
    yield "temperatures", ", ".join(f"{temperature:g}" for temperature in schema.temperatures)
    yield "profile", schema.profile
    figures = summary.to_json()
    for name in ("perplexity", "mean_kept_mass", "mean_entropy_nats"):
        if isinstance(value := figures.get(name), int | float):
            yield name.replace("_", " "), f"{value:.4f}"
    for name, sha256 in schema.fingerprints.items():
        yield f"sha256 of the {name}", sha256


def _plain(value: object) -> str:
    """Return a value on one line, with a space in place of each ``|``, ``<``, ``>`` and backtick."""
    return " ".join("".join(" " if letter in "`|<>" else letter for letter in str(value)).split())
