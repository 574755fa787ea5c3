"""Tests of surprisals: rows add up to the sentence, and corrected words have the probabilities of words."""

import csv
import json
import math
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.text_files import normalise_text
from pipeline.evaluation.evaluation_config import SurprisalConfig
from pipeline.evaluation.scorer import NextTokenScorer, Sentences, TokenScores
from pipeline.evaluation.stimuli import Stimulus
from pipeline.evaluation.surprisal import COLUMNS, SurprisalFigure, corrected_bits, rows_of_sentence, write_surprisals
from pipeline.evaluation.words import begins_word, spaced_words, words_of_tokens
from storage.errors import ConfigError, InputError, RunError
from storage.json_files import convert
from tests.pipeline.evaluation.test_scorer import Bigrams

TOKENIZER = Tokenizer.train(["the cat sleeps.", 'a dog barks, "the dog" don\'t'] * 3, 300)
BEGINS = begins_word(TOKENIZER)


class StubScorer:
    """Gives a token the log-probability -id/16, and ``<eos>`` -1/2."""

    def log_probs(self, sentences: Sentences) -> list[np.ndarray]:
        return [np.append(np.asarray(sentence) / -16, -0.5).astype(np.float32) for sentence in sentences]

    def distributions(self, sentences: Sentences, before: Sentences, boundary_ids: np.ndarray) -> list[TokenScores]:
        assert len(before) == len(sentences)
        assert TOKENIZER.eos_id in boundary_ids
        return [
            TokenScores(
                log_probs=row,
                boundary_log_probs=-np.arange(len(row), dtype=np.float32) / 8,
                entropies=np.arange(len(row), dtype=np.float32) + 1,
            )
            for row in self.log_probs(sentences)
        ]


def stimulus_of(text: str) -> Stimulus:
    ids, spans = TOKENIZER.encode_batch_with_spans([text])[0]
    word_spans = spaced_words(text)
    words = words_of_tokens(text, spans, word_spans)
    return Stimulus(number=7, line=7, text=text, ids=ids, word_spans=word_spans, words=words)


def scores_of(stimulus: Stimulus) -> TokenScores:
    boundary_ids = np.append(np.flatnonzero(BEGINS), TOKENIZER.eos_id)
    return StubScorer().distributions([np.array(stimulus.ids)], [np.zeros(0, np.int64)], boundary_ids)[0]


def rows_of(path: Path) -> list[dict[str, str]]:
    # as the module says a table is read
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def written(
    tmp_path: Path, text: str | bytes, *, max_tokens: int | None = None, name: str = "text.txt", **options: Any
) -> tuple[list[dict[str, str]], SurprisalFigure, Counter[str]]:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    config = SurprisalConfig(**options)
    out = tmp_path / "out.tsv"
    figure, dropped = write_surprisals(StubScorer(), TOKENIZER, path, out, config, max_tokens=max_tokens)
    return rows_of(tmp_path / "out.tsv"), figure, dropped


texts = st.lists(
    st.one_of(st.sampled_from(["the", "barks,", '"', "NA", "don't", "\U0001f600"]), st.text(min_size=1, max_size=5)),
    min_size=1,
    max_size=6,
).map(lambda words: normalise_text(" ".join(words)))


@given(texts.filter(bool))
def test_rows_add_up_to_the_sentence_and_tokens_spell_their_word(text: str) -> None:
    stimulus = stimulus_of(text)
    scores = scores_of(stimulus)
    by_word: list[tuple[Any, ...]] = rows_of_sentence(stimulus, scores, TOKENIZER, by="word", begins=BEGINS)
    by_token: list[tuple[Any, ...]] = rows_of_sentence(stimulus, scores, TOKENIZER, by="token", begins=BEGINS)
    assert [row[2] for row in by_word] == [*text.split(), "<eos>"]
    assert len(by_token) == len(stimulus.ids) + 1
    total = -scores.log_probs.sum(dtype=np.float64) / math.log(2)
    assert sum(row[3] for row in by_word) == pytest.approx(total)
    assert sum(row[4] for row in by_token) == pytest.approx(total)
    # What is moved from a word is added to its neighbour. The stub's boundary before the first word is certain.
    assert sum(row[5] for row in by_word) == pytest.approx(total)
    first = 0
    for number, word, bits, num_tokens, corrected, entropy in (row[1:] for row in by_word[:-1]):
        ids = stimulus.ids[first : first + num_tokens]
        assert TOKENIZER.decode(ids) == word
        assert bits == pytest.approx(sum(ids) / 16 / math.log(2))
        assert corrected == pytest.approx(bits + num_tokens / 8 / math.log(2))
        assert entropy == first + 1
        assert {row[1] for row in by_token[first : first + num_tokens]} == {number}
        first += num_tokens
    assert first == len(stimulus.ids)
    assert [row[5] for row in by_token] == list(range(1, first + 2))
    assert not any(str(cell).split() != [str(cell)] for row in by_word + by_token for cell in row)


# A vocabulary of two tokens that begin a word and two that continue one, and how a stimulus of them looks.
TINY = ["<bos>", "<eos>", "\u0120a", "\u0120b", "a", "b"]
TINY_BEGINS = np.array([token[0] == "\u0120" for token in TINY])


class TinyBigrams(Bigrams):
    """Bigrams over ``TINY``. Words are short, because tokens that continue a word are improbable."""

    vocab_size = len(TINY)

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.randn(len(TINY), len(TINY), generator=torch.Generator().manual_seed(1))
        self.table[:, 4:] -= 1.5
        self.table[:, 0] = -torch.inf  # no model predicts <bos>
        self.table[0, [1, 4, 5]] = -torch.inf  # a sentence begins with a word
        self.p: list[list[float]] = self.table.double().softmax(1).tolist()


def tiny_stimulus(*words: Sequence[int]) -> Stimulus:
    text, spans = "", []
    for word in words:
        text += " " * bool(text)
        spans.append((len(text), len(text) + len(word)))
        text += "".join(TINY[i][-1] for i in word)
    return Stimulus(
        number=1,
        line=1,
        text=text,
        ids=[i for word in words for i in word],
        word_spans=spans,
        words=np.repeat(np.arange(len(words)), [len(word) for word in words]),
    )


def tiny_scores(stimulus: Stimulus) -> TokenScores:
    scorer = NextTokenScorer(TinyBigrams(), eos_id=1)
    ids = np.array(stimulus.ids, np.int64)
    return scorer.distributions([ids], [np.zeros(0, np.int64)], np.array([1, 2, 3]))[0]


def test_corrected_words_and_entropies_are_the_sums_of_the_equations() -> None:
    p = TinyBigrams().p
    stimulus = tiny_stimulus([2], [3, 4, 5], [2, 5])  # "a bab ab"
    scores = tiny_scores(stimulus)
    end = [row[1] + row[2] + row[3] for row in p]  # the next token begins a word, or is <eos>
    expected = [
        p[0][2] * end[2] / end[0],
        p[2][3] * p[3][4] * p[4][5] * end[5] / end[2],
        p[5][2] * p[2][5] * end[5] / end[5],
        p[5][1] / end[5],
    ]
    # float32 against double
    np.testing.assert_allclose(corrected_bits(stimulus, scores, TINY_BEGINS), -np.log2(expected), atol=1e-5)
    entropies = [-sum(q * math.log(q) for q in p[before] if q) for before in (0, 2, 3, 4, 5, 2, 5)]
    np.testing.assert_allclose(scores.entropies, entropies, atol=1e-6)


@pytest.mark.parametrize("before", [[], [[2]], [[3, 4]]])
def test_the_corrected_probabilities_of_all_words_and_of_eos_add_up_to_1(before: list[list[int]]) -> None:
    corrected = uncorrected = 0.0
    for length in range(7):
        for word in product([2, 3], *[[4, 5]] * length):
            stimulus = tiny_stimulus(*before, word)
            scores = tiny_scores(stimulus)
            corrected += 2.0 ** -corrected_bits(stimulus, scores, TINY_BEGINS)[-2]
            uncorrected += math.exp(scores.log_probs[-len(word) - 1 : -1].sum(dtype=np.float64))
    if before:  # no sentence is empty
        stimulus = tiny_stimulus(*before)
        corrected += 2.0 ** -corrected_bits(stimulus, tiny_scores(stimulus), TINY_BEGINS)[-1]
    # All words of more than seven tokens together are improbable.
    assert corrected == pytest.approx(1, abs=1e-3)
    assert abs(uncorrected - 1) > 0.05  # the tokens of "a" also begin other words


def test_nothing_is_moved_where_a_word_ends_without_a_space() -> None:
    stimulus = tiny_stimulus([2, 4], [3])
    divided = Stimulus(
        number=1,
        line=1,
        text=stimulus.text,
        ids=stimulus.ids,
        word_spans=[(0, 1), (1, 2), (3, 4)],
        words=np.array([0, 1, 2]),
    )
    scores = tiny_scores(stimulus)
    whole, parts = (corrected_bits(each, scores, TINY_BEGINS) for each in (stimulus, divided))
    assert parts[0] + parts[1] == pytest.approx(whole[0])
    np.testing.assert_array_equal(parts[2:], whole[1:])
    bits = scores.log_probs.astype(float) / -math.log(2)
    assert parts[0] == pytest.approx(bits[0] + scores.boundary_log_probs[0] / math.log(2))


def test_the_table_has_one_row_per_word_and_one_for_eos(tmp_path: Path) -> None:
    text = 'the cat sleeps.\n"the  dog"\tbarks NA\n'
    rows, figure, dropped = written(tmp_path, text)
    assert tuple(rows[0]) == COLUMNS["word"]
    assert [row["word"] for row in rows] == ["the", "cat", "sleeps.", "<eos>", '"the', 'dog"', "barks", "NA", "<eos>"]
    assert [row["sentence_number"] for row in rows] == ["1"] * 4 + ["2"] * 5
    assert [row["word_number"] for row in rows] == list("1234") + list("12345")
    ids = TOKENIZER.encode("the cat sleeps.")
    the = TOKENIZER.encode("the")
    assert float(rows[0]["surprisal_bits"]) == pytest.approx(sum(the) / 16 / math.log(2), abs=1e-6)
    assert float(rows[3]["surprisal_bits"]) == pytest.approx(0.5 / math.log(2), abs=1e-6)
    assert float(rows[1]["token_entropy_nats"]) == len(the) + 1
    assert sum(int(row["num_tokens"]) for row in rows[:3]) == len(ids)
    assert (figure.num_sentences, figure.num_words) == (2, 7)
    assert figure.num_tokens == sum(int(row["num_tokens"]) for row in rows) - 2
    assert figure.bits == pytest.approx(sum(float(row["surprisal_bits"]) for row in rows), abs=1e-5)
    assert figure.bits_eos == pytest.approx(1 / math.log(2))
    assert figure.bits_per_word == pytest.approx((figure.bits - figure.bits_eos) / 7)
    assert not dropped


def test_tables_by_token_and_by_word_have_the_same_sums(tmp_path: Path) -> None:
    text = "the cat sleeps.\na dog\n"
    _, by_word, _ = written(tmp_path, text)
    rows, by_token, _ = written(tmp_path, text, by="token")
    assert tuple(rows[0]) == COLUMNS["token"]
    assert by_token == by_word
    names = [TOKENIZER.token(i) for i in TOKENIZER.encode("a dog")]
    assert [row["token"] for row in rows if row["sentence_number"] == "2"] == [*names, "<eos>"]
    assert [int(row["token_number"]) for row in rows[-len(names) - 1 :]] == list(range(1, len(names) + 2))


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        (b"the cat\n \na dog\n", "empty", r"text\.txt:2: an empty line, expected a sentence"),
        (b"the cat\n\xff\na dog\n", "not UTF-8", r"text\.txt:2: not UTF-8"),
        (b"the cat\nthe the the the the the the\na dog\n", "too long", r"text\.txt:2: 7 tokens, expected at most 6"),
    ],
)
def test_faulty_lines_are_named_or_skipped_and_counted(tmp_path: Path, text: bytes, reason: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        written(tmp_path, text, max_tokens=6)
    assert not (tmp_path / "out.tsv").exists()
    rows, figure, dropped = written(tmp_path, text, max_tokens=6, on_error="skip")
    assert [row["sentence_number"] for row in rows if row["word"] == "<eos>"] == ["1", "3"]
    assert dropped == {reason: 1}
    assert figure.num_sentences == 2


def test_a_text_without_a_sentence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"text\.txt: no sentence; expected one per line"):
        written(tmp_path, "")
    with pytest.raises(InputError, match=r"no sentence: \{'empty': 2\}"):
        written(tmp_path, "\n\n", on_error="skip")


def test_an_input_file_is_never_replaced(tmp_path: Path) -> None:
    names = {"spans": "spans.tsv", "frequencies": "frequencies.tsv", "context": "context.txt"}
    text, *others = paths = [tmp_path / name for name in ("text.txt", *names.values())]
    for path, content in zip(paths, ("the\n", "1\t0\t3\n", "the\t3\n", "a\n"), strict=True):
        path.write_text(content)
    config = SurprisalConfig(**dict(zip(names, others, strict=True)))
    for out in paths:
        before = out.read_text()
        with pytest.raises(ConfigError, match="would be replaced"):
            write_surprisals(StubScorer(), TOKENIZER, text, out, config)
        assert out.read_text() == before


def test_a_token_over_two_words_is_named_or_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_token_each(texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        return [([5], [(0, len(text))]) for text in texts]

    monkeypatch.setattr(TOKENIZER, "encode_batch_with_spans", one_token_each)
    with pytest.raises(InputError, match=r"text\.txt:2: the token 'a b' has parts of two words.*train-tokenizer, or"):
        written(tmp_path, "cat\na b\n")
    _, figure, dropped = written(tmp_path, "cat\na b\n", on_error="skip")
    assert (figure.num_words, dropped) == (1, {"token across words": 1})


def test_words_may_be_spans_and_lines_that_do_not_fit_are_named_or_skipped_and_counted(tmp_path: Path) -> None:
    text = "barks, the.\nthe  cat\nthe cat.\nthe cat\ndon't\nthe cat\ncat,\n"
    spans = [
        (1, 0, 5),
        (1, 5, 6),
        (1, 7, 10),
        (1, 10, 11),
        (2, 0, 3),
        (2, 5, 8),
        (3, 0, 3),
        (3, 4, 7),
        (5, 0, 2),
        (5, 2, 5),
    ]
    spans += [(6, 0, 7), (7, 0, 1), (7, 1, 4)]
    (tmp_path / "spans.tsv").write_text("".join(f"{n}\t{start}\t{stop}\n" for n, start, stop in spans))
    rows, figure, dropped = written(tmp_path, text, spans=tmp_path / "spans.tsv", on_error="skip")
    assert [row["word"] for row in rows] == ["barks", ",", "the", ".", "<eos>", "the cat", "<eos>"]
    assert [row["sentence_number"] for row in rows] == list("1111166")
    assert dropped == {"changed by normalisation": 1, "spans do not fit": 2, "token across words": 2}
    assert (figure.num_words, figure.word_unit) == (5, "spans")
    assert figure.bits == pytest.approx(sum(float(row["surprisal_bits"]) for row in rows), abs=1e-5)
    by_token, of_tokens, _ = written(tmp_path, text, spans=tmp_path / "spans.tsv", on_error="skip", by="token")
    assert of_tokens == figure
    assert [row["word_number"] for row in by_token if row["sentence_number"] == "1"] == list("12345")
    (tmp_path / "spans.tsv").write_text("1\t0\t3\n2\t0\t3\n")
    with pytest.raises(InputError, match=r"spans\.tsv: words of sentence 2, expected at most 1"):
        written(tmp_path, "the\n", spans=tmp_path / "spans.tsv", on_error="skip")
    for line, message in (
        (2, "normalisation changes this line"),
        (3, r"spans\.tsv: '\.' is in no word, expected every character"),
        (4, r"spans\.tsv: 'the cat' is in no word"),
        (5, r"the token 'don' has parts of two words.*make them one word in .*spans\.tsv"),
    ):
        lines = [text.split("\n", maxsplit=1)[0], text.split("\n")[line - 1]]
        kept = [(1 if n == 1 else 2, start, stop) for n, start, stop in spans if n in {1, line}]
        (tmp_path / "spans.tsv").write_text("".join(f"{n}\t{start}\t{stop}\n" for n, start, stop in kept))
        with pytest.raises(InputError, match=rf"text\.txt:2: .*{message}.* or use --on-error skip"):
            written(tmp_path, "\n".join(lines), spans=tmp_path / "spans.tsv")


def test_frequencies_are_the_last_column_and_unknown_words_have_an_empty_cell(tmp_path: Path) -> None:
    (tmp_path / "frequencies.tsv").write_text("the\t4\ncat\t3\nThe\t1\n")
    rows, figure, _ = written(tmp_path, '"The cat barks\n', frequencies=tmp_path / "frequencies.tsv")
    assert tuple(rows[0]) == (*COLUMNS["word"], "log_frequency")
    assert [row["log_frequency"] for row in rows] == [f"{math.log2(5 / 8):.6f}", f"{math.log2(3 / 8):.6f}", "", ""]
    assert (figure.num_words, figure.num_words_with_frequency) == (3, 2)
    with pytest.raises(ConfigError, match="--frequencies is for a table of words"):
        written(tmp_path, "the\n", frequencies=tmp_path / "frequencies.tsv", by="token")


def test_a_probability_that_is_not_finite_is_an_error_that_names_the_line_and_leaves_no_table(tmp_path: Path) -> None:
    class Broken(StubScorer):
        def log_probs(self, sentences: Sentences) -> list[np.ndarray]:
            return [row if i == 0 else row * np.nan for i, row in enumerate(super().log_probs(sentences))]

    (tmp_path / "text.txt").write_text("the cat\na dog\n")
    with pytest.raises(RunError, match=r"text\.txt:2: .*not finite"):
        write_surprisals(Broken(), TOKENIZER, tmp_path / "text.txt", tmp_path / "out.tsv", SurprisalConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_certain_token_has_the_surprisal_zero_and_not_minus_zero(tmp_path: Path) -> None:
    class Sure(StubScorer):
        def log_probs(self, sentences: Sentences) -> list[np.ndarray]:
            return [np.full(len(sentence) + 1, 1e-9, np.float32) for sentence in sentences]

    (tmp_path / "text.txt").write_text("the cat\n")
    write_surprisals(Sure(), TOKENIZER, tmp_path / "text.txt", tmp_path / "out.tsv", SurprisalConfig())
    assert {row["surprisal_bits"] for row in rows_of(tmp_path / "out.tsv")} == {"0.000000"}


def test_figures_are_read_back_and_damaged_ones_refused(tmp_path: Path) -> None:
    _, figure, _ = written(tmp_path, "the cat\n")
    assert convert(json.loads(json.dumps(figure.to_json())), SurprisalFigure, where="file", remedy="") == figure
    with pytest.raises(InputError, match="file: bits: expected float, found null"):
        convert(figure.to_json() | {"bits": None}, SurprisalFigure, where="file", remedy="")
    with pytest.raises(InputError, match="file: word_unit: invalid enum value 'line'"):
        convert(figure.to_json() | {"word_unit": "line"}, SurprisalFigure, where="file", remedy="")
    with pytest.raises(InputError, match="num_words is 0, expected at least 1"):
        convert(figure.to_json() | {"num_words": 0}, SurprisalFigure, where="file", remedy="")
