"""Test that every tree becomes a sentence or is counted, and that every fault is reported with file and line."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.text.text_files import OnError, find_file
from pipeline.corpus.trees.raw_trees import RawTree, read_raw_trees
from pipeline.corpus.trees.readers import Counts, Sentence, parse_raw_tree, read_sentences
from pipeline.corpus.trees.trees import format_tree, parse_tree
from storage.errors import InputError

LINES = ["( (S (NP (DT the) (NN dog)) (VP (VBZ barks)) (. .)) )", "( (NP (NN dog)) )", "(ROOT (VB Edit))"]
TEXTS = ["the dog barks.", "dog", "Edit"]
PRETTY = """
( (S
    (NP (DT the) (NN dog))
    (VP (VBZ barks))
    (. .)))

( (NP (NN dog)) )
( (S
    (VP (VB Edit))
))
"""

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(name: str, content: str | bytes) -> Path:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / name

    return to_file


def read(trees: Path, texts: Path, on_error: OnError = "skip") -> tuple[list[Sentence], Counts]:
    counts = Counts()
    found = list(read_sentences(trees, texts, on_error=on_error, counts=counts))
    assert counts.num_trees == counts.num_kept + counts.dropped.total()
    assert counts.num_kept == len(found)
    return found, counts


def test_trees_and_texts_are_paired_plain_and_zipped(write: Write) -> None:
    for trees, texts in (
        (write("a.mrg", "\n".join(LINES)), write("a.txt", "\n".join(TEXTS))),
        (
            write("a.mrg.gz", gzip.compress("\r\n".join(LINES).encode())),
            write("a.txt.gz", gzip.compress("\n".join(TEXTS).encode())),
        ),
        (
            write("b.mrg", PRETTY.replace("(S\n    (VP (VB Edit))\n)", "(VB Edit)")),
            write("b.txt", "\n".join(TEXTS) + "\n"),
        ),
    ):
        found, counts = read(trees, texts, "stop")
        assert [sentence.text for sentence in found] == TEXTS
        assert [format_tree(sentence.tree) for sentence in found] == [
            "(TOP (S (NP (DT the) (NN dog)) (VP (VBZ barks)) (. .)))",
            "(TOP (NP (NN dog)))",
            "(TOP (VB Edit))",
        ]
        assert found[0].spans == [(0, 3), (4, 7), (8, 13), (13, 14)]
        assert counts.to_json() == {"num_trees": 3, "num_kept": 3, "dropped": {}, "repaired": {}}


def test_trees_may_go_over_several_lines(write: Write) -> None:
    unindented = PRETTY.replace("    ", "").replace("(NP (DT the)", "(NP\n(DT the)")
    for content in (PRETTY, PRETTY.replace("\n", "\n  "), unindented, PRETTY * 1500):
        found = list(read_raw_trees(write("p.mrg", content)))[:3]
        assert [raw.line for raw in found] in ([2, 7, 8], [2, 8, 9])
        assert [parse_raw_tree(raw).words for raw in found] == [("the", "dog", "barks", "."), ("dog",), ("Edit",)]


@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_line_breaks_inside_trees_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], random: object
) -> None:
    path = tmp_path_factory.mktemp("spread") / "t.mrg"
    path.write_text(
        "\n".join("".join(c + "\n " if c == " " and random.random() < 0.4 else c for c in line) for line in lines)
    )  # type: ignore[attr-defined]
    assert [parse_raw_tree(raw) for raw in read_raw_trees(path)] == [parse_tree(line) for line in lines]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("( (S (NP (DT the) (NN dog)) (VP (VBZ barks)) (. .))", "unbalanced brackets: 1 not closed"),
        ("( (S (NP (DT the) (NN dog)) (VP (VBZ barks)) (. .))))", "unbalanced brackets: a"),
        ("the dog barks.", "text where a tree was expected: 'the dog barks.'"),
        ("(S (NP the dog))", "the word 'the' has no part of speech"),
        ("(NN a) b", "more than one tree"),
        ("( (NP (NN \xff)) )", "not UTF-8"),
    ],
)
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_broken_line_is_named_or_skipped_and_does_not_affect_other_trees(
    write: Write, broken: str, message: str, at: int
) -> None:
    lines, texts = list(LINES), list(TEXTS)
    lines.insert(at, broken)
    texts.insert(at, "the dog barks.")
    trees = write("x.mrg", "\n".join(lines).encode("latin-1"))
    text = write("x.txt", "\n".join(texts))
    with pytest.raises(InputError, match=rf"x\.mrg:{at + 1}: {message}.*--on-error skip") as caught:
        read(trees, text, "stop")
    assert "\n" not in str(caught.value)
    found, counts = read(trees, text)
    assert [sentence.text for sentence in found] == TEXTS
    assert counts.dropped.total() == 1


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        ("( (S\n    (NP (DT the) (NN dog))\n    (VP (VBZ barks)\n", 2),
        ("( (S\n    (NP (DT the) (NN \xff))\n    (VP (VBZ barks))))\n", 2),
        ("a comment (S (NN owl))\n", 2),
    ],
)
def test_a_broken_tree_over_lines_is_named_or_skipped(write: Write, broken: str, line: int) -> None:
    trees = write("x.mrg", ("\n" + broken + PRETTY).encode("latin-1"))
    text = write("x.txt", "\n".join(["the dog barks", *TEXTS]))
    with pytest.raises(InputError, match=rf"x\.mrg:{line}: "):
        read(trees, text, "stop")
    found, counts = read(trees, text)
    assert [sentence.text for sentence in found] == TEXTS
    assert counts.dropped.total() == 1


def test_two_of_three_lines_may_be_broken(write: Write) -> None:
    trees = write("x.mrg", "( (NP (NN dog)) )\n( (NP (NN dog)\n( (NP (NN dog)\n")
    found, counts = read(trees, write("x.txt", "dog\ndog\ndog\n"))
    assert len(found) == 1
    assert counts.dropped == {"unbalanced brackets": 2}


def test_trees_without_words_or_with_other_words_are_counted_and_never_stop(write: Write) -> None:
    trees = write("x.mrg", "\n".join([*LINES, "( (S (NP (-NONE- *))) )", LINES[0], LINES[1]]))
    texts = write("x.txt", "\n".join([*TEXTS, "nothing", "the cat barks.", ""]) + "\n\n"[:1])
    found, counts = read(trees, texts, "stop")
    assert len(found) == 3
    assert counts.dropped == {"no words": 1, "words are not those of the text": 1, "no text": 1}


def test_repairs_are_counted(write: Write) -> None:
    trees = write(
        "x.mrg",
        "( (S (NP (-NONE- *)) (VP (VB Go)) (SU /)) )\n( (S ( (VP (VB Go))) (. .)) )\n",
    )
    found, counts = read(trees, write("x.txt", "Go\nGo.\n"))
    assert [format_tree(s.tree) for s in found] == ["(TOP (S (VP (VB Go))))", "(TOP (S (VP (VB Go)) (. .)))"]
    assert counts.repaired == {
        "traces removed": 1,
        "markup left out that is not in the text": 1,
        "brackets without a label taken out": 1,
    }


def test_trees_and_text_of_different_length_are_refused(write: Write) -> None:
    trees = write("x.mrg", "\n".join(LINES))
    with pytest.raises(InputError, match=r"x\.txt: 2 lines \(2 with text\), but .*x\.mrg has 3 trees"):
        read(trees, write("x.txt", "\n".join(TEXTS[:2])))
    with pytest.raises(InputError, match="4 lines"):
        read(trees, write("x.txt", "\n".join([*TEXTS, "more"])))


def test_a_broken_tree_is_named_rather_than_the_wrong_number_of_trees(write: Write) -> None:
    trees = write("x.mrg", PRETTY + "( (S\n    (NP (NN dog))))\n    (VP (VBZ barks))))\n")
    texts = write("x.txt", "\n".join([*TEXTS, "dog", "barks"]))
    with pytest.raises(InputError, match=r"x\.mrg:11: unbalanced"):
        read(trees, texts, "stop")
    with pytest.raises(InputError, match=r"but .* has 4 trees"):
        read(trees, texts, "skip")


def test_blank_lines_between_texts_are_skipped(write: Write) -> None:
    trees = write("x.mrg", "\n\n".join(LINES))
    assert len(read(trees, write("x.txt", "\n\n".join(TEXTS) + "\n\n\n"))[0]) == 3
    assert len(read(trees, write("x.txt", "\n".join(TEXTS) + "\n\n"))[0]) == 3


@pytest.mark.parametrize(("text", "num_reads"), [("a\nb\n", 1), ("a\n\nb\n", 2)])
def test_a_treebank_is_read_twice_only_if_its_text_has_blank_lines(write: Write, text: str, num_reads: int) -> None:
    reads: list[Path] = []

    def read(path: Path) -> Iterator[RawTree]:
        reads.append(path)
        yield from read_raw_trees(path)

    trees, texts = write("t.mrg", "(S (NN a))\n(S (NN b))\n"), write("t.txt", text)
    found = list(read_sentences(trees, texts, on_error="stop", counts=Counts(), read=read))
    assert [sentence.text for sentence in found] == ["a", "b"]
    assert len(reads) == num_reads


def test_a_line_without_a_visible_character_is_blank(write: Write) -> None:
    trees = write("x.mrg", "\n".join(LINES))
    found, _ = read(trees, write("x.txt", "the dog barks.\n\u200b \ufeff\ndog\nEdit"))
    assert [sentence.text for sentence in found] == TEXTS


def test_text_that_is_not_utf8_is_named_or_skipped(write: Write) -> None:
    trees = write("x.mrg", "\n".join(LINES))
    texts = write("x.txt", b"the dog barks.\nd\xffg\nEdit\n")
    with pytest.raises(InputError, match=r"x\.txt:2: not UTF-8"):
        read(trees, texts, "stop")
    found, counts = read(trees, texts)
    assert [sentence.text for sentence in found] == ["the dog barks.", "Edit"]
    assert counts.dropped == {"text not UTF-8 or too long": 1}


@pytest.mark.parametrize("content", ["", "\n \n", b"\xef\xbb\xbf"])
def test_files_without_a_tree_are_refused(write: Write, content: str | bytes) -> None:
    with pytest.raises(InputError, match=r"x\.mrg: empty"):
        list(read_raw_trees(write("x.mrg", content)))


def test_trees_nested_two_thousand_deep_are_read(write: Write) -> None:
    deep = "( " + "".join(f"({'SX'[i % 2]} " for i in range(2000)) + "(NN dog)" + ")" * 2001
    found, _ = read(write("x.mrg", deep), write("x.txt", "dog"), "stop")
    assert len(found[0].tree.phrases) == 2001
    spread = deep.replace("(NN", "\n (NN")
    assert read(write("y.mrg", spread), write("x.txt", "dog"), "stop")[0][0].tree == found[0].tree


def test_the_file_of_a_stem_is_plain_or_zipped_but_not_both(write: Write, tmp_path: Path) -> None:
    stem = tmp_path / "gum.v1"
    with pytest.raises(InputError, match=r"neither gum\.v1\.mrg nor gum\.v1\.mrg\.gz.*give the path without \.mrg"):
        find_file(stem, ".mrg")
    zipped = write("gum.v1.mrg.gz", b"")
    assert find_file(stem, ".mrg") == zipped
    write("gum.v1.mrg", "")
    with pytest.raises(InputError, match="there is both"):
        find_file(stem, ".mrg")
