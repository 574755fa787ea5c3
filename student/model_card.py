"""Write the model card of an exported student: its origin, how to load it, and its results.

Every number comes from the run's ``run.json``, history and results. Each result records the sha256 of the weights that
were evaluated. The card shows the results of the exported weights. Of all other results it shows only how many there
are.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.word_budget import budget_for_people, from_json
from pipeline.evaluation.perplexity import FLOOR
from pipeline.evaluation.results import RunResults, load_results
from pipeline.runtime.metric_rows import METRICS, Row, read_rows
from pipeline.runtime.run_directory import RunInfo, Which, dump_summaries
from pipeline.runtime.run_history import read_history
from pipeline.runtime.train_config import num_words_of
from storage.dump.schema import cross_fitted, num_folds, teacher_names
from storage.fingerprints import sha256_bytes, sha256_file
from student.student_config import ExportConfig, StudentConfig

SETTINGS: Final = (
    "alpha", "temperature", "targets", "divergence", "tail", "context", "long_sentences", "num_epochs", "max_steps",
    "batch_tokens", "batch_sentences", "accumulate_batches", "lr", "schedule", "warmup_steps", "weight_decay",
    "dropout", "clip_norm", "patience", "seed", "dtype",
)  # fmt: skip
"""Options that influence what the student learned."""
_OF_DISTILLATION: Final = ("alpha", "temperature", "divergence", "tail")
_OF_DUMP: Final = (
    ("condition", "its distributions are conditioned on"),
    ("selection", "selection"),
    ("k", "tokens per position"),
    ("temperatures", "temperatures"),
    ("num_positions", "positions"),
    ("tree_source", "trees"),
    ("profile", "profile"),
)
_CONDITIONS: Final = {
    "tree": "the tree so far",
    "beam": "no tree: a beam search sums over trees",
    "none": "no tree",
    "exact": "no tree: the sum over all trees of the known grammar is exact",
}


def model_card(
    run: RunInfo,
    which: Which,
    tokenizer: Tokenizer,
    *,
    weights: bytes,
    num_parameters: int,
    num_trained: int | None,
    config: ExportConfig,
) -> str:
    """Return the text of ``README.md``.

    ``weights`` are the bytes of the exported ``model.safetensors``. ``num_trained`` is the number of position
    embeddings that were trained; None if it is not known. In ``num_parameters``, tied parameters count once.

    Raises:
        InputError: If a result of the run is damaged.
    """
    digest = sha256_file(run.checkpoint(which))
    results = load_results(run.path, weights_sha256=digest)
    distilled = run.dump is not None
    trained_on = from_json(run.trained_on, of=run.kind, name=run.path.name, where=str(run.path / "run.json"))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 - Markdown; ``plain`` removes everything that could be markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": plain, "code": code}
    return environment.get_template("model_card.md.j2").render(
        name=run.path.absolute().name,
        which=which,
        about=config,
        distilled=distilled,
        sizes=run.options(StudentConfig),
        num_parameters=num_parameters,
        num_trained=num_trained,
        context=run.configuration.get("context", "sentence"),
        specials={name: tokenizer.token(getattr(tokenizer, f"{name}_id")) for name in ("bos", "eos", "pad")},
        special_ids={name: getattr(tokenizer, f"{name}_id") for name in ("bos", "eos", "pad")},
        fingerprints={
            "weights of the run": digest,
            "model.safetensors": sha256_bytes(weights),
            **{{"manifest": "manifest of the dump"}.get(name, name): of for name, of in run.fingerprints.items()},
        },
        words=budget_for_people(trained_on),
        words_seen=_words_seen(run.path, which),
        sources={name: licence for text in trained_on for name, licence in text.sources.items()},
        dumps=[list(_of_dump(dump)) for dump in dump_summaries(run.dump)],
        init=run.init,
        truncated=run.truncated or {},
        settings=[
            (name.replace("_", "-"), run.configuration[name])
            for name in SETTINGS
            if name in run.configuration and (distilled or name not in _OF_DISTILLATION)
        ],
        end=_end(run.path),
        results=[
            (evaluation, label, f"{value:.4f}")
            for evaluation, label, value in _figures(results)
            if value is not None and math.isfinite(value)
        ],
        num_other_results=len(results.skipped),
        versions=run.versions,
        git=run.git,
        command=run.command,
    )


def _words_seen(run: Path, which: Which) -> str:
    """Return the number of words that training had read when it saved a checkpoint, formatted for the card.

    Every pass over a word counts.
    """
    if threshold := num_words_of(which):
        return f"{threshold:,} or more (the checkpoint was saved after the step that reached this number)"
    if not (run / METRICS).exists():
        return "not known"
    rows, _ = read_rows(run)
    steps = [row for row in rows if isinstance(row.get("words"), int) and (which == "last" or row["split"] == "dev")]
    if not steps:
        return "not known"

    def loss(row: Row) -> float:
        found = row.get("cross_entropy", row.get("loss"))
        return found if isinstance(found, float | int) else math.inf

    return f"{(steps[-1] if which == 'last' else min(steps, key=loss))['words']:,}"


def plain(value: object) -> str:
    """Return a value on one line, without characters that are markup in Markdown, HTML or a table."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return " ".join("".join(" " if letter in "`|<>" else letter for letter in text).split())


def code(value: object) -> str:
    """Return a value on one line, for a place between backquotes or in an indented block."""
    return " ".join(str(value).replace("`", " ").split())


def _of_dump(dump: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield the rows of the card's table about the dump: a label and a value."""
    schema, statistics = dump.get("schema") or {}, dump.get("statistics") or {}
    fingerprints = schema.get("fingerprints") or {}
    if "weight" in dump:
        yield "weight in the mixture", float(dump["weight"])
    for key, label in _OF_DUMP:
        if key in schema:
            value = schema[key]
            shown = ", ".join(f"{each:g}" for each in value) if isinstance(value, list) else value
            given = f"{_CONDITIONS.get(value, value)}{cross_fitted(fingerprints)}" if key == "condition" else shown
            yield label, given
    for name in teacher_names(num_folds(fingerprints) or 1):
        if name in fingerprints:
            yield f"sha256 of the {name}", fingerprints[name]
    if (perplexity := statistics.get("perplexity")) is not None:
        yield "its perplexity on the training text, per token with eos", float(perplexity)
    if (mass := statistics.get("mean_kept_mass")) is not None:
        yield "mean probability of the tokens kept", float(mass)
    if (entropy := statistics.get("mean_entropy_nats")) is not None:
        yield "its mean entropy, nats", float(entropy)


def _end(run: Path) -> str:
    end = read_history(run)[-1]
    return f"{end['step']:,} steps; {end['reason']}" if end.get("reason") else f"{end.get('step')} steps"


def _figures(results: RunResults) -> Iterator[tuple[str, str, float | None]]:
    """Yield three things for each metric: the evaluation, the metric's name, and its value (None if not defined)."""
    for pairs in results.pairs:
        ties = _ties(pairs.figures.overall.num_ties)
        evaluation = f"minimal pairs: {pairs.subject}, {pairs.convention}"
        yield evaluation, f"accuracy, mean over paradigms{ties}", pairs.figures.macro_accuracy
    for perplexity in results.perplexities:
        for name, figure in perplexity.figures.items():
            if name == FLOOR:  # a property of the corpus, not of the model
                continue
            for normaliser in ("per_token", "per_word", "bits_per_byte"):
                label = f"{normaliser.replace('_', ' ')}, {name}"
                yield f"perplexity: {perplexity.subject}", label, getattr(figure, normaliser)
    yield from _babylm_figures(results)
    for surprisal in results.surprisals:
        yield f"surprisal: {surprisal.subject}", "bits per word", surprisal.figures.bits_per_word
    for suites in results.suites:
        figures = suites.figures
        evaluation = f"syntaxgym: {suites.subject}, {suites.convention}"
        yield evaluation, f"accuracy, mean over suites{_ties(figures.overall.num_ties)}", figures.mean_of_suites


def _babylm_figures(results: RunResults) -> Iterator[tuple[str, str, float | None]]:
    for babylm in results.babylm:
        for task, figures in babylm.figures.get("tasks", {}).items():
            for label in ("score", "eye_tracking", "self_paced_reading"):
                if isinstance(figures.get(label), float):
                    yield f"babylm: {task}, {babylm.convention}", label.replace("_", " "), figures[label]


def _ties(num_ties: int) -> str:
    return f" ({num_ties} ties, which count as not right)" if num_ties else ""
