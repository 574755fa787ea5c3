"""The sample corpus: trees, text, minimal pairs and exact entropies from the built-in grammar.

    OUT/{train,dev,test}.mrg   one bracketed tree a line
    OUT/{train,dev,test}.txt   the same sentences as text, line by line
    OUT/minimal_pairs/*.jsonl  one paradigm a file, in BLiMP's form
    OUT/entropy.json           what no model can beat on average, and facts of the grammar; written last

Sentences are independent draws, so splits share short sentences, as samples do; entropy.json counts them. Nothing is
rejected: the sum of -log p(x) is the loss of the true distribution on the very sentences that a model is evaluated on.
Same arguments, same bytes.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.inside import Inside
from pipeline.corpus.sample.pairs import NUM_PAIRS, PARADIGMS, blimp_row, sample_pairs
from pipeline.corpus.sample.pcfg import Grammar, text_of_words
from storage.errors import ConfigError, InputError

SPLITS = ("train", "dev", "test")
MIN_HELD_OUT = 200
CHUNK_SENTENCES = 10_000
"""Sentences sampled, scored and written at a time: what bounds the memory."""

MEANING = {
    "neg_log_prob_nats": "sum over the split's sentences of -log p(sentence), p exact: summed over all derivations by "
    "the inside algorithm. exp(neg_log_prob_nats / positions), with a position for each token and one for <eos>, is "
    "the floor of the split's perplexity per token, for any tokenizer: that of the true distribution on these very "
    "sentences, which a model can undercut by chance only",
    "tree_neg_log_prob_nats": "sum of -log p of the derivations that were sampled, features included: sentence "
    "and tree together",
    "mean_neg_log_prob_nats": "neg_log_prob_nats per sentence; estimates the entropy of the grammar's sentences",
    "standard_error_nats": "of mean_neg_log_prob_nats as an estimate of that entropy",
    "num_words": "terminals: words, punctuation marks and 's",
    "num_also_in_train": "sentences of the split that are in train too; left in, or the distribution would change",
    "text_sha256": "of the bytes of the split's .txt file",
    "expected_length": "mean number of terminals of a sentence, computed from the rules",
    "spectral_radius": "of the matrix of expected children: below 1, so sentences end with probability 1 and the "
    "probabilities of all sentences sum to 1",
    "minimal_pairs": "one file a paradigm; no sentence of a pair, good or bad, is in train",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _SplitReport:
    facts: dict[str, int | float | str]
    texts: set[str]


def _uniform(seed: int, stream: int) -> Callable[[], float]:
    """Return a source of draws from [0, 1): one stream of a seed, independent of its other streams."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream])))
    block: list[float] = []

    def draw() -> float:
        if not block:
            block.extend(generator.random(4096).tolist())
        return block.pop()

    return draw


def _write_split(
    stem: Path,
    grammar: Grammar,
    inside: Inside,
    num_sentences: int,
    uniform: Callable[[], float],
    progress: Callable[[int], None] | None,
) -> _SplitReport:
    texts: set[str] = set()
    digest = hashlib.sha256()
    num_words = 0
    tree_nats = 0.0
    nats: list[float] = []
    with (
        stem.with_suffix(".mrg").open("w", encoding="utf-8", newline="\n") as trees,
        stem.with_suffix(".txt").open("w", encoding="utf-8", newline="\n") as text,
    ):
        for start in range(0, num_sentences, CHUNK_SENTENCES):
            num_chunk = min(CHUNK_SENTENCES, num_sentences - start)
            derivations = [grammar.sample(uniform) for _ in range(num_chunk)]
            words = [grammar.words(derivation) for derivation in derivations]
            lines = [text_of_words(sentence) for sentence in words]
            trees.writelines(grammar.tree(derivation) + "\n" for derivation in derivations)
            text.writelines(line + "\n" for line in lines)
            digest.update("".join(line + "\n" for line in lines).encode())
            texts.update(lines)
            num_words += sum(map(len, words))
            tree_nats -= sum(map(grammar.log_prob, derivations))
            nats += (-inside.log_probs(words)).tolist()
            if progress is not None:
                progress(num_chunk)
    facts: dict[str, int | float | str] = {
        "num_sentences": num_sentences,
        "num_words": num_words,
        "num_distinct_sentences": len(texts),
        "neg_log_prob_nats": float(np.sum(nats)),
        "tree_neg_log_prob_nats": tree_nats,
        "mean_neg_log_prob_nats": float(np.mean(nats)),
        "standard_error_nats": float(np.std(nats) / np.sqrt(len(nats))),
        "text_sha256": digest.hexdigest(),
    }
    return _SplitReport(facts=facts, texts=texts)


def _write_pairs(folder: Path, grammar: Grammar, inside: Inside, seed: int, avoid: set[str]) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    for index, paradigm in enumerate(PARADIGMS):
        stream = int(np.random.SeedSequence([seed, len(SPLITS), index]).generate_state(1)[0])
        pairs = sample_pairs(grammar, inside, paradigm, seed=stream, avoid=avoid)
        rows = [json.dumps(blimp_row(paradigm, pair, number)) + "\n" for number, pair in enumerate(pairs)]
        (folder / f"{paradigm.uid}.jsonl").write_text("".join(rows), encoding="utf-8", newline="\n")
    return {"num_paradigms": len(PARADIGMS), "num_pairs_per_paradigm": NUM_PAIRS}


def write_sample_corpus(
    out: Path, num_sentences: int, seed: int, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Write the sample corpus into a folder, and return what entropy.json says.

    Args:
        out: The folder; made if need be, files of an earlier run in it are replaced.
        num_sentences: Sentences of train; dev and test have a tenth each, and at least 200.
        seed: Of all that is random; each split and paradigm has a stream of its own.
        progress: Called with the number of sentences just written.

    Raises:
        ConfigError: If a number is out of range.
        InputError: If ``out`` is not a folder.
    """
    problems = []
    if num_sentences < 1:
        problems.append(f"num_sentences is {num_sentences}, expected at least 1")
    if seed < 0:
        problems.append(f"seed is {seed}, expected 0 or more")
    if problems:
        raise ConfigError("sample-corpus: " + "; ".join(problems))
    if out.exists() and not out.is_dir():
        raise InputError(f"sample-corpus: {out} is a file, expected a folder or a new name; choose another OUT")
    out.mkdir(parents=True, exist_ok=True)
    (out / "entropy.json").unlink(missing_ok=True)
    grammar = english_grammar()
    inside = Inside(grammar)
    sizes = {"train": num_sentences, "dev": max(MIN_HELD_OUT, num_sentences // 10)}
    sizes["test"] = sizes["dev"]
    splits: dict[str, dict[str, int | float | str]] = {}
    train_texts: set[str] = set()
    for stream, name in enumerate(SPLITS):
        report = _write_split(out / name, grammar, inside, sizes[name], _uniform(seed, stream), progress)
        splits[name] = report.facts
        if name == "train":
            train_texts = report.texts
        else:
            lines = (out / f"{name}.txt").read_text(encoding="utf-8").splitlines()
            splits[name]["num_also_in_train"] = sum(line in train_texts for line in lines)
    summary: dict[str, Any] = {
        "seed": seed,
        "meaning": MEANING,
        "grammar": {
            "num_rules": len(grammar.rules),
            "num_lexical_rules": sum(rule.is_lexical for rule in grammar.rules),
            "num_symbols": len(grammar.symbols),
            "num_terminals": len(grammar.terminals),
            "expected_length": grammar.expected_length,
            "spectral_radius": grammar.spectral_radius,
        },
        "splits": splits,
        "minimal_pairs": _write_pairs(out / "minimal_pairs", grammar, inside, seed, train_texts),
    }
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (out / "entropy.json").write_text(text, encoding="utf-8", newline="\n")
    return summary
