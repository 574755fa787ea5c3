"""Test that a parser is trained from trees alone, that benepar loads it, and that its figures are right."""

import itertools
import json
import pkgutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import spacy
import torch

from pipeline.parsing.parse_config import ParserConfig
from pipeline.parsing.sentence_parser import read_words, to_phrases
from pipeline.parsing.train_parser import read_examples, train_parser
from storage.errors import ConfigError, InputError, RunError, StoreError
from tests.pipeline.parsing.conftest import SMALL


def test_a_parser_learns_its_trees(labelled_f1: float) -> None:
    assert labelled_f1 > 0.6


def test_its_figures_are_those_of_its_trees(corpus: Path, parser_file: Path, labelled_f1: float) -> None:
    """Score the trees again through spaCy, with benepar's own interpretation of its spans."""
    nlp = spacy.blank("en")
    nlp.add_pipe("benepar", config={"model": str(parser_file)})
    matched = both = 0
    for example in read_examples(corpus / "short.mrg", "stop", Counter(), max_words=100):
        starts = [i == 0 for i in range(len(example.words))]
        doc = spacy.tokens.Doc(nlp.vocab, words=example.words, sent_starts=starts)
        gold, found = Counter(example.phrases[1:]), Counter()
        sentence = next(nlp(doc).sents)
        for part in sentence._.constituents:
            found.update((label, part.start, part.end) for label in part._.labels)
        matched += (gold & found).total()
        both += gold.total() + found.total()
    assert 2 * matched / both == pytest.approx(labelled_f1)


def test_there_is_one_row_per_epoch_and_the_best_weights_are_kept(parser_file: Path) -> None:
    rows = [json.loads(line) for line in parser_file.with_name("parser.pt.metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, SMALL.num_epochs + 1))
    about = json.loads(parser_file.with_name("parser.pt.json").read_text())
    best = max(rows, key=lambda row: row["dev_f1"])
    assert about["labelled_f1"]["all of dev"] == best["dev_f1"]
    assert about["epoch"] == best["epoch"]
    assert about["num_trees"] == 40


def test_loading_the_file_executes_nothing(parser_file: Path) -> None:
    assert set(torch.load(parser_file, weights_only=True)) == {"config", "state_dict"}


def test_the_same_seed_gives_the_same_parser(corpus: Path, tmp_path: Path) -> None:
    config = replace(SMALL, num_epochs=1)
    trees = [corpus / "short.mrg"]
    shas = [
        train_parser(trees, trees, tmp_path / f"{number}.pt", replace(config, seed=seed))["sha256"]
        for number, seed in enumerate((1, 1, 2))
    ]
    assert shas[0] == shas[1] != shas[2]


def test_an_interrupted_training_goes_on_to_the_same_parser(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, trees = replace(SMALL, num_epochs=3, dropout=0.2), [corpus / "short.mrg"]
    whole = train_parser(trees, trees, tmp_path / "whole.pt", config)
    for number, (where, last_call) in enumerate(
        (
            ("pipeline.parsing.parser_state.write_atomically", 2),  # before the state of the second epoch is written
            ("pipeline.parsing.train_parser.score_parser", 3),  # in the third epoch
            ("pipeline.parsing.train_parser.sha256_file", 3),  # after the parser was written, before its description
        )
    ):
        out = tmp_path / f"parts{number}.pt"
        with monkeypatch.context() as patch:
            patch.setattr(where, interrupted(pkgutil.resolve_name(where), last_call))
            with pytest.raises(KeyboardInterrupt):
                train_parser(trees, trees, out, config)
        with pytest.raises(StoreError, match=r"with other lr, dev was interrupted; run the command of that training"):
            train_parser(trees, [corpus / "dev.mrg"], out, replace(config, lr=1e-3))
        parts = train_parser(trees, trees, out, config)
        assert [parts[name] for name in ("sha256", "labelled_f1", "evalb_f1")] == [
            whole[name] for name in ("sha256", "labelled_f1", "evalb_f1")
        ]
        assert not out.with_name(f"{out.name}.training.pt").exists()


def interrupted(function: Callable[..., object], last_call: int) -> Callable[..., object]:
    """Return the function, with Ctrl-C in place of call number ``last_call``."""
    numbers = itertools.count(1)

    def called(*arguments: object, **options: object) -> object:
        if next(numbers) == last_call:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    return called


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"not a state"])
def test_a_damaged_state_of_an_interrupted_training_is_refused(corpus: Path, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "p.pt.training.pt").write_bytes(damage)
    with pytest.raises(
        RunError, match=r"p\.pt\.training\.pt: is damaged: .*Remove the file to train from the beginning"
    ):
        train_parser([corpus / "short.mrg"], [corpus / "short.mrg"], tmp_path / "p.pt", SMALL)


def test_training_trees_that_are_left_out_are_counted(tmp_path: Path, corpus: Path) -> None:
    short = (corpus / "short.mrg").read_text().splitlines()[:10]
    long = "(S " + " ".join(f"(X w{i})" for i in range(81)) + ")"
    lines = [*short, "(S (X no", "(S (-NONE- *))", long, "(" * 3]
    (tmp_path / "x.mrg").write_text("\n".join(lines) + "\n")
    about = train_parser(
        [tmp_path / "x.mrg"], [corpus / "short.mrg"], tmp_path / "p.pt", replace(SMALL, num_epochs=1), on_error="skip"
    )
    assert about["num_trees"] == 10
    assert about["dropped"] == {
        "more than 80 words": 1,
        "no words": 1,
        "unbalanced brackets": 1,
        "word without a tag": 1,
    }
    with pytest.raises(InputError, match=r"x\.mrg:11: the word 'no' has no part of speech"):
        train_parser([tmp_path / "x.mrg"], [corpus / "short.mrg"], tmp_path / "q.pt", SMALL)


def test_dev_trees_that_are_left_out_are_counted(tmp_path: Path, corpus: Path) -> None:
    dev = tmp_path / "dev.mrg"
    dev.write_text((corpus / "short.mrg").read_text() + "(S (X no\n")
    config = replace(SMALL, num_epochs=1)
    about = train_parser([corpus / "short.mrg"], [dev], tmp_path / "p.pt", config, on_error="skip")
    assert about["dropped_of_dev"] == {str(dev): {"word without a tag": 1}}


def test_inputs_and_old_models_are_not_overwritten(tmp_path: Path, corpus: Path) -> None:
    trees = corpus / "short.mrg"
    with pytest.raises(ConfigError, match=r"short\.mrg is read and would be replaced"):
        train_parser([trees], [trees], trees, SMALL)
    (tmp_path / "p.pt").write_text("here")
    with pytest.raises(StoreError, match=r"p\.pt: already exists"):
        train_parser([trees], [trees], tmp_path / "p.pt", SMALL)


def test_a_word_may_contain_a_no_break_space(tmp_path: Path, corpus: Path) -> None:
    trees = tmp_path / "x.mrg"
    trees.write_text("(S (NP (NN a\u00a0b)) (VP (VBD sat)))\n" * 4)
    about = train_parser([trees], [corpus / "short.mrg"], tmp_path / "p.pt", replace(SMALL, num_epochs=1))
    assert about["num_trees"] == 4


def test_training_without_trees_is_refused(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "x.mrg").write_text("(S (-NONE- *))\n")
    with pytest.raises(InputError, match="no tree left"):
        train_parser([tmp_path / "x.mrg"], [corpus / "short.mrg"], tmp_path / "p.pt", SMALL)


def test_impossible_options_are_named_all_at_once() -> None:
    with pytest.raises(ConfigError, match=r"warmup-steps is -1, expected at least 0; --lr is 0"):
        ParserConfig(lr=0, warmup_steps=-1)
    with pytest.raises(ConfigError, match="--embed-dim is 20, expected a multiple of 16"):
        ParserConfig(embed_dim=20, num_heads=8)


def test_words_of_treebanks_are_spelt_as_in_text() -> None:
    assert read_words(["-LRB-", "a-RRB-", "``", "''", "“", "\u2019", "—", "1\\/2", "n\u2019t"]) == [
        "(", "a)", '"', '"', '"', "'", "--", "1/2", "n\u2019t",
    ]  # fmt: skip


def test_phrases_of_spans_are_a_normalised_tree() -> None:
    spans = [(0, 3, ("TOP", "S", "S")), (0, 1, ("NP",)), (1, 3, ()), (1, 2, ("VP", "VP"))]
    assert to_phrases(spans, 3) == (("TOP", 0, 3), ("S", 0, 3), ("NP", 0, 1), ("VP", 1, 2))


def test_a_training_that_diverges_is_one_error(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(RunError, match="norm of the gradients is nan at step 1, epoch 1; lower --lr"):
        train_parser([corpus / "short.mrg"], [corpus / "short.mrg"], tmp_path / "p.pt", SMALL)
    assert not list(tmp_path.iterdir())


def test_scores_that_are_not_finite_end_the_training(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, found: forward(self, found) * float("nan"))
    with pytest.raises(RunError, match="the scores are NaN or infinite in epoch 1; lower --lr"):
        train_parser([corpus / "short.mrg"], [corpus / "short.mrg"], tmp_path / "p.pt", SMALL)
