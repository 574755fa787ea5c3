"""Results of evaluations: one small JSON file each, beside the model they are about.

MODEL/results/NAME.json holds what was measured, and what is needed to trust and repeat it: command, settings,
fingerprints, versions; NAME.jsonl the same by item, pair or sentence, for tests between models. MODEL is a run
directory, or a folder in Hugging Face's format.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.runtime.run_directory import checkpoint_path
from storage.errors import InputError, RunError
from storage.files import write_atomically, written_whole
from storage.fingerprints import sha256_file

FORMAT_VERSION: Final = 2
PERPLEXITY: Final = "perplexity"
MINIMAL_PAIRS: Final = "minimal_pairs"
SURPRISAL: Final = "surprisal"
PARSES: Final = "parses"
SYNTAXGYM: Final = "syntaxgym"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One evaluation of one model."""

    kind: str
    """``perplexity``, ``minimal_pairs``, ``surprisal``, ``parses`` or ``syntaxgym``: what ``figures`` are."""
    subject: str
    """What was evaluated on: the name of the split, the folder of pairs or suites, the text, or the STEM of trees."""
    figures: Any
    """Perplexity: a list of ``PerplexityFigure.to_json()``. The others: the one object that ``MinimalPairFigures``,
    ``SurprisalFigure``, ``ParseFigure`` or ``SyntaxGymFigures`` gives (``to_json``)."""
    settings: Mapping[str, Any]
    """Everything that could change the figures: checkpoint, batch budget, device, dtype."""
    fingerprints: Mapping[str, str]
    """sha256 by what it is of: ``weights``, ``tokenizer``, and ``split``, ``pairs``, ``text``, ``trees`` or
    ``suites``."""
    versions: Mapping[str, str]
    command: str
    """The command line."""


def write_result(model: Path, name: str, result: Result) -> Path:
    """Write ``MODEL/results/NAME.json`` atomically, replacing an earlier one, and return its path.

    Raises:
        RunError: If ``model`` is neither a run nor an exported folder.
        InputError: If ``name`` has other characters than letters, digits and ``._-``.
    """
    path = _path_of(model, name, ".json")
    content = {"format_version": FORMAT_VERSION} | {field: getattr(result, field) for field in Result.__slots__}
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False, default=dict)
    write_atomically(path, text.encode() + b"\n")
    return path


def write_rows(model: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write ``MODEL/results/NAME.jsonl``, a JSON object a line, whole or not at all, and return its path.

    What a result sums up, item by item: it stands beside the result of the same name, which is written after it.

    Raises:
        RunError: If ``model`` is neither a run nor an exported folder.
        InputError: As ``write_result``.
        StoreError: If it cannot be written.
    """
    path = _path_of(model, name, ".jsonl")
    with written_whole([path]) as (file,):
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False, default=dict) + "\n")
    return path


def read_results(run: Path) -> dict[str, Result]:
    """Return the results of a run by name, in alphabetical order; empty where nothing was evaluated.

    Raises:
        InputError: If a file is not one that ``write_result`` wrote.
    """
    return {path.stem: _read(path) for path in sorted((run / "results").glob("*.json"))}


def best_weights_sha256(run: Path) -> str | None:
    """Return the sha256 of a run's best checkpoint, which its results are to be of; None of a copy without weights.

    Raises:
        RunError: If the file is there and cannot be read.
    """
    path = checkpoint_path(run, "best")
    if not path.is_file():
        return None
    try:
        return sha256_file(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}), expected the weights; mend that") from error


def _path_of(model: Path, name: str, suffix: str) -> Path:
    """Return the path of a file of results, its folder made."""
    if not any((model / file).is_file() for file in ("run.json", "config.json")):
        raise RunError(
            f"{model}: neither run.json nor config.json here, expected a run directory or an exported folder; name the "
            "--out of a training command"
        )
    if not _NAME.fullmatch(name):
        raise InputError(f"result name {name!r}: expected letters, digits and ._- only; choose another")
    folder = model / "results"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}{suffix}"


def _read(path: Path) -> Result:
    remedy = "evaluate again, or remove the file"
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: not a result ({error}), expected a JSON object; {remedy}") from error
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path}: not a result of format version {FORMAT_VERSION}; {remedy}")
    expected = {
        "kind": str, "subject": str, "figures": list | dict, "settings": dict, "fingerprints": dict, "versions": dict,
        "command": str,
    }  # fmt: skip
    wrong = [name for name, kind in expected.items() if not isinstance(content.get(name), kind)]
    if wrong:
        raise InputError(f"{path}: missing or of the wrong type: {', '.join(wrong)}; {remedy}")
    return Result(**{name: content[name] for name in expected})
