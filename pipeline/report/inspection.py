"""Describe the dataset, dump, run or tokenizer at a path, and verify a dataset or dump."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.corpus.dataset.dataset_store import describe_dataset, load_dataset
from pipeline.corpus.dataset.split_statistics import FIGURES
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.word_budget import (
    RECORD_SUFFIX,
    TOKENIZER,
    TrainingText,
    budget,
    budget_for_people,
    from_json,
    read_record,
    to_json,
)
from pipeline.dumping.dump_description import describe_dump, dump_for_people, verify_dump_files
from pipeline.evaluation.results import read_results
from pipeline.report.tables import plural
from pipeline.runtime.run_directory import open_run
from storage.dump.manifest import MANIFEST
from storage.errors import InputError
from storage.locations import Place, is_url, local_path, open_folder


def inspect_path(path: Place) -> dict[str, Any]:
    """Return a JSON object that describes what is at ``path``. Its first key is ``kind``.

    Raises:
        InputError: If ``path`` is not a dataset, dump, run or tokenizer.
    """
    kind = _kind(path)
    if kind == "dump":
        return {"kind": kind, **describe_dump(path)}
    if kind == "dataset":
        return {"kind": kind, **describe_dataset(path)}
    if kind == "tokenizer":
        tokenizer = Tokenizer.load(local_path(path))
        specials = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
        return {
            "kind": kind,
            "vocab_size": tokenizer.vocab_size,
            **{name: tokenizer.token(i) for name, i in specials.items()},
            "sha256": tokenizer.sha256,
            "words": _words(read_record(local_path(path), RECORD_SUFFIX, of=TOKENIZER, sha256=tokenizer.sha256)),
        }
    path = local_path(path)
    run = open_run(path)
    return {
        "kind": run.kind,
        "configuration": run.configuration,
        "fingerprints": run.fingerprints,
        "words": _words(from_json(run.trained_on, of=run.kind, name=path.name, where=str(path / "run.json"))),
        "dump": run.dump,
        **({"init": run.init} if run.init is not None else {}),
        "results": sorted(read_results(path)),
    }


def _words(texts: list[TrainingText]) -> dict[str, Any]:
    return {"trained_on": to_json(texts), **budget(texts).to_json()}


def for_people(about: dict[str, Any]) -> dict[str, Any]:
    """Return the result of ``inspect_path`` for people: without histograms, and with full names for a dump's fields."""
    if about["kind"] == "dataset":
        splits = {name: _split_for_people(split) for name, split in about["splits"].items()}
        words = _words_for_people(about["trained_on"])
        shown = {name: value for name, value in about.items() if name != "trained_on"}
        return {**shown, "labels": " ".join(about["labels"]), "words of training": words, "splits": splits}
    if about["kind"] == "dump":
        return dump_for_people(about)
    return {**about, "words": _words_for_people(about["words"]["trained_on"])}


def _words_for_people(trained_on: list[Mapping[str, Any]]) -> dict[str, str]:
    return budget_for_people([TrainingText.from_json(text, where="inspect") for text in trained_on])


def _split_for_people(split: dict[str, Any]) -> dict[str, Any]:
    statistics = split["statistics"]
    shown = {name: statistics[name] for name in FIGURES if name in statistics}
    sources = {
        name: f"{plural(source['num_documents'], 'document')}, {plural(source['num_sentences'], 'sentence')}, "
        f"{plural(source['num_tokens'], 'token')}; licence: {source['licences']}"
        for name, source in statistics.get("sources", {}).items()
    }
    folds = {
        number: f"{fold['num_sentences']:,} sentences, {fold['num_tokens']:,} tokens"
        for number, fold in split.get("folds", {}).items()
    }
    return {**split, "statistics": shown, "sources": sources} | ({"folds": folds} if folds else {})


def verify_path(path: Place) -> dict[str, Any]:
    """Check every byte of a dataset or dump, and return its kind and digest.

    Raises:
        InputError: If ``path`` is neither a dataset nor a dump.
        CorruptStoreError: If something is damaged. The message names it and the remedy.
    """
    kind = _kind(path)
    if kind == "dump":
        return verify_dump_files(path)
    if kind == "dataset":
        dataset = load_dataset(path)
        return {"kind": kind, "verified": True, "sha256": dataset.sha256}
    raise InputError(
        f"{path}: is a {kind}, expected a dataset or a dump; give one of these, because only they have digests"
    )


def _kind(place: Place) -> str:
    if is_url(place):
        names = open_folder(place).sizes()
        if "dataset.zarr/zarr.json" in names:
            return "dataset"
        if MANIFEST in names:
            return "dump"
        raise InputError(
            f"{place}: neither a dataset nor a dump; give the --out of build-dataset, dump-teacher or import-dump"
        )
    try:
        return _kind_of_path(local_path(place))
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror}); fix the permissions") from error


def _kind_of_path(path: Path) -> str:
    if not path.exists():
        raise InputError(f"{path}: no such file or directory; expected a dataset, dump, run or tokenizer.json")
    if (path / "run.json").is_file():
        return "run"
    if (path / "dataset.zarr").is_dir():
        return "dataset"
    if (path / "zarr.json").is_file():
        return "dump"
    if path.is_file() and path.suffix == ".json":
        return "tokenizer"
    raise InputError(
        f"{path}: neither a dataset, dump, run nor tokenizer.json; give the --out of build-dataset, dump-teacher, "
        "import-dump, train-teacher, train-student, train-tokenizer or adopt-tokenizer"
    )
