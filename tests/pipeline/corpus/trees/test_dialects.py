"""Test that ids, codes, traces, lemmas and tags never become words, and that plain words are never taken for these."""

import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus.text.corpus_config import ImportConfig
from pipeline.corpus.trees.dialects import HISTORICAL, SLASH_TAGS, read_plain_trees
from pipeline.corpus.trees.import_trees import import_trees
from pipeline.corpus.trees.raw_trees import MASKED, ONLY_CODES, UNCLEAR
from pipeline.corpus.trees.readers import Counts, read_sentences
from storage.errors import InputError


def imported(folder: Path, content: str, suffix: str = ".psd") -> tuple[list[str], dict[str, Any]]:
    path = folder / f"bank{suffix}"
    path.write_text(content)
    counts = import_trees([path], folder / "out", ImportConfig())
    return (folder / "out.txt").read_text().splitlines(), counts


def with_id(sentence: str, number: int = 1) -> str:
    return f"( {sentence}\n  (ID TALE,.{number}))\n\n"


@pytest.mark.parametrize(
    ("leaves", "text"),
    [
        ("(NP-SBJ (N-N ugla-ugla)) (VBPI flaug-fljúga) (. .-.)", "ugla flaug."),
        ("(NP-SBJ (NPR-N Anna-Anna)) (VBPI sá-sjá) (NP (N-N x-ray-x-ray)) (. .-.)", "Anna sá x-ray."),
        ("(NP (N-N sjó-menn-sjómaður) (N-N mús-mús)) (VBPI fóru-fara) (, ,-,) (ADV út-út)", "sjó-menn mús fóru, út"),
        ("(NP (N-N mús$-mús) (D-N $in-hinn)) (VBPI fór-fara) (. .-.)", "músin fór."),
        ("(NP (N-N mús$-mús) (NP *ICH*-1) (D-N $in-hinn)) (VBPI fór-fara) (. .-.)", "músin fór."),
        ("(N-G nátt<dash/>uglu-nátt<dash/>ugla) (NPR Ugla<dash>Ann-ugla) (. .-.)", "nátt-uglu Ugla-Ann."),
    ],
)
def test_words_with_lemmas_are_read_without_them(tmp_path: Path, leaves: str, text: str) -> None:
    for tree in (with_id(f"(IP-MAT {leaves})"), f"( (IP-MAT {leaves} (CP (C 0) (IP-SUB (NP *T*-1)))))\n"):
        texts, counts = imported(tmp_path, tree)
        assert texts == [text]
        assert counts["repaired"]["lemmas left out"] == 1
        assert counts["dialects"] == {HISTORICAL: 1}


@pytest.mark.parametrize(
    ("leaves", "text"),
    [
        ("(NP-SBJ (D The) (N owl)) (VBD saw) (NP-OB1 *T*-2) (. .)", "The owl saw."),
        ("(NP-SBJ *pro*) (VBD saw) (NP (NUM 0) (NS owls)) (CP (WNP-1 0) (C 0) (IP (NP *T*-1)))", "saw 0 owls"),
        ("(CODE <P_3>) (NP (N owl)) (VBD sang) (CODE {COM:not_clear}) (E_S .)", "owl sang."),
        ("(CODE <paren>) (NP (N owl)) (CODE <$$paren>) (VBD sang)", "(owl) sang"),
        ("(NP (P d@) (D @os)) (VBD sang) (P $at) (D $te) (N end)", "dos sang at te end"),
        ("(NP (N owl)) (PP;* (P of) (NP;*SBJ* (N wood))) (AX *) (NP-OB1 *を*) (BIND *SBJ*)", "owl of wood"),
        ("(NP (N (ORTHO owls) (META (CASE n) (LEMMA owl)))) (VBD (ORTHO sang) (META (LEMMA sing)))", "owls sang"),
        ("(META (NP (N owl))) (META (VBD sang)) (PONFP EOS)", "owl sang"),
        ("(NP (N owls) (, ,-,) (N mice)) (VBD sang) (NP (N it) (N too)) (. .-.)", "owls, mice sang it too."),
        ("(NP (N well-known) (N owl)) (VBD sang) (, <dash/>) (NP (NUM $5))", "well-known owl sang\u2014$5"),
    ],
)
def test_ids_codes_and_bare_traces_of_historical_trees_are_no_words(tmp_path: Path, leaves: str, text: str) -> None:
    metadata = "(METADATA (AUTHOR John of Nowhere) (DATE 1402))"
    for tree in (f"(IP-MAT {leaves})", f"{metadata} (IP-MAT {leaves})"):
        for inside in (with_id(tree), f"( (X {tree} (ID TALE,.1)))", f"( {tree} (id TALE))"):
            others = with_id("(CODE <heading>)", 2) + "( (METADATA (AUTHOR John of Nowhere)))\n( (VERSION (HASH 1)))"
            texts, counts = imported(tmp_path, inside + others)
            assert texts == [text]
            assert counts["repaired"]["ids left out"] == 1
            assert counts["dropped"] == {ONLY_CODES: 3}


def test_a_long_word_that_repeats_the_mark_of_split_words_takes_little_time(tmp_path: Path) -> None:
    start = time.process_time()
    imported(tmp_path, f"(IP (N {'a$-' * 20_000}) (VBPI ran))\n", ".mrg")
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("leaves", "text"),
    [
        ("(N mús$) (D $in) (VBPI fór)", "músin fór"),
        ("(N mús$-mús) (D $in-hinn) (VBPI fór-fara)", "músin fór"),
        ("(P n@) (D @o) (N mar)", "no mar"),
    ],
)
def test_marks_of_split_words_show_a_historical_file_without_ids(tmp_path: Path, leaves: str, text: str) -> None:
    texts, counts = imported(tmp_path, f"(IP {leaves})\n", ".mrg")
    assert texts == [text]
    assert counts["dialects"] == {HISTORICAL: 1}


def test_labels_of_historical_trees_keep_no_codes(tmp_path: Path) -> None:
    imported(tmp_path, with_id("(IP-MAT (NP;*SBJ* (N (ORTHO owls) (LEMMA owl))) (VBD sang))"))
    assert (tmp_path / "out.mrg").read_text() == "(TOP (IP (NP (N owls)) (VBD sang)))\n"


@pytest.mark.parametrize(
    ("leaves", "message"),
    [
        ("(N owl_owl) (VBD sang_sing) (. ._.) (N tree_tree)", "'_' inside, as in 'owl_owl'"),
        ("(N owl@owl) (VBD sang@sing) (. .@.) (N tree@tree)", "'@' inside"),
        ("(N owl/owl) (VBD sang/sing) (. ./.) (N tree/tree)", "'/' inside"),
        ("(N 0=owl) (VBD 1=sang) (. 2=.)", r"discontinuous trees \(discbracket\)"),
        ("(N 0) (VBD 2) (N 1)", "numbers in place of words"),
        ("(N owl_owl) (VBD sang_sing)", "'_' inside"),
        ("(N owl_NN) (VBD sang_VBD) (. ._.)", "'_' inside"),
        ("(N owl{owl}) (VBD sang{sing}) (N x{x})", "'{' inside"),
        ("(N owl:N) (VBD sang:V) (. .:.)", "':' inside"),
        (r"(N owl\owl) (VBD sang\sing) (. .\.)", r"'\\\\' inside"),
        ('(N "owl") (VBD "sang") (. ".")', "in quotes or brackets of their own"),
        ("(N [owl]) (VBD [sang]) (. [.])", "in quotes or brackets of their own"),
        ("(owl NN) (sang VBD) (. .)", r"before their tags, as in '\(owl NN\)'"),
    ],
)
def test_leaves_in_an_unknown_form_are_refused_by_name(tmp_path: Path, leaves: str, message: str) -> None:
    with pytest.raises(InputError, match=f"bank.psd: .*{message}.* Write the ") as caught:
        imported(tmp_path, f"(S (NP {leaves}))\n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        "10:30 11:45 1/2",
        "bye-bye bye-bye",
        "-_- >_<",
        "www.owl/a ftp://owl.b/c C++",
        ". . .",
        "TO . . .",
        "0\n0\n0",
        "A_b C_d e_f",
        "a@b.c d@e.f g@h.i",
        "and/or he/she his/her",
    ],
)
def test_a_short_file_of_unusual_words_is_not_refused(tmp_path: Path, words: str) -> None:
    trees = ["(S " + " ".join(f"(X {word})" for word in line.split()) + ")\n" for line in words.split("\n")]
    assert imported(tmp_path, "".join(trees), ".mrg")[1]["num_kept"] == len(trees)


def test_words_with_hyphens_are_no_lemmas(tmp_path: Path) -> None:
    texts, _ = imported(tmp_path, with_id("(IP (N to-day) (ADV well-known) (VBD vn-to))"))
    assert texts == ["to-day well-known vn-to"]


def test_a_file_with_lemmas_in_half_of_its_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="50% of the words look like word-lemma"):
        imported(tmp_path, with_id("(IP (N ugla-ugla) (VBD sang) (N mús-mús) (P út))"))


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("(S (NP the/DT owl/NN) (VP hoots/VBZ) ./.)\n", ["the owl hoots."]),
        ("( (S (NP-SBJ I/PRP) (VP saw/VBD (NP 1/2/CD owls/NNS|NN) (SBAR 0 (S (NP *T*-1))))) )\n", ["I saw 1/2 owls"]),
        (
            "(TOP~hoot~1~1 (S~hoot~2~2 (NPB~owl~2~1 the/DT owl/NN ,/PUNC, ) (VP~hoot~1~1 hoots/VBZ ./PUNC. ) ) ) \n",
            ["the owl, hoots."],
        ),
        ("(S (NP *PRO*/-NONE- ) (VP go/VB))\n", ["go"]),
        ("( (S (NP owls/NNS)\n  (VP hoot/VBP)) )\n( END_OF_TEXT_UNIT )\n( (NP mice/NNS (CC and) rats/NNS) )\n", None),
    ],
)
def test_words_with_tags_after_a_slash_are_read(tmp_path: Path, content: str, texts: list[str] | None) -> None:
    found, counts = imported(tmp_path, content, ".mrg")
    assert found == (texts or ["owls hoot", "mice and rats"])
    assert counts["dialects"][SLASH_TAGS] >= 1
    assert not set("/~") & set((tmp_path / "out.mrg").read_text().replace("1/2", ""))


def test_switchboard_keeps_what_was_said_and_counts_the_rest(tmp_path: Path) -> None:
    content = """*x*x*x*
*x*  (C) 1901  *x*

( (CODE (SYM SpeakerA1) (. .) ))
( (S
    (EDITED (RM (-DFL- \\[) ) (NP-SBJ-UNF (PRP I) ) (, ,) (IP (-DFL- \\+) ))
    (NP-SBJ (PRP we) )
    (RS (-DFL- \\]) )
    (VP (VBD saw) (NP (XX MUMBLEx) ))
    (-DFL- N_S) ))
( (X (XX MUMBLEx) (. .) (-DFL- E_S) ))
( (SYM SpeakerB2) (. .) )
( (INTJ (UH Yes) (. .) (X N_S)) )
"""
    texts, counts = imported(tmp_path, content, ".mrg")
    assert texts == ["I, we saw", "Yes."]
    assert counts["dropped"] == {ONLY_CODES: 2, UNCLEAR: 1}
    assert counts["lines_left_out"] == {"lines of a licence": 2}
    assert counts["repaired"] == {UNCLEAR: 1, "markup left out that is not in the text": 2}


def test_ontonotes_loses_its_slashes_and_percent_signs(tmp_path: Path) -> None:
    content = "(TOP (S (INTJ (UH %um) (UH %Yes)) (NP (XX %pw) (NNS owls)) (VP (VBP hoot)) (: /-) (. /.)))\n"
    texts, counts = imported(tmp_path, content, ".parse")
    assert texts[0].startswith("um Yes owls hoot")
    assert not set("/%") & set(texts[0])
    assert sorted(counts["repaired"]) == [
        "percent signs before hesitations left out",
        "slashes before punctuation left out",
        UNCLEAR,
    ]


def test_ctb_is_read_between_its_tags(tmp_path: Path) -> None:
    tree = "( (IP (NP-SBJ (-NONE- *pro*)) (VP (VV 有) (NP (PU () (NN 猫) (PU ))))) )"
    texts, counts = imported(
        tmp_path, f"<DOC>\n<DOCID> 1 </DOCID>\n<S ID=1>\n{tree}\n</S>\n<S ID=2> {tree} </S>\n", ".fid"
    )
    assert texts == ["有 (猫)"] * 2
    assert counts["lines_left_out"] == {"lines of SGML": 4}


@pytest.mark.parametrize(
    "leaves",
    [
        "(NN 0) (SYM *) (CD 0) (NFP *sigh*) (NN and/or)",
        "(JJ well-known) (NN x-ray) (NN .) (NN owl)",
        "(NN $5) (NN me@home) (NN _) (NN owl) (NN a_b)",
        "($ US$) (CD 5) (NN @ann) (NN @bob) (NN A$) (NN A$)",
        "(ID two) (. /) (UH uh) (NN %) (NN E_S)",
        "(NN *) (-NONE- *T*-1) (NN 0) (CODE owl) (NN <b>)",
    ],
)
def test_words_of_plain_trees_are_never_taken_for_codes(tmp_path: Path, leaves: str) -> None:
    (tmp_path / "x").write_text(f"( (S {leaves}) )\n( (S {leaves} (NN owl)) )\n")
    for raw in read_plain_trees(tmp_path / "x"):
        assert raw.tree is not None
        assert " ".join(f"({tag} {word})" for tag, word in zip(raw.tree.tags, raw.tree.words, strict=True)) == (
            leaves + " (NN owl)" * (raw.line - 1)
        )
        assert (raw.dialect, raw.left_out) == ("", ())


@pytest.mark.parametrize(
    ("words", "is_masked"),
    [
        ("_ _ _", True),
        ("____ ___ .", True),
        ("__ , ___ ! '", True),
        ("\u26d4\u26d4 \u26d4", True),
        ("___ ____ 3 ___ , _", True),
        ("I like ___ .", False),
        ("Dear ____ ____ ,", False),
        ("Name : ________", False),
        ("I am _ _ _ _ .", False),
        (". ! ?", False),
        ("_'_ _-_ __ .", True),
        ("*PRO* __", True),
        ("\u25a1\u25a1 \u2591 .", True),
        ("[removed] .", True),
        ("Xxx xx xxxx .", True),
        ("*** ** .", True),
        ("* * *", False),
        ("***", False),
        ("XXX .", False),
        ("-_- >_<", False),
    ],
)
def test_masked_sentences_are_dropped_and_blanks_to_fill_in_are_kept(
    tmp_path: Path, words: str, is_masked: bool
) -> None:
    tree = "(S " + " ".join(f"(X {word})" for word in words.split()) + ")\n"
    _, counts = imported(tmp_path, tree + "(S (NN owl))\n", ".ptb")
    assert counts["dropped"] == ({MASKED: 1} if is_masked else {})


@pytest.mark.parametrize(
    ("tree", "remedy"),
    [
        (r"(S (NN owl\(s\)))", "write -LRB- and -RRB-"),
        (r"(S (NN owl) (SYM :-\)))", "write -LRB- and -RRB-"),
        (r"(S (NN owl) (SYM \())", "write -LRB- and -RRB-"),
        ("(S (NN owl) (: :())", "write -LRB- and -RRB-"),
        ("(S (NN owl(s)) (VB hoots))", "write -LRB- and -RRB-"),
        ("(S (NN owl) (UH :-)) (VB hoots))", "write -LRB- and -RRB-"),
        ("(S (NN (owl)) (VB (hoots)))", "write words without brackets of their own"),
        ("(S (NN (owl)) (VB hoots))", "the word 'owl' has brackets of its own; write words without"),
        ("(S (NN owl) (. (.)))", "the word '.' has brackets of its own"),
        ("(S (PRP (I)) (VB go))", "the word 'I' has brackets of its own; write words without"),
        ("(S (NP (UH (OK))) (. .))", "the word 'OK' has brackets of its own"),
        ("(S (FOX) (RUNS))", "write words without brackets of their own"),
        ("(S (NNowl) (VB hoots))", "or (NNdog)"),
        ("(S (PRP\u00a0I) (VB go))", "write ordinary spaces"),
        ("(S\u00a0(PRP I)\u00a0(VB go))", "write ordinary spaces"),
        ("(NN\u3000OWL)", "write ordinary spaces"),
        ("(S (NN owl) (LS a)))", "write -LRB- and -RRB-"),
        ("(S (PRP (s)he) (VB hoots))", "write -LRB- and -RRB-"),
        ("(0 S (1 NP (2 NN owl)))", "write labels without numbers"),
        ("(S (NN owl)) ; owl", "remove the text after the tree"),
        ("1\t(S (NN owl))", "remove the text before the first bracket"),
        ("S(NN(owl) VB(hoots))", "write labels inside their brackets"),
        ("(S (NP (DT the DT) (NN owl NN) NP) S)", "write no labels before closing brackets"),
        (r"(ROOT\n  (S (NN owl)\n  (VB hoots)))", r"write a line end in place of each \n"),
        ("(S the owl)", "expected each word with its own tag"),
    ],
)
def test_leaves_that_cannot_be_read_are_refused_with_a_remedy(tmp_path: Path, tree: str, remedy: str) -> None:
    with pytest.raises(InputError) as caught:
        imported(tmp_path, tree + "\n", ".mrg")
    assert "bank.mrg:1: " in str(caught.value)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("leaves", "text"),
    [
        ("(PRP *PRO*) (VB go) (NN *T*-1) (-NONE-) (-NONE- )", "go"),
        ("(-NONE-ABAR-WH- *T*1) (VB go) (-NONE-A-PASS- *) (WP *NULL*) (-NONE-{A1} *-6_[3])", "go"),
        ("(-none- *) (VB go) (NONE 0) (-NONE-1 *T*) (NN *-1)", "go"),
        ("(IN 0) (PRP *pro*) (CD 0) (WP *what*)", "0 *what*"),
        ("(-LRB- -lrb-) (NN owl) ($*LRB* *RRB*) (X #LSB#) (X 1#RSB#)", "(owl) [1]"),
        ("(DT##g=f## the) (NN#3 owl)", "the owl"),
        ("($( ``) (NE Ann) ($( '') ($( () (NN owl) ($( ))", '"Ann" (owl)'),
    ],
)
def test_traces_brackets_and_tags_are_recognised_in_other_spellings(tmp_path: Path, leaves: str, text: str) -> None:
    for tree in ("(S {})\n", "(S1 (S {}))\n"):
        imported(tmp_path, tree.format(leaves) + tree.format("(-NONE- *) (NN owl)"), ".mrg")
        assert (tmp_path / "out.txt").read_text() == f"{text}\nowl\n"
        assert "#" not in (tmp_path / "out.mrg").read_text()


def test_brackets_without_a_word_are_counted(tmp_path: Path) -> None:
    texts, counts = imported(tmp_path, "(S (NP ) (SBAR (S )) (NP (NX )) (NP (NN owl)))\n", ".mrg")
    assert texts == ["owl"]
    assert counts["repaired"] == {"brackets without a word left out": 1}


def test_one_bare_trace_does_not_change_the_words_of_the_other_trees(tmp_path):
    (tmp_path / "trees.mrg").write_text(
        "(S (NP (NN @ann)) (VP (VBD saw) (NP (NN <unk>))))\n(S (NP *) (VP (VB go)))\n"
        + "(S (NP (NN @bob)) (VP (VBD said) (UH *sigh*)))\n" * 3
    )
    counts = Counts()
    found = list(read_sentences(tmp_path / "trees.mrg", None, on_error="stop", counts=counts, read=read_plain_trees))
    assert found[0].tree.words == ("@ann", "saw", "<unk>")
    assert found[2].tree.words == ("@bob", "said", "*sigh*")
    assert found[1].tree.words == ("go",)


def test_a_comment_that_does_not_end_is_refused(tmp_path):
    (tmp_path / "trees.mrg").write_text("(S (NP (NN ann)))\n/* note\n(S (NP (NN bob)))\n")
    with pytest.raises(InputError, match=r"trees\.mrg:2: a comment begins here and does not end"):
        list(read_plain_trees(tmp_path / "trees.mrg"))
