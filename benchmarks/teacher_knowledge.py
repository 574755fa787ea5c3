"""Measure what teachers of the built-in corpus know about number, gender and negation, in a few seconds.

    python -m benchmarks.teacher_knowledge RUN [RUN ...] --corpus FOLDER --tokenizer FILE [--quick] [--json FILE]

FOLDER is the corpus that the teachers were trained on, as the command ``sample-corpus`` wrote it. The FILE of
--tokenizer is their tokenizer.

For each phenomenon, such as ``agreement``, the benchmark makes pairs of a good and a bad sentence with the same tree.
For each feature (number, gender or negation), it makes noun phrases that contain a prepositional phrase. A linear
classifier predicts the feature of a noun phrase from the vector of its constituent.

pairs_PHENOMENON   The share of pairs whose good sentence has the larger p(words, tree).
margin_PHENOMENON  The mean of log p(good sentence, tree) - log p(bad sentence, tree), in nats.
readable_FEATURE   The share of held-out noun phrases for which the classifier is right.
chance_FEATURE     The share of the more frequent of the feature's two classes.
"""

import argparse
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import ROOT, parser, report, run_python, use_one_thread
from pipeline.corpus.dataset.dataset_store import Dataset, load_dataset
from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.inside import Inside
from pipeline.corpus.sample.lexicon import AGREEMENT_NOUNS, other_number
from pipeline.corpus.sample.pairs import REFLEXIVE_GENDER, REFLEXIVE_NUMBER
from pipeline.corpus.sample.pcfg import label_of, text_of_words
from pipeline.dumping.next_token import append_eos, log_probs_of
from teacher.rnng import Rnng
from teacher.train_teacher import load_teacher

_NUMBER = REFLEXIVE_NUMBER | {"themselves": "himself"}
_SENTENCE = "(TOP (S {subject} (VP {verb}) ./end))"
_NEAR = "(NP NP/b[{0}] (PP IN/any NP/b[{1}]))"
_THAT = "(NP NP/b[{0}] (SBAR WHNP/that (S NP/b[{1}] (VP V[{2},tl]))))"
PAIRS: Mapping[str, tuple[list[str], Mapping[str, str]]] = {
    "agreement": (
        [
            _SENTENCE.format(subject=_NEAR.format(a, b), verb=f"*V[{form},iv]")
            for a, b, form in (("he", "they", "VBZ"), ("they", "he", "VBP"))
        ],
        other_number(),
    ),
    "agreement_object_relative": (
        [
            _SENTENCE.format(subject=_THAT.format(a, b, inner), verb=f"*V[{form},iv]")
            for a, b, inner, form in (("he", "they", "VBP", "VBZ"), ("they", "he", "VBZ", "VBP"))
        ],
        other_number(),
    ),
    "reflexive_number": (
        [_SENTENCE.format(subject=f"NP/b[{a}]", verb=f"V[VBD,tl] *NP/r[{a}]") for a in ("he", "they")],
        _NUMBER,
    ),
    "reflexive_gender": (
        [_SENTENCE.format(subject=f"NP/b[{a}]", verb=f"V[VBD,tl] *NP/r[{a}]") for a in ("he", "she")],
        REFLEXIVE_GENDER,
    ),
    "ever": (
        [
            _SENTENCE.format(subject=f"*NP/no[{a}]", verb=f"V[{form},have] ADVP/ever VP[VBN,{a}]")
            for a, form in (("he", "VBZ"), ("they", "VBP"), ("dog", "VBZ"))
        ],
        {"no": "the"},
    ),
}
"""By phenomenon: templates of good sentences, and a map from words to other words. To make the bad sentence,
the map is applied to the words of the symbol that is marked ``*``."""
FEATURES = {"number": (["b[he]", "b[she]"], ["b[they]"]), "gender": (["b[he]"], ["b[she]"]),
            "negation": (["b[he]", "b[they]"], ["nb[he]", "nb[they]"])}  # fmt: skip
"""By feature: the grammar's symbols for noun phrases of the first class, and those of the second class."""


class Trees:
    """Draws random trees that have the form of a template.

    A template is a bracketed tree whose leaves are symbols of the grammar, such as ``NP/b[he]``. A random tree, drawn
    from the grammar, replaces each symbol.
    """

    def __init__(self, seed: int) -> None:
        self._grammar = english_grammar()
        self.generator = np.random.default_rng(seed)

    def expand(self, template: str, swap: Mapping[str, str] | None = None) -> tuple[str, str]:
        """Return a random tree, and the same tree after ``swap`` has replaced the words of symbols marked ``*``."""
        good, bad = [], []
        for part in re.findall(r"\([A-Z]+|\)|[^\s()]+", template):
            if part == ")" or part.startswith("("):
                good.append(f" {part}" if part != ")" else part)
                bad.append(good[-1])
                continue
            tree = self._tree(part.lstrip("*"))
            good.append(tree)
            replaced = re.sub(r" ([^\s()]+)\)", lambda match: f" {(swap or {}).get(match[1], match[1])})", tree)
            bad.append(replaced if part.startswith("*") else tree)
        return "".join(good).strip(), "".join(bad).strip()

    def _tree(self, symbol: str) -> str:
        derivation = iter(self._grammar.sample(self.generator.random, symbol))
        pieces, stack = [], [symbol]
        while stack:
            if (item := stack.pop()) == ")":
                pieces.append(item)
                continue
            rule = self._grammar.rules[next(derivation)]
            if rule.is_lexical:
                pieces.append(f" ({label_of(rule.lhs)} {rule.rhs[0]})")
                continue
            if label := label_of(rule.lhs):
                pieces.append(f" ({label}")
                stack.append(")")
            stack.extend(reversed(rule.rhs))
        return "".join(pieces)


def words(tree: str) -> list[str]:
    """Return the leaves of a bracketed tree."""
    return re.findall(r" ([^\s()]+)\)", tree)


def pairs(trees: Trees, per_kind: int) -> tuple[list[str], list[str], list[str]]:
    """Return the name, the good and the bad tree of each pair. The grammar generates only the good sentence."""
    inside, found = Inside(english_grammar()), []
    for name, (templates, swap) in PAIRS.items():
        number = 0
        while number < per_kind:
            good, bad = trees.expand(templates[number % len(templates)], swap)
            first, second = inside.log_probs([words(good), words(bad)])
            if first > -np.inf and second == -np.inf:
                found.append((name, good, bad))
                number += 1
    names, good_trees, bad_trees = zip(*found, strict=True)
    return [*names], [*good_trees], [*bad_trees]


def noun_phrases(trees: Trees, per_feature: int) -> tuple[list[str], list[int], list[str]]:
    """Return the feature, the class and the tree of each noun phrase.

    Nouns that can have either gender are not used for the feature gender.
    """
    both = set(AGREEMENT_NOUNS["he"][1].replace("/", " ").split())
    names, classes, found = [], [], []
    for name, options in FEATURES.items():
        for number in range(per_feature):
            which = number % 2
            symbol = options[which][trees.generator.integers(len(options[which]))]
            other = ("he", "she", "they")[trees.generator.integers(3)]
            tree, _ = trees.expand(f"(TOP (NP NP/{symbol} (PP IN/any NP/b[{other}])))")
            if name != "gender" or not both.intersection(words(tree)):
                names.append(name)
                classes.append(which)
                found.append(tree)
    return names, classes, found


def dataset_of(trees: Mapping[str, Sequence[str]], corpus: Path, tokenizer: Path, folder: Path) -> Dataset:
    """Build a dataset.

    The split train comes from the corpus, and so do the labels. The other splits come from ``trees``.
    """
    splits: list[object] = ["--train", corpus / "train"]
    for split, of_split in trees.items():
        capital = [re.sub(r" ([^\s()]+)\)", lambda m: f" {m[1][0].upper()}{m[1][1:]})", t, count=1) for t in of_split]
        (folder / f"{split}.mrg").write_text("".join(tree + "\n" for tree in capital))
        (folder / f"{split}.txt").write_text("".join(text_of_words(words(tree)) + "\n" for tree in of_split))
        splits += [f"--{split}", folder / split]
    out = folder / "-".join(trees)
    run_python([ROOT / "cli.py", "build-dataset", *splits, "--tokenizer", tokenizer, "--out", out])
    return load_dataset(out)


@torch.no_grad()
def joint_log_probs(model: Rnng, dataset: Dataset, split: str) -> np.ndarray:
    """Return float64 ``[M]``: log p(words, tree) of each sentence."""
    sentences = dataset.split(split)
    schedule = model.prepare(sentences.tokens, sentences.actions)
    states, actions = model.states_and_action_log_probs(schedule)
    gold = append_eos(sentences.tokens, model.eos_id)
    tokens = np.add.reduceat(log_probs_of(model, states, gold.values).astype(np.float64), gold.offsets[:-1])
    found: np.ndarray = tokens + np.add.reduceat(actions.values.astype(np.float64), actions.offsets[:-1])
    return found


@torch.no_grad()
def constituents(model: Rnng, dataset: Dataset) -> Tensor:
    """Return ``[M, D]``: for each sentence the vector of the constituent directly under TOP.

    This is the last composition, because TOP itself is not composed.
    """
    split, found = dataset.split("dev"), []
    for m in range(split.num_sentences):
        schedule = model.prepare(split.tokens.take(np.array([m])), split.actions.take(np.array([m])))
        tokens = model.input_scale * model.token_embedding[torch.from_numpy(schedule.tokens)]
        found.append(model.composition(tokens, schedule.compositions, model.dropout)[-1])
    return torch.stack(found)


def readable(vectors: Tensor, classes: Tensor) -> float:
    """Train a logistic regression on the first two thirds of the vectors. Return its accuracy on the last third."""
    num_train = 2 * len(vectors) // 3
    inputs = (vectors - vectors[:num_train].mean(0)) / (vectors[:num_train].std(0) + 1e-6)
    inputs = F.pad(inputs, (0, 1), value=1.0)
    weights = torch.zeros(inputs.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200)

    def closure() -> Tensor:
        optimiser.zero_grad()
        scores = inputs[:num_train] @ weights
        loss = F.binary_cross_entropy_with_logits(scores, classes[:num_train].float()) + 0.01 * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return float((((inputs[num_train:] @ weights) > 0).long() == classes[num_train:]).float().mean())


def main() -> None:
    """Measure, and print the figures of each run."""
    options = parser(__doc__ or "")
    options.add_argument("runs", type=Path, nargs="+")
    options.add_argument("--corpus", type=Path, required=True)
    options.add_argument("--tokenizer", type=Path, required=True)
    chosen: argparse.Namespace = options.parse_args()
    use_one_thread()
    trees, figures = Trees(seed=5), {}
    names, good, bad = pairs(trees, 30 if chosen.quick else 150)
    features, classes, phrases = noun_phrases(trees, 150 if chosen.quick else 900)
    kind, feature, label = np.array(names), np.array(features), torch.tensor(classes)
    shuffled = trees.generator.permutation(len(phrases))
    with tempfile.TemporaryDirectory() as folder:
        compared = dataset_of({"dev": good, "test": bad}, chosen.corpus, chosen.tokenizer, Path(folder))
        read = dataset_of({"dev": phrases}, chosen.corpus, chosen.tokenizer, Path(folder))
    for run in chosen.runs:
        model, _ = load_teacher(run, torch.device("cpu"))
        margins = joint_log_probs(model, compared, "dev") - joint_log_probs(model, compared, "test")
        vectors = constituents(model, read)
        for name in PAIRS:
            figures[f"{run.name}: pairs_{name}"] = float((margins[kind == name] > 0).mean())
            figures[f"{run.name}: margin_{name}"] = float(margins[kind == name].mean())
        for name in FEATURES:
            rows = shuffled[feature[shuffled] == name]
            held = label[rows[2 * len(rows) // 3 :]].float().mean().item()
            figures[f"{run.name}: readable_{name}"] = readable(vectors[rows], label[rows])
            figures[f"{run.name}: chance_{name}"] = max(held, 1 - held)
    report(figures, chosen)


if __name__ == "__main__":
    main()
