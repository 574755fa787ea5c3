"""Test folders and n-best lists of treebanks: which files are read, in which format, and which are counted."""

import gzip
from pathlib import Path

import pytest

from pipeline.corpus.text.corpus_config import ImportConfig
from pipeline.corpus.text.documents import Document, read_document_table
from pipeline.corpus.trees.import_trees import import_trees
from pipeline.corpus.trees.treebanks import (
    BROKEN_LIST,
    NO_PARSE,
    OTHER_SUFFIX,
    find_trees,
    parse_sections,
    read_n_best,
)
from storage.errors import ConfigError, InputError

PTB = "\n( (S \n    (NP-SBJ (NNP {name}) )\n    (VP (VBZ barks) )\n    (. .) ))\n( (S (VP (VB Go)) (. .)))\n"
S1 = "(S1 (S (NP (NNP {name})) (VP (VBZ barks)) (. .)))\n"
N_BEST = """3 sentence_0
-20.5 -80.1
(S1 (NP (NN worst)))

-10.25 -90.0
(S1 (NP (NN best)))
-10.25 -70.0
(S1 (NP (NN second)))

1\tsentence_1
-5e1
(S1 (NP (NN only)))
0 sentence_2
"""


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return folder


@pytest.fixture
def ptb(tmp_path: Path) -> Path:
    """Write a small treebank in the layout of LDC99T42."""
    wsj = {
        f"parsed/mrg/wsj/{s}/wsj_{s}{n:02}.mrg": PTB.format(name=f"W{s}{n}") for s in ("00", "02", "21") for n in (1, 2)
    }
    others = {
        "README": "Treebank\n",
        "parsed/mrg/readme.txt": "(not a tree\n",
        "parsed/mrg/wsj/02/.wsj_0201.mrg": "x\n",
        "parsed/mrg/wsj/02/wsj_0203.mrg": "",
        "parsed/prd/wsj/02/wsj_0201.prd": "( (S (NP",
        "tagged/pos/wsj/02/wsj_0201.pos": "[ W/NNP ]",
        "raw/wsj/02/wsj_0201": ".START \n\nW barks.\n",
        "parsed/mrg/brown/cf/cf01.mrg.gz": PTB.format(name="Brown"),
        "parsed/mrg/atis/atis3.mrg": "( END_OF_TEXT_UNIT )\n" + PTB.format(name="Atis"),
    }
    return write(tmp_path / "LDC99T42", wsj | others)


def docs(stem: Path) -> list[str]:
    return (stem.parent / (stem.name + ".docs")).read_text().split()


def table(stem: Path) -> list[Document]:
    return read_document_table(stem.parent / (stem.name + ".documents.tsv"))


def test_each_file_of_the_penn_treebank_is_a_document_with_its_section(ptb: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = import_trees([ptb], out, ImportConfig(licence="LDC"))
    assert out.with_suffix(".txt").read_text().split("\n")[:3] == ["Atis barks.", "Go.", "Brown barks."]
    names = ["atis3", "cf01", "wsj_0001", "wsj_0002", "wsj_0201", "wsj_0202", "wsj_2101", "wsj_2102"]
    assert docs(out) == [name for name in names for _ in range(2)]
    assert [row.source for row in table(out)] == [
        "atis",
        "brown/cf",
        *(f"wsj/{s}" for s in ("00", "02", "21") for _ in "12"),
    ]
    assert {row.licence for row in table(out)} == {"LDC"}
    assert (counts["format"], counts["num_files"]) == ("ptb", 8)
    assert (counts["num_trees"], counts["num_kept"]) == (17, 16)
    assert counts["dropped"] == {"mark of the end of a text": 1}
    assert counts["texts"] == {"given": 0, "rebuilt": 16}
    assert counts["passed_over"] == {"empty files": 1, "not trees, by name or beginning": 6}


@pytest.mark.parametrize(("folder", "wanted"), [("", "auto"), ("parsed/mrg", "ptb"), ("parsed/mrg/wsj", "ptb")])
def test_sections_are_found_from_any_folder_of_the_treebank(
    ptb: Path, tmp_path: Path, folder: str, wanted: str
) -> None:
    counts = import_trees([ptb / folder], tmp_path / "out", ImportConfig(format=wanted, sections="02-02,21"))
    assert docs(tmp_path / "out")[::2] == ["wsj_0201", "wsj_0202", "wsj_2101", "wsj_2102"]
    assert counts["passed_over"]["other sections"] >= 2
    assert counts["passed_over"]["empty files"] == 1


def test_sections_without_files_and_of_other_formats_are_refused(ptb: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no wsj file of section 03 in it; looked for files that end in \.mrg"):
        import_trees([ptb], tmp_path / "out", ImportConfig(sections="02-03"))
    with pytest.raises(ConfigError, match=r"--sections chooses files of a folder, but .* is one file"):
        import_trees([ptb / "parsed/mrg/wsj/02/wsj_0201.mrg"], tmp_path / "out", ImportConfig(sections="02"))
    with pytest.raises(ConfigError, match="only ptb has sections"):
        import_trees([ptb], tmp_path / "out", ImportConfig(format="brackets", sections="02"))
    for text in ("", "2-", "21-02", "wsj", "1,,2"):
        with pytest.raises(ConfigError, match="expected numbers and ranges"):
            parse_sections(text)


def test_files_with_other_names_belong_to_the_section_of_their_folder(tmp_path: Path) -> None:
    source = write(tmp_path / "wsj", {f"{s}/{s}.mrg": PTB.format(name="A") for s in ("00", "01", "22")})
    import_trees([source], tmp_path / "out", ImportConfig(format="ptb", sections="22"))
    assert table(tmp_path / "out") == [Document("22", "wsj/22")]


def test_texts_of_a_folder_are_found_by_the_names_of_its_files(ptb: Path, tmp_path: Path) -> None:
    wsj = ptb / "parsed/mrg/wsj"
    texts = write(
        tmp_path / "texts", {"02/wsj_0201.txt": "W021  barks .\nGo.\n", "02/wsj_0202.txt.gz": "W022 barks.\nGo .\n"}
    )
    counts = import_trees([wsj], tmp_path / "out", ImportConfig(text=[texts], sections="02"))
    assert (tmp_path / "out.txt").read_text() == "W021 barks .\nGo.\nW022 barks.\nGo .\n"
    assert counts["texts"] == {"given": 4, "rebuilt": 0}
    with pytest.raises(InputError, match=r"no text of 00/wsj_0001, expected one of wsj_0001\.txt"):
        import_trees([wsj], tmp_path / "out", ImportConfig(text=[texts]))
    with pytest.raises(ConfigError, match="the trees are in a folder, but"):
        import_trees([wsj], tmp_path / "out", ImportConfig(text=[texts / "02/wsj_0201.txt"], sections="02"))


def test_bllip_folders_are_detected_by_the_beginning_of_their_files(tmp_path: Path) -> None:
    source = write(
        tmp_path / "1987",
        {"w7_001/w7_001.000": S1.format(name="A"), "w7_001/w7_001.001": S1.format(name="B") * 2, "index.html": "<p>"},
    )
    counts = import_trees([source], tmp_path / "out", ImportConfig())
    assert docs(tmp_path / "out") == ["w7_001/w7_001.000", "w7_001/w7_001.001", "w7_001/w7_001.001"]
    assert {row.source for row in table(tmp_path / "out")} == {"1987"}
    assert (counts["format"], counts["num_kept"]) == ("bllip", 3)
    assert counts["passed_over"] == {"not trees, by name or beginning": 1}
    assert (tmp_path / "out.mrg").read_text().startswith("(TOP (S (NP (NNP A)) (VP (VBZ barks)) (. .)))\n")


def test_the_best_parse_of_a_list_is_read_and_the_others_are_counted(tmp_path: Path) -> None:
    source = write(tmp_path / "nanc", {"nyt/a.gz": N_BEST, "nyt/b": S1.format(name="B")})
    counts = import_trees([source], tmp_path / "out", ImportConfig(on_error="skip"))
    assert (tmp_path / "out.txt").read_text() == "best\nonly\nB barks.\n"
    assert counts["format"] == "bllip, bllip n-best"
    assert (counts["num_trees"], counts["num_kept"], counts["num_other_parses"]) == (4, 3, 2)
    assert counts["dropped"] == {NO_PARSE: 1}
    with pytest.raises(InputError, match=r"a\.gz:13: no parse in its n-best list"):
        import_trees([source / "nyt/a.gz"], tmp_path / "out", ImportConfig())


@pytest.mark.parametrize(
    "broken",
    [
        "2 x\n-1\n(S1 (NN a))\n",
        "1 x\n-1\n(S1 (NN a))\n-2\n(S1 (NN b))\n",
        "2 7\n-1\n(S1 (NN a))\n",
        "1 x\nscore\n(S1 (NN a))\n",
        "1 x\n-1 -2 -3\n(S1 (NN a))\n",
        "1 x\nnan\n(S1 (NN a))\n",
        "1 x\n(S1 (NN a))\n",
        "1 x\n-1\n",
    ],
)
def test_a_broken_list_does_not_affect_other_lists(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "x"
    good = "1 8\n-1\n(S1 (NN good))\n"
    for before, after in ((good, good), (good, ""), (good * 2, good * 2)):
        path.write_text(before + broken + after)
        found = list(read_n_best(path))
        assert [raw.fault for raw in found if raw.fault] == [BROKEN_LIST]
        assert sum(raw.text == "(S1 (NN good))" for raw in found) == (before + after).count("good")


def test_files_of_brackets_have_certain_suffixes_and_each_is_a_document(tmp_path: Path) -> None:
    tree = "(ROOT (NP (NN {})))\n"
    source = write(
        tmp_path / "bank",
        {
            "b/x.mrg": tree.format("one"),
            "b/x.txt": "one\n",
            "a.PTB.gz": tree.format("two"),
            "c.tree": tree.format("three"),
        },
    )
    counts = import_trees([source], tmp_path / "out", ImportConfig(source_name="mine"))
    assert docs(tmp_path / "out") == ["a", "b/x", "c"]
    assert table(tmp_path / "out") == [Document(name, "mine") for name in ("a", "b/x", "c")]
    assert counts["format"] == "brackets"
    write(source, {"b/x.tree": tree.format("again")})
    with pytest.raises(InputError, match=r"this file and .*b/x\.mrg would both be document 'b/x'"):
        import_trees([source], tmp_path / "out", ImportConfig())


TREE = "(ROOT (NP (NN {})))\n"


@pytest.mark.parametrize("suffix", [".parse", ".psd", ".parsed", ".clean", ".txt", ".penn", ".txt.penn", ".trees"])
@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_files_of_trees_have_many_suffixes(tmp_path: Path, suffix: str, zipped: str) -> None:
    source = write(
        tmp_path / "bank",
        {
            f"b/tale{suffix}{zipped}": TREE.format("one"),
            "train.txt": "(Ann) slept.\nAnd so on.\n",
            "b/notes.TXT": "(see above)\n",
            "b/old.clean": "Mice hide.\n",
            "b/old.parsed": "1\tMice\n",
            "README.md": "#\n",
            "b/README.txt": "A tree:\n\n" + TREE.format("one"),
            ".cache/b/tale.mrg": TREE.format("one"),
        },
    )
    for wanted in ("auto", "brackets"):
        counts = import_trees([source], tmp_path / "out", ImportConfig(format=wanted))
        assert docs(tmp_path / "out") == ["b/tale"]
        assert counts["passed_over"] == {"not trees, by name or beginning": 7}
    texts = write(tmp_path / "texts", {"b/tale.txt": "one\n"})
    assert import_trees([source], tmp_path / "out", ImportConfig(text=[texts]))["texts"] == {"given": 1, "rebuilt": 0}


def test_files_with_any_suffix_are_read_if_the_format_is_given(tmp_path: Path) -> None:
    files = {f"tale{n}{suffix}": TREE.format(n) for n, suffix in enumerate((".fid", ".const", "", ".PSX"))}
    source = write(tmp_path / "bank", files | {"text": "mice hide\n"})
    with pytest.raises(InputError) as caught:
        import_trees([source], tmp_path / "out", ImportConfig())
    for part in (
        "5 files (2 no suffix, 1 ",
        "1 .fid",
        "4 of the files, such as tale0.fid, begin with a tree",
        "--format brackets",
    ):
        assert part in str(caught.value)
    for wanted in ("brackets", "ptb"):
        import_trees([source], tmp_path / "out", ImportConfig(format=wanted))
        assert docs(tmp_path / "out") == [f"tale{n}" for n in range(4)]
    counts = import_trees([source / "tale0.fid", source / "tale2"], tmp_path / "out", ImportConfig())
    assert counts["num_kept"] == 2
    write(source, {"tale4.mrg": TREE.format(4)})
    counts = import_trees([source], tmp_path / "out", ImportConfig())
    assert counts["passed_over"] == {OTHER_SUFFIX: 4, "not trees, by name or beginning": 1}


def test_a_folder_without_trees_is_refused_and_the_error_says_what_was_looked_for(tmp_path: Path) -> None:
    source = write(tmp_path / "bank", {"readme.txt": "hello\n"})
    for wanted, looked_for in (
        ("auto", r"\.brackets.*\(S1"),
        ("ptb", r"\.mrg"),
        ("brackets", r"\.tree"),
        ("bllip", "n-best"),
    ):
        with pytest.raises(InputError, match=rf"no file of trees.*looked for .*{looked_for}"):
            find_trees(source, wanted)
    with pytest.raises(InputError, match="no such file or folder"):
        find_trees(tmp_path / "nowhere")


def test_files_given_with_a_folder_are_documents_too_and_old_files_are_removed(tmp_path: Path) -> None:
    bank = write(tmp_path / "bank", {"a.mrg": "(NP (NN a))\n"})
    single = write(tmp_path, {"single.mrg": "(NP (NN b))\n"}) / "single.mrg"
    import_trees([bank, single], tmp_path / "out", ImportConfig())
    assert docs(tmp_path / "out") == ["a", "single"]
    assert table(tmp_path / "out") == [Document("a", "bank"), Document("single")]
    import_trees([single], tmp_path / "out", ImportConfig())
    assert not (tmp_path / "out.docs").exists()
    assert not (tmp_path / "out.documents.tsv").exists()


def test_given_names_of_documents_are_written_with_their_table(tmp_path: Path) -> None:
    write(tmp_path, {"x.mrg": "(NP (NN a))\n(NP (NN b))\n(NP (NN c))\n", "names": "one\none\ntwo\n"})
    write(tmp_path, {"table.tsv": "document\tsource\tlicence\ntwo\tweb\tCC0\none\tbooks\tCC BY\n"})
    names, rows = [tmp_path / "names"], tmp_path / "table.tsv"
    out = tmp_path / "out"
    import_trees([tmp_path / "x.mrg"], out, ImportConfig(documents=names))
    assert table(out) == [Document("one"), Document("two")]
    import_trees([tmp_path / "x.mrg"], out, ImportConfig(documents=names, document_table=rows, source_name="mine"))
    assert docs(out) == ["one", "one", "two"]
    assert table(out) == [Document("one", "mine", "CC BY"), Document("two", "mine", "CC0")]
    rows.write_text("document\tsource\tlicence\ntwo\tweb\tCC0\n")
    with pytest.raises(InputError, match=r"table\.tsv: no row of document 'one'"):
        import_trees([tmp_path / "x.mrg"], out, ImportConfig(documents=names, document_table=rows))
    with pytest.raises(ConfigError, match="need --documents; give the names of documents"):
        import_trees([tmp_path / "x.mrg"], out, ImportConfig(licence="CC0"))
    with pytest.raises(ConfigError, match="is a document; leave out --documents"):
        import_trees([write(tmp_path / "bank", {"a.mrg": "(NP (NN a))\n"})], out, ImportConfig(documents=names))
    with pytest.raises(ConfigError, match="would be replaced"):
        import_trees(
            [tmp_path / "x.mrg"],
            tmp_path / "new",
            ImportConfig(documents=[write(tmp_path, {"new.docs": ""}) / "new.docs"]),
        )


def test_links_to_folders_are_counted_and_not_followed(tmp_path: Path) -> None:
    write(tmp_path, {"bank/a.mrg": S1.format(name="A"), "other/b.mrg": S1.format(name="B")})
    (tmp_path / "bank/link").symlink_to(tmp_path / "other", target_is_directory=True)
    counts = import_trees([tmp_path / "bank"], tmp_path / "out", ImportConfig())
    assert (counts["num_trees"], counts["passed_over"]) == (1, {"links to folders": 1})
