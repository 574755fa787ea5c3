"""Fuzz the readers of trees with a coverage-guided fuzzer. This is a program of its own, which ``make soak`` runs.

    python -m tests.fuzz_trees [-max_total_time=60] [CORPUS_FOLDER]

Without atheris the program prints a message and ends without an error. ``check`` asserts that any bytes are trees, or
raise MalformedTreeError or InputError, and never another error. test_tree_fuzz.py calls ``check`` with examples of
hypothesis.
"""

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from pipeline.corpus.text.text_files import normalise_text
from pipeline.corpus.trees.matching import match_words
from pipeline.corpus.trees.raw_trees import read_raw_trees
from pipeline.corpus.trees.readers import Counts, looks_like_trees, read_sentences
from pipeline.corpus.trees.treebanks import find_trees
from pipeline.corpus.trees.trees import MalformedTreeError, format_tree, normalise_tree, parse_tree
from storage.errors import InputError

SEEDS = (
    b"( (S (NP-SBJ-1 (-NONE- *)) (VP (VB Go) (-LRB- -LRB-) (ADVP (RB home)) (-RRB- -RRB-)) (. .)) )\n(ROOT (VB Go))\n",
    b"( (S\n    (NP (DT the) (NN U.S.))\n    (`` ``) (VP (VBZ is) (RB n't)) ('' '')\n    (. .)))\n",
    b"2 7\n-20.5 -80.1\n(S1 (NP (NN worst)))\n-10.25\n(S1 (NP (NN best)))\n0 8\n",
    b"\xef\xbb\xbf(X (HYPH \xe2\x80\x94) (NN \xff))\r\n",
    b"( (IP-MAT (NP;*SBJ* (N-N ugla$-ugla) (D $in-hinn)) (CODE <P_1>) (C 0) (NP *T*-1) (. .-.))\n  (ID TALE,.1))\n",
    b"/~*\nOwls (x\n*~/\n( (METADATA (AUTHOR A B)) (IP (N (ORTHO owls) (META (LEMMA owl))) (, <dash/>)) (ID 1))\n",
    b"( (S (NP the/DT owl/NN) (VP hoots/VBZ (SBAR 0 *T*-1)) ./.) )\n( END_OF_TEXT_UNIT )\n",
    b"<DOC>\n<DATE> 1\nx\n</DATE>\n<S ID=1> ( (IP (PU () (NN \xe7\x8c\xab) (PU ))) ) </S>\n",
    b"*x*x*\n\n( (CODE (SYM SpeakerA1) (. .) ))\n( (S (EDITED (RM (-DFL- \\[)) (XX MUMBLEx)) (. .) (-DFL- E_S) ))\n",
    b"(TOP (S (UH %um) (XX %pw) (NN owls) (. /.)))\n(S (NN ___) (. .))\n(S (NN a_a) (NN b_b) (NN c_c) (NN d_d))\n",
    b"(ROOT\n  (S (NN a)\n(, ,)))\n(ROOT (S (NN b)) (ROOT (S (NN c)))) (S (NN d)) e\n%% f\n(S (NN (g)) \\(\n",
)


def check(path: Path) -> None:
    """Assert the properties of any file."""
    check_text(path.read_bytes().decode(errors="replace"))
    num_pieces = last = 0
    try:
        for raw in read_raw_trees(path):
            num_pieces += 1
            assert (raw.text is None) == bool(raw.fault)
            assert raw.line >= last
            last = raw.line
    except InputError:
        num_pieces = -1
    for wanted in ("auto", "ptb", "bllip", "brackets"):
        counts = Counts()
        try:
            [file], _ = find_trees(path, wanted)
            for sentence in read_sentences(path, None, on_error="skip", counts=counts, read=file.read):
                assert sentence.text == normalise_text(sentence.text)
                covered = "".join(sentence.text[start:stop] for start, stop in sentence.spans)
                assert covered.replace(" ", "") == sentence.text.replace(" ", "")
        except InputError:
            continue
        assert counts.num_trees == counts.num_kept + counts.dropped.total()
        assert "words are not those of the text" not in counts.dropped
        assert wanted != "brackets" or counts.num_trees == num_pieces


def check_text(text: str) -> None:
    """Assert the properties of any text."""
    looks_like_trees(text)
    try:
        tree = parse_tree(text)
    except MalformedTreeError:
        return
    if all(start < stop for _, start, stop in tree.phrases):  # a Tree does not store the place of an empty phrase
        assert parse_tree(format_tree(tree)) == tree
    try:
        normal = normalise_tree(tree)
    except MalformedTreeError:
        return
    assert normalise_tree(normal) == normal
    assert parse_tree(format_tree(normal)) == normal
    match_words(normal, normalise_text(text))


def main() -> None:
    """Fuzz until the fuzzer is stopped."""
    if find_spec("atheris") is None:
        print("atheris is not installed: trees are not fuzzed. Install it with pip install -e .[dev]")
        return
    import atheris

    with tempfile.TemporaryDirectory() as folder:
        path, seeds = Path(folder) / "input", Path(folder) / "seeds"
        seeds.mkdir()
        for number, seed in enumerate(SEEDS):
            (seeds / str(number)).write_bytes(seed)

        def one(data: bytes) -> None:
            path.write_bytes(data)
            check(path)

        atheris.instrument_all()
        options = ["-max_len=2000", "-timeout=20", f"-artifact_prefix={tempfile.gettempdir()}/fuzz-trees-"]
        atheris.Setup([sys.argv[0], *options, *sys.argv[1:], str(seeds)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
