"""Make the tables of runs: metrics of students and teachers, all perplexities, settings that differ, commands.

Each perplexity is shown with the name of its distribution, because a teacher that is given the tree has a low
perplexity for that reason alone.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.compare.run_records import RunRecord, value
from pipeline.evaluation.minimal_pairs import PairCounts
from pipeline.evaluation.perplexity import (
    DIVERGENCES,
    FLOOR,
    GIVEN_TREE,
    IN_DOCUMENT,
    JOINT,
    MARGINAL,
    NORMALISERS,
    OF_STUDENTS,
    UNCONDITIONAL,
    PerplexityFigure,
)
from pipeline.evaluation.syntaxgym import ItemCounts
from pipeline.report.page_blocks import Block, Commands, Details, Heading, Items, Paragraph, Section, TitledTable
from pipeline.report.reported_runs import ReportedRuns, have_one_tokenizer, pair_sets, splits_of, suite_sets
from pipeline.report.tables import NOTHING, AnyCell, Cell, Cells, Number, Table, duration, interval, percent, perplexity
from pipeline.runtime.run_directory import dump_summaries
from storage.dump.schema import num_folds

_TEACHER_COLUMNS = (GIVEN_TREE, MARGINAL, JOINT, UNCONDITIONAL)
_DISTRIBUTION_NOTES: Mapping[str, str] = {
    UNCONDITIONAL: "Unconditional perplexities: the model sees the words before, and no tree.",
    IN_DOCUMENT: (
        "Perplexities of a sentence given the document before it: the student also sees the earlier sentences of the "
        "document. They are not comparable with unconditional perplexities."
    ),
    GIVEN_TREE: (
        "Perplexities given the tree: the teacher sees the words before and the tree so far. The tree may open phrases "
        "for words that are yet to come, so these perplexities are not comparable with a student\u2019s."
    ),
    MARGINAL: (
        "Perplexities marginal by beam search: the teacher sees the words before, and no tree. The probability of a "
        "token is a weighted mean over the trees that a beam search finds for the words before it. These perplexities "
        "are comparable with a student\u2019s unconditional perplexities."
    ),
    JOINT: (
        "Perplexities joint with the tree: the teacher predicts words and tree. They are not comparable with a "
        "student\u2019s."
    ),
}
"""Explains each distribution that has a column."""
_FIGURES_NOTE = (
    "The floor is the perplexity of the grammar that wrote the text. Nats above the floor are per position. KL from "
    "truth is the mean divergence of the model from the exact distributions of this grammar, in nats per position. "
    "Right, %: the share of right answers in each paradigm or suite, averaged over paradigms or suites. Ties do not "
    "count as right. The small print gives the share of right answers among all pairs or items. Its 95 % Wilson "
    "interval holds for this training only. A run with another seed may be outside of this interval."
)


def figures_section(reported: ReportedRuns) -> Section:
    """Return the section with the metrics of all runs."""
    blocks: list[Block] = []
    for kind, distributions, explanation in (
        ("student", OF_STUDENTS, _FIGURES_NOTE),
        ("teacher", _TEACHER_COLUMNS, ""),
    ):
        if runs := reported.of_kind(kind):
            shown = {name for run in runs for figures in run.perplexities.values() for name in figures}
            note = " ".join(
                [*(_DISTRIBUTION_NOTES[name] for name in distributions if name in shown), explanation]
            ).strip()
            title = f"{kind.capitalize()}s"
            blocks += [Heading(title), *([Paragraph(note)] if note else [])]
            table = figures_table(reported, kind, distributions)
            blocks.append(TitledTable(title=title, note=note, table=table, style="compact"))
    if rows := _perplexity_rows(reported):
        names = ["run", "split", "distribution", "per token", "per token, without <eos>", "per word", "bits per byte"]
        names += ["KL from truth", "KL from truth, without <eos>"]
        table = Table(header=[*names, "sentences", "tokens", "words", "bytes"], rows=rows)
        titled = TitledTable(title="Perplexities", note="Per token, word and byte.", table=table, style="second-text")
        equations = Items(
            [f"{name.replace('_', ' ')} = {equation}" for name, equation in (NORMALISERS | DIVERGENCES).items()]
        )
        blocks.append(Details("All perplexities, per token, word and byte", [titled, equations], style="data"))
    return Section(name="comparison", title="All metrics of the runs", link="All metrics", blocks=blocks)


def figures_table(reported: ReportedRuns, kind: str, distributions: Sequence[str]) -> Table:
    """Return one row per run of a kind: its perplexities, accuracies, steps, positions and time."""
    runs = reported.of_kind(kind)
    columns: dict[str, dict[str, Sequence[AnyCell]]] = {}
    compares = have_one_tokenizer(runs)
    for split in splits_of(runs):
        for distribution in distributions:
            figures = [run.perplexities.get(split, {}).get(distribution) for run in runs]
            if any(figures):
                floors = [reported.floors.get((run.name, split)) for run in runs] if reported.floors else None
                group = f"{split} perplexity, {distribution}"
                columns[group] = _perplexity_columns(
                    figures, floors if distribution in OF_STUDENTS else None, compares=compares
                )
    for title, pairs in pair_sets(runs).items():
        of_pairs = {run.name: (result.figures.macro_accuracy, result.figures.overall) for run, result in pairs}
        columns[f"pairs, {title}"] = _accuracy_columns(runs, of_pairs)
    for title, suites in suite_sets(runs).items():
        of_suites = {run.name: (result.figures.mean_of_suites, result.figures.overall) for run, result in suites}
        columns[f"suites, {title}"] = _accuracy_columns(runs, of_suites)
    columns["training"] = {
        "steps": [Number(value(run.last, "step"), ",.0f") for run in runs],
        "positions": [Number(value(run.last, "positions"), ",.0f") for run in runs],
        "time": [duration(value(run.last, "elapsed_s")) for run in runs],
    }
    named = [reported.label(run, note=trained_on(run)) for run in runs]
    cells = [cells for group in columns.values() for cells in group.values()]
    return Table(
        header=["run", *(name for group in columns.values() for name in group)],
        rows=[list(row) for row in zip(named, *cells, strict=True)],
        groups=[("", 1), *((label, len(group)) for label, group in columns.items())],
    )


def trained_on(run: RunRecord) -> str:
    """Return what a run learned from, such as ``sentences and dump``, and the options of distillation."""
    if run.kind == "teacher":
        return "sentences and trees"
    options = run.configuration
    text = "documents" if options.get("context") == "document" else "sentences"
    if run.dump is None:
        return text
    dumps = [_kind_of_dump(dump.get("schema")) for dump in dump_summaries(run.dump)]
    dump = dumps[0] if len(dumps) == 1 else f"mixture of {' and '.join(dumps)}"
    shuffled = "shuffled " if options.get("targets") == "shuffled" else ""
    usual = (("divergence", "kl"), ("tail", "bucket"))
    return ", ".join(
        [
            f"{text} and {shuffled}{dump}",
            f"\u03b1\u00a0{options.get('alpha')}",
            f"T\u00a0{options.get('temperature')}",
            *(f"{name} {options[name]}" for name, default in usual if options.get(name, default) != default),
        ]
    )


def _kind_of_dump(schema: object) -> str:
    """Return the kind of a dump, from its schema in a ``run.json``."""
    if not isinstance(schema, dict):
        return "dump"
    kind = {"none": "a language model's dump", "exact": "the grammar's dump"}.get(str(schema.get("condition")), "dump")
    fingerprints = schema.get("fingerprints")
    return f"cross-fitted {kind}" if isinstance(fingerprints, dict) and num_folds(fingerprints) else kind


def settings_section(reported: ReportedRuns) -> Section:
    """Return the section on the options, fingerprints and versions that differ between runs of a kind."""
    blocks: list[Block] = []
    for kind in ("students", "teachers"):
        blocks.append(Heading(f"Between {kind}"))
        table = _settings_table(reported, kind.removesuffix("s"))
        if table is None:
            blocks.append(Paragraph(f"There are fewer than two {kind} to compare."))
        elif not table.rows:
            blocks.append(Paragraph("No options, fingerprints or versions differ."))
        else:
            title = f"Settings that differ between {kind}"
            blocks.append(TitledTable(title=title, table=table, style="text"))
    return Section(name="settings", title="Settings that differ", link="Settings", blocks=blocks)


def runs_section(reported: ReportedRuns) -> Section:
    """Return the section with the path, commands and options of each run."""
    blocks: list[Block] = []
    for run in reported.runs:
        options = [
            [name, _as_text(item)]
            for part in (run.configuration, run.fingerprints, run.versions)
            for name, item in part.items()
        ]
        table = TitledTable(title="", table=Table(header=["option", "value"], rows=options), style="text")
        commands = Commands([("", command) for command in run.commands])
        all_options = Details("Options, fingerprints and versions", [table], style="data")
        blocks.append(
            Details(reported.label(run), [Paragraph(f"{run.kind}, {run.path}"), commands, all_options], style="run")
        )
    return Section(name="runs", title="Runs", blocks=blocks)


def _perplexity_columns(
    figures: Sequence[PerplexityFigure | None], floors: Sequence[PerplexityFigure | None] | None, *, compares: bool
) -> dict[str, Sequence[AnyCell]]:
    columns: dict[str, Sequence[AnyCell]] = {
        "per token": [perplexity(f.per_token if f and compares else None) for f in figures],
        "per word": [perplexity(f.per_word if f else None) for f in figures],
    }
    if not compares:
        columns["bits per byte"] = [Number(f.bits_per_byte if f else None, ".4f") for f in figures]
    if any(f and f.kl_nats is not None for f in figures):
        columns["KL from truth"] = [Number(f.kl_per_position if f and compares else None, ".4f") for f in figures]
    if floors is not None:
        columns["nats above floor"] = [
            Number(f.nats_per_position - floor.nats_per_position if f and floor and compares else None, "+.4f")
            for f, floor in zip(figures, floors, strict=True)
        ]
    return columns


def _perplexity_rows(reported: ReportedRuns) -> list[Cells]:
    """Return all perplexities of all runs, per token, per word and per byte, and the floors."""
    compares = have_one_tokenizer(reported.runs)
    rows: list[Cells] = []
    for run in reported.runs:
        for split in splits_of([run]):
            figures = [figure for name, figure in run.perplexities[split].items() if name != FLOOR]
            if (floor := reported.floors.get((run.name, split))) is not None:
                figures.append(floor)
            rows += [
                [
                    reported.label(run),
                    split,
                    figure.distribution,
                    perplexity(figure.per_token if compares else None),
                    perplexity(figure.per_token_without_eos if compares else None),
                    perplexity(figure.per_word),
                    Number(figure.bits_per_byte, ".4f"),
                    Number(figure.kl_per_position if compares else None, ".4f"),
                    Number(figure.kl_per_position_without_eos if compares else None, ".4f"),
                    Number(figure.num_sentences, ","),
                    Number(figure.num_tokens, ","),
                    Number(figure.num_words, ","),
                    Number(figure.num_bytes, ","),
                ]
                for figure in figures
            ]
    return rows


def _settings_table(reported: ReportedRuns, kind: str) -> Table | None:
    """Return the settings in which runs of a kind differ, or None for fewer than two runs.

    The table has one row per setting or, if there are more runs than settings, one row per run.
    """
    runs = reported.of_kind(kind)
    if len(runs) < 2:
        return None
    settings = [
        {name: item for name, item in run.configuration.items() if name != "out"}
        | {f"{name} sha256": str(item)[:12] for name, item in run.fingerprints.items()}
        | {f"{name} version": item for name, item in run.versions.items()}
        for run in runs
    ]
    names = dict.fromkeys(name for found in settings for name in found)
    cells = {name: [_as_text(found[name]) if name in found else NOTHING for found in settings] for name in names}
    differing = {name: row for name, row in cells.items() if len(set(row)) > 1}
    if len(runs) > len(differing) > 0:
        rows = zip(runs, *differing.values(), strict=True)
        return Table(header=["run", *differing], rows=[[reported.label(run), *row] for run, *row in rows])
    header = ["setting", *(run.name for run in runs)]
    return Table(header=header, rows=[[name, *row] for name, row in differing.items()])


def _accuracy_columns(
    runs: Sequence[RunRecord], accuracies: Mapping[str, tuple[float | None, PairCounts | ItemCounts]]
) -> dict[str, Sequence[AnyCell]]:
    """Return two columns: accuracies, and numbers of ties.

    A cell of the first column shows the mean of a run's accuracies on the single paradigms or suites. The note of the
    cell is the run's accuracy on all pairs or items together. ``accuracies`` maps the name of a run to this mean and to
    the counts over all pairs or items.
    """
    cells: dict[str, tuple[AnyCell, AnyCell]] = {}
    for name, (mean, counts) in accuracies.items():
        note = f"{percent(counts.accuracy)}, {interval(counts.interval)}"
        cells[name] = Cell(percent(mean), note=note), Number(counts.num_ties, ",")
    by_run = [cells.get(run.name, (NOTHING, NOTHING)) for run in runs]
    return {"right, %": [right for right, _ in by_run], "ties": [ties for _, ties in by_run]}


def _as_text(item: Any) -> str:  # noqa: ANN401 - parsed JSON
    return item if isinstance(item, str) else json.dumps(item, sort_keys=True, ensure_ascii=False)
