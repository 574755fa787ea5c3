"""Read BabyLM's zero-shot tasks as choices between texts: which text, or which ending of a text, is most probable?

The folders and formats are those of the evaluation data of the BabyLM challenge:

    blimp_*, supplement_*       two sentences. In the supplement each file is a subset. For example, hypernym.jsonl is
                                the subset hypernym
    ewok_*                      2025: two targets after one context. 2026: one target after each of two contexts, so
                                that the frequency of the target cannot decide
    entity_tracking*            a text with one right and several wrong endings. 2026 leaves out the items that have
                                the word "nothing" in an ending
    comps                       one property after each of two concepts
    wug_*                       two forms of an invented word, and the share of people who chose the first

In ewok, entity tracking and comps only the ending is scored: the tokens that overlap with it, given everything before.
In the other tasks the whole text is scored. Text is taken as it is, line breaks included, as in BabyLM's pipeline.

Sources: Warstadt et al. (2020), BLiMP; Ivanova et al. (2024), EWoK; Kim and Schuster (2023), entity tracking; Misra et
al. (2023), COMPS; Weissweiler et al. (2023) and Hofmann et al. (2024), wug tests. The rules of scoring are those of the
repositories babylm/evaluation-pipeline-2025 and babylm-org/babylm-eval (2026, folder strict).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from storage.errors import InputError
from storage.json_files import read_json_lines

Rules: TypeAlias = Literal["2026", "2025"]
"""The year of BabyLM's evaluation pipeline that defines the items and their scoring."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """An item: texts of which the first is right, and the place where the scored ending of each text begins."""

    subset: str
    """The part of the task for which an accuracy is computed, such as a paradigm of BLiMP or a domain of EWoK."""
    texts: tuple[str, ...]
    starts: tuple[int, ...]
    """For each text, the index of the first character that is scored."""
    answers: tuple[str, ...]
    """For each text, what the file of predictions says if this text is chosen. ``pipeline.evaluation.babylm_scores``
    writes this file."""
    human: float | None = None
    """In a wug test, the share of people who chose the first form."""
    where: str = ""
    """File and line, for messages."""


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of task: where its predictions go, and how a line becomes an item."""

    name: str
    """The name of the task in the paths of BabyLM's evaluation pipeline."""
    read: Callable[[Mapping[str, Any], str, Rules], Choice | None]
    """Takes the JSON object of a line, the file name without suffix, and the rules. Returns None if the rules omit the
    item."""
    texts: tuple[str, ...]
    """The fields that must be text."""


def read_choices(folder: Path, rules: Rules) -> list[Choice]:
    """Return the items of the folder of a task, file by file in alphabetical order.

    Raises:
        InputError: If there is no item, or a line is malformed. The error names the file and the line.
    """
    task = TASKS[folder.name]
    found = []
    for file in sorted(folder.glob("[!.]*.jsonl")):  # macOS adds hidden files
        for where, value in read_json_lines(file, dict[str, Any], remedy="fetch the file again"):
            try:
                _check_texts(task, value)
                choice = task.read(value, file.stem, rules)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise InputError(
                    f"{where}: not an item of {folder.name} ({type(error).__name__}: {error}), expected the fields of "
                    "BabyLM's data; fetch the file again"
                ) from error
            if choice is not None:
                found.append(_with_place(choice, where))
    if not found:
        raise InputError(f"{folder}: no item in its .jsonl files; fetch the evaluation data again")
    return found


def _check_texts(task: Task, value: Mapping[str, Any]) -> None:
    for name in task.texts:
        if name not in value:  # ``read`` raises KeyError if it needs the field
            continue
        found = value[name]
        texts = found if name == "options" else [found]
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise TypeError(f"{name} is {found!r:.60}, expected text")


def _with_place(choice: Choice, where: str) -> Choice:
    ends = [text[start:].strip() for text, start in zip(choice.texts, choice.starts, strict=True)]
    if not isinstance(choice.subset, str):
        raise InputError(f"{where}: its subset is {choice.subset!r:.60}, expected a name; fetch the file again")
    if not all(ends) or len(ends) < 2:
        raise InputError(
            f"{where}: its texts are {choice.texts!r:.80}, expected at least two, and none without an ending; fetch "
            "the file again"
        )
    return Choice(
        subset=choice.subset,
        texts=choice.texts,
        starts=choice.starts,
        answers=choice.answers,
        human=choice.human,
        where=where,
    )


def _blimp(value: Mapping[str, Any], stem: str, _: Rules) -> Choice:
    texts = (value["sentence_good"], value["sentence_bad"])
    subset = value["UID"] if "field" in value else stem
    return Choice(subset=subset, texts=texts, starts=(0, 0), answers=texts)


def _ewok(value: Mapping[str, Any], _: str, rules: Rules) -> Choice:
    first, second = value["Context1"], value["Context2"]
    if rules == "2026":
        texts = (f"{first} {value['Target1']}", f"{second} {value['Target1']}")
        return Choice(subset=value["Domain"], texts=texts, starts=(len(first), len(second)), answers=texts)
    ends = (" " + value["Target1"], " " + value["Target2"])
    return Choice(
        subset=value["Domain"], texts=(first + ends[0], first + ends[1]), starts=(len(first), len(first)), answers=ends
    )


def _entity_tracking(value: Mapping[str, Any], stem: str, rules: Rules) -> Choice | None:
    before, ends = value["input_prefix"], tuple(value["options"])
    if rules == "2026" and any("nothing" in end for end in ends):
        return None
    return Choice(
        subset=f"{stem}_{int(value['numops'])}_ops",
        texts=tuple(before + end for end in ends),
        starts=(len(before),) * len(ends),
        answers=ends,
    )


_COMPS: Final = {
    "comps_base": "base",
    "comps_wugs": "wugs",
    "comps_wugs_dist-before": "wugs_dist_before",
    "comps_wugs_dist-in-between": "wugs_dist_in_between",
}


def _comps(value: Mapping[str, Any], stem: str, _: Rules) -> Choice:
    end = value["property_phrase"]
    texts = tuple(f"{value[name]} {end}" for name in ("prefix_acceptable", "prefix_unacceptable"))
    return Choice(subset=_COMPS[stem], texts=texts, starts=tuple(len(text) - len(end) for text in texts), answers=texts)


def _wug(name: str) -> Callable[[Mapping[str, Any], str, Rules], Choice]:
    def read(value: Mapping[str, Any], _stem: str, _: Rules) -> Choice:
        texts = tuple(value["sentences"].split("\t"))
        human = float(value["ratio"])
        if len(texts) != 2:
            raise ValueError(f"sentences has {len(texts)} forms, expected two with a tab between them")
        if not 0 <= human <= 1:
            raise ValueError(f"ratio is {human}, expected a share from 0 to 1")
        return Choice(subset=name, texts=texts, starts=(0,) * len(texts), answers=texts, human=human)

    return read


TASKS: Final[Mapping[str, Task]] = {
    **{
        f"{name}_{size}": Task("blimp", _blimp, ("sentence_good", "sentence_bad"))
        for name in ("blimp", "supplement")
        for size in ("filtered", "fast")
    },
    **{
        f"ewok_{size}": Task("ewok", _ewok, ("Context1", "Context2", "Target1", "Target2", "Domain"))
        for size in ("filtered", "fast")
    },
    **{
        name: Task("entity_tracking", _entity_tracking, ("input_prefix", "options"))
        for name in ("entity_tracking", "entity_tracking_fast")
    },
    "comps": Task("comps", _comps, ("prefix_acceptable", "prefix_unacceptable", "property_phrase")),
    "wug_adj_nominalization": Task("wug_adj", _wug("wug_adj"), ("sentences",)),
    "wug_past_tense": Task("wug_past", _wug("wug_past"), ("sentences",)),
}
"""The tasks by the name of their folder."""
READING: Final = "reading"
"""The folder of the reading times."""
LEFT_OUT: Final[Mapping[str, str]] = {
    "glue_filtered": "needs fine-tuning; run BabyLM's finetune.run",
}
"""Folders of BabyLM's data that this project does not evaluate, with the reason."""
