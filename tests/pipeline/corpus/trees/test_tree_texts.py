"""The text of a tree is found in lines, in CoNLL-U, and in the running text of the Penn Treebank."""

import gzip
from pathlib import Path

import pytest

from pipeline.corpus.text.corpus_config import ImportConfig
from pipeline.corpus.trees.import_trees import import_trees
from pipeline.corpus.trees.treebanks import read_split_list
from storage.errors import ConfigError, InputError

ARTICLE = """( (S (NP-SBJ (NNP Ms.) (NNP Reed)) (VP (MD will) (VP (VB join) (NP (DT the) (NN board)))) (. .)) )
( (S (NP-SBJ (PRP She)) (VP (VBZ lives) (PP (IN in) (NP (DT the) (NNP U.S.)))) (. .)) )
( (S (`` ``) (NP (PRP We)) (VP (VBP agree) (-LRB- -LRB-) (ADVP (RB mostly)) (-RRB- -RRB-)) ('' '') (. .)) )
( (NP (NNS Sales) (: --) (NP (CD 4))) )
"""
SENTENCES = ["Ms. Reed will join the board.", "She lives in the U.S.", '"We agree (mostly)".', "Sales -- 4"]


def article(folder: Path, raw: str, trees: str = ARTICLE, name: str = "wsj_0201") -> dict[str, Path]:
    (folder / "mrg/wsj/02").mkdir(parents=True)
    (folder / "raw/wsj/02").mkdir(parents=True)
    (folder / f"mrg/wsj/02/{name}.mrg").write_text(trees)
    (folder / f"raw/wsj/02/{name}").write_text(".START \n\n" + raw)
    return {"trees": folder / "mrg", "text": folder / "raw"}


def imported(trees: Path, out: Path, **options) -> tuple[list[str], dict]:
    counts = import_trees([trees], out, ImportConfig(**options))
    return out.with_suffix(".txt").read_text().splitlines(), counts


@pytest.mark.parametrize(
    "raw",
    [
        "\n".join(SENTENCES),
        " ".join(SENTENCES),
        'Ms. Reed will\njoin the board. She lives\nin the U.S.\n\n"We agree (mostly)".\n\nSales -- 4\n',
        "A HEADLINE\n\n" + "\n".join(SENTENCES) + "\nThe end.\n",
    ],
    ids=["a sentence a line", "one line", "wrapped lines", "lines without a tree"],
)
def test_the_words_of_the_trees_cut_a_running_text_into_sentences(tmp_path, raw):
    found = article(tmp_path, raw)
    texts, counts = imported(found["trees"], tmp_path / "out", text=(found["text"],))
    assert texts == SENTENCES
    assert counts["texts"] == {"given": 4, "rebuilt": 0}


def test_a_tree_that_is_not_in_the_running_text_is_dropped_alone(tmp_path):
    found = article(tmp_path, "\n".join([SENTENCES[0], "She lives in France.", *SENTENCES[2:]]))
    texts, counts = imported(found["trees"], tmp_path / "out", text=(found["text"],))
    assert texts == [SENTENCES[0], *SENTENCES[2:]]
    assert counts["dropped"] == {"words are not those of the text": 1}


def test_the_text_of_another_document_is_refused(tmp_path):
    found = article(tmp_path, "The market fell.\n")
    with pytest.raises(InputError, match=r"raw/wsj/02/wsj_0201: the words of none of the 4 trees"):
        imported(found["trees"], tmp_path / "out", text=(found["text"],))


def test_a_text_is_found_by_the_end_of_its_path(tmp_path):
    found = article(tmp_path, "\n".join(SENTENCES))
    texts, _ = imported(tmp_path, tmp_path / "out", text=(found["text"],), format="ptb")
    assert texts == SENTENCES  # mrg/wsj/02/wsj_0201 has its text in wsj/02/wsj_0201
    (found["text"] / "wsj/02/wsj_0201").unlink()
    with pytest.raises(
        InputError, match=r"no text of mrg/wsj/02/wsj_0201, expected one of wsj_0201\.txt, wsj_0201\.conllu"
    ):
        imported(tmp_path, tmp_path / "out", text=(found["text"],), format="ptb")


def corpus(folder: Path) -> Path:
    """Write documents as GUM's repository has them: trees over several lines, text in CoNLL-U, a list of splits."""
    (folder / "const").mkdir()
    (folder / "dep").mkdir()
    for name, word in (("GUM_a_one", "Ann"), ("GUM_b_two", "Bob"), ("GENTLE_c", "Cleo")):
        trees = f"(ROOT\n  (S\n    (NP (NNP {word}))\n    (VP (VBZ sings))\n    (. !)))\n\n(ROOT (NP (NN Thanks)))\n"
        (folder / "const" / f"{name}.ptb").write_text(trees)
        texts = (f"{word} sings!", "Thanks")
        rows = "\n".join(f"# sent_id = {i}\n# text = {text}\n1\tx\t_\n" for i, text in enumerate(texts))
        (folder / "dep" / f"{name}.conllu.gz").write_bytes(gzip.compress(f"# newdoc id = {name}\n{rows}".encode()))
    splits = "# Splits\n\nThe standard splits.\n\n## dev\n\n  * GUM_b_two\n\n## train\n\n  * GUM_a_one\n"
    (folder / "splits.md").write_text(splits)
    return folder


@pytest.mark.parametrize(("split", "singer"), [("train", "Ann"), ("dev", "Bob")])
def test_a_list_of_splits_chooses_the_documents(tmp_path, split, singer):
    gum = corpus(tmp_path)
    options = {"text": (gum / "dep",), "split_list": gum / "splits.md", "split": split}
    texts, counts = imported(gum / "const", tmp_path / "out", **options)
    assert texts == [f"{singer} sings!", "Thanks"]
    assert counts["passed_over"] == {"not in the split": 2}


def test_a_list_without_headings_has_one_split(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("# these two\na.mrg\n- b\n\n")
    assert read_split_list(names, "these two") == {"a", "b"}
    names.write_text("a\nb\n")
    assert read_split_list(names, "") == {"a", "b"}
    with pytest.raises(ConfigError, match=r"--split is dev, .* 2 documents have no headings; leave out --split"):
        read_split_list(names, "dev")


def test_wrong_splits_are_refused_in_one_line(tmp_path):
    gum = corpus(tmp_path)
    for split, message in (("", "--split is not given"), ("test", "--split is test, but .* splits are dev, train")):
        with pytest.raises(ConfigError, match=message):
            imported(gum / "const", tmp_path / "out", split_list=gum / "splits.md", split=split)
    with pytest.raises(ConfigError, match="--split without --split-list"):
        imported(gum / "const", tmp_path / "out", split="dev")
    (gum / "const/GUM_b_two.ptb").unlink()
    with pytest.raises(InputError, match=r"no file of trees named GUM_b_two .*\(1 of 1 documents"):
        imported(gum / "const", tmp_path / "out", split_list=gum / "splits.md", split="dev")
    with pytest.raises(ConfigError, match=r"--split-list chooses files of a folder, but .* is one file"):
        imported(gum / "const/GUM_a_one.ptb", tmp_path / "out", split_list=gum / "splits.md", split="dev")
    assert not list(tmp_path.glob("out*"))
