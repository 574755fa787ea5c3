"""Score BabyLM's zero-shot tasks, record the figures, and write the files of predictions that BabyLM collects.

All figures are shares: 0.65 is BabyLM's 65.00. The accuracy of a task is the mean over its subsets. For entity
tracking, it is the mean over the kinds of texts of the mean over the numbers of operations. A tie is never right. The
2025 pipeline counts a tie as right, so ``score_ties_right`` is its figure. The 2026 pipeline draws at random.

``OUT/NAME/REVISION/zero_shot/causal/TASK/FOLDER/predictions.json`` has the form that ``collate_preds.py`` reads. There
a tie is the first text under the rules of 2025, and the last under those of 2026.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.babylm_tasks import LEFT_OUT, READING, TASKS, Choice, Rules, read_choices
from pipeline.evaluation.intervals_and_p_values import wilson_interval
from pipeline.evaluation.reading_times import read_reading_data, reading_scores, word_surprisals
from pipeline.evaluation.results import BABYLM, record
from pipeline.evaluation.scorer import score_all
from pipeline.evaluation.sentence_models import SentenceModel
from storage.errors import InputError, RunError, StoreError
from storage.files import make_directory, open_file, write_atomically
from storage.fingerprints import canonical_json, sha256_bytes, sha256_file

_DISPUTED: Final = ("ewok", "entity_tracking")
"""The tasks for which the rules of the two years differ."""
_KINDS: Final = ("regular", "ambiref", "move_contents")
"""The kinds of texts of entity tracking."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The log-probabilities of an item's texts, in nats."""

    choice: Choice
    log_probs: tuple[float, ...]

    @property
    def is_right(self) -> bool:
        """Whether the first text is more probable than every other."""
        return self.log_probs[0] > max(self.log_probs[1:])

    @property
    def is_tie(self) -> bool:
        """Whether the first text and another are the most probable."""
        return self.log_probs[0] == max(self.log_probs[1:])

    def answer(self, rules: Rules) -> int:
        """Return the number of the text that the file of predictions names."""
        best = [i for i, value in enumerate(self.log_probs) if value == max(self.log_probs)]
        return best[0 if rules == "2025" else -1]

    @property
    def share_of_first(self) -> float:
        """The probability of the first text if one of the texts must be chosen."""
        values = np.array(self.log_probs)
        weights = np.exp(values - values.max())
        return float(weights[0] / weights.sum())


def evaluate_babylm(
    model: SentenceModel, folder: Path, *, rules: Rules, out: Path | None, name: str, revision: str
) -> dict[str, Any]:
    """Score every task in a folder of BabyLM's evaluation data. Record the figures and return them.

    Args:
        model: The model.
        folder: ``full_eval`` or ``fast_eval``, with a folder for each task.
        rules: Which year's pipeline defines the items.
        out: Where to write the files of predictions; None for nowhere.
        name: The model's name in the paths; empty: that of its folder, cut as the pipeline cuts it.
        revision: The revision in the paths; empty: ``main``, or ``chck_1M`` and so on for a word checkpoint.

    Raises:
        InputError: If the folder has no task, or an item is malformed or too long for the model.
        RunError: If a log-probability is not finite.
        StoreError: If a file below ``out`` would be replaced and does not hold predictions.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give BabyLM's full_eval or fast_eval")
    found = sorted(path.name for path in folder.iterdir() if path.is_dir())
    tasks = [task for task in found if task in TASKS]
    reading = folder / READING / "reading_data.csv"
    if not tasks and not reading.is_file():
        raise InputError(
            f"{folder}: no folder of a task ({', '.join(found) or 'no folder at all'}), expected some of "
            f"{', '.join(TASKS)}, {READING}; give BabyLM's full_eval or fast_eval"
        )
    other: Rules = "2025" if rules == "2026" else "2026"
    known = {task: read_choices(folder / task, rules) for task in tasks}
    by_other = {task: read_choices(folder / task, other) for task in tasks if task.startswith(_DISPUTED)}
    data = read_reading_data(reading) if reading.is_file() else None
    for choices in (*known.values(), *by_other.values()):  # before the hours of scoring
        _check_lengths(model, choices)
    which = model.files.which
    place = (name or Path(model.files.path.resolve().name).stem, revision or _revision(which))
    if out is not None:
        check_replaced(out.joinpath(*place))
    predictions: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for task, choices in known.items():
        outcomes = _outcomes(model, choices)
        figures[task] = _figures(outcomes)
        if task in by_other:
            found_by_other = _figures(_outcomes(model, by_other[task]))
            figures[task][f"score_by_the_rules_of_{other}"] = found_by_other["score"]
        predictions[f"{TASKS[task].name}/{task}"] = _predictions(outcomes, rules)
        rows += _rows(task, outcomes)
    if data is not None:
        ours, theirs = word_surprisals(model.scorer, model.tokenizer, data, max_tokens=model.max_tokens)
        figures[READING] = {
            **reading_scores(data, ours),
            "num_items": len(data.words),
            "with_the_pipelines_surprisals": reading_scores(data, theirs),
            "num_words_where_the_pipeline_differs": int((~np.isclose(ours.words, theirs.words, atol=1e-3)).sum()),
        }
        pairs = list(zip(ours.words.tolist(), ours.previous.tolist(), strict=True))
        predictions[READING] = {
            READING: {"predictions": [{"id": i, "pred": of, "prev_pred": prev} for i, (of, prev) in enumerate(pairs)]}
        }
        rows += [{"task": READING, "item": i, "surprisal": of} for i, (of, _) in enumerate(pairs)]
    left_out = {task: LEFT_OUT.get(task, "not a task that is known here") for task in found if task not in figures}
    digests: dict[str, Any] = {task: [[c.subset, *c.texts] for c in choices] for task, choices in known.items()}
    if data is not None:
        digests[READING] = sha256_file(reading)
    written, _ = record(
        model.files,
        BABYLM,
        folder.resolve().name,
        {"tasks": figures},
        settings={**model.settings, "rules": rules},
        fingerprints={"data": sha256_bytes(canonical_json(digests))},
        rows=rows,
    )
    summary: dict[str, Any] = {"model": str(model.files.path), "rules": rules, "tasks": figures, "left_out": left_out}
    if out is not None:
        summary["predictions"] = str(_write_predictions(out.joinpath(*place), predictions))
    return summary | {"written": str(written)}


def _revision(which: str) -> str:
    return which.replace("words_", "chck_") if which.startswith("words_") else "main"


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
    """Score the ends of all texts, each distinct text once."""
    texts = list(dict.fromkeys(text for choice in choices for text in choice.texts))
    encoded = dict(zip(texts, model.tokenizer.encode_batch_with_spans(texts), strict=True))
    scored = score_all(model.scorer, [ids for ids, _ in encoded.values()], block_sentences=model.block_sentences)
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
    """Return the sum over the tokens that overlap with the text from ``start`` on, without ``<eos>``."""
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
    """Return the mean over the subsets; for entity tracking, over its kinds of texts first."""
    by_kind: dict[str, list[float]] = {}
    for name, accuracy in accuracies.items():
        kind = next((kind for kind in _KINDS if name.startswith(kind) and name.endswith("_ops")), name)
        by_kind.setdefault(kind, []).append(accuracy)
    return float(np.mean([np.mean(values) for values in by_kind.values()]))


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Return the rank correlation of two arrays ``[N]``, with mean ranks for ties; None if an array is constant.

    Spearman (1904), The proof and measurement of association between two things.
    """
    ranks = [_mean_ranks(values) for values in (one, other)]
    first, second = (rank - rank.mean() for rank in ranks)
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale else None


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[inverse]
    return ranks


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
    """Check that the files of predictions that exist below a folder are such files.

    Raises:
        StoreError: If one of them holds something else.
    """
    for path in folder.glob("zero_shot/causal/**/predictions.json"):
        with open_file(path) as file:
            if b'"predictions": [' not in file.read(4096):
                raise StoreError(
                    f"{path}: already exists and does not hold predictions. Remove it, or give another --out"
                )


def _write_predictions(folder: Path, predictions: Mapping[str, Any]) -> Path:
    for task, content in predictions.items():
        target = folder / "zero_shot" / "causal" / task
        make_directory(target)
        # The first words of the sentences of "reading" have no word before: NaN, as the pipeline writes it.
        write_atomically(target / "predictions.json", json.dumps(content, ensure_ascii=False).encode())
    return folder
