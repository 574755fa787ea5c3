"""Read SyntaxGym test suites from the JSON files they are released in, and build their sentences.

A suite has items. An item is the same sentence in several conditions, and a sentence consists of numbered regions. The
suite's predictions are formulas over the surprisals of regions (``pipeline.evaluation.formulas``).

The text of each region is normalised. Then all regions that are not empty are joined with one space, which belongs to
the region after the space. The suites write the marks ``, . ; : ! ?`` as words of their own, with a space before them:
``studied the book , the nurse ...``. If ``joining`` is "text", this space is removed, as in the running text that
models are trained on. If ``joining`` is "tokens", this space stays, as in published results.

Hu et al. (2020), ACL, 1725-1744; Gauthier et al. (2020), SyntaxGym, ACL Demonstrations.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.text.file_forms import Form, form_of, read_head
from pipeline.corpus.text.text_files import normalise_text, read_lines
from pipeline.evaluation.formulas import Formula, FormulaError, parse_formula
from storage.errors import InputError
from storage.fingerprints import canonical_json, sha256_bytes
from storage.json_files import decode, read_bytes

Joining = Literal["text", "tokens"]
METRICS: Final[Mapping[str, Any]] = {
    "sum": np.sum,
    "mean": np.mean,
    "median": np.median,
    "range": np.ptp,
    "max": np.max,
    "min": np.min,
}
"""How the surprisals of a region's tokens become one value. For a region without tokens, the sum is 0, and the other
metrics are undefined."""
CIRCUITS: Final[Mapping[str, str]] = {
    "number": "Agreement",
    "center": "Center Embedding",
    "npz": "Garden-Path Effects",
    "mvrr": "Garden-Path Effects",
    "subordination": "Gross Syntactic State",
    "npi": "Licensing",
    "reflexive": "Licensing",
    "fgd": "Long-Distance Dependencies",
    "cleft": "Long-Distance Dependencies",
}
"""The circuit (published group) of a suite, by the part of its name before the first ``-``, ``_`` or digit. The table
comes from the notebook that drew the figures of Hu et al. (2020)."""
UNKNOWN_CIRCUIT: Final = "not known"
_SPACE_BEFORE_MARK: Final = re.compile(r" (?=[,.;:!?](?: |$))")


@dataclass(frozen=True, slots=True)
class Condition:
    """The sentence of an item in one condition."""

    regions: tuple[tuple[int, str], ...]
    """Number and normalised text of each region, in the order of the sentence."""

    def sentence(self, joining: Joining) -> tuple[str, NDArray[np.int64]]:
        """Return the sentence, and an int64 array with one value per character.

        The value is the index in ``regions`` of the region that the character belongs to.
        """
        kept = [(i, content) for i, (_, content) in enumerate(self.regions) if content]
        text = " ".join(content for _, content in kept)
        owners = np.repeat([i for i, _ in kept], [len(content) + (n > 0) for n, (_, content) in enumerate(kept)])
        if joining == "text":
            places = [found.start() for found in _SPACE_BEFORE_MARK.finditer(text)]
            owners = np.delete(owners, places)
            text = _SPACE_BEFORE_MARK.sub("", text)
        return text, owners.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Item:
    """A sentence in each of its conditions."""

    number: int
    conditions: Mapping[str, Condition]


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """A file of items, and the predictions about each item."""

    name: str
    metric: str
    """A key of ``METRICS``."""
    formulas: tuple[Formula, ...]
    items: tuple[Item, ...]
    path: Path
    sha256: str
    """sha256 of the file."""

    @property
    def circuit(self) -> str:
        """The published group of suites that this suite belongs to."""
        return CIRCUITS.get(re.split(r"[-_0-9]", self.name, maxsplit=1)[0], UNKNOWN_CIRCUIT)


def read_suites(paths: Sequence[Path]) -> list[Suite]:
    """Return the suites of all ``paths``, sorted by the names of the suites.

    A path is the file of a suite, or a folder. All ``*.json`` files of a folder are read.

    Raises:
        InputError: If there is no suite, two suites have the same name, or a suite is malformed. The error names the
            file and the place in it.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("[!.]*.json")) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path}: no .json file in this folder; give a folder with SyntaxGym suites")
        files += found
    suites = sorted((read_suite(file) for file in files), key=lambda suite: suite.name)
    for one, other in pairwise(suites):
        if one.name == other.name:
            raise InputError(
                f"{other.path}: the suite has the name {other.name!r}, which the suite in {one.path} has too; give "
                "each suite once"
            )
    return suites


def suites_name(paths: Sequence[Path]) -> str:
    """Return one short name for all given folders and files together, such as ``number_src and 2 more``."""
    names = [path.resolve().name.removesuffix(".json") for path in paths]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def suites_sha256(suites: Sequence[Suite]) -> str:
    """Return a fingerprint of the suites' files. Results are comparable only with the same fingerprint."""
    return sha256_bytes(canonical_json([[suite.name, suite.sha256] for suite in suites]))


def read_suite(path: Path) -> Suite:
    """Return the suite in a file. Fields of the file that are not needed here are ignored.

    Raises:
        InputError: If the file cannot be read or is not a suite, or a formula names a region that an item does not
            have.
    """
    data = read_bytes(path, remedy="give a SyntaxGym suite")
    is_json = data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))
    form = Form(kind="JSON lines") if is_json else form_of(read_head(read_lines(path)), Path())
    if form.kind == "other":
        raise InputError(f"{path}: looks like {form.found}, expected a SyntaxGym suite in JSON; {form.remedy}")
    if form.kind == "table":
        raise InputError(
            f"{path}: looks like {form.found}, expected a SyntaxGym suite in JSON, because a table has no predictions; "
            "give the suite's .json file, or measure its regions with evaluate surprisal --column --item --region"
        )
    content = decode(data, _File, where=str(path), remedy="correct the suite, or leave it out")
    try:
        return _suite(content, path, sha256_bytes(data))
    except _MalformedError as error:
        raise InputError(f"{path}: {error}; correct the suite, or leave it out") from error


@dataclass(frozen=True, slots=True)
class _Region:
    region_number: int
    content: str


@dataclass(frozen=True, slots=True)
class _Sentence:
    condition_name: str
    regions: Annotated[list[_Region], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class _Item:
    item_number: int
    conditions: Annotated[list[_Sentence], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class _Prediction:
    type: Literal["formula"]
    formula: str


@dataclass(frozen=True, slots=True)
class _About:
    name: str
    metric: str | list[str] = "sum"
    string_predictions: list[str] = field(default_factory=list)
    """The formulas of an early version of the format, in which ``predictions`` is empty."""


@dataclass(frozen=True, slots=True)
class _File:
    """The layout of a suite's file."""

    meta: _About
    predictions: list[_Prediction]
    items: Annotated[list[_Item], msgspec.Meta(min_length=1)]


class _MalformedError(ValueError):
    """A malformed suite. The message names the place in the file, what was found, and what was expected."""


def _suite(file: _File, path: Path, sha256: str) -> Suite:
    name = normalise_text(file.meta.name) or path.stem
    metric = file.meta.metric
    if isinstance(metric, list):  # with several metrics, predictions are about the sums
        metric = metric[0] if len(metric) == 1 else "sum" if "sum" in metric else str(metric)
    metric = "sum" if metric == "all" else metric
    if metric not in METRICS:
        raise _MalformedError(f"meta: metric is {metric!r:.60}, expected one of {', '.join(METRICS)}")
    items = [_item(item) for item in file.items]
    _refuse_twice([item.number for item in items], "items", "item_number")
    formulas = []
    texts = [prediction.formula for prediction in file.predictions] or file.meta.string_predictions
    if not texts:
        raise _MalformedError("predictions is empty, expected at least one formula")
    for i, text in enumerate(texts):
        where = f"predictions[{i}]"
        try:
            formulas.append(parse_formula(text))
        except FormulaError as error:
            raise _MalformedError(f"{where}: formula {text!r:.200}, {error}") from error
        _check_names(formulas[-1], items, where)
    return Suite(name=name, metric=metric, formulas=tuple(formulas), items=tuple(items), path=path, sha256=sha256)


def _item(item: _Item) -> Item:
    conditions: dict[str, Condition] = {}
    for sentence in item.conditions:
        name = sentence.condition_name.strip()
        inside = f"item {item.item_number}, condition {name!r}"
        if name in conditions:
            raise _MalformedError(f"{inside} is there twice, expected it once")
        _refuse_twice([region.region_number for region in sentence.regions], inside, "region_number")
        regions = tuple((region.region_number, normalise_text(region.content)) for region in sentence.regions)
        if not any(content for _, content in regions):
            raise _MalformedError(f"{inside}: all regions are empty, expected a sentence")
        conditions[name] = Condition(regions)
    return Item(item.item_number, conditions)


def _check_names(formula: Formula, items: Sequence[Item], where: str) -> None:
    for region in formula.regions():
        for item in items:
            place = f"{where}, column {region.column}: item {item.number}"
            if (condition := item.conditions.get(region.condition)) is None:
                known = ", ".join(item.conditions)
                raise _MalformedError(f"{place} has no condition {region.condition!r}, expected one of {known}")
            numbers = [number for number, _ in condition.regions]
            if region.number is not None and region.number not in numbers:
                known = ", ".join(map(str, numbers))
                raise _MalformedError(
                    f"{place}, condition {region.condition!r} has no region {region.number}, expected one of {known}"
                )


def _refuse_twice(numbers: Sequence[int], where: str, name: str) -> None:
    number, times = Counter(numbers).most_common(1)[0]
    if times > 1:
        raise _MalformedError(f"{where}: {name} {number} is there twice, expected it once")
