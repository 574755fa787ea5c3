"""Test the grammar of a sample corpus as the teacher of a dump, and as the truth that models are compared with."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner

import cli
from pipeline.corpus.dataset.dataset_store import load_dataset
from pipeline.corpus.sample.sample_corpus import is_sample_corpus
from pipeline.dumping.grammar_source import grammar_model
from pipeline.evaluation.truth import Truth
from storage.dump.reader import DumpReader
from storage.fingerprints import sha256_bytes

OPTIONS: list[object] = ["--split", "dev", "--temperatures", "1,2", "--shard-positions", 1024, "--device", "cpu"]


def ran(*arguments: object) -> str:
    """Run a command; return its standard output."""
    done = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments: object) -> str:
    """Run a command that must fail with one line; return the line."""
    done = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def dump(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grammar") / "dump"
    ran("dump-teacher", "--data", small_world / "dataset", "--teacher", small_world / "corpus", "--out", out, *OPTIONS)
    return out


def test_the_dumps_perplexity_is_that_of_the_corpus_and_its_rows_are_the_grammars(small_world, dump):
    entropy = json.loads((small_world / "corpus/entropy.json").read_text())["splits"]["dev"]
    group = zarr.open_group(dump, mode="r")
    assert group.attrs["condition"] == "exact"
    assert group.attrs["tree_source"] == "none: exact sum over the grammar's trees"
    gold = group["gold_logp"][:].astype(np.float64)
    assert -gold.sum() == pytest.approx(entropy["neg_log_prob_nats"], rel=1e-6)
    # Few words can come at some positions. There the row ends with tokens of probability 0, and the tail is 0.
    logp, tail = group["logp"][:].astype(np.float64), group["tail"][:]
    is_short = np.isneginf(logp).any(axis=1)
    assert is_short.mean() > 0.1
    assert np.isneginf(tail[is_short]).all()
    np.testing.assert_allclose(np.exp(logp).sum(1) + np.exp(tail[:, 0]), 1, atol=2e-3)
    rest = np.exp(logp / 2 - group["logz"][:][:, 1:]).sum(1) + np.exp(tail[:, 1])
    np.testing.assert_allclose(rest, 1, atol=2e-3)


def test_a_dump_of_the_grammar_is_recomputed_byte_for_byte_planned_and_described(small_world, dump):
    where = ["--teacher", small_world / "corpus", "--data", small_world / "dataset", "--device", "cpu"]
    found = json.loads(ran("verify", dump, "--recompute", 2, *where, "--json"))
    assert found["recomputed"]["is_identical"]
    planned = json.loads(ran("dump-teacher", *where[:4], "--plan", "--json", *OPTIONS))
    assert planned["size_bytes"] == DumpReader(dump).summary.size_bytes
    assert "perplexity, of the grammar" in ran("inspect", dump)
    where[1] = small_world / "teacher"
    assert "teacher of the dump is " in refused("verify", dump, "--recompute", 1, *where)


@pytest.mark.parametrize(
    "options", [["--profile", "compact"], ["--selection", "stratified"], ["--selection", "sampled"]]
)
def test_positions_with_few_possible_words_can_be_stored_in_every_way(small_world, tmp_path, options):
    dumping = ["dump-teacher", "--data", small_world / "dataset", "--teacher", small_world / "corpus"]
    ran(*dumping, "--out", tmp_path / "dump", *OPTIONS, *options)
    ran("verify", tmp_path / "dump")
    rows = DumpReader(tmp_path / "dump").read_range(0, 500)
    is_used = rows.counts > 0 if rows.counts is not None else np.ones(rows.ids.shape, bool)
    assert np.isfinite(rows.logp[is_used & (rows.logp > -np.inf)]).all()


def test_what_is_not_of_a_sample_corpus_is_refused_in_one_line(small_world, tmp_path):
    data, corpus = small_world / "dataset", small_world / "corpus"
    dumping = ["dump-teacher", "--out", tmp_path / "dump"]
    for more, expected in (
        (["--condition", "tree"], "corpus: --condition is tree, expected exact because this is a sample corpus"),
        (["--beam", 3], "--beam: sizes of a beam search, expected only with an RNNG teacher; give an RNNG teacher, or"),
    ):
        assert expected in refused(*dumping, "--data", data, "--teacher", corpus, *more)
    texts = {"train": "The dog sleeps.\n", "dev": "The dog sleeps.\nThe dogs sleeps.\n"}
    for split, text in texts.items():
        (tmp_path / f"{split}.txt").write_text(text)
        lines = text.splitlines()
        trees = "".join(f"(TOP {' '.join(f'(X {word})' for word in [*line[:-1].split(), '.'])})\n" for line in lines)
        (tmp_path / f"{split}.mrg").write_text(trees)
    stems = ["--train", tmp_path / "train", "--dev", tmp_path / "dev"]
    ran("build-dataset", *stems, "--tokenizer", small_world / "tokenizer.json", "--out", tmp_path / "other")
    message = refused(*dumping, "--data", tmp_path / "other", "--teacher", corpus, "--split", "dev")
    assert "sentence 1 of split dev: the grammar of sample-corpus cannot produce 'The dogs sleeps.'" in message
    assert "was built from a sample corpus" in message
    shutil.copytree(corpus, tmp_path / "older")
    entropy = json.loads((corpus / "entropy.json").read_text())
    (tmp_path / "older/entropy.json").write_text(json.dumps(entropy | {"grammar": {"rules_sha256": "0" * 64}}))
    older = refused(*dumping, "--data", data, "--teacher", tmp_path / "older")
    assert "rules_sha256 is 000000000000, but the grammar of this version has" in older
    for content, expected in (
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8 (byte 0)"),
        (b"[]", "expected object, found array"),
    ):
        (tmp_path / "older/entropy.json").write_bytes(content)
        message = refused(*dumping, "--data", data, "--teacher", tmp_path / "older")
        assert f"entropy.json: {expected}" in message
    assert not is_sample_corpus(data)
    assert not (tmp_path / "dump").exists()


def test_the_grammars_divergence_from_itself_is_zero_and_from_other_models_is_the_slow_sum(small_world):
    dataset = load_dataset(small_world / "dataset")
    truth = Truth(small_world / "corpus", dataset, "dev")
    split, model = dataset.split("dev"), grammar_model(dataset)
    tokens = split.tokens.take(np.arange(10))
    states = model.states(model.prepare(tokens, None))
    assert np.abs(truth.divergences(model, states, tokens)).max() < 1e-12

    class Other:
        vocab_size = dataset.tokenizer.vocab_size

        def logits(self, states: torch.Tensor) -> torch.Tensor:
            return states

    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(len(states), Other.vocab_size, generator=generator)
    found = truth.divergences(Other(), logits, tokens)  # type: ignore[arg-type]
    p = model.logits(states).exp()
    q = logits.double().softmax(1)
    expected = [
        sum(float(a * (a / b).log()) for a, b in zip(x, y, strict=True) if a > 0) for x, y in zip(p, q, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_perplexity_with_the_truth_gives_the_floor_and_the_divergence(small_world):
    data, corpus = small_world / "dataset", small_world / "corpus"
    evaluating = ["evaluate", "perplexity", small_world / "teacher", "--data", data, "--truth"]
    found = json.loads(ran(*evaluating, corpus, "--json"))
    entropy = json.loads((corpus / "entropy.json").read_text())["splits"]["dev"]
    expected = math.exp(entropy["neg_log_prob_nats"] / found["positions"])
    assert found["floor"]["per_token"] == pytest.approx(expected, rel=1e-5)
    figure = found["given the tree"]
    # The gold tokens are draws from the truth, so the mean divergence estimates the same difference.
    above = math.log(figure["per_token"]) - math.log(found["floor"]["per_token"])
    assert figure["kl_per_position"] == pytest.approx(above, rel=0.1)
    assert figure["kl_per_position_without_eos"] != figure["kl_per_position"]
    assert "kl_per_position" not in found["joint with the tree"]
    result = json.loads(Path(found["written"]).read_bytes())["figures"]
    assert [figure["distribution"] for figure in result if "kl_per_position" in figure] == ["given the tree"]
    assert "entropy.json: cannot be read" in refused(*evaluating, small_world)


def test_the_divergence_by_beam_search_is_measured_too_and_another_text_is_refused(small_world, tmp_path):
    corpus = small_world / "corpus"
    for suffix in ("mrg", "txt"):
        lines = (corpus / f"dev.{suffix}").read_text().splitlines(keepends=True)
        (tmp_path / f"few.{suffix}").write_text("".join(lines[:4]))
    stems = ["--train", corpus / "train", "--dev", tmp_path / "few"]
    ran("build-dataset", *stems, "--tokenizer", small_world / "tokenizer.json", "--out", tmp_path / "dataset")
    evaluating = ["evaluate", "perplexity", small_world / "teacher", "--data", tmp_path / "dataset", "--truth"]
    entropy = json.loads((corpus / "entropy.json").read_text())
    digest = entropy["splits"]["dev"]["text_sha256"]
    assert f"text_sha256 of dev is {digest[:12]}, but the evaluated split's is" in refused(*evaluating, corpus)
    entropy["splits"]["dev"]["text_sha256"] = sha256_bytes((tmp_path / "few.txt").read_bytes())
    (tmp_path / "entropy.json").write_text(json.dumps(entropy))
    search = ["--marginal", "--beam", 2, "--word-beam", 1, "--max-actions", 6]
    found = json.loads(ran(*evaluating, tmp_path, *search, "--json"))
    assert found["marginal by beam search"]["kl_per_position"] > 0.5
    assert "kl_per_position" not in found["sum over trees by beam search"]
