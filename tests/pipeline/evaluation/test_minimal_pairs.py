"""Tests of minimal pairs: files are read or refused by file and line, and a tie is never right."""

import gzip
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import stdev

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.evaluation.evaluation_config import MinimalPairConfig
from pipeline.evaluation.minimal_pairs import (
    MinimalPair,
    MinimalPairFigures,
    evaluate_minimal_pairs,
    pairs_sha256,
    read_minimal_pairs,
)
from pipeline.evaluation.scorer import NextTokenScorer, Sentences
from storage.errors import ConfigError, InputError, RunError
from storage.json_files import convert
from student.model import Student
from student.student_config import StudentConfig
from tests.old_tokenizers import old_form


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the cat sleeps .", "the cats sleep .", "a dog barks .", "dogs bark ."] * 5, vocab_size=300)


class StubScorer:
    """Scores each token and ``<eos>`` by a function of the sentence, and records the sentences."""

    def __init__(self, value: Callable[[np.ndarray], float]) -> None:
        self.value = value
        self.asked: list[tuple[int, ...]] = []

    def log_probs(self, sentences: Sentences) -> list[np.ndarray]:
        self.asked += [tuple(int(t) for t in sentence) for sentence in sentences]
        return [np.full(len(sentence) + 1, self.value(np.array(sentence)), np.float32) for sentence in sentences]


def pair(good: str, bad: str, paradigm: str = "agreement", term: str = "subject_verb") -> MinimalPair:
    return MinimalPair(good=good, bad=bad, paradigm=paradigm, term=term)


def write_lines(path: Path, *lines: object) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


LINE = {"sentence_good": "the cat sleeps .", "sentence_bad": "the cat sleep .", "UID": "agr", "linguistics_term": "sv"}


def test_a_model_with_equal_probabilities_is_right_only_on_pairs_of_different_length(tokenizer: Tokenizer) -> None:
    pairs = [pair("the cat sleeps .", "sleeps cat the ."), pair("a dog barks .", "a dog barks barks barks .")]
    figures, _ = evaluate_minimal_pairs(StubScorer(lambda _: -2.0), tokenizer, [pairs[0]])
    assert (figures.overall.num_right, figures.overall.num_ties, figures.overall.accuracy) == (0, 1, 0.0)
    figures, _ = evaluate_minimal_pairs(StubScorer(lambda _: -2.0), tokenizer, pairs)
    assert (figures.overall.num_right, figures.overall.num_ties, figures.overall.num_pairs) == (1, 1, 2)


@pytest.mark.parametrize("eos", [False, True])
def test_the_second_figure_compares_means_per_token(tokenizer: Tokenizer, eos: bool) -> None:
    long, short = "a dog barks barks barks .", "a dog barks ."
    n, m = (len(tokenizer.encode(text)) + eos for text in (long, short))
    # The long sentence has the lower sum, and the higher mean.
    scorer = StubScorer(lambda ids: -1.0 if len(ids) + eos == n else -1.25)
    assert -1.25 * m > -1.0 * n
    figures, (scored,) = evaluate_minimal_pairs(scorer, tokenizer, [pair(long, short)], eos=eos)
    assert (scored.good, scored.bad) == (-1.0 * n, -1.25 * m)
    assert (scored.good_tokens, scored.bad_tokens) == (n, m)
    assert figures.per_token is not None
    assert (figures.overall.num_right, figures.per_token.overall.num_right) == (0, 1)
    assert figures.per_token.macro_accuracy == 1
    assert figures.per_token.overall.mean_difference == 0.25


def test_a_model_with_equal_probabilities_has_only_ties_in_the_second_figure(tokenizer: Tokenizer) -> None:
    texts = ["a dog barks .", "a dog barks barks barks .", "the cat", "the cats sleep sleep sleeps ."]
    pairs = [pair(good, bad) for good in texts for bad in texts if good != bad]
    figures, _ = evaluate_minimal_pairs(StubScorer(lambda _: -math.log(300)), tokenizer, pairs)
    assert figures.per_token is not None
    assert (figures.per_token.overall.num_ties, figures.per_token.overall.num_right) == (len(pairs), 0)
    assert figures.overall.num_right > 0


def test_a_model_of_zero_weights_is_right_on_no_pair_of_equal_length() -> None:
    pairs = [pair("the cat sleeps .", "the cat sleep ."), pair("a dog barks .", "barks dog a .")]
    tokenizer = Tokenizer.train(["the cat sleeps .", "the cat sleep .", "a dog barks ."] * 5, vocab_size=320)
    assert all(len(tokenizer.encode(p.good)) == len(tokenizer.encode(p.bad)) for p in pairs)
    config = StudentConfig(vocab_size=tokenizer.vocab_size, embed_dim=16, num_blocks=1, num_heads=2, max_length=16)
    student = Student(config, bos_id=tokenizer.bos_id, seed=0).eval()
    with torch.no_grad():
        for weight in student.parameters():
            weight.zero_()
    figures, _ = evaluate_minimal_pairs(NextTokenScorer(student, eos_id=tokenizer.eos_id), tokenizer, pairs)
    assert (figures.overall.num_ties, figures.overall.num_right) == (2, 0)
    assert figures.to_json()["overall"]["interval"][0] == 0


def test_each_distinct_sentence_is_scored_once_and_identical_pairs_are_left_out(tokenizer: Tokenizer) -> None:
    scorer = StubScorer(lambda _: -1.0)
    good, bad, same = "the cat sleeps .", "the cat sleep .", "dogs bark ."
    figures, _ = evaluate_minimal_pairs(scorer, tokenizer, [pair(good, bad), pair(good, bad), pair(same, same)])
    assert sorted(scorer.asked) == sorted(tuple(tokenizer.encode(text)) for text in (good, bad))
    assert figures.num_identical == 1
    assert figures.overall.num_pairs == 2


def test_averages_are_over_paradigms_and_over_pairs(tokenizer: Tokenizer) -> None:
    short, long = "a dog .", "a dog dog dog ."
    pairs = [pair(short, long, "one", "x")] * 3 + [pair(long, short, "one", "x"), pair(long, short, "two", "y")]
    pairs.append(pair(short, short, "three", "y"))
    figures, _ = evaluate_minimal_pairs(StubScorer(lambda _: -1.0), tokenizer, pairs)
    assert figures.by_paradigm["one"].accuracy == 3 / 4
    assert figures.by_paradigm["three"].accuracy is None
    assert figures.macro_accuracy == pytest.approx((3 / 4 + 0) / 2)
    assert figures.overall.accuracy == 3 / 5
    assert figures.by_term["y"].num_pairs == 1
    terms = {name: counts.linguistics_term for name, counts in figures.by_paradigm.items()}
    assert terms == {"one": "x", "two": "y", "three": "y"}
    step = len(tokenizer.encode(long)) - len(tokenizer.encode(short))
    assert figures.by_paradigm["one"].mean_difference == pytest.approx(step * (3 - 1) / 4)


words = st.lists(st.sampled_from(["the", "cat", "cats", "sleep", "sleeps"]), min_size=1, max_size=5).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.builds(pair, words, words, st.sampled_from("ab"), st.sampled_from("xy")), max_size=12),
    eos=st.booleans(),
)
def test_counts_agree_with_a_loop_over_pairs_and_swap_with_the_sides(
    tokenizer: Tokenizer, pairs: list[MinimalPair], eos: bool
) -> None:
    def value(ids: np.ndarray) -> float:
        return -float(int(ids.sum()) % 7)

    def total(text: str) -> float:
        ids = np.array(tokenizer.encode(text))
        return value(ids) * (len(ids) + eos)

    figures, rows = evaluate_minimal_pairs(StubScorer(value), tokenizer, pairs, eos=eos)
    kept = [p for p in pairs if p.good != p.bad]
    right = sum(total(p.good) > total(p.bad) for p in kept)
    ties = sum(total(p.good) == total(p.bad) for p in kept)
    assert (figures.overall.num_pairs, figures.overall.num_right, figures.overall.num_ties) == (len(kept), right, ties)
    assert [(row.good, row.bad) for row in rows] == [(total(p.good), total(p.bad)) for p in kept]
    if len(rows) > 1:
        assert figures.overall.standard_deviation == pytest.approx(stdev(row.good - row.bad for row in rows))
    swapped, _ = evaluate_minimal_pairs(
        StubScorer(value), tokenizer, [pair(p.bad, p.good, p.paradigm, p.term) for p in pairs], eos=eos
    )
    assert swapped.overall.num_right == len(kept) - right - ties
    assert swapped.overall.mean_difference == pytest.approx(-figures.overall.mean_difference)
    for name, by in (("paradigm", figures.by_paradigm), ("term", figures.by_term)):
        assert sum(c.num_right for c in by.values()) == right
        assert set(by) == {getattr(p, name) for p in pairs}
    assert convert(json.loads(json.dumps(figures.to_json())), MinimalPairFigures, where="file", remedy="") == figures


def test_a_probability_that_is_not_finite_is_an_error_that_names_the_sentence(tokenizer: Tokenizer) -> None:
    with pytest.raises(RunError, match=r"log p\('a dog \.'\) is nan"):
        evaluate_minimal_pairs(StubScorer(lambda _: math.nan), tokenizer, [pair("a dog .", "dog a .")])


def test_plain_and_gzipped_files_of_a_folder_are_read_in_order_without_other_fields_and_files(tmp_path: Path) -> None:
    write_lines(tmp_path / "b.jsonl", LINE | {"pairID": "0", "field": None}, "", LINE)
    write_lines(tmp_path / "a.jsonl.gz", {"sentence_good": " a  dog ", "sentence_bad": "dog a"})
    (tmp_path / "paradigms.tsv").write_text("UID\n")
    pairs = read_minimal_pairs(tmp_path)
    assert pairs[0] == replace(pair("a dog", "dog a", "a", "unspecified"), where=f"{tmp_path / 'a.jsonl.gz'}:1")
    expected = pair(LINE["sentence_good"], LINE["sentence_bad"], "agr", "sv")
    assert pairs[1:] == [replace(expected, number=n, where=f"{tmp_path / 'b.jsonl'}:{n * 2 + 1}") for n in range(2)]
    assert read_minimal_pairs(tmp_path / "b.jsonl") == pairs[1:]
    assert pairs_sha256(pairs) != pairs_sha256(pairs[::-1])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "expected object, found array"),
        ([1], "expected object, found array"),
        ({"sentence_good": "a"}, "sentence_bad is None"),
        (LINE | {"sentence_bad": 3}, "sentence_bad is 3"),
        (LINE | {"sentence_good": " \u200b "}, "sentence_good is empty"),
        (LINE | {"UID": 7}, "UID is 7"),
        (LINE | {"sentence_good": "\ud800"}, "not JSON .*surrogate"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_line(tmp_path: Path, line: object, message: str) -> None:
    write_lines(tmp_path / "x.jsonl", LINE, line)
    with pytest.raises(InputError, match=rf"x\.jsonl:2: .*{message}"):
        read_minimal_pairs(tmp_path)


def test_undecodable_bytes_are_named_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(json.dumps(LINE).encode() + b'\n{"sentence_good": "\xff"}\n')
    with pytest.raises(InputError, match=r"x\.jsonl:2: .*UTF-8"):
        read_minimal_pairs(tmp_path)


def test_empty_folders_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.jsonl"):
        read_minimal_pairs(tmp_path)
    with pytest.raises(InputError, match=r"cannot be read \(No such file"):
        read_minimal_pairs(tmp_path / "none.jsonl")
    path = write_lines(tmp_path / "x.jsonl.gz", *[LINE | {"pairID": str(i)} for i in range(200)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"x\.jsonl\.gz: .*damaged gzip"):
        read_minimal_pairs(tmp_path)
    path.write_bytes(b"plain text")
    with pytest.raises(InputError, match=r"x\.jsonl\.gz: cannot be read"):
        read_minimal_pairs(tmp_path)
    path.write_bytes(gzip.compress(b"\n"))
    with pytest.raises(InputError, match="no minimal pair in 1 file"):
        read_minimal_pairs(tmp_path)


def test_a_file_that_exists_both_plain_and_gzipped_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "x.jsonl", LINE)
    write_lines(tmp_path / "x.jsonl.gz", LINE)
    with pytest.raises(InputError, match=r"both x\.jsonl and x\.jsonl\.gz, expected one"):
        read_minimal_pairs(tmp_path)


def test_all_of_blimp_is_read(shared_data: Path) -> None:
    pairs = read_minimal_pairs(shared_data / "blimp")
    assert len(pairs) == 1000 * len(list((shared_data / "blimp").glob("*.jsonl.gz")))
    assert len({p.term for p in pairs}) == 13
    assert {p.field for p in pairs} == {"morphology", "syntax", "semantics", "syntax_semantics"}
    assert [p.number for p in pairs] == list(range(1000)) * (len(pairs) // 1000)


def test_babylm_files_have_both_spellings_of_a_field_and_line_ends_stay(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "ellipsis_filtered.jsonl",
        {"sentence_good": "a", "sentence_bad": "b", "field": "syntax/semantics", "UID": "e1", "pair_id": 3, "x": [1]},
        {"sentence_good": "a", "sentence_bad": "b", "field": "syntax_semantics", "UID": "e1", "lexically_identical": 0},
    )
    write_lines(tmp_path / "qa_congruence_easy.jsonl", {"sentence_good": "A: Who?\nB: Me.", "sentence_bad": "A:\nB:"})
    first, second, third = read_minimal_pairs(tmp_path)
    assert first.field == second.field == "syntax_semantics"
    assert (third.paradigm, third.field, third.good) == ("qa_congruence_easy", "unspecified", "A: Who?\nB: Me.")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("A: Who?\nB: Me.", "A: Who?\nB: Me."),
        ("A:  Who? \r\n\tB: Me.\n", "A: Who?\nB: Me."),
        ("A:\rB: a\u2028b", "A:\nB: a b"),
        ("A:\n\nB:", "A:\n\nB:"),
    ],
)
def test_a_line_end_in_a_sentence_is_scored_as_a_line_end(
    tmp_path: Path, tokenizer: Tokenizer, written: str, read: str
) -> None:
    write_lines(tmp_path / "x.jsonl", LINE | {"sentence_good": written})
    scorer = StubScorer(lambda _: -1.0)
    pairs = read_minimal_pairs(tmp_path)
    evaluate_minimal_pairs(scorer, tokenizer, pairs)
    assert pairs[0].good == read
    assert tuple(tokenizer.encode(read)) in scorer.asked


def test_pairs_are_found_below_a_folder_but_not_in_hidden_folders(tmp_path: Path) -> None:
    for place in ("supplement/b.jsonl", "blimp/deep/a.jsonl.gz", ".checkpoints/b.jsonl", "__MACOSX/._b.jsonl"):
        (tmp_path / place).parent.mkdir(parents=True)
        write_lines(tmp_path / place, LINE | {"UID": place})
    assert [p.paradigm for p in read_minimal_pairs(tmp_path)] == ["blimp/deep/a.jsonl.gz", "supplement/b.jsonl"]


def test_one_name_in_two_folders_is_refused(tmp_path: Path) -> None:
    for folder in ("fast", "full"):
        (tmp_path / folder).mkdir()
        write_lines(tmp_path / folder / "x.jsonl", LINE)
    with pytest.raises(InputError, match=r"x is in .*fast and in .*full; give one of these folders"):
        read_minimal_pairs(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"Context1": "a", "Context2": "b", "Target1": "c", "Target2": "d"}, "a line of EWoK, which is another task"),
        ({"input_prefix": "a", "options": ["b", "c"], "numops": 2}, "a line of entity tracking"),
        ({"prefix_acceptable": "a", "prefix_unacceptable": "b", "property_phrase": "c"}, "a line of COMPS"),
        ({"sentences": "a\tb", "ratio": "0.5"}, "a line of WUG"),
        ({"Context1": "a", "Target1": "b"}, "a line of EWoK"),
        ({"meta": {}, "predictions": [], "items": []}, "a line of SyntaxGym"),
        ({"caption_0": "a", "caption_1": "b"}, "a line of Winoground"),
        ({"premise": "a", "label": 1}, "an object with the fields premise, label,"),
        ({"good": "a b", "bad": "b a"}, "an object with the fields good, bad,"),
        ({}, "an object with the fields none,"),
    ],
)
def test_another_task_is_named_with_the_folders_of_pairs(tmp_path: Path, line: object, message: str) -> None:
    for folder in ("blimp", "other"):
        (tmp_path / folder).mkdir()
    write_lines(tmp_path / "blimp/x.jsonl", LINE)
    path = write_lines(tmp_path / "other/y.jsonl", "", line)
    expected = "expected the fields sentence_good and sentence_bad; give a f"
    other = "name the columns of your pairs with --columns" if "an object" in message else "score BabyLM's tasks"
    other = {"a line of SyntaxGym": "score suites", "a line of Winoground": "score this task"}.get(message, other)
    remedy = rf"{expected}older with only minimal pairs: .*blimp, or {other}"
    with pytest.raises(InputError, match=rf"y\.jsonl:2: {message}.*{remedy}"):
        read_minimal_pairs(tmp_path)
    with pytest.raises(InputError, match=rf"y\.jsonl:2: {message}.*{expected}ile or folder"):
        read_minimal_pairs(path)
    write_lines(tmp_path / "blimp/x.jsonl", LINE, line)
    with pytest.raises(InputError, match=rf"x\.jsonl:2: {message}.*{expected}.*or {other}"):
        read_minimal_pairs(tmp_path / "blimp")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "The fox run.\nThe fox runs.\n",
            "not JSON .*; the file looks like running text, expected one JSON .* with paste - - <",
        ),
        (json.dumps([LINE, LINE]), r"found array; the file looks like JSON that .* with jq -c '\.\[\]'"),
        (json.dumps([LINE], indent=1), r"the file looks like JSON that is not one object per line"),
        (json.dumps({"predictions": [], "items": []}, indent=1), "score SyntaxGym suites with evaluate syntaxgym"),
        ("{\n", r"not JSON \(Input data was truncated\)"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=rf"x\.json:1: .*{message}"):
        read_minimal_pairs(tmp_path / "x.json")


GOOD, BAD = "the owl, and it sings .", 'owl the "sings" .'


@pytest.mark.parametrize(
    ("name", "content", "columns", "paradigm"),
    [
        ("x.csv", f'UID,sentence_good,sentence_bad\nsv,"{GOOD}","owl the ""sings"" ."\n', None, "sv"),
        ("x.tsv", f"nr\tright\twrong\tkind\n1\t{GOOD}\t{BAD}\tsv\n", "right,wrong,kind", "sv"),
        ("x.csv.gz", f'\ufeffnr;right;wrong\r\n1;{GOOD};"owl the ""sings"" ."\r\n', "right,wrong", "x"),
        ("x.csv", f'7,"{GOOD}","owl the ""sings"" .",sv\n', "2,3,4", "sv"),
        ("x.jsonl", json.dumps({"a b": GOOD, "wrong": BAD, "UID": "u", "kind": "sv"}), "a b,wrong,kind", "sv"),
    ],
)
def test_columns_of_a_table_and_fields_with_other_names_are_read(
    tmp_path: Path, name: str, content: str, columns: str | None, paradigm: str
) -> None:
    write_lines(tmp_path / name, content)
    for path in (tmp_path, tmp_path / name):
        (found,) = read_minimal_pairs(path, *[] if columns is None else [columns.split(",")])
        assert (found.good, found.bad, found.paradigm) == (GOOD, BAD, paradigm)


@pytest.mark.parametrize(
    ("name", "content", "columns", "paradigm"),
    [
        ("x.csv", "kind,start,yes,no,set\nsv,the owl ,sings,sing,1\n", "start+yes,start+no,kind+set", "sv 1"),
        ("x.tsv", '"no, no, no," he said\tthe owl sings\tthe owl sing\n', "2,3", "x"),
        ("x.csv", "the owl,sings,sing\nthe dog,runs,run\nthe cats,eat,eats\n", "1+2,1+3", "x"),
        (
            "x.jsonl",
            json.dumps({"start": "the owl", "yes": "sings", "no": "sing", "UID": "u"}),
            "start+yes,start+no",
            "u",
        ),
        ("x.jsonl", json.dumps({"start+yes": "the owl sings", "no": "the owl sing"}), "start+yes,no", "x"),
    ],
)
def test_a_plus_joins_columns_and_tabs_divide_a_tsv_file(
    tmp_path: Path, name: str, content: str, columns: str, paradigm: str
) -> None:
    first = read_minimal_pairs(write_lines(tmp_path / name, content), columns.split(","))[0]
    assert (first.good, first.bad, first.paradigm) == ("the owl sings", "the owl sing", paradigm)


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (
            "start,yes,no\nthe owl,sings,sing\n",
            "start+yes,start+bad",
            "no column bad, expected one of start, yes, no; name",
        ),
        ('{"start": "the owl", "yes": "sings"}\n', "start+yes,start+no", r"x\.csv:1: no is None, expected a string"),
        (
            "item,text,good\n1,a b,1\n1,b a,0\n",
            "sentence_good,sentence_bad",
            "no column .*; if each row has one sentence, make",
        ),
        ("good,bad\na b,b a\n", "sentence_good,sentence_bad", "no column .* good, bad; name .* --columns GOOD,BAD"),
        ("good,bad,bad\na,b,c\n", "good,bad", "two columns bad, expected one"),
        ("good,bad\na b\n", "good,bad", r"x\.csv:2: 1 cells, expected 2"),
        ("good,bad\na b,\n", "good,bad", r"x\.csv:2: bad is empty"),
        ("good,bad\na b,NA\n", "good,bad", r"x\.csv:2: bad is NA, which stands for a missing value, expected text"),
        ("text,label\na b,1\n", "text,label", r"x\.csv:2: label is the number 1, expected a sentence; name"),
        ('{"good": "a", "bad": "b"}\n', "good,bad,kind", r"x\.csv:1: kind is None"),
    ],
)
def test_a_table_without_two_sentences_is_refused(tmp_path: Path, content: str, columns: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_minimal_pairs(write_lines(tmp_path / "x.csv", content), columns.split(","))


def test_tables_next_to_json_lines_and_columns_of_one_name_are_not_taken_for_pairs(tmp_path: Path) -> None:
    write_lines(tmp_path / "x.jsonl", LINE)
    write_lines(tmp_path / "paradigms.tsv", "paradigm\tfield\nsv\tsyntax\n")
    assert len(read_minimal_pairs(tmp_path)) == 1
    for columns in (("good",), ("good", "good"), ("a", "b", "c", "d")):
        with pytest.raises(ConfigError, match="expected two or three different names"):
            MinimalPairConfig(columns=columns)


def test_an_empty_file_among_others_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", LINE)
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(InputError, match=r"b\.jsonl: no minimal pair, .*; remove the file or fetch it again"):
        read_minimal_pairs(tmp_path)


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_a_byte_order_mark_is_no_fault(tmp_path: Path, name: str) -> None:
    text = "\ufeff" + json.dumps(LINE) + "\r\n" + json.dumps(LINE) + "\r\n"
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    pairs = read_minimal_pairs(tmp_path)
    assert [p.good for p in pairs] == [LINE["sentence_good"]] * 2


def test_the_prefix_space_is_put_before_the_text_that_the_tokenizer_gets(tokenizer: Tokenizer) -> None:
    old = Tokenizer(old_form(tokenizer.data))
    scorer = StubScorer(lambda _: -1.0)
    evaluate_minimal_pairs(scorer, old, [pair("a dog .", "dog a .")], prefix="space")
    assert sorted(scorer.asked) == sorted(tuple(old.encode(text)) for text in (" a dog .", " dog a ."))
    assert (
        old.encode(" a dog .") != old.encode("a dog .") == tokenizer.encode(" a dog .") == tokenizer.encode("a dog .")
    )


def test_a_sentence_too_long_for_the_model_is_named_by_file_and_line(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_lines(tmp_path / "x.jsonl", LINE, LINE | {"sentence_bad": "dog " * 30})
    pairs = read_minimal_pairs(tmp_path)
    with pytest.raises(InputError, match=r"x\.jsonl:2: a sentence of \d+ tokens, expected at most 15"):
        evaluate_minimal_pairs(StubScorer(lambda _: -1.0), tokenizer, pairs, max_tokens=15)
