"""Tests of surprisals: rows add up to the sentence, spaces belong to the next word, and errors name the line."""

import csv
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.text_files import normalise_text
from pipeline.evaluation.surprisal import (
    COLUMNS,
    SurprisalFigure,
    TextSentence,
    read_text,
    rows_of_sentence,
    write_surprisals,
)
from pipeline.evaluation.words import spaced_words, words_of_tokens
from storage.errors import ConfigError, InputError, RunError

TOKENIZER = Tokenizer.train(["the cat sleeps.", 'a dog barks, "the dog" don\'t'] * 3, 300)


class StubScorer:
    """Gives a token the log-probability -id/16, and ``<eos>`` -1/2; records the number of sentences."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def log_probs(self, sentences: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.asked.append(len(sentences))
        return [np.append(sentence / -16, -0.5).astype(np.float32) for sentence in sentences]


def sentence_of(text: str) -> TextSentence:
    ids, spans = TOKENIZER.encode_batch_with_spans([text])[0]
    word_spans = spaced_words(text)
    words = words_of_tokens(text, spans, word_spans)
    return TextSentence(line=7, text=text, ids=ids, word_spans=word_spans, words=words)


def rows_of(path: Path) -> list[dict[str, str]]:
    # as the module says a table is read
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def written(tmp_path: Path, text: str | bytes, **options: Any) -> tuple[list[dict[str, str]], SurprisalFigure, Counter]:
    path = tmp_path / "text.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    figure, dropped = write_surprisals(StubScorer(), TOKENIZER, path, tmp_path / "out.tsv", **options)
    return rows_of(tmp_path / "out.tsv"), figure, dropped


texts = st.lists(
    st.one_of(st.sampled_from(["the", "barks,", '"', "NA", "don't", "\U0001f600"]), st.text(min_size=1, max_size=5)),
    min_size=1,
    max_size=6,
).map(lambda words: normalise_text(" ".join(words)))


@given(texts.filter(bool))
def test_rows_add_up_to_the_sentence_and_tokens_spell_their_word(text: str) -> None:
    sentence = sentence_of(text)
    log_probs = StubScorer().log_probs([np.array(sentence.ids)])[0]
    by_word = rows_of_sentence(sentence, log_probs, TOKENIZER, by="word")
    by_token = rows_of_sentence(sentence, log_probs, TOKENIZER, by="token")
    assert [row[2] for row in by_word] == [*text.split(), "<eos>"]
    assert len(by_token) == len(sentence.ids) + 1
    total = -log_probs.sum(dtype=np.float64) / math.log(2)
    assert sum(row[3] for row in by_word) == pytest.approx(total)
    assert sum(row[4] for row in by_token) == pytest.approx(total)
    first = 0
    for number, word, bits, num_tokens in (row[1:] for row in by_word[:-1]):
        ids = sentence.ids[first : first + num_tokens]
        assert TOKENIZER.decode(ids) == word
        assert bits == pytest.approx(sum(ids) / 16 / math.log(2))
        assert {row[1] for row in by_token[first : first + num_tokens]} == {number}
        first += num_tokens
    assert first == len(sentence.ids)
    assert not any(str(cell).split() != [str(cell)] for row in by_word + by_token for cell in row)


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


def test_a_long_text_is_scored_in_blocks_and_keeps_its_line_numbers(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat\na dog barks\n" * 5)
    tables = []
    for size, asked in ((3, [3, 3, 3, 1]), (100, [10])):
        scorer = StubScorer()
        write_surprisals(scorer, TOKENIZER, text, tmp_path / "out.tsv", block_sentences=size)
        assert scorer.asked == asked
        tables.append((tmp_path / "out.tsv").read_bytes())
    assert tables[0] == tables[1]


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
    with pytest.raises(InputError, match=r"nowhere.*cannot be read"):
        list(read_text(tmp_path / "nowhere", TOKENIZER, max_tokens=None, on_error="stop", dropped=Counter()))


def test_an_input_file_is_never_replaced(tmp_path: Path) -> None:
    paths = text, spans, frequencies = [tmp_path / name for name in ("text.txt", "spans.tsv", "frequencies.tsv")]
    for path, content in zip(paths, ("the\n", "1\t0\t3\n", "the\t3\n"), strict=True):
        path.write_text(content)
    for out in paths:
        before = out.read_text()
        with pytest.raises(ConfigError, match="would be replaced"):
            write_surprisals(StubScorer(), TOKENIZER, text, out, spans=spans, frequencies=frequencies)
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
        (3, r"spans\.tsv has '\.' in no word, expected every character"),
        (4, r"spans\.tsv has 'the cat' in no word"),
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
    with pytest.raises(ConfigError, match="frequencies for a table of tokens"):
        written(tmp_path, "the\n", frequencies=tmp_path / "frequencies.tsv", by="token")


def test_a_probability_that_is_not_finite_is_an_error_that_names_the_line_and_leaves_no_table(tmp_path: Path) -> None:
    class Broken(StubScorer):
        def log_probs(self, sentences: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [row if i == 0 else row * np.nan for i, row in enumerate(super().log_probs(sentences))]

    (tmp_path / "text.txt").write_text("the cat\na dog\n")
    with pytest.raises(RunError, match=r"text\.txt:2: .*not finite"):
        write_surprisals(Broken(), TOKENIZER, tmp_path / "text.txt", tmp_path / "out.tsv")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_certain_token_has_the_surprisal_zero_and_not_minus_zero(tmp_path: Path) -> None:
    class Sure(StubScorer):
        def log_probs(self, sentences: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [np.full(len(sentence) + 1, 1e-9, np.float32) for sentence in sentences]

    (tmp_path / "text.txt").write_text("the cat\n")
    write_surprisals(Sure(), TOKENIZER, tmp_path / "text.txt", tmp_path / "out.tsv")
    assert {row["surprisal_bits"] for row in rows_of(tmp_path / "out.tsv")} == {"0.000000"}


def test_figures_are_read_back_and_damaged_ones_refused(tmp_path: Path) -> None:
    _, figure, _ = written(tmp_path, "the cat\n")
    assert SurprisalFigure.from_json(json.loads(json.dumps(figure.to_json())), where="file") == figure
    with pytest.raises(InputError, match="file: bits is None"):
        SurprisalFigure.from_json(figure.to_json() | {"bits": None}, where="file")
    with pytest.raises(InputError, match="file: word_unit is 'line', expected white space or spans"):
        SurprisalFigure.from_json(figure.to_json() | {"word_unit": "line"}, where="file")
    with pytest.raises(InputError, match="num_words is 0, expected at least 1"):
        SurprisalFigure.from_json(figure.to_json() | {"num_words": 0}, where="file")
