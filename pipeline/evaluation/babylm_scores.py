"""Score BabyLM's zero-shot tasks, record the scores, and write the files of predictions that BabyLM collects.

A score of 0.65 here is BabyLM's 65.00. For most tasks the score is the mean of the accuracies on the task's subsets,
such as the paradigms of BLiMP. In entity tracking, the accuracies of the subsets are averaged within each kind of texts
(``_KINDS``), and then over the kinds. A wug test asks for one of two forms of an invented word. Its score is Spearman's
correlation between the model's probability of the first form and the share of people who chose this form.

An item is a tie if the right text and another one are both the most probable. Ties are not right in the figure
``score``, but are right in the figure ``score_ties_right``, as in BabyLM's pipeline of 2025. The pipeline of 2026
chooses one of the tied texts at random. This module chooses nothing at random.

The predictions are written to ``OUT/NAME/REVISION/zero_shot/causal/TASK/FOLDER/predictions.json``, in the form that
BabyLM's ``collate_preds.py`` reads. FOLDER is a folder of BabyLM's data, and TASK is the task in it. For example, the
folder ``blimp_filtered`` has the task ``blimp``. If several texts are the most probable, the file has the first of them
with ``--rules 2025``, and the last of them with ``--rules 2026``. For the reading times there is no FOLDER in the path.
For the age of acquisition, the files ``AoA_word/surprisal.json`` and ``AoA_word/aoa_score.json`` are written instead.
"""

import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.age_of_acquisition import (
    FOLDERS,
    LEAST,
    AcquisitionTask,
    Surprisals,
    checkpoint_name,
    read_acquisition_task,
)
from pipeline.evaluation.babylm_tasks import LEFT_OUT, READING, TASKS, Choice, Rules, read_choices
from pipeline.evaluation.intervals_and_p_values import spearman, wilson_interval
from pipeline.evaluation.reading_times import ReadingData, read_reading_data, reading_scores, word_surprisals
from pipeline.evaluation.results import BABYLM, record
from pipeline.evaluation.sentence_models import SentenceModel
from storage.errors import ConfigError, InputError, RunError, StoreError
from storage.files import make_directory, open_file, write_atomically
from storage.fingerprints import canonical_json, sha256_bytes, sha256_file

_MARKS: Final = {
    "**/predictions.json": b'"predictions": [',
    "AoA_word/surprisal.json": b'"target_word": "',
    "AoA_word/aoa_score.json": b'"aoa": ',
}
"""Each key is a pattern for the names of files of predictions. Its value is a text that is in the first 4,096 bytes of
such a file."""
_DISPUTED: Final = ("ewok", "entity_tracking")
"""First part of the names of the tasks whose items differ between BabyLM's rules of 2025 and of 2026."""
_KINDS: Final = ("regular", "ambiref", "move_contents")
"""The kinds of texts of entity tracking."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """An item and the log-probabilities of its texts.

    The unit is nats. If only endings are scored, ``log_probs`` has the log-probabilities of the endings.
    """

    choice: Choice
    log_probs: tuple[float, ...]

    @property
    def is_right(self) -> bool:
        """Whether the first text, which is the right one, is more probable than every other."""
        return self.log_probs[0] > max(self.log_probs[1:])

    @property
    def is_tie(self) -> bool:
        """Whether the first text and another one are both the most probable."""
        return self.log_probs[0] == max(self.log_probs[1:])

    def answer(self, rules: Rules) -> int:
        """Return the index of the text that the file of predictions gives as the model's choice."""
        best = [i for i, value in enumerate(self.log_probs) if value == max(self.log_probs)]
        return best[0 if rules == "2025" else -1]

    @property
    def share_of_first(self) -> float:
        """p(first text) divided by the sum of p over all texts of the item."""
        values = np.array(self.log_probs)
        weights = np.exp(values - values.max())
        return float(weights[0] / weights.sum())


def evaluate_babylm(
    model: SentenceModel,
    data: "BabylmData",
    *,
    out: Path | None,
    name: str,
    revision: str,
    at_words: Mapping[int, Callable[[], AbstractContextManager[SentenceModel]]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Score every task of BabyLM's evaluation data. Record the scores and return them.

    The files of predictions are written below ``out``/``name``/``revision``, or nowhere if ``out`` is None. An empty
    ``name`` stands for the name of the model's folder up to the last dot, as in BabyLM's pipeline. A word checkpoint
    holds the weights after some number of words of training. If the model is a word checkpoint, an empty ``revision``
    stands for BabyLM's name of this checkpoint, such as ``chck_1M``. Otherwise it stands for ``main``. The keys of
    ``at_words`` are numbers of words of training, in ascending order. Each value is a function that opens the
    checkpoint after this number of words.

    Raises:
        ConfigError: If the command was started in several processes.
        InputError: If an item is too long for the model.
        RunError: If a log-probability is not finite.
        StoreError: If a file below ``out`` would be replaced and does not hold predictions.
    """
    if model.num_processes > 1:
        raise ConfigError(
            f"evaluate babylm: started in {model.num_processes} processes, expected 1. Start it without torchrun"
        )
    rules, other = data.rules, _other(data.rules)
    data = _checked(data, model, num_checkpoints=len(at_words))
    which = model.files.which
    place = (name or Path(model.files.path.resolve().name).stem, revision or _revision(which))
    if out is not None:
        check_replaced(out.joinpath(*place))
    scored = _Scored()
    for task, choices in data.tasks.items():
        scored.add_choices(task, _outcomes(model, choices), rules)
        if task in data.by_other:
            found = _figures(_outcomes(model, data.by_other[task]))
            scored.figures[task][f"score_by_the_rules_of_{other}"] = found["score"]
    if data.reading is not None:
        scored.add_reading(model, data.reading)
    if data.words is not None:
        surprisals, weights = _at_checkpoints(model, at_words, data.words.choices)
        of_year = {year: data.words.figures(surprisals, model.tokenizer, year) for year in (rules, other)}
        more = {f"score_by_the_rules_of_{other}": of_year[other]["score"], "checkpoints": weights}
        scored.figures[data.words.name] = {**of_year[rules], "num_items": len(data.words.choices), **more}
        scored.predictions.update(data.words.predictions(surprisals, name=place[0], score=of_year[rules]["score"]))
        scored.rows.extend(data.words.rows(surprisals))
    written, _ = record(
        model.files,
        BABYLM,
        data.folder.resolve().name,
        {"tasks": scored.figures},
        settings={**model.settings, "rules": rules},
        fingerprints={"data": sha256_bytes(canonical_json(data.digests()))},
        rows=scored.rows,
    )
    about: dict[str, Any] = {"model": str(model.files.path), "rules": rules}
    summary = about | {"tasks": scored.figures, "left_out": data.left_out}
    if out is not None:
        summary["predictions"] = str(_write_predictions(out.joinpath(*place), scored.predictions))
    return summary | {"written": str(written)}


@dataclass(frozen=True, kw_only=True, slots=True)
class BabylmData:
    """The tasks in a folder of BabyLM's evaluation data."""

    folder: Path
    rules: Rules
    tasks: Mapping[str, Sequence[Choice]]
    by_other: Mapping[str, Sequence[Choice]]
    """The items of the tasks in ``_DISPUTED`` by the rules of the other year: 2025 if ``rules`` is 2026, else 2026."""
    reading: ReadingData | None
    words: AcquisitionTask | None
    left_out: Mapping[str, str]
    """The folders that are not evaluated, with the reason."""

    def digests(self) -> dict[str, Any]:
        """Return what the fingerprint of the data is made of, by task."""
        found: dict[str, Any] = {task: [[c.subset, *c.texts] for c in choices] for task, choices in self.tasks.items()}
        if self.reading is not None:
            found[READING] = sha256_file(self.folder / READING / "reading_data.csv")
        if self.words is not None:
            found[self.words.name] = [sha256_file(file) for file in self.words.files]
        return found


def read_data(folder: Path, rules: Rules) -> BabylmData:
    """Return the data of all tasks in ``full_eval`` or ``fast_eval``, which has a folder for each task.

    Raises:
        InputError: If the folder has no task, or an item is malformed.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give BabyLM's full_eval or fast_eval")
    found = sorted(path.name for path in folder.iterdir() if path.is_dir())
    tasks = {task: read_choices(folder / task, rules) for task in found if task in TASKS}
    by_other = {task: read_choices(folder / task, _other(rules)) for task in tasks if task.startswith(_DISPUTED)}
    file, words = folder / READING / "reading_data.csv", read_acquisition_task(folder)
    reading = read_reading_data(file) if file.is_file() else None
    if not tasks and reading is None and words is None:
        raise InputError(
            f"{folder}: no task in it, found {', '.join(found) or 'no folder at all'}, expected some of the folders "
            f"{', '.join(TASKS)}, {READING}, {', '.join(FOLDERS)}; give BabyLM's full_eval or fast_eval"
        )
    reasons = {**LEFT_OUT, **dict.fromkeys(FOLDERS, "no cdi_childes.json in it; fetch the evaluation data again")}
    evaluated = {*tasks, *[READING] * (reading is not None), *FOLDERS * (words is not None)}
    left_out = {name: reasons.get(name, "not a task that is known here") for name in found if name not in evaluated}
    return BabylmData(
        folder=folder, rules=rules, tasks=tasks, by_other=by_other, reading=reading, words=words, left_out=left_out
    )


def _other(rules: Rules) -> Rules:
    return "2025" if rules == "2026" else "2026"


def _checked(data: BabylmData, model: SentenceModel, *, num_checkpoints: int) -> BabylmData:
    """Return the data without the tasks that the model cannot do. Check that no text of the other tasks is too long."""
    words = data.words
    if words is not None and (reason := _no_acquisition(model.files.which, num_checkpoints)):
        here = {name: reason for name in FOLDERS if (data.folder / name).is_dir()}
        data, words = replace(data, words=None, left_out=dict(sorted({**data.left_out, **here}.items()))), None
    if words is not None and words.children is not None:
        importlib.import_module("scipy")  # an optional package: if it is missing, stop now
    for choices in (*data.tasks.values(), *data.by_other.values(), words.choices if words else ()):
        _check_lengths(model, choices)
    return data


@dataclass(frozen=True, slots=True)
class _Scored:
    """What was scored so far."""

    figures: dict[str, Any] = field(default_factory=dict)
    """The scores and counts of each task."""
    predictions: dict[str, Any] = field(default_factory=dict)
    """The contents of the files of predictions, by their path below ``zero_shot/causal``."""
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add_choices(self, task: str, outcomes: Sequence[Outcome], rules: Rules) -> None:
        """Add the outcomes of a task whose items are choices between texts."""
        self.figures[task] = _figures(outcomes)
        self.predictions[f"{TASKS[task].name}/{task}/predictions.json"] = _predictions(outcomes, rules)
        self.rows.extend(_rows(task, outcomes))

    def add_reading(self, model: SentenceModel, data: ReadingData) -> None:
        """Score the reading times and add them."""
        ours, theirs = word_surprisals(model.scorer, model.tokenizer, data, max_tokens=model.max_tokens)
        self.figures[READING] = {
            **reading_scores(data, ours),
            "num_items": len(data.words),
            "with_the_pipelines_surprisals": reading_scores(data, theirs),
            "num_words_where_the_pipeline_differs": int((~np.isclose(ours.words, theirs.words, atol=1e-3)).sum()),
        }
        pairs = list(zip(ours.words.tolist(), ours.previous.tolist(), strict=True))
        self.predictions[f"{READING}/predictions.json"] = {
            READING: {"predictions": [{"id": i, "pred": of, "prev_pred": prev} for i, (of, prev) in enumerate(pairs)]}
        }
        self.rows.extend({"task": READING, "item": i, "surprisal": of} for i, (of, _) in enumerate(pairs))


def _revision(which: str) -> str:
    return which.replace("words_", "chck_") if which.startswith("words_") else "main"


def _no_acquisition(which: str, num_checkpoints: int) -> str:
    """Return why the age of acquisition is left out; "" if it is not."""
    if which.startswith("words_"):
        return "compares all word checkpoints; leave out --checkpoint"
    if num_checkpoints < LEAST:
        return (
            f"needs at least {LEAST} word checkpoints, found {num_checkpoints}; train with --word-checkpoints babylm. "
            "If the model is an exported folder, write it with export --all-checkpoints, and give its subfolder main"
        )
    return ""


def _at_checkpoints(
    model: SentenceModel,
    at_words: Mapping[int, Callable[[], AbstractContextManager[SentenceModel]]],
    choices: Sequence[Choice],
) -> tuple[Surprisals, dict[str, str]]:
    """Return, for each word checkpoint, the surprisals of the texts' scored parts, and the sha256 of the weights."""
    surprisals, weights = {}, {}
    for num_words, opening in at_words.items():
        with opening() as opened:
            if opened.tokenizer.sha256 != model.tokenizer.sha256:
                raise RunError(
                    f"{opened.files.path}: another tokenizer than that of {model.files.path}, expected checkpoints of "
                    "one run; export the run again"
                )
            outcomes = _outcomes(opened, choices)
            weights[checkpoint_name(num_words)] = opened.files.weights_sha256
        surprisals[num_words] = [-np.array(outcome.log_probs) for outcome in outcomes]
    return surprisals, weights


def _check_lengths(model: SentenceModel, choices: Sequence[Choice]) -> None:
    """Check that the model can score every text.

    Raises:
        InputError: If a text is too long. The error names the file and the line.
    """
    if model.max_tokens is None:
        return
    where = {text: choice.where for choice in reversed(choices) for text in choice.texts}
    for text, ids in zip(where, model.tokenizer.encode_batch(list(where)), strict=True):
        if len(ids) > model.max_tokens:
            raise InputError(
                f"{where[text]}: a text of {len(ids)} tokens, expected at most {model.max_tokens}, the limit of the "
                "model; train with a larger --max-length, or remove the line"
            )


def _outcomes(model: SentenceModel, choices: Sequence[Choice]) -> list[Outcome]:
    """Score each text from the character in ``Choice.starts`` to its end. A text that occurs twice is computed once."""
    texts = list(dict.fromkeys(text for choice in choices for text in choice.texts))
    encoded = dict(zip(texts, model.tokenizer.encode_batch_with_spans(texts), strict=True))
    scored = model.scorer.log_probs([ids for ids, _ in encoded.values()])
    log_probs = dict(zip(encoded, scored, strict=True))
    outcomes = []
    for choice in choices:
        values = tuple(
            _sum_from(log_probs[text], encoded[text][1], start)
            for text, start in zip(choice.texts, choice.starts, strict=True)
        )
        if not np.isfinite(values).all():
            raise RunError(
                f"{choice.where}: log-probabilities {values}, expected finite numbers; training diverged or the "
                "checkpoint is damaged: use another checkpoint"
            )
        outcomes.append(Outcome(choice, values))
    return outcomes


def _sum_from(log_probs: NDArray[np.float32], spans: Sequence[tuple[int, int]], start: int) -> float:
    """Return the sum of the log-probabilities of all tokens that end after ``start``, without ``<eos>``."""
    scored = [i for i, (_, stop) in enumerate(spans) if stop > start]
    return float(log_probs[scored].sum(dtype=np.float64))


def _figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    humans = [outcome.choice.human for outcome in outcomes]
    if None not in humans:
        model_shares = np.array([outcome.share_of_first for outcome in outcomes])
        return {"score": spearman(model_shares, np.array(humans, np.float64)), "num_items": len(outcomes)}
    by_subset: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_subset.setdefault(outcome.choice.subset, []).append(outcome)
    subsets: dict[str, Any] = {}
    for name, of_subset in sorted(by_subset.items()):
        num_right, num_ties = (sum(getattr(each, flag) for each in of_subset) for flag in ("is_right", "is_tie"))
        interval = wilson_interval(num_right, len(of_subset))
        subsets[name] = {
            "accuracy": num_right / len(of_subset),
            "interval": None if interval is None else [interval.low, interval.high],
            "num_items": len(of_subset),
            "num_right": num_right,
            "num_ties": num_ties,
        }
    ties_right = {name: (one["num_right"] + one["num_ties"]) / one["num_items"] for name, one in subsets.items()}
    return {
        "score": _mean({name: one["accuracy"] for name, one in subsets.items()}),
        "score_ties_right": _mean(ties_right),
        "num_items": len(outcomes),
        "num_ties": sum(one["num_ties"] for one in subsets.values()),
        "subsets": subsets,
    }


def _mean(accuracies: Mapping[str, float]) -> float:
    """Return the mean over the subsets; for entity tracking, the mean over the kinds of texts."""
    by_kind: dict[str, list[float]] = {}
    for name, accuracy in accuracies.items():
        kind = next((kind for kind in _KINDS if name.startswith(kind) and name.endswith("_ops")), name)
        by_kind.setdefault(kind, []).append(accuracy)
    return float(np.mean([np.mean(values) for values in by_kind.values()]))


def _predictions(outcomes: Sequence[Outcome], rules: Rules) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for outcome in outcomes:
        subset = outcome.choice.subset
        rows = found.setdefault(subset, {"predictions": []})["predictions"]
        row = {"id": f"{subset}_{len(rows)}", "pred": outcome.choice.answers[outcome.answer(rules)]}
        rows.append(row if outcome.choice.human is None else {**row, "prob": outcome.share_of_first})
    return found


def _rows(task: str, outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    for item, outcome in enumerate(outcomes):
        yield {"task": task, "subset": outcome.choice.subset, "item": item, "log_probs": list(outcome.log_probs)}


def check_replaced(folder: Path) -> None:
    """Check that only files with predictions would be replaced.

    Raises:
        StoreError: If a file with the name of a file of predictions holds something else.
    """
    for name, mark in _MARKS.items():
        for path in folder.glob(f"zero_shot/causal/{name}"):
            with open_file(path) as file:
                if mark not in file.read(4096):
                    raise StoreError(
                        f"{path}: already exists and does not hold predictions. Remove it, or give another --out"
                    )


def _write_predictions(folder: Path, predictions: Mapping[str, Any]) -> Path:
    for path, content in predictions.items():
        target = folder / "zero_shot" / "causal" / path
        make_directory(target.parent)
        # NaN is written as it is. In the task "reading", the first word of a sentence has no word before it, so its
        # prev_pred is NaN, as in BabyLM's pipeline.
        write_atomically(target, json.dumps(content, ensure_ascii=False).encode())
    return folder
