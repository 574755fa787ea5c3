"""Test that any bytes are read, refused or counted, without other errors. tests/fuzz_trees.py runs for longer."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.dataset.token_trees import align, tree_over_words
from pipeline.corpus.text.text_files import normalise_text
from pipeline.corpus.trees.matching import match_words
from pipeline.corpus.trees.readers import Sentence
from pipeline.corpus.trees.trees import Tree, format_tree, parse_tree
from tests.fuzz_trees import SEEDS, check, check_text
from tests.pipeline.corpus.strategies import sentences, trees

PIECES = st.sampled_from(
    [
        *(
            b"(",
            b")",
            b" ",
            b"\n",
            b"\r\n",
            b"(S ",
            b"(NN a)",
            b"(-NONE- *)",
            b"(. .)",
            b"x",
            b"-LRB-",
            b"--",
            b"-",
            b"=",
        ),
        *(
            b"(-LRB- ()",
            b"(NP *T*-1)",
            b"(ID 1)",
            b"(C 0)",
            b"owl/NN",
            b"(N a-a)",
            b"<S ID=1>",
            b"*x*\n",
            b"/*\n",
            b"(_ __)",
        ),
        *(b"1 x\n", b"-2.5\n", b"(S1 (NN a))\n", b"( END_OF_TEXT_UNIT )\n", b"(NN \xe2\x80\x8b)", b"(NN \xcc\x81)"),
        *(b"\xff", b"\xef\xbb\xbf", b"\x00", b"\x1f\x8b"),
    ]
)
FILES = st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=40).map(b"".join), st.sampled_from(SEEDS))


@settings(max_examples=300)
@given(FILES)
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content)
    check(path)


@settings(max_examples=300)
@given(st.one_of(st.text(), st.text("()SN -=\n\u00a0\u200b")))
def test_any_text_is_a_tree_or_malformed(text: str) -> None:
    check_text(text)


@given(trees())
def test_a_formatted_tree_is_parsed_as_the_same_tree(tree: Tree) -> None:
    assert parse_tree(format_tree(tree)) == tree


@given(trees(), st.text())
def test_words_match_any_text_or_do_not(tree: Tree, text: str) -> None:
    spans = match_words(tree, normalise_text(text))
    assert spans is None or len(spans) == len(tree.words)


@given(sentences(), st.data())
def test_any_tokenisation_of_the_text_is_aligned(sentence: Sentence, data: st.DataObject) -> None:
    size = len(sentence.text)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, size - 1))))) if size else []
    edges = [0, *(cut for cut in cuts if cut < size), size]
    tokens = list(pairwise(edges))
    found = align(sentence.tree.phrases, sentence.spans, tokens)
    assert found.phrases[0] == ("TOP", 0, len(tokens))
    assert all(0 <= start < stop <= len(tokens) for _, start, stop in found.phrases)
    assert len(found.phrases) + found.num_lost <= len(sentence.tree.phrases)
    over_words = tree_over_words(found.phrases, sentence.text, tokens)
    assert parse_tree(format_tree(over_words)) == over_words
