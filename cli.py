"""Define the commands. A command parses its options, calls the code that does the work, and prints the result.

Most options are fields of configuration classes, which ``pipeline.runtime.options`` turns into options. Heavy imports
happen inside the commands, so that ``--help`` answers at once.
"""

import os
import signal
import sys

if os.path.basename(sys.argv[0]) in {"cli.py", "rnng-distill"}:  # noqa: PTH119  pathlib would be one more import
    # Without this line, Ctrl-C during the imports would print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

if "OMP_WAIT_POLICY" not in os.environ:
    # The variable must be set before torch is loaded. By default, a waiting thread keeps its core busy for
    # milliseconds, which makes training many times slower if another program needs the core (see benchmarks.busy).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import importlib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click

from pipeline import __version__
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.text.corpus_config import CleanConfig, ImportConfig
from pipeline.dumping.dump_config import DumpCommandConfig, DumpConfig, RecomputeConfig
from pipeline.dumping.exchange_config import ExportDumpConfig, ImportDumpConfig
from pipeline.evaluation.evaluation_config import (
    BabylmConfig,
    CompareConfig,
    MinimalPairConfig,
    MixtureConfig,
    ModelConfig,
    ParsesConfig,
    PerplexityConfig,
    ReportConfig,
    SurprisalConfig,
    SyntaxGymConfig,
)
from pipeline.parsing.parse_config import ParseConfig, ParserConfig
from pipeline.runtime import options, outputs
from pipeline.runtime.click_options import (
    PATH,
    STORE,
    OneLineErrors,
    OutPath,
    Place,
    configured_by,
    json_of_plan_option,
    json_option,
    on_error_option,
    show,
)
from pipeline.runtime.display import as_text, configure_logging
from pipeline.runtime.plan_config import PlanConfig
from pipeline.runtime.progress import Progress
from pipeline.runtime.terminal import say
from pipeline.runtime.train_config import ResumeConfig
from student.student_config import ExportConfig, StudentCommandConfig, StudentConfig, StudentTrainConfig
from teacher.teacher_config import BeamConfig, SampleConfig, TeacherConfig, TeacherTrainConfig, refuse_without_search

Values = dict[str, Any]
"""The options that the user set, by the names of their fields in configuration classes."""

ENTRY_POINTS = {"teacher": "teacher.teacher_commands", "student": "student.student_commands"}
"""For each kind of run, the module that evaluates its model."""


def entry_points(model: Path) -> Any:  # noqa: ANN401 - mypy would see no function of the module
    """Return the module that evaluates the model of a run or an exported folder. An exported folder holds a student."""
    from pipeline.runtime.run_directory import is_exported, open_run

    return importlib.import_module(ENTRY_POINTS["student" if is_exported(model) else open_run(model).kind])


def dump_source(teacher: Path, beam: BeamConfig) -> Any:  # noqa: ANN401 - a DumpSource, whose module imports torch
    """Return the ``DumpSource`` of a run, sample corpus or Hugging Face folder.

    A ``DumpSource`` computes the distributions that a dump holds.
    """
    from pipeline.corpus.sample.sample_corpus import is_sample_corpus
    from pipeline.runtime.run_directory import is_exported, open_run

    if is_sample_corpus(teacher):
        from pipeline.dumping.grammar_source import GrammarSource

        return GrammarSource(teacher)
    if is_exported(teacher):
        from pipeline.dumping.causal_lm_source import CausalLmSource

        return CausalLmSource(teacher)
    if open_run(teacher).kind == "student":
        from student.student_commands import StudentSource

        return StudentSource(teacher)
    from teacher.teacher_commands import TeacherSource

    return TeacherSource(teacher, beam)


def build(config_class: type[Any], values: Values) -> Values:
    """Return all options of a configuration class, by name. Options that the user did not set have their defaults."""
    return asdict(options.build(config_class, values))


def beam_of(values: Values) -> Values:
    """Return those options of ``BeamConfig`` that the user set, by name."""
    return {option.name: values[option.name] for option in options.options_of(BeamConfig) if option.name in values}


def open_scorer(model: Path, values: Values) -> Any:  # noqa: ANN401 - a context manager of an untyped module
    """Open a run or an exported folder to score sentences. A teacher scores by beam search."""
    return entry_points(model).open_scorer(model, **build(ModelConfig, values), beam=beam_of(values))


def out_option(writes: outputs.Written, help_text: str) -> Callable[[Any], Any]:
    """Return the required option ``--out``: a path that the command writes."""
    return click.option("--out", type=OutPath(writes), required=True, help=help_text)


data_option = click.option("--data", type=STORE, required=True, help="A dataset made by build-dataset.")
model_argument = click.argument("model", type=PATH)
runs_argument = click.argument("runs", type=PATH, nargs=-1, required=True)
texts_argument = click.argument("texts", type=PATH, nargs=-1, required=True)


@click.group(cls=OneLineErrors, context_settings={"max_content_width": 120, "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rnng-distill")
def main() -> None:
    """Distil a Recurrent Neural Network Grammar into a GPT-2-like language model.

    A trained RNNG writes its next-token distributions once, into a dump. Any number of students learn from the dump.
    """
    configure_logging()


@main.command()
@click.argument("out", type=OutPath(outputs.CORPUS))
@click.option(
    "--num-sentences",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Number of training sentences.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the sample.")
def sample_corpus(out: Path, num_sentences: int, seed: int) -> None:
    """Draw a corpus from a built-in grammar: trees, text, minimal pairs and true probabilities.

    \b
    Example: python cli.py sample-corpus corpus --num-sentences 10000
    """
    from pipeline.corpus.sample.sample_corpus import write_sample_corpus

    with Progress("sample", total=None, unit="sentences") as progress:
        summary = write_sample_corpus(out, num_sentences, seed, progress.update)
    show({"corpus": str(out), "grammar": summary["grammar"], "splits": summary["splits"]})


@main.command()
@click.argument("sources", type=PATH, nargs=-1, required=True)
@out_option(outputs.TREES, "Where to write: OUT.mrg and OUT.txt.")
@configured_by(ImportConfig, toml=False)
def import_trees(sources: tuple[Path, ...], out: Path, values: Values) -> None:
    """Normalise the trees of a treebank, and write each tree to a line of OUT.mrg and its text to a line of OUT.txt.

    SOURCES are files of bracketed trees, plain or gzipped, or folders of such files. For languages other than English,
    give --text or --joiner.

    \b
    Example: python cli.py import-trees gum/train.mrg.gz --text gum/train.txt --out trees/train
    """
    from pipeline.corpus.trees.import_trees import import_trees as run

    with Progress("import", total=None, unit="sentences") as progress:
        show(run(sources, out, options.build(ImportConfig, values), progress.update))


@main.command()
@texts_argument
@out_option(outputs.TEXT, "Where to write: OUT.txt, .docs, .speakers, .documents.tsv, .dropped.tsv.")
@configured_by(CleanConfig, toml=False)
def clean_text(texts: tuple[Path, ...], out: Path, values: Values) -> None:
    """Clean raw text to one sentence per line.

    TEXTS are files or folders, which are read as --source says. Every dropped or repaired line is counted.

    \b
    Example: python cli.py clean-text babylm/train_10M --source babylm --out text/train
             python cli.py clean-text reviews.csv --source plain --column review --out text/reviews
    """
    from pipeline.corpus.text.cleaning import clean_texts

    with Progress("clean", total=None, unit="lines") as progress:
        show(clean_texts(texts, out, options.build(CleanConfig, values), progress.update))


@main.command()
@texts_argument
@out_option(outputs.PARSED, "Where to write: OUT.mrg, OUT.txt and, if documents are known, OUT.docs.")
@json_option
@configured_by(PlanConfig, ParseConfig)
def parse(texts: tuple[Path, ...], out: Path, values: Values) -> None:
    """Parse text into trees with spaCy and benepar. Also runs under torchrun.

    TEXTS have one sentence per line, as clean-text writes them. With --source, they are raw text. If the command is
    interrupted, run it again: it continues, even with another number of processes. No parser is installed with this
    program. Train a small one with train-parser, or fetch benepar's model for English:

    \b
    python -c "import benepar; benepar.download('benepar_en3')"

    \b
    Example: python cli.py parse text/train.txt --model parser.pt --out trees/train --workers 2
    """
    from pipeline.parsing.parse import parse_texts as run
    from pipeline.parsing.parse_plan import plan_parse

    plan, config = options.build(PlanConfig, values), options.build(ParseConfig, values)
    found = plan_parse(texts, out, config, plan.plan_processes) if plan.plan else run(texts, out, config)
    if found is not None:
        show(found)


@main.command()
@click.argument("trees", type=PATH, nargs=-1, required=True)
@click.option(
    "--dev",
    type=PATH,
    multiple=True,
    required=True,
    help="Trees to score the parser on. Several files are scored together, and each file is also scored alone.",
)
@out_option(outputs.PARSER, "The model file to write, with OUT.json and OUT.metrics.jsonl.")
@on_error_option
@json_option
@configured_by(ParserConfig)
def train_parser(
    trees: tuple[Path, ...], dev: tuple[Path, ...], out: Path, on_error: Literal["stop", "skip"], values: Values
) -> None:
    """Train a small benepar model on treebanks, for ``parse``. It learns from these treebanks alone.

    The released models of benepar parse far better, but were trained on too many words for BabyLM, and exist for few
    languages. If the command is interrupted, run it again: it continues after the last whole epoch.

    \b
    Example: python cli.py train-parser trees/train.mrg --dev trees/dev.mrg --out parser.pt
    """
    from pipeline.parsing.train_parser import train_parser as run

    show(run(trees, dev, out, options.build(ParserConfig, values), on_error=on_error))


@main.command()
@texts_argument
@out_option(outputs.TOKENIZER, "The tokenizer.json to write.")
@click.option(
    "--vocab-size",
    type=click.IntRange(260),
    default=12_000,
    show_default=True,
    help="Maximum number of tokens in the vocabulary.",
)
@click.option("--column", default="", help="Field of JSON lines, or column of a table (CSV, TSV), that holds the text.")
def train_tokenizer(texts: tuple[Path, ...], out: Path, vocab_size: int, column: str) -> None:
    """Train the byte-level BPE tokenizer that teacher and student share, on raw text.

    \b
    Example: python cli.py train-tokenizer trees/train.txt --out tokenizer.json --vocab-size 10000
    """
    from pipeline.corpus.dataset.tokenizer import train_tokenizer as run

    with Progress("read", total=None, unit="lines") as progress:
        show(run(texts, out, vocab_size=vocab_size, column=column, progress=progress.update))


@main.command()
@click.argument("source", type=PATH)
@out_option(outputs.TOKENIZER, "The tokenizer.json to write.")
@click.option("--bos", required=True, help="The token that begins a text.")
@click.option("--eos", required=True, help="The token that ends a text; may be the same as --bos.")
def adopt_tokenizer(source: Path, out: Path, bos: str, eos: str) -> None:
    """Check and convert a Hugging Face tokenizer.json, so that students can share the tokens of another model.

    The tokenizer must be byte-level, and decoding must restore every text. Every token keeps its id. The converted
    tokenizer no longer adds tokens such as <s> and </s> before and after a text.

    \b
    Example: python cli.py adopt-tokenizer gpt2/tokenizer.json --bos '<|endoftext|>' --eos '<|endoftext|>' --out t.json
    """
    from pipeline.corpus.dataset.adopt_tokenizer import adopt_tokenizer as run

    show(run(source, out, bos=bos, eos=eos))


@main.command()
@configured_by(BuildConfig, toml=False)
def build_dataset(values: Values) -> None:
    """Turn trees over words into trees over tokens. Store tokens and trees as the dataset for all later commands.

    \b
    Example: python cli.py build-dataset --train trees/train --dev trees/dev --tokenizer tokenizer.json --out dataset
    """
    from pipeline.corpus.dataset.build import build_dataset as run

    with Progress("build", total=None, unit="sentences") as progress:
        show(run(options.build(BuildConfig, values), progress.update))


@main.command()
@data_option
@out_option(outputs.FOLDER, "The run directory to write.")
@json_of_plan_option
@configured_by(ResumeConfig, TeacherConfig, TeacherTrainConfig)
def train_teacher(data: Place, out: Path, values: Values) -> None:
    """Train the RNNG teacher. Also runs under torchrun.

    If the command is killed, or stopped by SIGTERM, run it again: training continues from the last checkpoint.

    \b
    Example: python cli.py train-teacher --data dataset --out runs/teacher
    """
    from teacher.train_teacher import plan_teacher
    from teacher.train_teacher import train_teacher as run

    start, config = options.build(ResumeConfig, values), options.build(TeacherConfig, values)
    training = options.build(TeacherTrainConfig, values)
    if start.plan:
        show(plan_teacher(data, out, config, training, start.plan_processes))
    else:
        run(data, out, config, training, resume=start.resume)


@main.command()
@click.argument("teacher", type=PATH)
@out_option(outputs.SAMPLED, "Where to write: OUT.mrg, OUT.txt and OUT.sample.json.")
@json_option
@configured_by(SampleConfig, ModelConfig)
def sample(teacher: Path, out: Path, values: Values) -> None:
    """Draw sentences with their trees from a teacher, as more text for students. Also runs under torchrun.

    TEACHER is a run directory of train-teacher. build-dataset reads OUT like any treebank. If the command is
    interrupted, run it again: it starts anew.

    \b
    Example: python cli.py sample runs/teacher --num-sentences 100000 --out trees/sampled
    """
    from teacher.sample_trees import sample_trees

    config = options.build(SampleConfig, values)
    if (summary := sample_trees(teacher, out, config, **build(ModelConfig, values))) is not None:
        show(summary)


@main.command()
@data_option
@click.option(
    "--teacher",
    "teachers",
    type=PATH,
    multiple=True,
    required=True,
    help="A run directory, a folder of sample-corpus, or a folder in Hugging Face's format with a causal language "
    "model that has the dataset's tokenizer. For a cross-fitted dump (docs/teacher.md), repeat the option: if the "
    "dataset has K folds, give K runs, trained with --leave-out 1, --leave-out 2 and so on to --leave-out K.",
)
@click.option("--out", type=STORE, help="The dump to write or to finish. Not needed with --plan.")
@json_option
@configured_by(DumpCommandConfig, DumpConfig, BeamConfig)
def dump_teacher(data: Place, teachers: tuple[Path, ...], out: Place | None, values: Values) -> None:
    """Write a teacher's next-token distributions once, for any number of students. Also runs under torchrun.

    The teacher may also be a student (born-again distillation), any causal language model that transformers loads, or
    the grammar of a sample corpus: see docs/teacher.md. If the command is interrupted, run it again, with any number of
    processes. The finished dump has the same bytes as without the interruption.

    \b
    Example: torchrun --nproc-per-node 2 cli.py dump-teacher --data dataset --teacher runs/teacher --out dump
             python cli.py dump-teacher --data dataset --teacher runs/teacher --out marginal --condition beam
    """
    from pipeline.dumping.dump_source import dump_run, plan_run
    from storage.locations import open_folder

    beam, command = options.build(BeamConfig, values), options.build(DumpCommandConfig, values)
    sources = [dump_source(run, beam) for run in teachers]
    config = options.build(DumpConfig, {"condition": sources[0].conditions[0], **values})
    if config.condition != "beam":
        needed = "--condition beam" if "beam" in sources[0].conditions else "an RNNG teacher"
        refuse_without_search(beam_of(values), needed)
    if command.plan:
        show(plan_run(data, sources, out, config, command.plan_processes))
    elif out is None:
        raise click.UsageError("Missing option '--out'.")
    elif (summary := dump_run(data, sources, open_folder(out, take_over=command.take_over), config)) is not None:
        show({"dump": str(out), **summary.to_json()})


@main.command()
@click.argument("dump", type=STORE)
@click.argument("out", type=OutPath(outputs.FOLDER))
@json_option
@configured_by(ExportDumpConfig, toml=False)
def export_dump(dump: Place, out: Path, values: Values) -> None:
    """Write a dump as parquet files for other programs: one row per sentence.

    Whatever --format is, datasets.load_dataset("OUT") reads the files.

    \b
    Example: python cli.py export-dump dump exported --format datasets
    """
    from pipeline.dumping.dump_export import export_dump as run

    config = options.build(ExportDumpConfig, values)
    show(run(dump, out, form=config.format, tokenizer=config.tokenizer))


@main.command()
@click.argument("source", type=PATH)
@data_option
@click.option("--out", type=STORE, required=True, help="The dump to write or to finish.")
@json_option
@configured_by(ImportDumpConfig, toml=False)
def import_dump(source: Path, data: Place, out: Place, values: Values) -> None:
    """Make a dump from parquet files with DistillKit's columns input_ids, token_ids and top_values.

    SOURCE is a parquet file or a folder of parquet files. Row m holds sentence m of the split that --split names.

    \b
    Example: python cli.py import-dump captured --data dataset --out dump
    """
    from pipeline.dumping.dump_import import import_dump as run

    summary = run(source, data, out, options.build(ImportDumpConfig, values))
    show({"dump": str(out), **summary.to_json()})


@main.command()
@data_option
@click.option(
    "--dump",
    "dumps",
    type=STORE,
    multiple=True,
    help="A dump made by dump-teacher. Without a dump, the baseline is trained. If the option is repeated, the soft "
    "target is the mixture of the dumps' distributions.",
)
@out_option(outputs.FOLDER, "The run directory to write.")
@json_of_plan_option
@configured_by(StudentCommandConfig, StudentConfig, StudentTrainConfig, without=("vocab_size",))
def train_student(data: Place, dumps: tuple[Place, ...], out: Path, values: Values) -> None:
    """Train a student on tokens and, with --dump, on the teacher's soft targets. Also runs under torchrun.

    If the command is killed, or stopped by SIGTERM, run it again: training continues from the last checkpoint.

    \b
    Example: torchrun --nproc-per-node 2 cli.py train-student --data dataset --dump dump --out runs/distilled
    """
    from storage.locations import open_folder
    from student.train_student import plan_student
    from student.train_student import train_student as run

    start, config = options.build(StudentCommandConfig, values), options.build(StudentTrainConfig, values)
    folders = [open_folder(dump, cache_bytes=int(start.cache_gb * 1e9)) for dump in dumps]
    common: Values = {"init": start.init, "dump_weights": start.dump_weights}
    if start.plan:
        show(plan_student(data, folders, out, values, config, processes=start.plan_processes, **common))
    else:
        run(data, folders, out, values, config, resume=start.resume, **common)


@main.group()
def evaluate() -> None:
    """Measure a trained model: a run, or a folder in Hugging Face's format.

    Each command writes its result to RUN/results/NAME.json or, for a folder in Hugging Face's format, to
    FOLDER-results/NAME.json. A teacher scores sentences without trees by beam search, which is slow.

    minimal-pairs, syntaxgym, surprisal, parses and perplexity --marginal also run under torchrun. For a teacher on
    CPUs, start one process per core. If one of these commands is interrupted, run it again: it continues.
    """


@evaluate.command()
@model_argument
@data_option
@json_option
@configured_by(PerplexityConfig, ModelConfig, BeamConfig)
def perplexity(model: Path, data: Place, values: Values) -> None:
    """Measure the perplexity on a split, per token and per word, and the bits per byte.

    For a teacher, each of these figures has two values: given the tree, and joint with the tree. The option --marginal
    adds values without the tree. Each sentence is scored alone, after <bos>, unless a student was trained with
    --context document.

    \b
    Example: python cli.py evaluate perplexity runs/teacher --data dataset --split dev
    """
    from pipeline.evaluation.sentence_models import evaluate_split

    chosen = build(PerplexityConfig, values) | build(ModelConfig, values)
    with entry_points(model).score_split(model, data, **chosen, beam=beam_of(values)) as scored:
        show(evaluate_split(scored))


@evaluate.command()
@click.argument("teacher", type=PATH)
@click.argument("student", type=PATH)
@data_option
@json_option
@configured_by(MixtureConfig, ModelConfig, BeamConfig, without=("checkpoint",))
def mixture(teacher: Path, student: Path, data: Place, values: Values) -> None:
    """Measure whether a teacher knows anything that a student does not. Run this before dump-teacher.

    STUDENT is a student trained without a dump. TEACHER may also be a student. If a mixture of the next-token
    distributions of both models predicts no better than STUDENT alone, there is no sign that TEACHER has anything to
    teach. The result is written to the results of STUDENT.

    \b
    Example: python cli.py evaluate mixture runs/teacher runs/baseline --data dataset --split dev
    """
    from pipeline.evaluation.compare.teacher_and_student import evaluate_mixture
    from pipeline.report.mixture_section import mixture_as_text

    of_teacher, of_student = entry_points(teacher), importlib.import_module(ENTRY_POINTS["student"])
    # A student that serves as the teacher has no trees to search.
    config = options.build(MixtureConfig, {"marginal": of_teacher is not of_student, **values})
    common = {"split": config.split, "max_sentences": config.max_sentences, "checkpoint": "best"}
    common["device"] = options.build(ModelConfig, values).device
    # The student is scored first: this takes seconds, so a mistake shows before the teacher's long search.
    with (
        of_student.score_split(student, data, marginal=False, beam={}, **common) as by_student,
        of_teacher.score_split(teacher, data, marginal=config.marginal, beam=beam_of(values), **common) as by_teacher,
    ):
        found = evaluate_mixture(by_teacher, by_student, max_sentences=config.max_sentences)
    show(found.to_json(), mixture_as_text(found))


@evaluate.command()
@model_argument
@click.argument("folder", type=PATH)
@json_option
@configured_by(MinimalPairConfig, ModelConfig, BeamConfig)
def minimal_pairs(model: Path, folder: Path, values: Values) -> None:
    """Measure the accuracy on minimal pairs, from a file or a folder of files.

    A file has BLiMP's format: JSON lines with the fields sentence_good and sentence_bad. It can also be a table (CSV,
    TSV). If the fields or columns have other names, give --columns. Ties are reported and never count as right.

    \b
    Example: python cli.py evaluate minimal-pairs runs/distilled blimp/data
    """
    from pipeline.evaluation.minimal_pairs import pairs_name, read_minimal_pairs
    from pipeline.evaluation.sentence_models import evaluate_minimal_pairs, pairs_as_text

    chosen = build(MinimalPairConfig, values)
    pairs = read_minimal_pairs(folder, chosen.pop("columns"))
    with open_scorer(model, values) as opened:
        found = evaluate_minimal_pairs(opened, pairs, pairs_name(folder), **chosen)
    show(found, pairs_as_text(found))


@evaluate.command()
@model_argument
@click.argument("folder", type=PATH)
@json_option
@configured_by(BabylmConfig, ModelConfig, BeamConfig)
def babylm(model: Path, folder: Path, values: Values) -> None:
    """Score BabyLM's zero-shot tasks by the rules of BabyLM's pipeline.

    FOLDER is full_eval or fast_eval of BabyLM's evaluation data. The output names the tasks that are left out, such as
    GLUE.

    \b
    Example: python cli.py evaluate babylm runs/distilled evaluation_data/full_eval --out results
    """
    from pipeline.evaluation.babylm_scores import evaluate_babylm, read_data
    from pipeline.runtime.run_directory import word_checkpoints

    chosen = build(BabylmConfig, values)
    data = read_data(folder, chosen.pop("rules"))  # bad data is refused before a model is loaded
    at_words = {
        num_words: partial(open_scorer, path, {**values, "checkpoint": which})
        for num_words, (path, which) in word_checkpoints(model).items()
    }
    with open_scorer(model, values) as opened:
        show(evaluate_babylm(opened, data, at_words=at_words, **chosen))


@evaluate.command()
@model_argument
@click.argument("suites", type=PATH, nargs=-1, required=True)
@json_option
@configured_by(SyntaxGymConfig, ModelConfig, BeamConfig)
def syntaxgym(model: Path, suites: tuple[Path, ...], values: Values) -> None:
    """Measure the accuracy on SyntaxGym suites. Ties are reported and never count as right.

    SUITES are JSON files, or folders of JSON files.

    \b
    Example: python cli.py evaluate syntaxgym runs/distilled test_suites/json
    """
    from pipeline.evaluation.sentence_models import evaluate_syntaxgym, suites_as_text
    from pipeline.evaluation.syntaxgym_suites import read_suites, suites_name

    checked = read_suites(suites)
    with open_scorer(model, values) as opened:
        found = evaluate_syntaxgym(opened, checked, suites_name(suites), **build(SyntaxGymConfig, values))
    show(found, suites_as_text(found))


@evaluate.command()
@model_argument
@click.argument("text", type=PATH)
@out_option(outputs.SURPRISALS, "The table to write: tab-separated, with a header, no quotes.")
@json_option
@configured_by(SurprisalConfig, ModelConfig, BeamConfig)
def surprisal(model: Path, text: Path, out: Path, values: Values) -> None:
    """Write the surprisal, in bits, of every word of a text, and of the <eos> of every sentence.

    TEXT has one sentence per line. It may also be a table with one sentence per row or, with --region, one region of a
    sentence per row. docs/surprisal.md describes the columns of the output.

    \b
    Example: python cli.py evaluate surprisal runs/distilled sentences.txt --out surprisals.tsv
    """
    from pipeline.evaluation.sentence_models import evaluate_surprisal
    from pipeline.evaluation.stimuli import check_stimuli

    config = options.build(SurprisalConfig, values)
    check_stimuli(text, config)
    with open_scorer(model, values) as opened:
        show(evaluate_surprisal(opened, text, out, config))


@evaluate.command()
@click.argument("teacher", type=PATH)
@click.argument("trees", type=PATH)
@json_option
@configured_by(ParsesConfig, ModelConfig, BeamConfig)
def parses(teacher: Path, trees: Path, values: Values) -> None:
    """Parse the text of a treebank by beam search, and compare the brackets with the treebank's brackets.

    TREES is the STEM of STEM.mrg and STEM.txt. Only the scores in the field evalb of the output can be compared with
    published scores.

    \b
    Example: python cli.py evaluate parses runs/teacher trees/dev --trees-out parsed/dev
    """
    from teacher.teacher_commands import evaluate_parses

    chosen = build(ParsesConfig, values) | build(ModelConfig, values)
    show(evaluate_parses(teacher, trees, **chosen, beam=options.build(BeamConfig, values)))


@main.command()
@click.argument("run", type=PATH)
@click.argument("out", type=OutPath(outputs.FOLDER))
@click.option("--checkpoint", "which", default="best", show_default=True, help="Which checkpoint of the run to export.")
@click.option(
    "--all-checkpoints",
    is_flag=True,
    help="Write the checkpoint that --checkpoint names to OUT/main. Write each checkpoint of train-student "
    "--word-checkpoints, such as words_1M, to a folder of its own, such as OUT/chck_1M.",
)
@json_option
@configured_by(ExportConfig, toml=False)
def export(run: Path, out: Path, which: str, all_checkpoints: bool, values: Values) -> None:
    """Write a finished student as a Hugging Face folder that transformers loads, with a model card.

    \b
    Example: python cli.py export runs/distilled exported
             python cli.py export runs/distilled exported --push me/distilled --licence cc-by-4.0 --dry-run
    """
    from student.export import export as export_run

    config = options.build(ExportConfig, values)
    show(export_run(run, out, which=which, all_checkpoints=all_checkpoints, config=config))


@main.command()
@runs_argument
@click.option("-o", "--out", type=OutPath(outputs.REPORT), required=True, help="The file to write.")
@configured_by(ReportConfig, toml=False)
def report(runs: tuple[Path, ...], out: Path, values: Values) -> None:
    """Compare runs on one self-contained HTML page, or write only the tables of the page, for a paper.

    \b
    Example: python cli.py report runs/teacher runs/baseline runs/distilled --data dataset --out report.html
    """
    from pipeline.report.page import write_report

    config = options.build(ReportConfig, values)
    write_report(runs, out, datasets=config.data, form=config.format)
    say(str(out))


@main.command()
@runs_argument
@json_option
@configured_by(CompareConfig, toml=False)
def compare(runs: tuple[Path, ...], values: Values) -> None:
    """Test which groups of runs differ. Runs that are alike in everything but the seed form one group.

    The groups are compared on every benchmark that all runs were evaluated on. One group is called better only if two
    results agree: the test on the items of a benchmark, such as its pairs, and the interval over the seeds. If a group
    has a single seed, there is no such interval, and the test alone decides. The test is corrected for the number of
    tests.

    \b
    Example: python cli.py compare runs/baseline-seed* runs/distilled-seed*
    """
    from pipeline.evaluation.compare.compare_runs import compare_runs
    from pipeline.report.comparisons import comparisons_as_text

    found = compare_runs(runs, **build(CompareConfig, values))
    show(found.to_json(), comparisons_as_text(found))


@main.command()
@click.argument("folder", type=PATH)
@json_option
def runs(folder: Path) -> None:
    """List the training runs below a folder: their state, their best dev loss, and the options in which they differ.

    \b
    Example: python cli.py runs runs
    """
    from pipeline.training.run_list import list_runs, runs_as_json, runs_as_text

    found = list_runs(folder)
    show(runs_as_json(*found), runs_as_text(*found))


@main.command()
@click.argument("path", type=STORE)
@json_option
def inspect(path: Place) -> None:
    """Describe a dataset, dump, run or tokenizer, and what it was made from.

    \b
    Example: python cli.py inspect dump
    """
    from pipeline.report.inspection import for_people, inspect_path

    about = inspect_path(path)
    show(about, as_text(for_people(about)))


@main.command()
@click.argument("path", type=STORE)
@json_option
@configured_by(RecomputeConfig, toml=False)
def verify(path: Place, values: Values) -> None:
    """Check every byte of a dataset or dump against its digests; with --recompute, check a dump against its teacher.

    If the dump was made on the same type of CPU or GPU and with the same library versions as this machine has, the
    recomputed bytes must equal the dump's bytes. Otherwise the values may differ by rounding.

    \b
    Example: python cli.py verify dump
             python cli.py verify dump --recompute 3 --teacher runs/teacher --data dataset
    """
    config = options.build(RecomputeConfig, values)
    if not config.recompute:
        from pipeline.report.inspection import verify_path

        show(verify_path(path))
        return
    if not config.teacher or config.data is None:
        raise click.UsageError("--recompute needs --teacher and --data.")
    from pipeline.dumping.dump_source import verify_run
    from teacher.teacher_commands import beam_of_dump

    sources = [dump_source(run, beam_of_dump(path)) for run in config.teacher]
    num_shards, seed, device = config.recompute, config.seed, config.device
    show(verify_run(path, config.data, sources, num_shards=num_shards, seed=seed, device=device))


@main.command()
@click.option(
    "--out",
    type=OutPath(outputs.FOLDER),
    default="demo-output",
    show_default=True,
    help="The folder to create and work in.",
)
def demo(out: Path) -> None:
    """Run everything on a small corpus: sample corpus, teacher, dump, baseline and distilled students, report.

    \b
    Example: python cli.py demo --out demo-output
    """
    from pipeline.report.demo import run_demo

    run_demo(out)


if __name__ == "__main__":
    main()
