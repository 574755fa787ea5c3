"""Files of minimal pairs: BLiMP's JSON lines, and BabyLM's filtered and supplement sets, which have the same form.

Each line is a JSON object with ``sentence_good`` and ``sentence_bad``; ``UID``, ``linguistics_term`` and ``field`` are
read where a line has them, other fields and blank lines are ignored. Text is normalised as a corpus is: BabyLM's
supplement has line ends inside some sentences, which become spaces.
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pipeline.corpus.text.text_files import normalise_text
from storage.errors import InputError
from storage.fingerprints import canonical_json, sha256_bytes

NOT_SPECIFIED: Final = "unspecified"
_FIELDS: Final = {"syntax/semantics": "syntax_semantics"}
"""Two spellings of one of BLiMP's fields."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MinimalPair:
    """Two sentences, normalised, of which the first is grammatical."""

    good: str
    bad: str
    paradigm: str
    """``UID``; where a line has none, the name of its file."""
    term: str = NOT_SPECIFIED
    """``linguistics_term``: BLiMP's phenomenon."""
    field: str = NOT_SPECIFIED
    """``field``: morphology, syntax, semantics or syntax_semantics."""
    number: int = 0
    """Which pair of its paradigm, from 0."""
    where: str = ""
    """File and line."""


def read_minimal_pairs(path: Path) -> list[MinimalPair]:
    """Return the pairs of a file, or of all ``*.jsonl`` and ``*.jsonl.gz`` of a folder in order of their names.

    Raises:
        InputError: If there is no such file, no pair, a file twice (plain and gzipped), or a line is malformed; it is
            named by file and line.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith((".jsonl", ".jsonl.gz")))
        if not files:
            raise InputError(f"{path}: no .jsonl or .jsonl.gz file in this folder; name one with minimal pairs")
    else:
        files = [path]
    if twice := {_stem(file) for file in files if file.suffix == ".gz"} & {
        _stem(f) for f in files if f.suffix != ".gz"
    }:
        raise InputError(f"{path}: both plain and gzipped: {', '.join(sorted(twice))}; keep one of each")
    seen: Counter[str] = Counter()
    pairs = []
    for file in files:
        for pair in _pairs_of_file(file):
            pairs.append(replace(pair, number=seen[pair.paradigm]))
            seen[pair.paradigm] += 1
    if not pairs:
        raise InputError(f"{path}: no minimal pair in {len(files)} file(s), expected a JSON object a line")
    return pairs


def pairs_name(folder: Path) -> str:
    """Return what results call the pairs of a folder or file."""
    return folder.resolve().name.removesuffix(".gz").removesuffix(".jsonl")


def pairs_sha256(pairs: Sequence[MinimalPair]) -> str:
    """Return a fingerprint of the pairs and their order: results of two runs compare only where it is the same."""
    return sha256_bytes(canonical_json([[pair.paradigm, pair.term, pair.good, pair.bad] for pair in pairs]))


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".jsonl")


def _pairs_of_file(file: Path) -> Iterator[MinimalPair]:
    for number_of_line, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            yield _pair(json.loads(line.decode("utf-8")), _stem(file), f"{file}:{number_of_line}")
        except UnicodeDecodeError as error:
            raise InputError(f"{file}:{number_of_line}: not UTF-8 ({error}); convert the file") from error
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{file}:{number_of_line}: not a minimal pair ({error}), expected a JSON object with the strings "
                "sentence_good and sentence_bad; mend or remove the line"
            ) from error


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            yield from stream
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror or error}); check its name and whether it is whole"
        ) from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{file}: damaged gzip file ({error}); fetch it again") from error


def _pair(value: Any, stem: str, where: str) -> MinimalPair:  # noqa: ANN401 - parsed JSON
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}")  # noqa: TRY004 - reported with file and line by the caller
    texts = {name: _text(value, name, None) for name in ("sentence_good", "sentence_bad")}
    field = _text(value, "field", NOT_SPECIFIED)
    return MinimalPair(
        good=texts["sentence_good"],
        bad=texts["sentence_bad"],
        paradigm=_text(value, "UID", stem),
        term=_text(value, "linguistics_term", NOT_SPECIFIED),
        field=_FIELDS.get(field, field),
        where=where,
    )


def _text(value: dict[str, Any], name: str, default: str | None) -> str:
    found = value.get(name)
    if found is None:
        found = default  # null says no more than nothing
    if not isinstance(found, str):
        raise ValueError(f"{name} is {found!r}")  # noqa: TRY004 - reported with file and line by the caller
    found.encode()  # a lone surrogate is legal in JSON, but it is not text
    if not (text := normalise_text(found)):
        raise ValueError(f"{name} is empty")
    return text
