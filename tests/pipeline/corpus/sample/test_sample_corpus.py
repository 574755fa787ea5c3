"""Test that the sample corpus is reproducible, its entropies are exact and its minimal pairs are valid."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.inside import Inside
from pipeline.corpus.sample.pairs import NUM_PAIRS, PARADIGMS, sample_pairs
from pipeline.corpus.sample.pcfg import text_of_words
from pipeline.corpus.sample.sample_corpus import MEANING, write_sample_corpus
from storage.errors import ConfigError, InputError
from tests.pipeline.corpus.corpora import terminals_of

GRAMMAR = english_grammar()
INSIDE = Inside(GRAMMAR)
BLIMP_FIELDS = {
    "sentence_good": str,
    "sentence_bad": str,
    "field": str,
    "linguistics_term": str,
    "UID": str,
    "simple_LM_method": bool,
    "one_prefix_method": bool,
    "two_prefix_method": bool,
    "lexically_identical": bool,
    "pairID": str,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "corpus"
    write_sample_corpus(out, 2500, seed=3)
    return out


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def log_probs(texts: list[str]) -> Any:
    return INSIDE.log_probs([terminals_of(text) for text in texts])


def pairs_of(corpus: Path) -> dict[str, list[dict[str, Any]]]:
    files = sorted((corpus / "minimal_pairs").glob("*.jsonl"))
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in files}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(corpus, tmp_path):
    written: list[int] = []
    write_sample_corpus(tmp_path / "same", 2500, seed=3, progress=written.append)
    assert sum(written) == 3000
    assert digests(tmp_path / "same") == digests(corpus)
    write_sample_corpus(tmp_path / "other", 2500, seed=4)
    other = digests(tmp_path / "other")
    assert not {name for name, digest in digests(corpus).items() if other[name] == digest}


def test_splits_have_the_documented_sizes_and_differ(corpus):
    lines = {name: (corpus / f"{name}.txt").read_text().splitlines() for name in ("train", "dev", "test")}
    assert {name: len(split) for name, split in lines.items()} == {"train": 2500, "dev": 250, "test": 250}
    assert lines["dev"] != lines["test"]
    assert lines["dev"] != lines["train"][:250]


def test_trees_and_text_are_aligned_line_by_line(corpus):
    for name in ("train", "dev", "test"):
        trees = (corpus / f"{name}.mrg").read_text().splitlines()
        texts = (corpus / f"{name}.txt").read_text().splitlines()
        for tree, text in zip(trees, texts, strict=True):
            leaves = [part.rstrip(")") for part in tree.split() if not part.startswith("(")]
            assert "".join(leaves) == text.replace(" ", "")


def test_entropies_belong_to_the_text_on_disk(corpus):
    entropy = json.loads((corpus / "entropy.json").read_text())
    for name, split in entropy["splits"].items():
        data = (corpus / f"{name}.txt").read_bytes()
        assert split["text_sha256"] == hashlib.sha256(data).hexdigest()
        nats = -log_probs(data.decode().splitlines())
        assert split["neg_log_prob_nats"] == pytest.approx(nats.sum(), rel=1e-12)
        assert split["num_sentences"] == len(nats)
        assert split["neg_log_prob_nats"] < split["tree_neg_log_prob_nats"]
    assert entropy["splits"]["dev"].keys() - MEANING.keys() <= {"num_sentences", "num_distinct_sentences"}


def test_independent_splits_estimate_the_same_entropy(corpus):
    splits = json.loads((corpus / "entropy.json").read_text())["splits"]
    for name in ("dev", "test"):
        difference = splits[name]["mean_neg_log_prob_nats"] - splits["train"]["mean_neg_log_prob_nats"]
        error = np.hypot(splits[name]["standard_error_nats"], splits["train"]["standard_error_nats"])
        assert abs(difference) < 4 * error


def test_the_true_distribution_has_a_lower_loss_than_a_unigram_model(corpus):
    """Gibbs' inequality on a sample: the unigram distribution of train has a higher loss on dev."""
    train = Counter(word for line in (corpus / "train.txt").read_text().splitlines() for word in terminals_of(line))
    total = train.total() + 2500 + len(GRAMMAR.terminals)
    dev = [terminals_of(line) for line in (corpus / "dev.txt").read_text().splitlines()]
    unigram = -sum(np.log((train[word] + 1) / total) for words in dev for word in words)
    assert json.loads((corpus / "entropy.json").read_text())["splits"]["dev"]["neg_log_prob_nats"] < 0.9 * unigram


def test_minimal_pairs_have_the_form_of_blimp(corpus):
    pairs = pairs_of(corpus)
    assert len(pairs) == len(PARADIGMS) >= 6
    for uid, rows in pairs.items():
        assert len(rows) == NUM_PAIRS
        assert [row["pairID"] for row in rows] == [str(index) for index in range(NUM_PAIRS)]
        for row in rows:
            assert {key: type(value) for key, value in row.items()} == BLIMP_FIELDS
            assert row["UID"] == uid
            assert row["simple_LM_method"]
            assert row["field"] in {"syntax", "morphology", "syntax_semantics"}


def test_good_sentences_are_possible_and_bad_ones_are_not(corpus):
    for rows in pairs_of(corpus).values():
        assert np.isfinite(log_probs([row["sentence_good"] for row in rows])).all()
        assert np.isneginf(log_probs([row["sentence_bad"] for row in rows])).all()


def test_pairs_are_distinct_differ_in_one_word_and_are_not_in_train(corpus):
    train = set((corpus / "train.txt").read_text().splitlines())
    for rows in pairs_of(corpus).values():
        assert len({row["sentence_good"] for row in rows}) == NUM_PAIRS
        for row in rows:
            good, bad = row["sentence_good"].split(), row["sentence_bad"].split()
            different = [index for index, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b]
            assert len(different) == 1
            assert not {row["sentence_good"], row["sentence_bad"]} & train


def test_singular_and_plural_verbs_are_correct_equally_often(corpus):
    for uid, rows in pairs_of(corpus).items():
        if uid.startswith("agreement_") and uid != "agreement_with_coordinated_subject":
            shorter = sum(len(row["sentence_good"]) < len(row["sentence_bad"]) for row in rows)
            assert 0.4 < shorter / len(rows) < 0.6, uid


def test_sentences_to_avoid_are_in_no_pair():
    first = sample_pairs(GRAMMAR, INSIDE, PARADIGMS[0], seed=0, num_pairs=50)
    avoid = {text_of_words(pair.good) for pair in first[:25]} | {text_of_words(pair.bad) for pair in first[25:]}
    again = sample_pairs(GRAMMAR, INSIDE, PARADIGMS[0], seed=0, num_pairs=50, avoid=avoid)
    assert not avoid & {text_of_words(words) for pair in again for words in (pair.good, pair.bad)}


def test_a_paradigm_with_too_few_pairs_is_refused():
    paradigm = next(paradigm for paradigm in PARADIGMS if paradigm.uid == "reflexive_gender")
    with pytest.raises(ValueError, match="widen its templates"):
        sample_pairs(GRAMMAR, INSIDE, paradigm, seed=0, num_pairs=10**6)


@pytest.mark.parametrize(("num_sentences", "seed"), [(0, 0), (5, -1)])
def test_impossible_numbers_are_refused(tmp_path, num_sentences, seed):
    with pytest.raises(ConfigError, match="expected"):
        write_sample_corpus(tmp_path / "out", num_sentences, seed)
    assert not (tmp_path / "out").exists()


def test_a_file_at_the_path_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="expected a folder"):
        write_sample_corpus(tmp_path / "out", 10, 0)
    assert (tmp_path / "out").read_text() == "mine"
