"""Write the sample corpus: trees, text, minimal pairs and exact entropies from the built-in grammar.

    OUT/{train,dev,test}.mrg   one bracketed tree per line
    OUT/{train,dev,test}.txt   the same sentences as text, line by line
    OUT/minimal_pairs/*.jsonl  minimal pairs in BLiMP's form, one paradigm per file
    OUT/entropy.json           the loss that no model can beat in expectation, and facts about the grammar

The file ``entropy.json`` is written last. In it, the loss of a split is the sum of -log p(sentence) over the sentences
of the split, where p is the distribution of the grammar.

Sentences are drawn independently, and none is rejected. So they follow p exactly. As a result, some short sentences are
in several splits, and ``entropy.json`` has their number. The same arguments produce byte-identical files.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.inside import Inside
from pipeline.corpus.sample.pairs import NUM_PAIRS, PARADIGMS, blimp_row, sample_pairs
from pipeline.corpus.sample.pcfg import Grammar, text_of_words
from storage.errors import ConfigError, InputError
from storage.files import make_directory, written_whole
from storage.json_files import read_json

SPLITS = ("train", "dev", "test")
MIN_HELD_OUT = 200
CHUNK_SENTENCES = 10_000
"""Number of sentences that are sampled, scored and written at a time. It bounds the memory."""

MEANING = {
    "neg_log_prob_nats": "sum of -log p(sentence) over the sentences of the split. p is exact: the inside algorithm "
    "sums over all derivations. To get the perplexity of p per token, divide by the number of positions (tokens of "
    "your tokenizer and one <eos> per sentence) and take exp. A model can have a lower perplexity only by chance",
    "tree_neg_log_prob_nats": "sum of -log p(derivation) over the sentences of the split. A derivation is a sentence "
    "with the tree that was sampled for it and the grammatical features of all symbols",
    "mean_neg_log_prob_nats": "neg_log_prob_nats per sentence: an estimate of the entropy of the grammar's sentences",
    "standard_error_nats": "standard error of mean_neg_log_prob_nats as an estimate of this entropy",
    "num_words": "number of terminals. Words, punctuation marks and the ending 's each count as one",
    "num_also_in_train": "number of sentences of the split that are also in train. They are kept, because the "
    "distribution would change without them",
    "text_sha256": "sha256 of the split's .txt file",
    "rules_sha256": "sha256 of all rules with their probabilities. dump-teacher can take the grammar as the teacher "
    "of this corpus. It refuses a corpus whose rules_sha256 is not that of the built-in grammar",
    "expected_length": "mean number of terminals of a sentence, computed from the rules",
    "spectral_radius": "spectral radius of the matrix of expected children. It is below 1, so sentences end with "
    "probability 1 and the probabilities of all sentences sum to 1",
    "minimal_pairs": "one file per paradigm. No sentence of a pair, good or bad, is in train",
}


def is_sample_corpus(path: Path) -> bool:
    """Return whether ``path`` is a folder that ``write_sample_corpus`` has completed."""
    return (path / "entropy.json").is_file()


def read_entropy(corpus: Path) -> dict[str, Any]:
    """Return the content of a sample corpus's ``entropy.json``.

    Raises:
        InputError: If ``corpus`` is not a sample corpus, or was drawn from another version of the grammar.
    """
    path, remedy = corpus / "entropy.json", "give the folder that sample-corpus wrote"
    found = read_json(path, dict[str, Any], remedy=remedy)
    facts, splits = (part if isinstance(part := found.get(name), dict) else {} for name in ("grammar", "splits"))
    if not splits or not all(isinstance(split, dict) for split in splits.values()):
        raise InputError(f"{path}: has no object 'splits' whose values are objects; {remedy}")
    if (sha256 := facts.get("rules_sha256")) != (expected := english_grammar().rules_sha256()):
        raise InputError(
            f"{path}: rules_sha256 is {str(sha256)[:12]}, but the grammar of this version has {expected[:12]}; run "
            "sample-corpus again, and build the dataset from its output"
        )
    return found


def _uniform(seed: int, stream: int) -> Callable[[], float]:
    """Return a function that draws from [0, 1). Different streams of a seed are independent."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream])))
    block: list[float] = []

    def draw() -> float:
        if not block:
            block.extend(generator.random(4096).tolist())
        return block.pop()

    return draw


def _write_split(
    trees: IO[str],
    text: IO[str],
    grammar: Grammar,
    inside: Inside,
    num_sentences: int,
    uniform: Callable[[], float],
    progress: Callable[[int], None] | None,
    train_texts: set[str] | None,
) -> tuple[dict[str, int | float | str], set[str]]:
    """Write one split. Return its entry in entropy.json and its distinct sentences."""
    texts: set[str] = set()
    num_also_in_train = 0
    digest = hashlib.sha256()
    num_words = 0
    tree_nats = 0.0
    nats: list[float] = []
    for start in range(0, num_sentences, CHUNK_SENTENCES):
        num_chunk = min(CHUNK_SENTENCES, num_sentences - start)
        derivations = [grammar.sample(uniform) for _ in range(num_chunk)]
        words = [grammar.words(derivation) for derivation in derivations]
        lines = [text_of_words(sentence) for sentence in words]
        trees.writelines(grammar.tree(derivation) + "\n" for derivation in derivations)
        text.writelines(line + "\n" for line in lines)
        digest.update("".join(line + "\n" for line in lines).encode())
        texts.update(lines)
        num_also_in_train += sum(line in train_texts for line in lines) if train_texts is not None else 0
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
    return facts | ({} if train_texts is None else {"num_also_in_train": num_also_in_train}), texts


def _write_pairs(
    files: Iterable[IO[str]], grammar: Grammar, inside: Inside, seed: int, avoid: set[str]
) -> dict[str, Any]:
    for index, (paradigm, file) in enumerate(zip(PARADIGMS, files, strict=True)):
        stream = int(np.random.SeedSequence([seed, len(SPLITS), index]).generate_state(1)[0])
        pairs = sample_pairs(grammar, inside, paradigm, seed=stream, avoid=avoid)
        file.writelines(json.dumps(blimp_row(paradigm, pair, number)) + "\n" for number, pair in enumerate(pairs))
    return {"num_paradigms": len(PARADIGMS), "num_pairs_per_paradigm": NUM_PAIRS}


def write_sample_corpus(
    out: Path, num_sentences: int, seed: int, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Write the sample corpus into a folder. Return the content of entropy.json.

    Args:
        out: The folder. It is created if necessary, and files of an earlier run in it are replaced.
        num_sentences: Number of training sentences. dev and test have a tenth of this number each, but at least 200.
        seed: Seed of all random draws. Each split and paradigm has an independent stream.
        progress: Called with the number of sentences just written.

    Raises:
        ConfigError: If a number is out of range.
        InputError: If ``out`` is not a folder.
        StoreError: If a file cannot be written. In this case, either the files of an earlier run are unchanged or
            ``entropy.json`` is missing.
    """
    problems = []
    if num_sentences < 1:
        problems.append(f"num_sentences is {num_sentences}, expected at least 1")
    if seed < 0:
        problems.append(f"seed is {seed}, expected at least 0")
    if problems:
        raise ConfigError("sample-corpus: " + "; ".join(problems))
    if out.exists() and not out.is_dir():
        raise InputError(f"sample-corpus: {out} is a file, expected a folder or a new name; choose another OUT")
    make_directory(out / "minimal_pairs")
    grammar = english_grammar()
    inside = Inside(grammar)
    num_held_out = max(MIN_HELD_OUT, num_sentences // 10)
    sizes = {"train": num_sentences, "dev": num_held_out, "test": num_held_out}
    splits: dict[str, dict[str, int | float | str]] = {}
    train_texts: set[str] | None = None
    summary_path = out / "entropy.json"
    paths = [
        *(out / f"{name}{end}" for name in SPLITS for end in (".mrg", ".txt")),
        *(out / "minimal_pairs" / f"{paradigm.uid}.jsonl" for paradigm in PARADIGMS),
        summary_path,
    ]
    with written_whole(paths, stale=[summary_path]) as (*files, summary_file):
        of_splits, pairs = files[: 2 * len(SPLITS)], files[2 * len(SPLITS) :]
        for stream, name in enumerate(SPLITS):
            trees, text = of_splits[2 * stream : 2 * stream + 2]
            uniform = _uniform(seed, stream)
            splits[name], texts = _write_split(
                trees, text, grammar, inside, sizes[name], uniform, progress, train_texts
            )
            train_texts = texts if train_texts is None else train_texts
        assert train_texts is not None
        summary: dict[str, Any] = {
            "seed": seed,
            "meaning": MEANING,
            "grammar": {
                "rules_sha256": grammar.rules_sha256(),
                "num_rules": len(grammar.rules),
                "num_lexical_rules": sum(rule.is_lexical for rule in grammar.rules),
                "num_symbols": len(grammar.symbols),
                "num_terminals": len(grammar.terminals),
                "expected_length": grammar.expected_length,
                "spectral_radius": grammar.spectral_radius,
            },
            "splits": splits,
            "minimal_pairs": _write_pairs(pairs, grammar, inside, seed, train_texts),
        }
        summary_file.write(json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return summary
