"""Train a benepar model on treebanks alone, for machines where no trained model can be downloaded.

The model is benepar's chart parser (Kitaev and Klein 2018, https://arxiv.org/abs/1805.01052), with an LSTM over the
characters of a word instead of a pretrained encoder. It is small, quick to train, and far less accurate than benepar's
published models. Its file has benepar's own format.
"""

import io
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nltk
import torch
from benepar import char_lstm, decode_chart, nkutil, parse_chart

from pipeline.corpus.text.text_files import OnError, check_replaces_no_input
from pipeline.corpus.text.word_budget import PARSER, TrainingText, record_of_file
from pipeline.corpus.trees.bracket_scores import ParseFigure, score_parses
from pipeline.corpus.trees.dialects import read_plain_trees
from pipeline.corpus.trees.evalb import EvalbFigure, GoldAndPredicted, score_by_evalb
from pipeline.corpus.trees.readers import malformed_tree, parse_raw_tree
from pipeline.corpus.trees.trees import MalformedTreeError, Tree, format_tree, normalise_tree
from pipeline.parsing.parse_config import PARSER_POSITIONS, ParserConfig
from pipeline.parsing.parser_state import STATE_SUFFIX, ParserState
from pipeline.parsing.sentence_parser import check_scores, read_words, to_phrases
from pipeline.runtime.distributed import subnormals_as_zero
from pipeline.runtime.options import to_json
from pipeline.runtime.progress import Progress
from pipeline.runtime.train_config import lr_factor
from storage.errors import InputError, RunError, StoreError
from storage.files import beside, is_there, make_directory, write_atomically
from storage.fingerprints import Json, sha256_file

SUBBATCH_WORDS = 500
"""Number of words, including padding, that benepar scores at once. In training, it scores twice as many. On a CPU, a
larger number is slower."""
_MAX_PHRASES = 400
"""Largest number of phrases of a training tree. It is limited because benepar reads a tree by recursion."""


@dataclass(frozen=True, slots=True)
class Example:
    """A tree in the form that benepar trains on."""

    words: list[str]
    tree: nltk.Tree | None
    """None while a parser is scored, so that the parser cannot see the tree."""
    phrases: tuple[tuple[str, int, int], ...]
    """Phrases of the normalised tree, for scoring."""

    @property
    def space_after(self) -> list[bool]:
        """Whether a space follows each word. The true spaces are not known, and the model does not use them."""
        return [True] * len(self.words)

    def leaves(self) -> list[str]:
        """Return the words."""
        return self.words

    def pos(self) -> list[tuple[str, str]]:
        """Return words and parts of speech."""
        assert self.tree is not None
        found: list[tuple[str, str]] = self.tree.pos()
        return found


@subnormals_as_zero()
def train_parser(
    trees: Sequence[Path], dev: Sequence[Path], out: Path, config: ParserConfig, *, on_error: OnError = "stop"
) -> dict[str, Json]:
    """Train a parser, and write the weights of the epoch with the best labelled F1 on all dev trees.

    If a training of the same trees and options was interrupted, continue it after its last whole epoch.

    Args:
        trees: Files of trees in brackets, plain or gzipped.
        dev: Files of trees to score the parser on. Each file is also scored alone.
        out: File of the model. ``OUT.json`` describes the model, ``OUT.metrics.jsonl`` has one row per epoch.
        config: The sizes of the model and the options of the training.
        on_error: What to do at a malformed tree.

    Returns:
        The F1 scores of the best epoch, the sizes of model and data, and counts of the trees that were left out.

    Raises:
        InputError: If a file cannot be read, a tree is malformed, or no tree is left.
        ConfigError: If an output would replace an input.
        RunError: If the loss, the gradients or a score is not finite, or the state of an interrupted training is
            damaged.
        StoreError: If the model exists or cannot be written, or the interrupted training had other trees or options.
    """
    outputs = (out, beside(out, ".json"), beside(out, ".metrics.jsonl"), beside(out, STATE_SUFFIX))
    check_replaces_no_input("train-parser", outputs, (*trees, *dev))
    if out.exists() and not is_there(beside(out, STATE_SUFFIX)):
        raise StoreError(f"{out}: already exists; remove it, or give another --out")
    dropped: Counter[str] = Counter()
    by_file = {path: list(read_examples(path, on_error, dropped, max_words=config.max_words)) for path in trees}
    examples = [example for found in by_file.values() for example in found]
    dropped_of_dev: dict[str, Counter[str]] = {str(path): Counter() for path in dev}
    sets = {
        name: list(read_examples(Path(name), on_error, counts, max_words=PARSER_POSITIONS - 2))
        for name, counts in dropped_of_dev.items()
    }
    for name, found in (", ".join(map(str, trees)), examples), *sets.items():
        if not found:
            raise InputError(
                f"{name}: no tree left to train on or to score; expected bracketed trees; a tree counts only if the "
                "parser takes that many words and phrases (for training, see --max-words)"
            )
    make_directory(out.absolute().parent)
    torch.manual_seed(config.seed)
    parser = new_parser(examples, config)
    parser.forward = check_scores(parser.forward)
    num_steps = config.num_epochs * -(-len(examples) // config.batch_sentences)
    optimiser = torch.optim.Adam(parser.parameters(), lr=config.lr, betas=(0.9, 0.98), eps=1e-9)
    state = ParserState.begin(
        beside(out, STATE_SUFFIX), {**to_json(config), "trees": _digests(trees), "dev": _digests(dev)}, config.seed
    )
    state.restore(parser, optimiser)
    start = time.monotonic() - (state.rows[-1]["elapsed_s"] if state.rows else 0)
    total, done = config.num_epochs * len(examples), len(state.rows) * len(examples)
    with Progress("train-parser", total=total, unit="sentences", initial=done) as progress:
        for epoch in range(len(state.rows) + 1, config.num_epochs + 1):
            try:
                loss = _train_epoch(parser, optimiser, examples, state.order, config, epoch, num_steps, progress)
                figures = {name: figure for name, (figure, _) in _score(parser, sets).items()}
            except FloatingPointError as error:
                raise RunError(f"train-parser: {error} in epoch {epoch}; lower --lr") from error
            row: dict[str, Any] = {
                "epoch": epoch,
                "elapsed_s": round(time.monotonic() - start, 1),
                "loss": loss,
                "dev_f1": _f1(*figures.values()),
                "dev": {name: figure.f1 for name, figure in figures.items()},
            }
            state.save(row, parser, optimiser)
            lines = [json.dumps(row) + "\n" for row in state.rows]
            write_atomically(beside(out, ".metrics.jsonl"), "".join(lines).encode())
            progress.figures(loss=loss, dev_f1=row["dev_f1"])
    parser.load_state_dict(state.best)
    buffer = io.BytesIO()  # in benepar's format
    torch.save({"config": parser.config, "state_dict": parser.state_dict()}, buffer)
    both = _score(parser, sets)
    best_figures = {name: figure for name, (figure, _) in both.items()}
    evalb = {name: figure for name, (_, figure) in both.items()}
    write_atomically(out, buffer.getvalue())
    about: dict[str, Any] = {
        "parser": str(out),
        "sha256": sha256_file(out),
        "num_trees": len(examples),
        "dropped": dict(sorted(dropped.items())),
        "dropped_of_dev": {name: dict(sorted(counts.items())) for name, counts in dropped_of_dev.items() if counts},
        "num_labels": len(parser.label_vocab) - 1,
        "num_parameters": sum(weights.numel() for weights in parser.parameters()),
        "epoch": state.best_row["epoch"],
        "labelled_f1": {"all of dev": state.best_row["dev_f1"]}
        | {name: figure.f1 for name, figure in best_figures.items()},
        "f1_is": "over all brackets except TOP, with spans in words; unlike in EVALB, punctuation is not deleted",
        "evalb_f1": {"all of dev": sum(evalb.values(), EvalbFigure()).f1}
        | {name: figure.f1 for name, figure in evalb.items()},
        "elapsed_s": state.rows[-1]["elapsed_s"],
    }
    kept = about | {
        "configuration": to_json(config),
        "trees": {str(path): sha256_file(path) for path in trees},
        "trained_on": [_record(path, found).to_json() for path, found in by_file.items()],
        "dev": {
            name: {"sha256": sha256_file(Path(name)), **figure.to_json(), "evalb": evalb[name].to_json()}
            for name, figure in best_figures.items()
        },
    }
    write_atomically(beside(out, ".json"), (json.dumps(kept, indent=2) + "\n").encode())
    state.remove()
    return about


def _digests(paths: Sequence[Path]) -> str:
    return ", ".join(map(sha256_file, paths))


def _score(
    parser: parse_chart.ChartParser, sets: Mapping[str, Sequence[Example]]
) -> dict[str, tuple[ParseFigure, EvalbFigure]]:
    return {name: score_parser(parser, found) for name, found in sets.items()}


def _record(path: Path, examples: Sequence[Example]) -> TrainingText:
    """Return the number of training words of a file of trees, for the limit that BabyLM sets.

    If there is a text next to the file, its words are counted. Otherwise the leaves of the trees are counted. These are
    more, because punctuation and parts of words such as "n't" are leaves, too.
    """
    name = path.name.removesuffix(".gz").removesuffix(".mrg")
    for text in (path.with_name(name + end) for end in (".txt", ".txt.gz")):
        if path.name != name and text.is_file():
            return record_of_file(text, PARSER)
    num_leaves, digest = sum(len(example.words) for example in examples), sha256_file(path)
    note = "leaves of the trees, punctuation included, because there is no text next to them"
    return TrainingText(
        of=PARSER, name=path.name, num_words=num_leaves, part=digest, files={digest: num_leaves}, note=note
    )


def read_examples(path: Path, on_error: OnError, dropped: Counter[str], *, max_words: int) -> Iterator[Example]:
    """Yield the trees of a file, normalised. Trees that are left out are counted in ``dropped`` by reason.

    Raises:
        InputError: If the file cannot be read. If ``on_error`` is "stop", also at the first malformed tree. A tree
            without words is no error, and is only counted.
    """
    for raw in read_plain_trees(path):
        try:
            tree = normalise_tree(parse_raw_tree(raw))
        except MalformedTreeError as error:
            if on_error == "stop" and error.reason != "no words":
                raise malformed_tree(path, raw.line, error) from None
            dropped[error.reason] += 1
            continue
        if len(tree.words) > max_words:
            dropped[f"more than {max_words} words"] += 1
        elif len(tree.phrases) > _MAX_PHRASES:
            dropped[f"more than {_MAX_PHRASES} phrases"] += 1
        else:
            yield Example(read_words(tree.words), _nltk_tree(tree), tree.phrases)


def _nltk_tree(tree: Tree) -> nltk.Tree:
    """Return a tree for nltk. Each word becomes "w", because nltk cannot read the white space that words may have."""
    one_string = ("".join(name.split()) or "X" for name in tree.tags)
    phrases = tuple(("".join(label.split()) or "X", start, stop) for label, start, stop in tree.phrases)
    return nltk.Tree.fromstring(format_tree(Tree(("w",) * len(tree.words), tuple(one_string), phrases)))


def new_parser(examples: Sequence[Example], config: ParserConfig) -> parse_chart.ChartParser:
    """Return an untrained parser with the labels, parts of speech and characters of the examples."""
    counts = Counter(
        label for example in examples for *_, label in decode_chart.get_labeled_spans(example.tree) if label
    )
    labels = sorted(label for label, count in counts.items() if count >= config.min_label_count)
    tags = sorted({tag for example in examples for _, tag in example.pos()} - {"UNK"})
    hparams = nkutil.HParams(
        use_chars_lstm=True,
        use_pretrained=False,
        use_encoder=True,
        predict_tags=True,
        force_root_constituent=decode_chart.ChartDecoder.infer_force_root_constituent(
            [example.tree for example in examples]
        ),
        d_model=config.embed_dim,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        d_kv=config.embed_dim // config.num_heads,
        d_ff=config.ff_dim,
        d_label_hidden=config.ff_dim // 2,
        d_tag_hidden=config.ff_dim // 2,
        d_char_emb=config.char_embed_dim,
        encoder_max_len=PARSER_POSITIONS,
        tag_loss_scale=5.0,  # benepar's default
        relu_dropout=config.dropout,
        residual_dropout=config.dropout,
        attention_dropout=config.dropout,
        morpho_emb_dropout=config.dropout,
        char_lstm_input_dropout=config.dropout,
    )
    return parse_chart.ChartParser(
        {"UNK": 0} | {tag: number for number, tag in enumerate(tags, 1)},
        {"": 0} | {label: number for number, label in enumerate(labels, 1)},
        char_lstm.RetokenizerForCharLSTM.build_vocab([example.words for example in examples]),
        hparams,
    )


def score_parser(parser: parse_chart.ChartParser, examples: Sequence[Example]) -> tuple[ParseFigure, EvalbFigure]:
    """Return a parser's bracket scores on the examples, computed in two ways: by ``score_parses`` and by EVALB's rules.

    Brackets are over words, not tokens.
    """
    numbers: dict[str, int] = {}

    def numbered(phrases: Sequence[tuple[str, int, int]]) -> list[tuple[int, int, int]]:
        return [(numbers.setdefault(label, len(numbers)), start, stop) for label, start, stop in phrases]

    names = {number: label.split("::") if label else [] for label, number in parser.label_vocab.items()}
    parsed = parser.parse(
        [replace(example, tree=None) for example in examples],
        return_compressed=True,
        subbatch_max_tokens=SUBBATCH_WORDS,
    )
    predicted = [
        to_phrases(
            zip(found.starts, found.ends, map(names.__getitem__, found.labels.tolist()), strict=True),
            len(example.words),
        )
        for example, found in zip(examples, parsed, strict=True)
    ]
    figure = score_parses([numbered(example.phrases) for example in examples], map(numbered, predicted))
    evalb, _ = score_by_evalb(
        GoldAndPredicted(
            tags=[tag for _, tag in example.pos()],
            spans=[(i, i + 1) for i in range(len(example.words))],
            gold=example.phrases,
            predicted=phrases,
        )
        for example, phrases in zip(examples, predicted, strict=True)
    )
    return figure, evalb


def _train_epoch(
    parser: parse_chart.ChartParser,
    optimiser: torch.optim.Optimizer,
    examples: Sequence[Example],
    order: torch.Generator,
    config: ParserConfig,
    epoch: int,
    num_steps: int,
    progress: Progress,
) -> float:
    """Train on all examples once. Return the mean loss per sentence: the hinge loss of charts plus the loss of tags."""
    parser.train()
    permutation = torch.randperm(len(examples), generator=order).tolist()
    step = (epoch - 1) * -(-len(examples) // config.batch_sentences)
    total = 0.0
    for start in range(0, len(examples), config.batch_sentences):
        batch = [examples[i] for i in permutation[start : start + config.batch_sentences]]
        loss = 0.0
        for _, part in parser.encode_and_collate_subbatches(batch, 2 * SUBBATCH_WORDS):
            partial = parser.compute_loss(part)
            partial.backward()
            loss += float(partial.detach())
        if not loss < float("inf"):
            raise RunError(f"train-parser: loss is {loss} at step {step + 1}, epoch {epoch}; lower --lr")
        norm = float(torch.nn.utils.clip_grad_norm_(parser.parameters(), config.clip_norm))
        if not norm < float("inf"):
            raise RunError(
                f"train-parser: the norm of the gradients is {norm} at step {step + 1}, epoch {epoch}; lower --lr"
            )
        factor = lr_factor(step, num_steps=num_steps, warmup_steps=config.warmup_steps, schedule="cosine")
        for group in optimiser.param_groups:
            group["lr"] = config.lr * factor
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        total += loss * len(batch)
        progress.update(len(batch))
    return total / len(examples)


def _f1(*figures: ParseFigure) -> float:
    matched = sum(figure.num_matched or 0 for figure in figures)
    both = sum(figure.num_gold + figure.num_predicted for figure in figures)
    return 2 * matched / both if both else 0.0
