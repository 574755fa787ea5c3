"""Test where a tree ends: brackets decide, and no scrap of a broken tree becomes a tree."""

import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.trees import raw_trees
from pipeline.corpus.trees.raw_trees import COMMENT, DEPENDENCY, LICENCE, REMARK, SGML, read_raw_trees
from pipeline.corpus.trees.readers import Counts, read_sentences
from pipeline.corpus.trees.trees import format_tree, parse_tree
from storage.errors import InputError
from tests.pipeline.corpus.strategies import trees

OWLS, MICE = "(S (NP (NNS owls)) (VP (VBP hoot)))", "(S (NP (NNS mice)) (VP (VBP hide)))"
PRETTY = "({root}\n  (S\n    (NP (NNS owls))\n    (VP (VBP hoot))))\n"
AT_MARGIN = """(ROOT
  (S
    (S
      (NP (NNS owls))
      (VP (VBP hoot)
(, ,)))
(CC and)

    (S
      (NP (NNS mice))
      (VP (VBP hide)))))
"""


def read(path: Path, content: str) -> tuple[list[str], Counts]:
    path.write_bytes(content.encode())
    counts = Counts()
    found = [" ".join(s.tree.words) for s in read_sentences(path, None, on_error="skip", counts=counts)]
    assert counts.num_trees == counts.num_kept + counts.dropped.total()
    return found, counts


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (f"{OWLS} {MICE} {OWLS}", ["owls hoot", "mice hide", "owls hoot"]),
        (f"{OWLS}{MICE}\n{OWLS}\n", ["owls hoot", "mice hide", "owls hoot"]),
        (f"{OWLS} (S (NP (NNS mice))\n   (VP (VBP hide))) {OWLS}\n", ["owls hoot", "mice hide", "owls hoot"]),
        (AT_MARGIN + PRETTY.format(root="ROOT"), ["owls hoot , and mice hide", "owls hoot"]),
        (
            PRETTY.format(root="") + "(FRAG\n  (NP (NNS mice)))\n" + PRETTY.format(root=""),
            ["owls hoot", "mice", "owls hoot"],
        ),
        (re.sub("(?m)^ +", "", AT_MARGIN) + f"(ROOT {OWLS})", ["owls hoot , and mice hide", "owls hoot"]),
        ("(S\n\n(NP (NNS owls))\n \n(VP (VBP hoot)))\n" + MICE, ["owls hoot", "mice hide"]),
        (
            f"{OWLS}\n(S (NP (NNS mice))\n(VP (VBP hide)))\n{OWLS}\n{OWLS}",
            ["owls hoot", "mice hide", *["owls hoot"] * 2],
        ),
        ("(S (NP (-LRB- () (NNS owls) (-RRB- ))) (VP (VBP hoot)))\n" + MICE, ["-LRB- owls -RRB- hoot", "mice hide"]),
    ],
)
def test_a_tree_ends_where_its_brackets_close(tmp_path: Path, content: str, found: list[str], end: str) -> None:
    assert read(tmp_path / "x", content.replace("\n", end)) == (
        found,
        Counts(num_trees=len(found), num_kept=len(found)),
    )


@pytest.mark.parametrize("root", ["", "ROOT", "TOP"])
@pytest.mark.parametrize(
    "broken",
    [
        "({root}\n  (S\n    (NP (NNS voles))\n    (VP (VBP dig)))\n",
        "({root}\n  (S\n    (NP (NNS voles)))\n    (VP (VBP dig))))\n",
        "({root}\n  (S\n    (NP (NNS voles)))))\n    (VP (VBP dig))))\n",
        "({root}\n  (S\n    (NP (NNS voles))\n(VP (VBP dig))\n(. .))\n",
        "({root}\n  (S\n    (NP (NNS voles))))\n    (VP (VBP dig))\n",
        "({root}\n  (S\n    (NP (NNS voles))\n    (VP (VBP dig))) and so\n",
        "({root}\n  (S\n    (NP (NNS voles))\n\n\n    (VP they (VBP dig))))\n",
    ],
)
@pytest.mark.parametrize("num_broken", [1, 2])
def test_no_scrap_of_a_broken_tree_becomes_a_tree(tmp_path: Path, root: str, broken: str, num_broken: int) -> None:
    good = PRETTY.format(root=root)
    for before, after in ((good, good * 2), ("", good), (good, "")):
        found, counts = read(tmp_path / "x", before + broken.format(root=root) * num_broken + after)
        assert (found, counts.dropped.total()) == (["owls hoot"] * (before + after).count("owls"), num_broken)


@pytest.mark.parametrize(
    ("line", "num_found", "num_dropped"),
    [
        (f"{OWLS} (S voles (VP (VBP dig))) {OWLS}", 2, 1),
        (f"{OWLS} {OWLS} (S (NP (NNS voles))", 2, 1),
        (f"(S (NP (NNS voles)) (VP (VBP dig)))) {OWLS}", 1, 1),
        ("(S (NP (NNS voles))) (VP (VBP dig)) (. .)))", 0, 1),
        (f"(ROOT {OWLS}) (ROOT (S (NP (NNS voles)) (ROOT {OWLS})", 2, 1),
        (f"(ROOT {OWLS}) (ROOT (S (NP (NNS voles))))) (ROOT {OWLS})", 2, 1),
    ],
)
def test_trees_and_not_lines_are_counted(tmp_path: Path, line: str, num_found: int, num_dropped: int) -> None:
    other = f"(ROOT {OWLS})" if "ROOT" in line else OWLS
    found, counts = read(tmp_path / "x", f"{other}\n{line}\n{other}\n")
    assert found == ["owls hoot"] * (num_found + 2)
    assert counts.dropped.total() == num_dropped


@given(st.lists(trees(st.sampled_from(["owl", "-LRB-", "'s"])), min_size=1, max_size=4), st.randoms())
def test_white_space_between_brackets_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Any], random: Random
) -> None:
    spaces = [" ", "\n", "\n  ", "\n\n    ", "\r\n\t"]
    path = tmp_path_factory.getbasetemp() / "spread"
    path.write_text("\n".join(re.sub(r" (?=\()", lambda _: random.choice(spaces), format_tree(tree)) for tree in drawn))
    assert [parse_tree(raw.text or "") for raw in read_raw_trees(path)] == drawn


@given(st.lists(trees(st.just("owl")), min_size=1, max_size=3), st.integers(0), st.sampled_from("()"), st.booleans())
def test_pieces_of_broken_files_are_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Any], at: int, bracket: str, is_removed: bool
) -> None:
    """A bracket more or less loses no text: the pieces joined are the file."""
    text = "\n".join(map(format_tree, drawn))
    places = [found.start() for found in re.finditer(re.escape(bracket), text)]
    place = places[at % len(places)]
    text = text[:place] + ("" if is_removed else bracket) + text[place + is_removed :]
    path = tmp_path_factory.getbasetemp() / "broken"
    path.write_text(text)
    pieces = [raw.text or "" for raw in read_raw_trees(path)]
    assert "".join("".join(pieces).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("content", "left_out"),
    [
        (f"*x*x*x*\n*x*  (C) 1901 Nobody *x*\n\n{OWLS}\n", {LICENCE: 2}),
        (f"*****\n* (C) 1901 *\n*****\n{OWLS}\n", {REMARK: 3}),
        (f"#owls\n; owls\n{OWLS}\n=====\n%owls\n", {REMARK: 4}),
        (
            f"Parsing [sent. 1]: x\nSentence skipped: x\n{OWLS}\n\nnsubj(hoot-2, owls-1)\nconj:and(hoot-2', -LRB--3)\n",
            {REMARK: 2, DEPENDENCY: 2},
        ),
        (f"FILENAME: 1)\nAll rights (all) reserved.\n\n{OWLS}\n", {REMARK: 2}),
        (f"<!-- a\nb -->\n{OWLS}\n<!-- c -->", {COMMENT: 3}),
        (f"<DOC>\n<DATE> today\n</DATE>\n<S ID=1>\n{OWLS}\n</S>\n</DOC>\n", {SGML: 6}),
        (f"<HEADER>\nno words\n</HEADER>\n<S ID=1> {OWLS} </S>\n", {SGML: 3}),
        (f"%% Sent 1\n{OWLS}\n", {COMMENT: 1}),
        (f"# sent_id = 4\n{OWLS}\n# text = mice", {COMMENT: 2}),
        (f"/*\nsource (a\n*/\n/~*\nOwls hoot.\n(ID,1)\n*~/\n{OWLS}\n", {COMMENT: 7}),
    ],
)
def test_lines_that_belong_to_no_tree_are_left_out_and_counted(
    tmp_path: Path, content: str, left_out: dict[str, int]
) -> None:
    found, counts = read(tmp_path / "x", content)
    assert (found, dict(counts.dropped), dict(counts.lines_left_out)) == (["owls hoot"], {}, left_out)


@pytest.mark.parametrize(
    "broken",
    [
        "({root} (S (NNS voles)\n(VP (VBP dig))\n(. .))\n",
        "({root} (S (NNS voles)))))\n(VP (VBP dig))\n(. .)\n",
        "({root} (S (NNS voles)\n(VP (VBP dig)\n(. .)))\n",
    ],
)
@pytest.mark.parametrize("root", ["ROOT", ""])
def test_no_scrap_of_a_tree_over_lines_is_kept_if_other_lines_are_trees(tmp_path: Path, root: str, broken: str) -> None:
    good = f"({root} {OWLS})\n"
    found, counts = read(tmp_path / "x", good * 3 + broken.format(root=root) + good * 2)
    assert (found, counts.dropped.total()) == (["owls hoot"] * 5, 1)


def test_a_line_that_begins_as_the_other_trees_do_may_be_a_part_of_a_tree(tmp_path: Path) -> None:
    """If it also seems to end the tree, it is more likely that two trees are broken."""
    wrapped = f"(S {OWLS}\n(CC and)\n{MICE}\n(. .))\n"
    found, counts = read(tmp_path / "x", f"{OWLS}\n{OWLS}\n{wrapped}{MICE}\n")
    assert (found[2], counts.dropped.total()) == ("owls hoot and mice hide .", 0)
    found, counts = read(tmp_path / "x", f"{OWLS}\n{OWLS}\n(S {OWLS}\n{MICE[:-1]}))\n{MICE}\n{OWLS})\n")
    assert (found, counts.dropped.total()) == (["owls hoot", "owls hoot", "mice hide"], 3)


@pytest.mark.parametrize("content", [f"1\t{OWLS}\n\n{OWLS}\n", f"{OWLS}\nso\n\n{OWLS}\n", f";{OWLS}\n{OWLS}\n"])
def test_text_that_is_no_header_is_counted_as_a_broken_tree(tmp_path: Path, content: str) -> None:
    assert read(tmp_path / "x", content)[1].dropped.total() == 1


def test_a_tag_between_trees_ends_a_tree_that_is_open(tmp_path: Path) -> None:
    found, counts = read(tmp_path / "x", f"<S>\n(S (NP (NNS voles)\n</S>\n<S>\n(X {OWLS})\n</S>\n{MICE}\n")
    assert found == ["owls hoot", "mice hide"]
    assert counts.dropped == {"unbalanced brackets": 1}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("<?xml version='1.0'?>\n<corpus>\n", "XML"),
        ("1\tOwls\towl\tNOUN\n2\thoot\thoot\tVERB\n", "CoNLL"),
        ("ID=a.1 PARSER=GOLD NUMPARSE=1\n(<T S[dcl] 0 2> (<L NP NNS NNS owls NP>))\n", "CCGbank"),
        ("PK\x03\x04\x14\x00\n", "an archive"),
        ("owl.mrg\x00\x000644 \x00ustar  \x00\n", "an archive"),
        ("w/1  0  0  Owls  NNS  (TOP(S(NP*)  owl\nw/1  0  1  hoot  VBP  (VP*)))  hoot\n", "CoNLL"),
        ("Owls NNS (S1(S(NP*) (A0*)\nhoot VBP (VP*))) (V*)\n", "CoNLL"),
        ("NT(S)\nNT(NP)\nSHIFT\nREDUCE\n", "an oracle"),
        ('{"parse": "(S (NP (NNS owls)))"}\n', "JSON"),
        ('[\n  "(S (NP (NNS owls)))"\n]\n', "JSON"),
        ("#FORMAT 3\n#BOS 1 1 1\nOwls\tNN\n#EOS 1\n", "NEGRA"),
    ],
)
def test_other_formats_are_refused_by_name(tmp_path: Path, content: str, name: str) -> None:
    (tmp_path / "x").write_text(content)
    with pytest.raises(InputError, match=rf"x:1: this looks like .*{name}"):
        list(read_raw_trees(tmp_path / "x"))


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("[S [NP [NNS owls]]]\n", "expected round ones"),
        ("{S {NNS owls}}\n", "expected round ones"),
        ("*x*x*\n# owls\n", "only a header or comments.*remove this file"),
        ("Owls hoot.\n", "looks like running text"),
    ],
)
def test_a_file_without_trees_is_refused_with_a_remedy(tmp_path: Path, content: str, remedy: str) -> None:
    (tmp_path / "x").write_text(content)
    with pytest.raises(InputError, match=rf"x:1: .*{remedy}"):
        list(read_raw_trees(tmp_path / "x"))


def test_many_open_trees_are_each_looked_at_only_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the trees are open, with a root that is a phrase, so that only the end of the file shows it."""
    seen = 0
    change = raw_trees._change_of_depth

    def counted(text: str) -> int:
        nonlocal seen
        seen += 1
        return change(text)

    monkeypatch.setattr(raw_trees, "_change_of_depth", counted)
    num_trees = 1_500
    content = ("(S\n  (NP (NNS voles))\n  (VP (VBP dig))\n" + "(S\n  (NP (NNS owls))\n  (VP (VBP hoot)))\n") * num_trees
    found, counts = read(tmp_path / "x", content)
    assert (found, counts.dropped) == (["owls hoot"] * num_trees, {"unbalanced brackets": num_trees})
    assert seen < 10 * content.count("\n")


def test_depths_never_matter_after_a_tree_is_given_up(tmp_path: Path) -> None:
    """However many brackets are missing, the trees after it are read."""
    for depth in range(1, 7):
        found, _ = read(tmp_path / "x", "(S\n" + " (NP\n" * depth + "  (NNS voles)\n" + PRETTY.format(root="S") * 2)
        assert found == ["owls hoot"] * 2
