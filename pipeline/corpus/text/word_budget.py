"""Record how many words a tokenizer, parser, teacher or student was trained on, and add the records up.

BabyLM limits the number of training words, and also counts the training words of every other model that helped, such as
a parser. So each command that trains writes a record: a list of ``TrainingText``. These files hold the records:

    TOKENIZER.words.json    next to a tokenizer, written by train-tokenizer
    PARSER.json             the description of a parser, written by train-parser
    STEM.parse.json         the texts that were parsed, and the parser's record
    STEM.sample.json        the record of the teacher from which text was drawn
    DATASET/words.json      the records of the training split, the tokenizer, and the parser or teacher
    DUMP.history.jsonl      the records of the teachers
    RUN/run.json            the records of everything that the run was made from

If a record is missing, the total says that it is a lower bound. Text is recognised by the sha256 of its files, and each
text counts once. If two models read different parts of a file, the whole file counts. So the total is never too low if
all numbers are known. It is too high if the same text is in two different files.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pipeline.corpus.text.text_files import read_lines
from storage.files import beside, is_there, write_atomically
from storage.fingerprints import Json, sha256_file
from storage.json_files import Count, convert, read_json

RECORD_SUFFIX: Final = ".words.json"
WORDS: Final = "words.json"
"""Name of the file in a dataset that holds its record."""
TOKENIZER: Final = "tokenizer"
PARSER: Final = "parser"
PUBLISHED_PARSERS: Final = {
    "benepar_en3": "T5-small",
    "benepar_en3_large": "T5-large",
}
"""The encoders of benepar's published English parsers, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingText:
    """Text that a model was trained on."""

    of: str
    """What was trained: ``tokenizer``, ``parser``, ``teacher`` or ``student``. For the training split of a dataset,
    ``text``."""
    name: str
    """Names of the files, or another description, to show to people."""
    num_words: Count | None
    """The number of words in the text, whatever the number of epochs; None if it is not known."""
    part: str = ""
    """sha256 of the text that was read, which can be a part of the files; "" if it is not known."""
    files: dict[str, Count | None] = field(default_factory=dict)
    """The number of words of each whole file, by the sha256 of the file."""
    sources: dict[str, str] = field(default_factory=dict)
    """The corpora in the text, with their licences."""
    note: str = ""
    """Anything else that is known, to show to people."""

    def to_json(self) -> dict[str, Json]:
        """Return all fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> "TrainingText":  # noqa: ANN401 - parsed JSON
        """Return the object whose ``to_json`` gave ``value``.

        Raises:
            InputError: If a value is missing or has the wrong type.
        """
        remedy = "remove the record, then the words are reported as not known"
        return convert(value, cls, where=f"{where}: a record of training words", remedy=remedy)


@dataclass(frozen=True, kw_only=True, slots=True)
class WordBudget:
    """The words of several records, each text counted once."""

    num_words: int
    """The sum over the texts whose words are known."""
    not_known: tuple[str, ...]
    """The models and tokenizers whose training words are not known. If there are any, the sum is a lower bound."""

    def to_json(self) -> dict[str, Json]:
        """Return both fields as a JSON object."""
        return {"num_words": self.num_words, "not_known": list(self.not_known)}


def budget(texts: Sequence[TrainingText]) -> WordBudget:
    """Add up records, each text once.

    Texts that share a file or have the same ``part`` are one group. If all texts of a group have the same ``part``,
    only the words of this part count. Otherwise all words of all files of the group count.
    """
    groups: list[list[TrainingText]] = []
    for text in texts:
        touching = [group for group in groups if any(_overlap(text, other) for other in group)]
        groups = [group for group in groups if group not in touching]
        groups.append([other for group in touching for other in group] + [text])
    num_words, not_known = 0, dict[str, None]()
    for group in groups:
        files = {file: count for text in group for file, count in text.files.items()}
        one_part = group[0].part and all(text.part == group[0].part for text in group)
        counts = [group[0].num_words] if one_part or not files else list(files.values())
        num_words += sum(count for count in counts if count is not None)
        if None in counts:
            not_known |= dict.fromkeys(f"{text.of} ({text.name})" for text in group)
    return WordBudget(num_words=num_words, not_known=tuple(not_known))


def record_of_file(path: Path, of: str) -> TrainingText:
    """Return the record of a model that was trained on one whole text file, plain or gzipped.

    ``of`` says what was trained, for example ``parser``.
    """
    digest, num_words = sha256_file(path), count_words(path)
    return TrainingText(of=of, name=path.name, num_words=num_words, part=digest, files={digest: num_words})


def count_words(path: Path) -> int:
    """Return the number of white-space-separated strings of a text file, plain or gzipped."""
    return sum(len(line.text.split()) for line in read_lines(path, "skip"))


def write_record(path: Path, texts: Iterable[TrainingText], *, sha256: str) -> None:
    """Write the record of a trained model next to its file ``path``, which has this sha256."""
    content = {"sha256": sha256, "trained_on": to_json(texts)}
    write_atomically(beside(path, RECORD_SUFFIX), (json.dumps(content, indent=1) + "\n").encode())


def read_record(path: Path, suffix: str, *, of: str, sha256: str) -> list[TrainingText]:
    """Return the record next to a file.

    If there is no record, or the record was written for a file with another sha256 than ``sha256``, return a list of
    one text whose number of words is not known.

    Raises:
        InputError: If the record is damaged.
    """
    record = beside(path, suffix)
    if is_there(record):
        content = read_json(record, dict[str, Any], remedy=f"remove it, or make {path} again")
        if content.get("sha256") == sha256:
            return from_json(content.get("trained_on"), of=of, name=path.name, where=str(record))
    return [not_known(of, path.name, sha256=sha256)]


def not_known(of: str, name: str, *, sha256: str = "", note: str = "") -> TrainingText:
    """Return a training text whose number of words is not known."""
    return TrainingText(
        of=of, name=name, num_words=None, part=sha256, files={sha256: None} if sha256 else {}, note=note
    )


def parser_not_known(model: str, *, sha256: str) -> TrainingText:
    """Return the training text of a parser without a record. A note says what is published about benepar's models."""
    note = ""
    if (encoder := PUBLISHED_PARSERS.get(model)) is not None:
        note = (
            "according to its authors trained on the revised Wall Street Journal part of the Penn Treebank (the "
            f"usual training sections have about 950,000 words), on top of {encoder}, which was pretrained on far more "
            "text than BabyLM's strict tracks allow"
        )
    return not_known(PARSER, model, sha256=sha256, note=note)


def to_json(texts: Iterable[TrainingText]) -> list[Json]:
    """Return a record as JSON, without repetitions."""
    found = [text.to_json() for text in texts]
    return [text for number, text in enumerate(found) if text not in found[:number]]


def from_json(value: Any, *, of: str, name: str, where: str) -> list[TrainingText]:  # noqa: ANN401 - parsed JSON
    """Return the record whose ``to_json`` gave ``value``.

    If ``value`` is None, return a list of one text whose number of words is not known.

    Raises:
        InputError: If ``value`` is not a record.
    """
    if value is None:
        return [not_known(of, name, note="made by a version that did not record it")]
    return [TrainingText.from_json(text, where=where) for text in (value if isinstance(value, list) else [value])]


def renamed(texts: Iterable[TrainingText], of: str) -> list[TrainingText]:
    """Turn the record of a dataset into the record of a model that is trained on this dataset.

    ``of`` is the kind of the model: "teacher" or "student". The texts of the training split get it in place of "text".
    The other texts do not change.
    """
    return [replace(text, of=of) if text.of == "text" else text for text in texts]


def budget_for_people(texts: Sequence[TrainingText]) -> dict[str, str]:
    """Return how many words each text of a record has, and their sum, as text for the screen and the model card."""
    lines: dict[str, str] = {}
    for text in texts:
        count = "not known" if text.num_words is None else f"{text.num_words:,}"
        key = f"{text.of}: {text.name}"
        lines[key if key not in lines else f"{key} ({len(lines)})"] = f"{count}; {text.note}" if text.note else count
    found = budget(texts)
    total = f"{found.num_words:,}"
    if found.not_known:
        total = f"not known: at least {total}, and the words of {', '.join(found.not_known)}"
    return {**lines, "all together, each text once": total}


def _overlap(one: TrainingText, other: TrainingText) -> bool:
    return not one.files.keys().isdisjoint(other.files) or bool(one.part and one.part == other.part)
