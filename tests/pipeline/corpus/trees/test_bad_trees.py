"""Test that malformed input is refused in one clear line, or counted, and affects no other input."""

import gzip
import tracemalloc
from pathlib import Path

import pytest

from pipeline.corpus.text import text_files as text
from pipeline.corpus.text.corpus_config import ImportConfig
from pipeline.corpus.text.text_files import MAX_LINE_BYTES, read_lines, read_texts
from pipeline.corpus.trees import raw_trees
from pipeline.corpus.trees.import_trees import import_trees
from pipeline.corpus.trees.readers import Counts, looks_like_trees, read_sentences
from storage.errors import InputError

GOOD = "( (S (NP (DT the) (NN dog)) (VP (VBZ barks)) (. .)) )"


def read(path: Path, content: bytes, on_error: str = "skip") -> tuple[list[str], Counts]:
    path.write_bytes(content)
    counts = Counts()
    found = [sentence.text for sentence in read_sentences(path, None, on_error=on_error, counts=counts)]
    assert counts.num_trees == counts.num_kept + counts.dropped.total()
    return found, counts


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("( (S (NN a))", "unbalanced brackets"),
        ("( (S (NN a)))) ", "unbalanced brackets"),
        ("()", "empty tree"),
        ("( (S ) )", "empty tree"),
        ("the dog barks.", "not a tree"),
        ("(S the (NN dog))", "word without a tag"),
        ("(S (NN a)) b", "more than one tree"),
        ("( (S (NN \xff)) )", "not UTF-8"),
    ],
)
def test_a_malformed_tree_stops_with_file_and_line_or_is_counted(tmp_path: Path, broken: str, reason: str) -> None:
    content = f"{GOOD}\n{broken}\n{GOOD}\n".encode("latin-1")
    with pytest.raises(InputError, match=r"x\.mrg:2: ") as caught:
        read(tmp_path / "x.mrg", content, "stop")
    assert "\n" not in str(caught.value)
    found, counts = read(tmp_path / "x.mrg", content)
    assert (found, counts.dropped) == (["the dog barks."] * 2, {reason: 1})


@pytest.mark.parametrize("leaves", ["(-NONE- *T*-1)", "(NN \u200b)", "(NN \u00a0)", "(-NONE- 0) (NN \ufeff\u200d)"])
def test_trees_without_a_visible_word_are_dropped_and_never_stop(tmp_path: Path, leaves: str) -> None:
    found, counts = read(tmp_path / "x.mrg", f"{GOOD}\n( (S {leaves}) )\n{GOOD}\n".encode(), "stop")
    assert (found, counts.dropped) == (["the dog barks."] * 2, {"no words": 1})


def test_words_without_a_visible_character_are_left_out(tmp_path: Path) -> None:
    found, counts = read(tmp_path / "x.mrg", "(S (NN a) (NN \u200b) (NN b\u200d) (NN \u2003))\n".encode(), "stop")
    assert found == ["a b"]
    assert counts.repaired == {"words without a visible character left out": 1}


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ("(NN a)", "a"),
        ("(S (NN a))", "a"),
        (f"(S (NN {'x' * 3000}) (NN {'-LRB-' * 600}))", "x" * 3000 + " " + "(" * 600),
        ("(S (-LRB- -LRB-) (NN x-LRB-s-RRB-) (-RRB- -RRB-))", "(x(s))"),
        ("(S (`` ``) (NN a) ('' \") (`` \u201c) (NN b) ('' ''))", '"a" \u201cb"'),
        ("(S (NN a)\r)", "a"),
    ],
)
def test_odd_trees_are_accepted(tmp_path: Path, tree: str, text: str) -> None:
    found, _ = read(tmp_path / "x.mrg", (tree + "\r\n" + GOOD + "\r\n").encode(), "stop")
    assert found == [text, "the dog barks."]


def test_text_given_as_trees_and_trees_given_as_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("\n(A title)\nThe dog barks.\n" + "It is loud.\n" * 8)
    (tmp_path / "x.mrg").write_text(GOOD + "\n")
    for on_error in ("stop", "skip"):
        with pytest.raises(
            InputError, match=r"x\.txt:3: looks like running text, expected trees in brackets: 'The dog"
        ):
            import_trees([tmp_path / "x.txt"], tmp_path / "out", ImportConfig(on_error=on_error))
        with pytest.raises(InputError, match=r"x\.mrg:1: looks like a tree, expected running text: '\( \(S"):
            import_trees(
                [tmp_path / "x.mrg"], tmp_path / "out", ImportConfig(text=[tmp_path / "x.mrg"], on_error=on_error)
            )


@pytest.mark.parametrize("line", [GOOD, "(S1 (NP (NN a)))", "  (NP (NN a))", "(TOP (S (VP (VB Go))))"])
def test_trees_look_like_trees(line: str) -> None:
    assert looks_like_trees(line)


@pytest.mark.parametrize(
    "line", ["", "(see above)", "((see above))", "(a) or (b)", "He (Ann) left.", "(", GOOD + " x", ":)"]
)
def test_texts_do_not_look_like_trees(line: str) -> None:
    assert not looks_like_trees(line)


def test_text_of_other_sentences_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mrg").write_text(GOOD + "\n" + GOOD + "\n")
    (tmp_path / "x.txt").write_text("the dog barks.\nthe cat sleeps.\n")
    counts = import_trees([tmp_path / "x.mrg"], tmp_path / "out", ImportConfig(text=[tmp_path / "x.txt"]))
    assert counts["dropped"] == {"words are not those of the text": 1}
    (tmp_path / "x.txt").write_text("the dog barks.\n")
    with pytest.raises(InputError, match=r"1 lines \(1 with text\), but .*x\.mrg has 2 trees"):
        import_trees([tmp_path / "x.mrg"], tmp_path / "out", ImportConfig(text=[tmp_path / "x.txt"]))


def test_a_line_of_a_hundred_megabytes_is_refused_and_never_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.mrg.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(f"{GOOD}\n".encode())
        for _ in range(100):
            file.write(b"(NP (NN dog) " * 80_660)
        file.write(f"\n{GOOD}\n".encode())
    tracemalloc.start()
    try:
        counts = Counts()
        found = list(read_sentences(path, None, on_error="skip", counts=counts))
        with pytest.raises(InputError, match=r"x\.mrg\.gz:2: longer than 1048576 characters"):
            list(read_sentences(path, None, on_error="stop", counts=Counts()))
        with pytest.raises(InputError, match=r"x\.mrg\.gz:2: a line longer than 16 MiB"):
            list(read_lines(path))
        assert [line is None for line in read_texts(path, "skip")] == [False, True, False]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(found), counts.dropped) == (2, {"too long": 1})
    assert peak < 5 * MAX_LINE_BYTES


@pytest.mark.parametrize("num_bytes", [9, 10, 11, 29, 30])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_is_whole_up_to_the_limit_including_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int, end: bytes
) -> None:
    monkeypatch.setattr(text, "MAX_LINE_BYTES", 10)
    (tmp_path / "x").write_bytes(b"a\n" + b"x" * num_bytes + end + (b"b" if end else b""))
    found = list(read_lines(tmp_path / "x", "skip"))
    is_whole = num_bytes + len(end) <= 10
    assert [line.text for line in found] == ["a", "x" * num_bytes if is_whole else "", *(["b"] if end else [])]
    assert [line.is_whole for line in found][1] == is_whole


def test_a_tree_over_lines_that_never_ends_does_not_affect_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_trees, "MAX_TREE_CHARACTERS", 200)
    tree = "( (S\n    (NP (NN dog))\n    (VP (VBZ barks))))\n"
    endless = "( (S\n" + "    (NP (NN dog))\n" * 40
    found, counts = read(tmp_path / "x.mrg", (tree + endless + tree).encode())
    assert (found, counts.dropped) == (["dog barks"] * 2, {"too long": 1})
    with pytest.raises(InputError, match=r"x\.mrg:4: longer than"):
        read(tmp_path / "x.mrg", (tree + endless + tree).encode(), "stop")


def test_a_tree_that_never_ends_is_never_in_memory(tmp_path: Path) -> None:
    (tmp_path / "x.mrg").write_text("( (S\n" + "    (NP (NN dog))\n" * 200_000)
    faults = [raw.fault for raw in raw_trees.read_raw_trees(tmp_path / "x.mrg")]
    tracemalloc.start()
    try:  # the second reading, because what is made once is not counted
        assert [raw.fault for raw in raw_trees.read_raw_trees(tmp_path / "x.mrg")] == faults == ["too long"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * raw_trees.MAX_TREE_CHARACTERS
