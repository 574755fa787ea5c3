"""Make up run directories for tests of the report. The figures are plausible, but no model made them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.minimal_pairs import MinimalPairFigures, PairCounts, ParadigmCounts
from pipeline.evaluation.perplexity import FLOOR, GIVEN_TREE, JOINT, UNCONDITIONAL, PerplexityFigure
from pipeline.evaluation.results import MINIMAL_PAIRS, PERPLEXITY, SYNTAXGYM, Result, write_result, write_rows
from pipeline.evaluation.syntaxgym import SuiteFigures, SyntaxGymFigures

SIZES = {"dev": (1000, 11_803, 9_412, 52_113), "test": (1000, 11_790, 9_377, 51_984)}
"""Sentences, tokens, words and bytes of the made-up splits."""
FLOOR_NATS = 1.982
"""Nats per position of the made-up grammar."""
PARADIGMS = {
    "anaphor_number_agreement": "anaphor_agreement",
    "anaphor_gender_agreement": "anaphor_agreement",
    "determiner_noun_agreement_1": "determiner_noun_agreement",
    "determiner_noun_agreement_with_adj_irregular_1": "determiner_noun_agreement",
    "npi_present_1": "npi_licensing",
    "only_npi_licensor_present": "npi_licensing",
    "regular_plural_subject_verb_agreement_1": "subject_verb_agreement",
    "distractor_agreement_relational_noun": "subject_verb_agreement",
    "distractor_agreement_relative_clause": "subject_verb_agreement",
}


@dataclass(frozen=True)
class MadeUpRuns:
    """Three students and their teacher in a folder. The students' results record the floor."""

    teacher: Path
    baseline: Path
    distilled: Path
    born_again: Path

    @property
    def students(self) -> list[Path]:
        return [self.baseline, self.distilled, self.born_again]

    @property
    def all(self) -> list[Path]:
        return [self.teacher, *self.students]


def write_lines(path: Path, rows: list[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def made_up_run(path: Path, kind: str, end: float, **changes: Any) -> Path:
    """Write a run whose loss falls to ``end`` nats per position."""
    path.mkdir(parents=True)
    options = {"data": "sample/dataset", "seed": 1, "lr": 0.001, "batch_tokens": 4096, "num_epochs": 20}
    described = {
        "kind": kind,
        "format_version": 1,
        "configuration": options | changes.pop("configuration", {}),
        "fingerprints": {"dataset": "d" * 64, "tokenizer": "e" * 64},
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "command": f"cli.py train-{kind} --data sample/dataset --out {path.name}  # test data, made up",
        "model": {"vocab_size": 1000},
        "dump": None,
    }
    (path / "run.json").write_text(json.dumps(described | changes))
    noise = np.random.default_rng(len(path.name))
    rows: list[Mapping[str, Any]] = []
    for step in range(10, 1501, 10):
        clean = end + 4.2 * math.exp(-step / 90) + 0.5 * math.exp(-step / 500)
        at = {"step": step, "epoch": step // 100, "positions": step * 4012, "elapsed_s": round(0.31 * step, 3)}
        train = clean - 0.03 * step / 1500 + 0.02 * float(noise.standard_normal())
        rows.append({"split": "train", **at, **losses(kind, train), "lr": 1e-3, "grad_norm": 0.7})
        if step % 100 == 0:
            rows.append({"split": "dev", **at, **losses(kind, clean + 0.05)})
    write_lines(path / "metrics.jsonl", rows)
    return path


def losses(kind: str, loss: float) -> dict[str, float]:
    if kind == "teacher":
        return {"loss": 1.36 * loss, "token_loss": loss, "action_loss": 0.36 * loss}
    return {"loss": 0.8 * loss, "cross_entropy": loss, "kl": 0.1 * loss}


def add_perplexity(
    run: Path, split: str, nats: Mapping[str, float], *, name: str | None = None, text: str = "0" * 64
) -> None:
    sentences, tokens, words, num_bytes = SIZES[split]
    figures = [
        PerplexityFigure(
            distribution=distribution,
            num_sentences=sentences,
            num_tokens=tokens,
            num_words=words,
            num_bytes=num_bytes,
            nats=per_position * (sentences + tokens),
            nats_eos=None if distribution == FLOOR else 0.04 * sentences,
        ).to_json()
        for distribution, per_position in nats.items()
    ]
    command = f"cli.py evaluate perplexity {run.name} --data sample/dataset --split {split}"
    result = made_up_result(PERPLEXITY, split, figures, command, split="1" * 64, text=text)
    write_result(run, name or f"perplexity-{split}", result)


def made_up_result(kind: str, subject: str, figures: Any, command: str, **fingerprints: str) -> Result:
    return Result(
        kind=kind,
        subject=subject,
        figures=figures,
        settings={
            "checkpoint": "best",
            "batch_tokens": 8192,
            "device": "cpu",
            "prefix": "none",
            "eos": False,
            "joining": "text",
        },
        fingerprints={"weights": "f" * 64} | fingerprints,
        versions={"torch": "2.13.0"},
        command=command + "  # test data, made up",
    )


def add_rows(run: Path, split: str, log_probs: Mapping[str, list[list[float]]]) -> Path:
    """Write the log-probabilities of each sentence's tokens and its ``<eos>``, by distribution."""
    rows = [
        {"sentence": i, "log_probs": {name: of[i] for name, of in log_probs.items()}}
        for i in range(len(next(iter(log_probs.values()))))
    ]
    return write_rows(run, f"perplexity-{split}", rows)


def add_suites(run: Path, right: Mapping[str, tuple[str, int, int]]) -> None:
    """Write a result on suites, given (circuit, right items, items) by name. One item of each suite is a tie."""
    figures = SyntaxGymFigures(
        by_suite={
            name: SuiteFigures(
                circuit=circuit,
                metric="sum",
                sha256="5" * 64,
                num_items=number,
                num_right=num_right,
                num_ties=1,
                by_prediction=(),
                num_tokens=100,
                num_tokens_over_two_regions=0,
            )
            for name, (circuit, num_right, number) in right.items()
        }
    )
    command = f"cli.py evaluate syntaxgym {run.name} suites"
    result = made_up_result(SYNTAXGYM, "suites", figures.to_json(), command, suites="7" * 64)
    write_result(run, "syntaxgym-suites-77777777", result)


def add_pairs(run: Path, level: float, paradigms: Mapping[str, str] = PARADIGMS, **changes: Any) -> None:
    noise = np.random.default_rng(int(level * 1000))

    def counts(term: str, num_pairs: int, share: float, ties: int) -> ParadigmCounts:
        right = min(num_pairs - ties, round(num_pairs * share))
        return ParadigmCounts(
            linguistics_term=term,
            field="syntax",
            num_pairs=num_pairs,
            num_right=right,
            num_ties=ties,
            mean_difference=4 * (share - 0.5),
            standard_deviation=2.0,
        )

    by_paradigm = {
        name: counts(
            term, 500, float(np.clip(level + 0.12 * noise.standard_normal(), 0.2, 1)), 60 if "npi" in name else 0
        )
        for name, term in paradigms.items()
    }
    by_term: dict[str, PairCounts] = {}
    for term in set(paradigms.values()):
        of_term = [by_paradigm[name] for name in paradigms if paradigms[name] == term]
        by_term[term] = added(of_term)
    figures = MinimalPairFigures(
        overall=added(list(by_paradigm.values())),
        by_paradigm=by_paradigm,
        by_term=by_term,
        by_field={"syntax": added(list(by_paradigm.values()))},
        num_identical=3,
    )
    command = f"cli.py evaluate minimal-pairs {run.name} sample/minimal_pairs"
    pairs = changes.get("pairs", "a" * 64)
    result = made_up_result(MINIMAL_PAIRS, "minimal_pairs", figures.to_json(), command, pairs=pairs)
    write_result(run, "minimal_pairs-sample", result)


def added(counts: Sequence[PairCounts]) -> PairCounts:
    return PairCounts(
        num_pairs=sum(c.num_pairs for c in counts),
        num_right=sum(c.num_right for c in counts),
        num_ties=sum(c.num_ties for c in counts),
        mean_difference=sum(c.mean_difference for c in counts) / len(counts),
        standard_deviation=2.0,
    )


def make_runs(folder: Path) -> MadeUpRuns:
    schema = {
        "num_positions": 118_204,
        "num_sentences": 10_000,
        "k": 64,
        "temperatures": [1.0, 2.0],
        "condition": "tree",
        "tree_source": "given",
        "split": "train",
        "fingerprints": {"split": "c" * 64, "teacher": "b" * 64},
    }
    statistics = {
        "num_positions": 118_204,
        "num_sentences": 10_000,
        "size_bytes": 47_310_221,
        "mean_kept_mass": 0.98812,
        "mean_kept_mass_without_eos": 0.98702,
        "kept_mass_by_k": {"1": 0.4211, "2": 0.551, "4": 0.684, "8": 0.8, "16": 0.894, "32": 0.957, "64": 0.98812},
        "perplexity": 6.612,
        "perplexity_without_eos": 7.301,
        "mean_entropy_nats": 1.3,
        "entropy_nats_quantiles": {"5": 0.1, "25": 0.7, "50": 1.2, "75": 1.9, "95": 2.8},
    }
    dump = {"path": "sample/dump", "schema": schema, "statistics": statistics}
    other = {
        "path": "sample/dump-of-student",
        "schema": schema | {"condition": "none"},
        "statistics": statistics
        | {"kept_mass_by_k": {"1": 0.35, "8": 0.72, "64": 0.971}, "entropy_nats_quantiles": {"5": 2, "25": 1}},
    }
    student = {"num_blocks": 4, "embed_dim": 256}
    runs = MadeUpRuns(
        teacher=made_up_run(folder / "rnng", "teacher", 1.75, configuration={"hidden_dim": 256}),
        baseline=made_up_run(folder / "baseline", "student", 2.11, configuration=student),
        distilled=made_up_run(
            folder / "distilled",
            "student",
            2.06,
            configuration=student | {"alpha": 0.7, "temperature": 1.0, "dump": "sample/dump"},
            dump=dump,
        ),
        born_again=made_up_run(
            folder / "born-again",
            "student",
            2.09,
            configuration=student | {"alpha": 0.7, "temperature": 2.0, "dump": "sample/dump-of-student"},
            dump=other,
        ),
    )
    for split in SIZES:
        add_perplexity(runs.teacher, split, {GIVEN_TREE: 1.80, JOINT: 2.45})
        for run, end, level in (
            (runs.baseline, 2.16, 0.72),
            (runs.distilled, 2.11, 0.81),
            (runs.born_again, 2.14, 0.74),
        ):
            add_perplexity(run, split, {UNCONDITIONAL: end, FLOOR: FLOOR_NATS})
            add_pairs(run, level)
    return runs


@pytest.fixture
def made_up_runs(tmp_path: Path) -> MadeUpRuns:
    return make_runs(tmp_path / "runs")


@pytest.fixture
def helpers() -> SimpleNamespace:
    """Return the functions that make single runs, for tests that need an unusual run."""
    return SimpleNamespace(
        made_up_run=made_up_run,
        add_pairs=add_pairs,
        add_perplexity=add_perplexity,
        add_rows=add_rows,
        add_suites=add_suites,
    )
