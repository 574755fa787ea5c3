"""Run the evaluations that are the same for every model, record their results, and return summaries.

Minimal pairs, SyntaxGym and surprisals need a ``SentenceModel``: a student, a folder in Hugging Face's format, or a
teacher that finds the trees by beam search. A perplexity is computed from a ``ScoredSplit``. Its log-probabilities
are computed in the packages ``student`` and ``teacher``, because each model reads a split in its own way: a teacher may
read its trees, and a student its documents.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.dataset_store import Split
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.evaluation.evaluation_config import SurprisalConfig
from pipeline.evaluation.minimal_pairs import MinimalPair, Prefix, pairs_sha256
from pipeline.evaluation.minimal_pairs import evaluate_minimal_pairs as score_pairs
from pipeline.evaluation.perplexity import FLOOR, IN_DOCUMENT, breakdowns, perplexity_figure
from pipeline.evaluation.results import MINIMAL_PAIRS, PERPLEXITY, SURPRISAL, SYNTAXGYM, record
from pipeline.evaluation.scorer import DistributionScorer
from pipeline.evaluation.surprisal import write_surprisals
from pipeline.evaluation.syntaxgym import evaluate_suites
from pipeline.evaluation.syntaxgym_suites import Joining, Suite, suites_sha256
from pipeline.evaluation.truth import Truth
from pipeline.runtime.display import as_text, table
from pipeline.training.model_files import ModelFiles
from storage.errors import ConfigError
from storage.fingerprints import sha256_file
from storage.ragged import Ragged


@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceModel:
    """A model that is ready to score sentences, and the facts about it that its results record."""

    scorer: DistributionScorer
    tokenizer: Tokenizer
    max_tokens: int | None
    """Length of the longest sentence that the model can score, without ``<eos>``; None if there is no limit."""
    files: ModelFiles
    settings: Mapping[str, Any]
    """Everything that could change the model's results, including its distribution (``perplexity.DISTRIBUTIONS``)."""
    num_processes: int = 1
    """The number of processes that score the sentences together. Only rank 0 has a ``SentenceModel``."""
    context_positions: int = 0
    """The largest number of positions that a sentence and its *context* may have together. Context is text that comes
    before the sentence (``--context``). 0 if the model reads single sentences."""
    reads_one: str = ""
    """For error messages: why the model reads only single sentences. "" if it can read context."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSplit:
    """The log-probabilities that a model gives to the tokens of a split, and the facts that the result records."""

    files: ModelFiles
    split: Split
    """The M sentences that were scored: the whole split or some of its sentences."""
    log_probs: Mapping[str, Ragged]
    """For each distribution, M rows, one per sentence: n + 1 natural logs for its n tokens and ``<eos>``."""
    settings: Mapping[str, Any]
    """Everything that could change the log-probabilities, except the checkpoint."""
    truth: Truth | None
    """The next-token distributions of the grammar that wrote the split; None if no grammar is known."""
    divergences: Mapping[str, Ragged]
    """For some of the distributions, KL(truth || model) in nats at each position: rows as in ``log_probs``."""


def spaced_sentences(split: Split, max_sentences: int | None) -> NDArray[np.int64]:
    """Return the indices of at most ``max_sentences`` sentences, evenly spaced over a split. None means all."""
    num_sentences = split.num_sentences
    num_taken = num_sentences if max_sentences is None else min(max_sentences, num_sentences)
    return np.arange(num_taken) * num_sentences // max(num_taken, 1)


def evaluate_split(scored: ScoredSplit) -> dict[str, Any]:
    """Record the perplexities of a split and each sentence's log-probabilities. Return a summary.

    The first distribution in ``scored.log_probs`` also gets a perplexity for each source and each range of sentence
    lengths. If ``scored.truth`` is not None, the floor (the perplexity under the grammar's own distributions) is added.

    Raises:
        RunError: If a log-probability is not finite.
    """
    model, split, log_probs, settings = scored.files, scored.split, scored.log_probs, scored.settings
    figures = [perplexity_figure(rows, split, name, scored.divergences.get(name)) for name, rows in log_probs.items()]
    first, rows_of_first = next(iter(log_probs.items()))
    broken_down = breakdowns(rows_of_first, split, first)
    if scored.truth is not None:
        figures.append(perplexity_figure(scored.truth.log_probs(), split, FLOOR))
    as_json = [figure.to_json() for figure in figures]
    as_json[0]["parts"] = {
        by: {name: figure.to_json() for name, figure in of_groups.items()} for by, of_groups in broken_down.items()
    }
    fingerprints = {"split": split.sha256, "text": split.text_sha256}
    rows = _sentence_rows(log_probs)
    written, rows_path = record(
        model, PERPLEXITY, split.name, as_json, settings=settings, fingerprints=fingerprints, rows=rows
    )
    summary: dict[str, Any] = {"model": str(model.path), "split": split.name, "positions": split.num_positions}
    summary["context"] = settings["context"]
    for figure in figures:
        summary[figure.distribution] = {name: getattr(figure, name) for name in figure.definitions}
    for by, of_groups in broken_down.items():
        summary[f"{first}, {by}: sentences, per word, bits per byte"] = {
            name: (figure.num_sentences, figure.per_word, figure.bits_per_byte) for name, figure in of_groups.items()
        }
    definitions = {name: is_ for figure in figures for name, is_ in figure.definitions.items()}
    return summary | {"normalisers": definitions, "sentences": str(rows_path), "written": str(written)}


def evaluate_minimal_pairs(
    model: SentenceModel, pairs: Sequence[MinimalPair], subject: str, *, prefix: Prefix, eos: bool
) -> dict[str, Any]:
    """Score pairs. Record the accuracies and the score of each pair under the name ``subject``. Return a summary."""
    figures, scored = score_pairs(
        model.scorer,
        model.tokenizer,
        pairs,
        prefix=prefix,
        eos=eos,
        max_tokens=model.max_tokens,
    )
    written, rows = record(
        model.files,
        MINIMAL_PAIRS,
        subject,
        figures.to_json(),
        settings={**model.settings, "prefix": prefix, "eos": eos},
        fingerprints={"pairs": pairs_sha256(pairs)},
        rows=(pair.to_json() for pair in scored),
    )
    about = {"model": str(model.files.path), "subject": subject, "prefix": prefix, "eos": eos}
    shown = figures.to_json()
    # Of the figures in ``per_token``, the summary has only two averages. The result file has all these figures.
    shown["per_token"] = {name: shown["per_token"][name] for name in ("accuracy_macro", "accuracy_micro")}
    return about | shown | {"pairs": str(rows), "written": str(written)}


def evaluate_syntaxgym(
    model: SentenceModel, suites: Sequence[Suite], subject: str, *, joining: Joining
) -> dict[str, Any]:
    """Score suites. Record the accuracies and each item's outcome under the name ``subject``. Return a summary."""
    figures, outcomes = evaluate_suites(
        model.scorer,
        model.tokenizer,
        suites,
        joining=joining,
        max_tokens=model.max_tokens,
    )
    written, rows = record(
        model.files,
        SYNTAXGYM,
        subject,
        figures.to_json(),
        settings={**model.settings, "joining": joining},
        fingerprints={"suites": suites_sha256(suites)},
        rows=(outcome.to_json() for outcome in outcomes),
    )
    about = {"model": str(model.files.path), "subject": subject}
    return about | figures.to_json() | {"items": str(rows), "written": str(written)}


def pairs_as_text(found: Mapping[str, Any]) -> str:
    """Return the summary of ``evaluate_minimal_pairs`` for a terminal."""
    rows = [
        (name, counts["linguistics_term"], counts["field"], *_accuracy(counts, "num_pairs"))
        for name, counts in found["by_paradigm"].items()
    ]
    averages = {
        "mean of the paradigms, %": _percent(found["accuracy_macro"]),
        "all pairs, %": _percent(found["accuracy_micro"]),
        "by mean log-probability per token, %": _percent(found["per_token"]["accuracy_macro"]),
        "identical sentences, left out": found["num_identical"],
    }
    return _with_table(found, averages, table(rows, header=("paradigm", "term", "field", "pairs", *_ACCURACY)))


def suites_as_text(found: Mapping[str, Any]) -> str:
    """Return the summary of ``evaluate_syntaxgym`` for a terminal."""
    rows = [(name, suite["circuit"], *_accuracy(suite, "num_items")) for name, suite in found["by_suite"].items()]
    overall = found["overall"]
    averages = {
        "mean of the suites, %": _percent(overall["mean_of_suites"]),
        "all items, %": _percent(overall["accuracy"]),
    }
    return _with_table(found, averages, table(rows, header=("suite", "circuit", "items", *_ACCURACY)))


_ACCURACY = ("right, %", "95 %", "ties")


def _accuracy(counts: Mapping[str, Any], number: str) -> tuple[object, ...]:
    """Return four cells of a table's row: the count ``counts[number]``, then the columns ``_ACCURACY``."""
    interval = " to ".join(f"{100 * end:.1f}" for end in counts["interval"] or ())
    return counts[number], _percent(counts["accuracy"]), interval, counts["num_ties"]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:5.1f}"


def _with_table(found: Mapping[str, Any], averages: Mapping[str, object], rows: str) -> str:
    """Return a text in three parts: a summary's plain values and averages, the table, and the paths of the files."""
    plain = {name: value for name, value in found.items() if isinstance(value, str | bool)}
    paths: dict[str, object] = {name: plain.pop(name) for name in ("pairs", "items", "written") if name in plain}
    return "\n\n".join([as_text({**plain, **averages}), rows, as_text(paths)])


def evaluate_surprisal(model: SentenceModel, text: Path, out: Path, config: SurprisalConfig) -> dict[str, Any]:
    """Write the surprisals of a text's words or tokens as a table. Record their sums and return them.

    Raises:
        ConfigError: If ``out`` is inside the model's folder, or text before the sentences is given to a model that
            reads single sentences.
    """
    if out.resolve().is_relative_to(folder := model.files.path.resolve()):
        raise ConfigError(f"surprisal: {out} is inside {folder}, which holds the model's files; give another --out")
    has_context = config.context is not None or config.context_sentences > 0
    if has_context and not model.context_positions:
        raise ConfigError(
            f"{model.files.path}: {model.reads_one}, expected a student trained with --context document; leave out "
            "--context and --context-sentences"
        )
    figure, dropped = write_surprisals(
        model.scorer,
        model.tokenizer,
        text,
        out,
        config,
        max_tokens=model.max_tokens,
        context_positions=model.context_positions,
    )
    read = {"spans": config.spans, "frequencies": config.frequencies, "context": config.context}
    digests = {f"{name} sha256": None if path is None else sha256_file(path) for name, path in read.items()}
    chosen = {name: getattr(config, name) for name in ("on_error", "column", "item", "region", "context_sentences")}
    settings = {**model.settings, **chosen, **digests}
    if has_context:
        settings["distribution"] = IN_DOCUMENT
    figures = figure.to_json() | {"dropped": dict(sorted(dropped.items()))}
    fingerprints = {"text": sha256_file(text)}
    written, _ = record(model.files, SURPRISAL, text.name, figures, settings=settings, fingerprints=fingerprints)
    about = {"model": str(model.files.path), "text": str(text)}
    return about | figures | {"table": str(out), "written": str(written)}


def _sentence_rows(log_probs: Mapping[str, Ragged]) -> Iterator[dict[str, Any]]:
    """Yield one row per sentence for the result of a perplexity, as ``results.read_sentence_rows`` reads them."""
    for i in range(len(next(iter(log_probs.values())))):
        yield {
            "sentence": i,
            "log_probs": {
                # Six decimals are about the precision of float32. Rounding to them halves the file's size.
                distribution: rows[i].astype(np.float64).round(6).tolist()
                for distribution, rows in log_probs.items()
            },
        }
