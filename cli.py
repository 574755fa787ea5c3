"""The command line: parse options, build a configuration, call one function, print. Nothing else.

Heavy imports happen inside commands, so that ``--help`` answers at once.
"""

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import click

from pipeline.corpus.text.corpus_config import CleanConfig, ImportConfig
from pipeline.dumping.dump_config import DumpConfig
from pipeline.parsing.parse_config import ParseConfig, ParserConfig
from pipeline.runtime import options
from pipeline.runtime.click_options import PATH, STORE, CommaSeparated, OneLineErrors, Place, configured_by
from pipeline.runtime.display import as_text, configure_logging
from pipeline.runtime.progress import Progress
from student.student_config import StudentConfig, StudentTrainConfig
from teacher.teacher_config import BeamConfig, TeacherConfig, TeacherTrainConfig, refuse_without_search

PARSE_OPTIONS = ("model", "flat", "source", "licence", "on_error", "workers", "device")
"""Fields of ``ParseConfig`` whose options the command declares itself."""
DATASET_DECIDES = ("vocab_size",)
"""Fields of model configurations that follow from the dataset and are no options."""


def show(summary: dict[str, Any], *, as_json: bool = False) -> None:
    """Print a summary for people, or as JSON."""
    click.echo(json.dumps(summary, indent=2, ensure_ascii=False) if as_json else as_text(summary))


device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto: on a GPU if there is one.",
)
on_error_option = click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What a malformed line or tree does: end everything with its line, or be left out and counted.",
)
cache_option = click.option(
    "--cache-gb",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Of a dump at a URL: most local copies to keep.",
)
checkpoint_option = click.option(
    "--checkpoint",
    "which",
    default="best",
    show_default=True,
    help="Of the run: best by loss on dev, last, or one of --word-checkpoints, such as words_1M.",
)
resume_option = click.option(
    "--resume",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
    help="Of a run in --out that the same command made: go on from its checkpoint to the same end; or refuse it.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


@click.group(cls=OneLineErrors, context_settings={"max_content_width": 120, "help_option_names": ["-h", "--help"]})
def main() -> None:
    """Distil a Recurrent Neural Network Grammar into a GPT-2-like language model.

    A trained RNNG writes its next-token distributions once, into a dump; any number of students learn from it.
    """
    configure_logging()


@main.command()
@click.argument("out", type=PATH)
@click.option("--num-sentences", type=click.IntRange(1), default=10_000, show_default=True, help="Size of train.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the sample.")
def sample_corpus(out: Path, num_sentences: int, seed: int) -> None:
    """Write the built-in corpus: trees, text, minimal pairs and true probabilities, drawn from a known grammar.

    \b
    Example: python cli.py sample-corpus corpus --num-sentences 10000
    """
    from pipeline.corpus.sample.sample_corpus import write_sample_corpus

    with Progress("sample", total=None, unit="sentences") as progress:
        summary = write_sample_corpus(out, num_sentences, seed, progress.update)
    show({"corpus": str(out), "grammar": summary["grammar"], "splits": summary["splits"]})


@main.command()
@click.argument("sources", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, required=True, help="Writes OUT.mrg and OUT.txt.")
@click.option("--text", "texts", type=PATH, multiple=True, help="Raw text, a sentence a line; a folder for a folder.")
@click.option(
    "--format",
    "wanted",
    type=click.Choice(["auto", "ptb", "bllip", "brackets"]),
    default="auto",
    show_default=True,
    help="What the sources are.",
)
@click.option("--sections", default="all", help="Of the Penn Treebank's wsj folders: 02-21, or 00,01,24.")
@click.option("--documents", type=PATH, multiple=True, help="The name of a document for each tree, a line each.")
@click.option("--document-table", type=PATH, help="Columns document, source, licence: a row for each document.")
@click.option("--source-name", default="", help="Source of all documents.")
@click.option("--licence", default="", help="Licence of all documents.")
@on_error_option
def import_trees(
    sources: tuple[Path, ...],
    out: Path,
    texts: tuple[Path, ...],
    wanted: Literal["auto", "ptb", "bllip", "brackets"],
    sections: str,
    documents: tuple[Path, ...],
    document_table: Path | None,
    source_name: str,
    licence: str,
    on_error: Literal["stop", "skip"],
) -> None:
    """Normalise a treebank: one tree a line in OUT.mrg, its raw text in the same line of OUT.txt.

    SOURCES are files of trees in brackets, plain or gzipped, or folders of them. Without --text, text is put together
    from the words of the trees. Each file of a folder is a document; with --documents a file may hold several. Where
    documents are known, OUT.docs and OUT.documents.tsv say which sentence is of which (train-student --context document
    needs that).

    \b
    Example: python cli.py import-trees gum/train.mrg.gz --text gum/train.txt --out trees/train
             python cli.py import-trees LDC99T42/parsed/mrg --sections 02-21 --out trees/train
             python cli.py import-trees bllip/1987 --format bllip --licence LDC2000T43 --out trees/train
    """
    from pipeline.corpus.trees.import_trees import import_trees as run

    config = ImportConfig(
        texts=texts,
        format=wanted,
        sections=sections,
        documents=documents,
        document_table=document_table,
        source_name=source_name,
        licence=licence,
        on_error=on_error,
    )
    with Progress("import", total=None, unit="sentences") as progress:
        counts = run(sources, out, config, progress.update)
    show(counts)


@main.command()
@click.argument("texts", type=PATH, nargs=-1, required=True)
@click.option(
    "--source",
    required=True,
    help="plain: a paragraph a line; sentences: one a line; babylm: files say which source; or the name of one of its.",
)
@click.option("--out", type=PATH, required=True, help="Writes OUT.txt, .docs, .speakers, .documents.tsv, .dropped.tsv.")
@click.option("--licence", default="", help="Of all documents, for OUT.documents.tsv.")
@on_error_option
def clean_text(
    texts: tuple[Path, ...], source: str, out: Path, licence: str, on_error: Literal["stop", "skip"]
) -> None:
    """Clean raw text to one sentence a line: files or folders of BabyLM, or of paragraphs.

    With --source babylm each file's name says which source it is (childes.train, bnc_spoken.dev, ...); plain is a
    paragraph a line, sentences a sentence a line, both with a blank line between documents. What was dropped or
    repaired is counted, and OUT.dropped.tsv shows some of it.

    \b
    Example: python cli.py clean-text babylm/train_10M --source babylm --out text/train
             python cli.py clean-text stories.txt.gz --source plain --out text/stories --licence "CC BY 4.0"
    """
    from pipeline.corpus.text.cleaning import clean_texts

    config = CleanConfig(source=source, licence=licence, on_error=on_error)
    with Progress("clean", total=None, unit="lines") as progress:
        summary = clean_texts(texts, out, config, progress.update)
    show(summary)


@main.command()
@click.argument("texts", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, required=True, help="Writes OUT.mrg, OUT.txt and what belongs to each sentence.")
@click.option("--model", help="An installed benepar model by name, or the path of one.")
@click.option("--flat", is_flag=True, help="Instead of a model: each tree is its words under TOP.")
@click.option("--source", help="Clean raw text first, as clean-text --source does.")
@click.option("--licence", default="", help="With --source: of all documents.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes; or use torchrun.")
@on_error_option
@device_option
@json_option
@configured_by(ParseConfig, without=PARSE_OPTIONS)
def parse(
    texts: tuple[Path, ...],
    out: Path,
    model: str | None,
    flat: bool,
    source: str | None,
    licence: str,
    workers: int,
    on_error: Literal["stop", "skip"],
    device: str,
    as_json: bool,
    values: dict[str, Any],
) -> None:
    """Parse text into trees with spaCy and benepar. Also runs under torchrun.

    TEXTS have a sentence a line, as clean-text writes them, or are raw text with --source. Interrupted, the same
    command goes on, with any number of processes.

    \b
    Example: python cli.py parse text/train.txt --model parser.pt --out trees/train --workers 2
    Example: python cli.py parse babylm/train --source babylm --model benepar_en3 --out trees/train
    """
    from pipeline.parsing.parse import parse_texts as run

    if flat == (model is not None):
        raise click.UsageError("give one of --model and --flat.")
    given = (model or "", flat, source or "", licence, on_error, workers, device)
    found = run(texts, out, options.build(ParseConfig, values, **dict(zip(PARSE_OPTIONS, given, strict=True))))
    if found is not None:
        show(found, as_json=as_json)


@main.command()
@click.argument("trees", type=PATH, nargs=-1, required=True)
@click.option("--dev", type=PATH, multiple=True, required=True, help="Trees to score; several are also scored apart.")
@click.option("--out", type=PATH, required=True, help="The model's file; beside it OUT.json and OUT.metrics.jsonl.")
@on_error_option
@json_option
@configured_by(ParserConfig)
def train_parser(
    trees: tuple[Path, ...],
    dev: tuple[Path, ...],
    out: Path,
    on_error: Literal["stop", "skip"],
    as_json: bool,
    values: dict[str, Any],
) -> None:
    """Train a small benepar model on treebanks, for ``parse``, where no trained one can be downloaded.

    \b
    Example: python cli.py train-parser trees/train.mrg --dev trees/dev.mrg --out parser.pt
    """
    from pipeline.parsing.train_parser import train_parser as run

    show(run(trees, dev, out, options.build(ParserConfig, values), on_error=on_error), as_json=as_json)


@main.command()
@click.argument("texts", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, required=True, help="The tokenizer.json to write.")
@click.option("--vocab-size", type=click.IntRange(260), default=12_000, show_default=True, help="Most entries.")
def train_tokenizer(texts: tuple[Path, ...], out: Path, vocab_size: int) -> None:
    """Train the byte-level BPE tokenizer that teacher and student share, on raw text.

    \b
    Example: python cli.py train-tokenizer trees/train.txt --out tokenizer.json --vocab-size 10000
    """
    from pipeline.corpus.dataset.tokenizer import train_tokenizer as run

    with Progress("read", total=None, unit="lines") as progress:
        summary = run(texts, out, vocab_size=vocab_size, progress=progress.update)
    show(summary)


@main.command()
@click.argument("source", type=PATH)
@click.option("--out", type=PATH, required=True, help="The tokenizer.json to write.")
@click.option("--bos", required=True, help="Its entry that begins a text.")
@click.option("--eos", required=True, help="Its entry that ends a text; may be the same.")
def adopt_tokenizer(source: Path, out: Path, bos: str, eos: str) -> None:
    """Check a Hugging Face tokenizer.json made elsewhere, and convert it: for students that are to share its tokens.

    It must be byte-level and give every text back. Ids stay as they are.

    \b
    Example: python cli.py adopt-tokenizer gpt2/tokenizer.json --bos '<|endoftext|>' --eos '<|endoftext|>' --out t.json
    """
    from pipeline.corpus.dataset.adopt_tokenizer import adopt_tokenizer as run

    show(run(source, out, bos=bos, eos=eos))


@main.command()
@click.option("--train", type=PATH, multiple=True, required=True, help="STEM of STEM.mrg, STEM.txt; may be repeated.")
@click.option("--dev", type=PATH, multiple=True, help="STEM of the dev pair; may be repeated.")
@click.option("--test", type=PATH, multiple=True, help="STEM of the test pair; may be repeated.")
@click.option(
    "--dev-share",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Instead of --dev: share of train, in whole documents.",
)
@click.option(
    "--test-share",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Instead of --test: share of train, in whole documents.",
)
@click.option("--tokenizer", type=PATH, required=True, help="A tokenizer.json.")
@click.option("--out", type=STORE, required=True, help="The dataset to write.")
@click.option(
    "--trees",
    type=click.Choice(["given", "right", "shuffled"]),
    default="given",
    show_default=True,
    help="The trees as they are, or a control on structure.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of shares and shuffled trees.")
@on_error_option
@click.option(
    "--unseen-labels",
    type=click.Choice(["drop", "map", "refuse"]),
    default="drop",
    show_default=True,
    help="Of dev and test, labels that train lacks: drop the sentence, or read them as train's most frequent label.",
)
@click.option(
    "--drop-duplicates",
    type=click.Choice(["none", "exact", "near"]),
    default="none",
    show_default=True,
    help="Sentences of train to leave out because dev or test have them too; counted in any case.",
)
@click.option("--min-words", type=click.IntRange(0), default=0, help="Leave out shorter sentences.")
@click.option("--max-words", type=click.IntRange(0), default=0, help="Leave out longer sentences; 0: no limit.")
@click.option(
    "--max-tokens", type=click.IntRange(0), default=0, help="Leave out sentences of more tokens; 0: no limit."
)
@click.option("--workers", type=click.IntRange(0), default=0, help="Processes; 0: one a core. The result is the same.")
def build_dataset(**given: Any) -> None:  # noqa: ANN401
    """Fit trees to tokens and store both: the dataset that every later command reads.

    \b
    Example: python cli.py build-dataset --train trees/train --dev trees/dev --tokenizer tokenizer.json --out dataset
    Example: python cli.py build-dataset --train gum --train craft --dev-share 0.05 --tokenizer t.json --out dataset
    """
    from pipeline.corpus.dataset.build import build_dataset as run
    from pipeline.corpus.dataset.build_config import BuildConfig

    with Progress("build", total=None, unit="sentences") as progress:
        summary = run(BuildConfig(**given), progress.update)
    show(summary)


@main.command()
@click.option("--data", type=STORE, required=True, help="A dataset made by build-dataset.")
@click.option("--out", type=PATH, required=True, help="The run directory to make.")
@resume_option
@configured_by(TeacherConfig, TeacherTrainConfig)
def train_teacher(data: Place, out: Path, resume: Literal["auto", "never"], values: dict[str, Any]) -> None:
    """Train the RNNG teacher. Also runs under torchrun.

    Killed, or stopped by SIGTERM after a step and a checkpoint, it goes on with the same command.

    \b
    Example: python cli.py train-teacher --data dataset --out runs/teacher --num-epochs 6
    """
    from teacher.train_teacher import train_teacher as run

    run(data, out, options.build(TeacherConfig, values), options.build(TeacherTrainConfig, values), resume=resume)


@main.command()
@click.option("--data", type=STORE, required=True, help="A dataset made by build-dataset.")
@click.option("--teacher", type=PATH, required=True, help="A run directory of train-teacher, or of train-student.")
@click.option("--out", type=STORE, help="The store to write, or to finish; not needed with --plan.")
@click.option("--take-over", is_flag=True, help="In an object store: write though another process holds the lease.")
@click.option("--plan", is_flag=True, help="Write nothing: time a few batches, say how many bytes and hours it takes.")
@click.option(
    "--plan-processes",
    type=CommaSeparated(int),
    default="1,2,4,8",
    show_default=True,
    help="With --plan: numbers of processes.",
)
@json_option
@configured_by(DumpConfig, BeamConfig)
def dump_teacher(
    data: Place,
    teacher: Path,
    out: Place | None,
    take_over: bool,
    plan: bool,
    plan_processes: tuple[int, ...],
    as_json: bool,
    values: dict[str, Any],
) -> None:
    """Write a teacher's next-token distributions, once, for any number of students. Also under torchrun.

    Interrupted, it is finished by the same command, with any number of processes. The teacher may be a student, which
    knows no trees: born-again distillation, the control of what structure is worth.

    \b
    Example: torchrun --nproc-per-node 2 cli.py dump-teacher --data dataset --teacher runs/teacher --out dump
    Example: python cli.py dump-teacher --data dataset --teacher runs/teacher --out marginal --condition beam
    Example: python cli.py dump-teacher --data dataset --teacher runs/baseline --out born-again
    Example: python cli.py dump-teacher --data dataset --teacher runs/teacher --temperatures 1,2 --plan
    """
    from pipeline.dumping.dump_source import DumpSource, dump_run, plan_run
    from storage.locations import open_folder

    beam = _sizes_of_search(values)
    source: DumpSource = _commands_of(teacher).dump_source(teacher, beam=beam)
    config = options.build(DumpConfig, {"condition": source.conditions[0], **values})
    if config.condition != "beam":
        refuse_without_search(beam, "--condition beam")
    if plan:
        show(plan_run(data, source, config, plan_processes), as_json=as_json)
        return
    if out is None:
        raise click.UsageError("Missing option '--out'.")
    summary = dump_run(data, source, open_folder(out, take_over=take_over), config)
    if summary is not None:
        show({"dump": str(out), **summary.to_json()}, as_json=as_json)


@main.command()
@click.option("--data", type=STORE, required=True, help="A dataset made by build-dataset.")
@click.option("--dump", type=STORE, help="A dump made by dump-teacher; without one, the baseline is trained.")
@click.option("--out", type=PATH, required=True, help="The run directory to make.")
@click.option(
    "--init",
    type=PATH,
    help="Start from the best weights of this student's run, of the same sizes; it must stay as it is until the end.",
)
@resume_option
@cache_option
@configured_by(StudentConfig, StudentTrainConfig, without=DATASET_DECIDES)
def train_student(
    data: Place,
    dump: Place | None,
    out: Path,
    init: Path | None,
    resume: Literal["auto", "never"],
    cache_gb: float,
    values: dict[str, Any],
) -> None:
    """Train a student on tokens and, given a dump, on the teacher's soft targets. Also runs under torchrun.

    Killed, or stopped by SIGTERM after a step and a checkpoint, it goes on with the same command.
    With --init every size must be that of the run it starts from, those left at their defaults too.

    \b
    Example: torchrun --nproc-per-node 2 cli.py train-student --data dataset --dump dump --out runs/distilled
    """
    from storage.locations import open_folder
    from student.train_student import train_student as run

    folder = open_folder(dump, cache_bytes=int(cache_gb * 1e9)) if dump is not None else None
    run(data, folder, out, values, options.build(StudentTrainConfig, values), resume=resume, init=init)


@main.group()
def evaluate() -> None:
    """Measure a trained model."""


def _commands_of(model: Path) -> ModuleType:
    """Return ``teacher.teacher_commands`` or ``student.student_commands``, which have the same entry points."""
    from pipeline.runtime.run_directory import is_exported, open_run

    if not is_exported(model) and open_run(model).kind == "teacher":
        return import_module("teacher.teacher_commands")
    return import_module("student.student_commands")


def _sizes_of_search(values: dict[str, Any]) -> dict[str, Any]:
    """Return the given options that are sizes of the beam search."""
    return {option.name: values[option.name] for option in options.options_of(BeamConfig) if option.name in values}


@evaluate.command()
@click.argument("model", type=PATH)
@click.option("--data", type=STORE, required=True, help="A dataset made by build-dataset.")
@click.option("--split", default="dev", show_default=True)
@click.option("--floor", type=PATH, help="entropy.json of sample-corpus: adds the true probability's figure.")
@click.option("--marginal", is_flag=True, help="Of a teacher: also without the trees, by beam search.")
@checkpoint_option
@device_option
@json_option
@configured_by(BeamConfig)
def perplexity(
    model: Path,
    data: Place,
    split: str,
    floor: Path | None,
    marginal: bool,
    which: str,
    device: str,
    as_json: bool,
    values: dict[str, Any],
) -> None:
    """Perplexity of a run or an exported folder on a split; the distribution and the normaliser are named.

    Sentence by sentence, each given <bos> alone; under a student of documents, in rows of a document. Each sentence's
    log-probabilities stand beside the result.

    \b
    Example: python cli.py evaluate perplexity runs/teacher --data dataset --split dev
    Example: python cli.py evaluate perplexity runs/teacher --data dataset --split dev --marginal
    """
    evaluate = _commands_of(model).evaluate_perplexity
    found = evaluate(model, data, split=split, floor=floor, device=device, which=which, marginal=marginal, beam=values)
    show(found, as_json=as_json)


@evaluate.command()
@click.argument("model", type=PATH)
@click.argument("folder", type=PATH)
@click.option(
    "--prefix",
    type=click.Choice(["none", "space"]),
    default="none",
    show_default=True,
    help="What stands before each sentence: nothing, or a space, as in lm-evaluation-harness's stock task.",
)
@click.option(
    "--eos/--no-eos", default=False, show_default=True, help="Count <eos>, which other programs' figures leave out."
)
@checkpoint_option
@device_option
@json_option
@configured_by(BeamConfig)
def minimal_pairs(
    model: Path,
    folder: Path,
    prefix: Literal["none", "space"],
    eos: bool,
    which: str,
    device: str,
    as_json: bool,
    values: dict[str, Any],
) -> None:
    """Accuracy on a folder of minimal pairs in BLiMP's form; ties are reported and never right.

    Under a student's run, an exported folder, or a teacher that sees no tree, by beam search. By paradigm, phenomenon
    and field, with 95 % intervals; each pair's log-probabilities stand beside the result.

    \b
    Example: python cli.py evaluate minimal-pairs runs/distilled blimp/data
    """
    from pipeline.evaluation.sentence_models import evaluate_minimal_pairs

    with _commands_of(model).open_scorer(model, device=device, which=which, beam=values) as opened:
        show(evaluate_minimal_pairs(opened, folder, prefix=prefix, eos=eos), as_json=as_json)


@evaluate.command()
@click.argument("model", type=PATH)
@click.argument("suites", type=PATH, nargs=-1, required=True)
@click.option(
    "--joining",
    type=click.Choice(["text", "tokens"]),
    default="text",
    show_default=True,
    help="Regions as running text, or with the spaces before marks that published figures have.",
)
@checkpoint_option
@device_option
@json_option
@configured_by(BeamConfig)
def syntaxgym(
    model: Path,
    suites: tuple[Path, ...],
    joining: Literal["text", "tokens"],
    which: str,
    device: str,
    as_json: bool,
    values: dict[str, Any],
) -> None:
    """Accuracy on SyntaxGym suites, JSON files or folders of them; ties are reported and never right.

    Under a student's run, an exported folder, or a teacher that sees no tree, by beam search.

    \b
    Example: python cli.py evaluate syntaxgym runs/distilled test_suites/json
    """
    from pipeline.evaluation.sentence_models import evaluate_syntaxgym

    with _commands_of(model).open_scorer(model, device=device, which=which, beam=values) as opened:
        show(evaluate_syntaxgym(opened, suites, joining=joining), as_json=as_json)


@evaluate.command()
@click.argument("model", type=PATH)
@click.argument("text", type=PATH)
@click.option("--out", type=PATH, required=True, help="The table to write: tab-separated, with a header, no quoting.")
@click.option("--by", type=click.Choice(["word", "token"]), default="word", show_default=True, help="What a row is.")
@click.option("--spans", type=PATH, help="What words are, if not strings between spaces: sentence, start, stop a line.")
@click.option("--frequencies", type=PATH, help="word and count a line, tab-separated: adds the column log_frequency.")
@on_error_option
@checkpoint_option
@device_option
@json_option
@configured_by(BeamConfig)
def surprisal(
    model: Path,
    text: Path,
    out: Path,
    by: Literal["word", "token"],
    spans: Path | None,
    frequencies: Path | None,
    on_error: Literal["stop", "skip"],
    which: str,
    device: str,
    as_json: bool,
    values: dict[str, Any],
) -> None:
    """Surprisal in bits of every word of a text, a sentence a line; with <eos> of each sentence.

    Under a student's run, an exported folder, or a teacher that sees no tree, by beam search. The sentence number is
    that of the line, so the table can be joined with the text.

    \b
    Example: python cli.py evaluate surprisal runs/distilled sentences.txt --out surprisals.tsv
             python cli.py evaluate surprisal runs/distilled words.txt --spans words.tsv --out surprisals.tsv
    """
    from pipeline.evaluation.sentence_models import evaluate_surprisal

    with _commands_of(model).open_scorer(model, device=device, which=which, beam=values) as opened:
        found = evaluate_surprisal(opened, text, out, by=by, on_error=on_error, spans=spans, frequencies=frequencies)
        show(found, as_json=as_json)


@evaluate.command()
@click.argument("teacher", type=PATH)
@click.argument("trees", type=PATH)
@click.option("--trees-out", type=PATH, help="STEM to write the parses to, as STEM.mrg and STEM.txt.")
@on_error_option
@checkpoint_option
@device_option
@json_option
@configured_by(BeamConfig)
def parses(
    teacher: Path,
    trees: Path,
    trees_out: Path | None,
    on_error: Literal["stop", "skip"],
    which: str,
    device: str,
    as_json: bool,
    values: dict[str, Any],
) -> None:
    """Parse the text of a treebank, STEM.mrg and STEM.txt, by beam search; brackets against its trees.

    \b
    Example: python cli.py evaluate parses runs/teacher trees/dev --trees-out parsed/dev
    """
    from teacher.teacher_commands import evaluate_parses

    beam = options.build(BeamConfig, values)
    found = evaluate_parses(
        teacher, trees, trees_out=trees_out, on_error=on_error, device=device, which=which, beam=beam
    )
    show(found, as_json=as_json)


@main.command()
@click.argument("run", type=PATH)
@click.argument("out", type=PATH)
@checkpoint_option
@click.option(
    "--all-checkpoints", is_flag=True, help="Write OUT/main, and OUT/chck_1M and so on of --word-checkpoints."
)
@json_option
def export(run: Path, out: Path, which: str, all_checkpoints: bool, as_json: bool) -> None:
    """Write a finished student as a Hugging Face folder that transformers loads, with a model card.

    \b
    Example: python cli.py export runs/distilled exported
    Example: python cli.py export runs/distilled exported --all-checkpoints
    """
    from student.export import export as export_run

    show(export_run(run, out, which=which, all_checkpoints=all_checkpoints), as_json=as_json)


@main.command()
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option("-o", "--out", type=PATH, required=True, help="The HTML page to write.")
@click.option("--data", type=STORE, multiple=True, help="Also describe this dataset; may be repeated.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "markdown", "latex", "csv"]),
    default="html",
    show_default=True,
    help="The page; or all its tables, as text, for LaTeX with booktabs, or a cell a line.",
)
def report(
    runs: tuple[Path, ...], out: Path, data: tuple[Place, ...], form: Literal["html", "markdown", "latex", "csv"]
) -> None:
    """Compare runs on one self-contained HTML page, or in its tables for a paper.

    \b
    Example: python cli.py report runs/teacher runs/baseline runs/distilled --data dataset --out report.html
             python cli.py report runs/* --format latex --out tables.tex
    """
    from pipeline.report.page import write_report

    write_report(runs, out, datasets=data, form=form)
    click.echo(str(out))


@main.command()
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option(
    "--normaliser",
    type=click.Choice(["token", "word", "byte"]),
    default="token",
    show_default=True,
    help="What perplexities are by; across tokenizers word or byte, for a token is not the same there.",
)
@json_option
def compare(runs: tuple[Path, ...], normaliser: Literal["token", "word", "byte"], as_json: bool) -> None:
    """Say which configurations differ: runs that differ in nothing but the seed are one.

    On every benchmark that all runs were evaluated on: means over seeds, and for each pair of configurations the
    difference on the same items with its interval, p-value, p-value corrected for all that were tested, and interval
    over seeds. One is called better only where both the corrected test and the seeds say so.

    \b
    Example: python cli.py compare runs/baseline-seed* runs/distilled-seed*
    """
    from pipeline.evaluation.compare.compare_runs import compare_runs
    from pipeline.report.comparisons import comparisons_as_text

    found = compare_runs(runs, normaliser=normaliser)
    if as_json:
        show(found.to_json(), as_json=True)
    else:
        click.echo(comparisons_as_text(found))


@main.command()
@click.argument("folder", type=PATH)
@json_option
def runs(folder: Path, as_json: bool) -> None:
    """List the training runs below a folder: how each stands, its best dev loss, and what differs between them.

    \b
    Example: python cli.py runs runs
    """
    from pipeline.training.run_list import list_runs, runs_as_json, runs_as_text

    found = list_runs(folder)
    if as_json:
        show(runs_as_json(*found), as_json=True)
    else:
        click.echo(runs_as_text(*found))


@main.command()
@click.argument("path", type=STORE)
@json_option
def inspect(path: Place, as_json: bool) -> None:
    """Say what a dataset, dump, run or tokenizer is, and from what it was made.

    \b
    Example: python cli.py inspect dump
    """
    from pipeline.report.inspection import for_people, inspect_path

    about = inspect_path(path)
    show(about if as_json else for_people(about), as_json=as_json)


@main.command()
@click.argument("path", type=STORE)
@click.option("--recompute", type=click.IntRange(1), help="Also compute so many random shards of a dump again.")
@click.option("--teacher", type=PATH, help="With --recompute: the run that the dump was made with.")
@click.option("--data", type=STORE, help="With --recompute: the dataset that the dump was made from.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="With --recompute: which shards.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@json_option
def verify(
    path: Place, recompute: int | None, teacher: Path | None, data: Place | None, seed: int, device: str, as_json: bool
) -> None:
    """Check every byte of a dataset or dump against its digests; on request, a dump against its teacher.

    Recomputed on a machine like the one that made the dump, every byte must be the same; elsewhere values are compared.

    \b
    Example: python cli.py verify dump
    Example: python cli.py verify dump --recompute 3 --teacher runs/teacher --data dataset
    """
    from pipeline.report.inspection import verify_path

    if recompute is None:
        show(verify_path(path), as_json=as_json)
        return
    if teacher is None or data is None:
        raise click.UsageError("--recompute needs --teacher and --data.")
    verify = _commands_of(teacher).verify_recomputing
    show(verify(path, data, teacher, num_shards=recompute, seed=seed, device=device), as_json=as_json)


@main.command()
@click.option("--out", type=PATH, default="demo-output", show_default=True, help="Folder to work in; must be new.")
def demo(out: Path) -> None:
    """Run everything, small: sample corpus, teacher, dump, baseline and distilled students, report.

    \b
    Example: python cli.py demo --out demo-output
    """
    from pipeline.report.demo import run_demo

    run_demo(out)


if __name__ == "__main__":
    main()
