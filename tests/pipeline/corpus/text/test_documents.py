"""Test that documents stay with their sentences from the treebank to the dataset."""

from pathlib import Path

import pytest

from pipeline.corpus.dataset.build import build_dataset
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.dataset_store import load_dataset
from pipeline.corpus.dataset.tokenizer import train_tokenizer
from pipeline.corpus.text.corpus_config import ImportConfig
from pipeline.corpus.text.documents import Document, read_document_table, read_documents, write_document_table
from pipeline.corpus.trees.import_trees import import_trees
from storage.errors import ConfigError, InputError

TREES = "(S (X go))\n(S (-NONE- *))\n(S (X home))\n(S (X now))\n"
TEXT = "go\n*\nhome\nnow\n"


def write(folder: Path, documents: str) -> dict[str, Path]:
    files = {"trees": folder / "x.mrg", "text": folder / "x.txt", "documents": folder / "names"}
    for file, content in zip(files.values(), (TREES, TEXT, documents), strict=True):
        file.write_text(content)
    return files


def test_the_document_name_of_a_dropped_tree_is_dropped_too(tmp_path: Path) -> None:
    files = write(tmp_path, "a\na\nb\nc\n")
    options = {"text": [files["text"]] * 2, "documents": [files["documents"]] * 2}
    import_trees([files["trees"]] * 2, tmp_path / "out", ImportConfig(**options))
    assert (tmp_path / "out.docs").read_text() == "a\nb\nc\n" * 2
    files["documents"].write_text("a\nb\nb\na\n")
    with pytest.raises(InputError, match="names:1: document 'a' is also the last document of"):
        import_trees([files["trees"]] * 2, tmp_path / "out", ImportConfig(**options))
    # A new import without documents removes the old files.
    import_trees([files["trees"]], tmp_path / "out", ImportConfig(text=[files["text"]]))
    assert not (tmp_path / "out.docs").exists()


def test_a_dataset_numbers_the_documents_of_the_sentences_it_keeps(tmp_path: Path) -> None:
    write(tmp_path, "")
    (tmp_path / "x.docs").write_text("a\nb\na\na\n")
    train_tokenizer([tmp_path / "x.txt"], tmp_path / "tokenizer.json", vocab_size=300)
    stem = tmp_path / "x"
    for name in ("with", "without"):
        build_dataset(
            BuildConfig(train=(stem,), dev=(stem,), tokenizer=tmp_path / "tokenizer.json", out=tmp_path / name)
        )
        split = load_dataset(tmp_path / name).split("train")
        assert split.document_ids.tolist() == ([1, 3, 3] if name == "with" else [0, 0, 0])
        assert split.has_documents == (name == "with")
        (tmp_path / "x.docs").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a\na\nb\n", "3 lines, expected 4"),
        ("a\n\nb\nb\n", "names:2: the line is empty"),
    ],
)
def test_a_malformed_file_of_names_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_documents(write(tmp_path, content)["documents"], num_trees=4)


def test_files_of_names_must_be_as_many_as_sources(tmp_path: Path) -> None:
    files = write(tmp_path, "a\na\nb\nb\n")
    with pytest.raises(ConfigError, match="1 files of documents for 2 sources"):
        import_trees(
            [files["trees"]] * 2,
            tmp_path / "out",
            ImportConfig(text=[files["text"]] * 2, documents=[files["documents"]]),
        )


def test_a_table_of_documents_is_read_as_it_was_written(tmp_path: Path) -> None:
    documents = [Document("a", "childes", "CC BY"), Document("b\tc", licence="public  domain")]
    with (tmp_path / "x.documents.tsv").open("w") as file:
        write_document_table(file, documents)
    assert read_document_table(tmp_path / "x.documents.tsv") == [documents[0], Document("b c", "", "public domain")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.tsv:1: no column document, source, licence"),
        (b"document\tsource\n", "x.tsv:1: no column licence"),
        (b"document\tsource\tlicence\na\tb\n", "x.tsv:2: 2 fields, expected 3"),
        (b"document\tsource\tlicence\n\tb\t\n", "x.tsv:2: no document name"),
        (b"document\tsource\tlicence\na\t\t\na\t\t\n", "x.tsv:3: document 'a' has a second row"),
        (b"document\tsource\tlicence\na\t\xff\t\n", "x.tsv:2: not UTF-8"),
    ],
)
def test_a_malformed_table_of_documents_is_refused_by_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.tsv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_document_table(tmp_path / "x.tsv")
