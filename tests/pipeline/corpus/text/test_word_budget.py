"""Test that records of training words are added up with each text once, and that what is not known stays not known."""

import json
from pathlib import Path

import pytest

from pipeline.corpus.text.documents import words_of_stem
from pipeline.corpus.text.word_budget import (
    RECORD_SUFFIX,
    TrainingText,
    budget,
    budget_for_people,
    not_known,
    parser_not_known,
    read_record,
    record_of_file,
    renamed,
    to_json,
    write_record,
)
from storage.errors import InputError


def text(of: str, part: str, num_words: int | None, **files: int | None) -> TrainingText:
    return TrainingText(of=of, name=part, num_words=num_words, part=part, files=files or {part: num_words})


@pytest.mark.parametrize(
    ("texts", "num_words", "num_not_known"),
    [
        ([], 0, 0),
        ([text("teacher", "a", 10), text("student", "a", 10)], 10, 0),  # the same text
        ([text("tokenizer", "a", 10), text("student", "b", 7)], 17, 0),  # different texts
        ([text("tokenizer", "a", 10), text("student", "part of a", 7, a=10)], 10, 0),  # a part and its whole
        ([text("student", "part of a", 7, a=10)], 7, 0),  # the part alone
        ([text("teacher", "half of a", 5, a=10), text("student", "other half", 5, a=10)], 10, 0),
        # Two texts of one corpus make a chain: the whole of both files counts.
        ([text("tokenizer", "a", 10), text("parser", "b", 4), text("student", "ab", 12, a=10, b=4)], 14, 0),
        ([text("student", "a", 10), not_known("parser", "downloaded", sha256="x")], 10, 1),
        ([not_known("tokenizer", "adopted"), not_known("parser", "downloaded")], 0, 2),
        ([text("student", "part of a", 7, a=None), text("tokenizer", "a", None)], 0, 2),
    ],
)
def test_each_text_counts_once(texts: list[TrainingText], num_words: int, num_not_known: int) -> None:
    for order in (texts, texts[::-1]):
        found = budget(order)
        assert (found.num_words, len(found.not_known)) == (num_words, num_not_known)


def test_a_total_with_something_not_known_says_so() -> None:
    shown = budget_for_people([text("student", "a", 1200), parser_not_known("benepar_en3", sha256="x")])
    assert shown["all together, each text once"] == ("not known: at least 1,200, and the words of parser (benepar_en3)")
    assert "950,000" in shown["parser: benepar_en3"]
    assert "T5" in shown["parser: benepar_en3"]
    assert "950,000" not in str(budget_for_people([parser_not_known("other.pt", sha256="x")]))


def test_a_record_belongs_to_the_bytes_of_its_file(tmp_path: Path) -> None:
    corpus = tmp_path / "a.txt"
    corpus.write_text("Two words.\n\nThree more words.\n")
    made = record_of_file(corpus, "tokenizer")
    assert made.num_words == 5
    write_record(tmp_path / "tokenizer.json", [made, made], sha256="first")
    assert read_record(tmp_path / "tokenizer.json", RECORD_SUFFIX, of="tokenizer", sha256="first") == [made]
    (other,) = read_record(tmp_path / "tokenizer.json", RECORD_SUFFIX, of="tokenizer", sha256="second")
    assert other.num_words is None
    (tmp_path / f"tokenizer.json{RECORD_SUFFIX}").write_text("{")
    with pytest.raises(InputError, match=r"not JSON .* remove it"):
        read_record(tmp_path / "tokenizer.json", RECORD_SUFFIX, of="tokenizer", sha256="first")
    broken = {"sha256": "first", "trained_on": [made.to_json() | {"num_words": "many"}]}
    (tmp_path / f"tokenizer.json{RECORD_SUFFIX}").write_text(json.dumps(broken))
    with pytest.raises(InputError, match="a record of training words: num_words: expected int"):
        read_record(tmp_path / "tokenizer.json", RECORD_SUFFIX, of="tokenizer", sha256="first")


@pytest.mark.parametrize("made_by", ["treebank", "parse", "flat", "an older parse", "sample"])
def test_the_words_of_a_stem_come_from_the_files_that_were_parsed(tmp_path: Path, made_by: str) -> None:
    stem, texts = tmp_path / "train", tmp_path / "train.txt"
    texts.write_text("One two three.\n")
    own = record_of_file(texts, "text").files
    parser = text("parser", "trees", 9)
    records = {
        "parse": {"made_from": {"model": "x"}, "words": {"files": {"raw": 4}, "parser": to_json([parser])}},
        "flat": {"made_from": {"model": "flat"}, "words": {"files": {"raw": 4}, "parser": []}},
        "an older parse": {"made_from": {"model": "x"}},
        "sample": {"made_from": {}, "words": {"teacher": to_json([text("teacher", "gold", 8)])}},
    }
    if made_by in records:
        suffix = ".sample.json" if made_by == "sample" else ".parse.json"
        (tmp_path / f"train{suffix}").write_text(json.dumps(records[made_by]))
    files, others = words_of_stem(stem, texts)
    assert files == ({"raw": 4} if made_by in {"parse", "flat"} else own)
    counts = {"parse": [9], "an older parse": [None], "sample": [8]}
    assert [other.num_words for other in others] == counts.get(made_by, [])


def test_a_dataset_is_renamed_after_the_model_that_is_trained_on_it() -> None:
    found = renamed([text("text", "a", 1), text("tokenizer", "b", 2)], "student")
    assert [each.of for each in found] == ["student", "tokenizer"]
