"""Test the grammar as a model of tokens: pieces add up to words, and sentences get their exact probability."""

import json
from functools import cache

import numpy as np
import pytest
import torch

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.inside import Inside
from pipeline.corpus.sample.pcfg import text_of_words
from pipeline.corpus.sample.prefix import NextWords
from pipeline.dumping.grammar_model import GrammarModel
from pipeline.dumping.next_token import append_eos
from storage.errors import InputError
from storage.ragged import Ragged

ENGLISH = english_grammar()


@cache
def sample() -> list[list[str]]:
    source = np.random.default_rng(8).random
    return [ENGLISH.words(ENGLISH.sample(source)) for _ in range(300)]


@cache
def model_of(vocab_size: int) -> tuple[Tokenizer, GrammarModel]:
    tokenizer = Tokenizer.train([text_of_words(words) for words in sample()], vocab_size)
    return tokenizer, GrammarModel(tokenizer, where="tokenizer.json")


def encoded(tokenizer: Tokenizer, sentences: list[list[str]]) -> Ragged:
    return Ragged.from_lists(tokenizer.encode_batch([text_of_words(words) for words in sentences]), np.int64)


@pytest.mark.parametrize("vocab_size", [320, 2000])
def test_the_tokens_of_a_sentence_multiply_to_its_inside_probability(vocab_size):
    tokenizer, model = model_of(vocab_size)
    sentences = sample()[:60]
    tokens = encoded(tokenizer, sentences)
    prefixes = model.prepare(tokens, None)
    assert prefixes.branches
    log_probs = model.logits(model.states(prefixes))
    assert log_probs.shape == (len(tokens.values) + len(tokens), tokenizer.vocab_size)
    torch.testing.assert_close(log_probs.logsumexp(1), torch.zeros(len(log_probs), dtype=torch.float64))
    gold = append_eos(tokens, tokenizer.eos_id)
    found = log_probs.gather(1, torch.from_numpy(gold.values)[:, None])[:, 0].numpy()
    expected = Inside(ENGLISH).log_probs(sentences)
    np.testing.assert_allclose(np.add.reduceat(found, gold.offsets[:-1]), expected, rtol=1e-9)


def test_pieces_add_up_to_words():
    tokenizer, model = model_of(320)
    before = ["she"]
    words = [word for word in ENGLISH.terminals if word.startswith("s")]
    of_words = NextWords(ENGLISH).probs([before])[-1]
    columns = {word: index for index, word in enumerate(ENGLISH.terminals)}
    sentences = [[*before, word] for word in words if of_words[columns[word]] > 0]
    assert len(sentences) > 10
    sentences = sentences[:12]
    tokens = encoded(tokenizer, sentences)
    gold = append_eos(tokens, tokenizer.eos_id)
    log_probs = model.logits(model.states(model.prepare(tokens, None)))
    steps = Ragged(log_probs.gather(1, torch.from_numpy(gold.values)[:, None])[:, 0].numpy(), gold.offsets)
    num_before = len(tokenizer.encode("She"))
    for words_of, row, logs in zip(sentences, steps, np.split(log_probs.numpy(), gold.offsets[1:-1]), strict=True):
        # The pieces of a word also begin longer words. So the last position decides how much of the mass the word gets:
        # the mass of <eos>, of marks and of pieces that begin with a space.
        ends = [i for i in range(tokenizer.vocab_size) if tokenizer.token(i)[0] in "Ġ,.?!'" or i == tokenizer.eos_id]
        log_prob = row[num_before:-1].sum() + np.logaddexp.reduce(logs[-1][ends])
        np.testing.assert_allclose(np.exp(log_prob), of_words[columns[words_of[-1]]], rtol=1e-9)


def test_entries_that_no_word_needs_have_probability_zero_everywhere():
    tokenizer, model = model_of(320)
    log_probs = model.logits(model.states(model.prepare(encoded(tokenizer, sample()[:20]), None)))
    unused = np.setdiff1d(np.arange(tokenizer.vocab_size), model.ids.numpy())
    assert {tokenizer.bos_id, tokenizer.pad_id} <= set(unused.tolist())
    assert (log_probs[:, unused] == -torch.inf).all()


def test_sentences_that_the_grammar_cannot_produce_are_named():
    tokenizer, model = model_of(320)
    good = text_of_words(sample()[0])
    for bad in ("The dog sleep.", "A zebra sleeps.", "the dog sleeps.", "(The dog sleeps.)"):
        tokens = Ragged.from_lists(tokenizer.encode_batch([good, bad]), np.int64)
        with pytest.raises(InputError) as raised:
            model.check(tokens, lambda m: f"sentence {m} of split dev")
        assert str(raised.value).startswith(
            f"sentence 1 of split dev: the grammar of sample-corpus cannot produce {bad!r}"
        )


def test_tokens_that_are_not_the_pieces_of_the_words_are_refused():
    _, model = model_of(2000)
    other = Tokenizer.train(["x"], 300)
    with pytest.raises(InputError, match=r"sentence 0: the tokens of .* differ from the pieces of its words, encoded"):
        model.check(encoded(other, sample()[:1]), lambda m: f"sentence {m}")


def test_a_tokenizer_whose_pieces_cross_words_is_refused():
    content = json.loads(model_of(320)[0].data)
    # Without cuts before words, pieces such as "e boy" are merged across words.
    content["pre_tokenizer"] = content["pre_tokenizer"]["pretokenizers"][1]
    merged = "eĠb"
    content["model"]["merges"].insert(0, ["e", "Ġb"] if isinstance(content["model"]["merges"][0], list) else "e Ġb")
    content["model"]["merges"].insert(0, ["Ġ", "b"] if isinstance(content["model"]["merges"][0], list) else "Ġ b")
    vocab = content["model"]["vocab"]
    vocab.setdefault("Ġb", len(vocab))
    vocab.setdefault(merged, len(vocab))
    with pytest.raises(InputError, match=r"tok: the pieces of a word in '.* b.*' depend on the words around it"):
        GrammarModel(Tokenizer(json.dumps(content).encode()), where="tok")
