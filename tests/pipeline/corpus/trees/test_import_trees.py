"""Test that imported trees and text are line-aligned and normalised, and never mixed with older files."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.corpus.dataset.build import BuildConfig, build_dataset
from pipeline.corpus.dataset.tokenizer import train_tokenizer
from pipeline.corpus.text.corpus_config import ImportConfig
from pipeline.corpus.text.documents import COMPANION_SUFFIXES
from pipeline.corpus.text.text_files import normalise_text, unescape_brackets
from pipeline.corpus.trees.import_trees import import_trees
from pipeline.corpus.trees.readers import Sentence
from pipeline.corpus.trees.trees import format_tree, normalise_tree, parse_tree
from storage.errors import ConfigError, InputError
from storage.files import beside
from tests.pipeline.corpus.corpora import failing_renames
from tests.pipeline.corpus.strategies import sentences

TREES = """( (S (NP-SBJ-1 (-NONE- *PRO*)) (VP (VB Go) (-LRB- -LRB-) (ADVP (RB home)) (-RRB- -RRB-)) (. .)) )
( (S (NP (-NONE- *))) )
( (NP (NP-TTL (`` ``) (NN caf\u0065\u0301) ('' ''))) )
"""
TEXT = "  Go (home).\nnothing\n\u201ccaf\u0065\u0301\u201d\n"


def write(folder: Path, trees: str = TREES, text: str = TEXT, name: str = "x") -> tuple[Path, Path]:
    (folder / f"{name}.mrg").write_text(trees)
    (folder / f"{name}.txt").write_text(text)
    return folder / f"{name}.mrg", folder / f"{name}.txt"


def test_both_files_have_the_same_sentences_line_by_line(tmp_path: Path) -> None:
    trees, text = write(tmp_path)
    seen: list[int] = []
    counts = import_trees([trees, trees], tmp_path / "new" / "all.v1", ImportConfig(text=[text, text]), seen.append)
    assert counts == {
        "num_trees": 6,
        "num_kept": 4,
        "dropped": {"no words": 2},
        "repaired": {"traces removed": 2},
        "num_files": 2,
        "passed_over": {},
        "format": "brackets",
        "texts": {"given": 4, "rebuilt": 0},
        "num_other_parses": 0,
        "dialects": {},
        "lines_left_out": {},
    }
    assert sum(seen) == 4
    assert (tmp_path / "new" / "all.v1.mrg").read_text() == (
        "(TOP (S (VP (VB Go) (-LRB- -LRB-) (ADVP (RB home)) (-RRB- -RRB-)) (. .)))\n"
        "(TOP (NP (`` \u201c) (NN caf\u00e9) ('' \u201d)))\n" * 2
    )
    assert (tmp_path / "new" / "all.v1.txt").read_text() == "Go (home).\n\u201ccaf\u00e9\u201d\n" * 2
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["all.v1.mrg", "all.v1.txt"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(sentences().filter(lambda s: normalise_text(s.text) == s.text), min_size=1, max_size=3))
def test_importing_an_import_changes_nothing(tmp_path: Path, drawn: list[Sentence]) -> None:
    source = write(tmp_path, "\n".join(format_tree(s.tree) for s in drawn), "\n".join(s.text for s in drawn))
    once, twice = tmp_path / "once", tmp_path / "twice"
    counts = import_trees([source[0]], once, ImportConfig(text=[source[1]]))
    assert (counts["num_trees"], counts["num_kept"]) == (len(drawn), len(drawn))
    assert (counts["dropped"], counts["repaired"]) == ({}, {})
    import_trees([tmp_path / "once.mrg"], twice, ImportConfig(text=[tmp_path / "once.txt"]))
    for suffix in (".mrg", ".txt"):
        assert once.with_suffix(suffix).read_bytes() == twice.with_suffix(suffix).read_bytes()
    lines = (tmp_path / "once.mrg").read_text().split("\n")[:-1]
    for sentence, line in zip(drawn, lines, strict=True):
        tree = parse_tree(line)
        assert tree == normalise_tree(sentence.tree)
        assert "".join(map(unescape_brackets, tree.words)) == unescape_brackets(sentence.text.replace(" ", ""))


def test_a_malformed_tree_leaves_nothing_or_is_counted(tmp_path: Path) -> None:
    trees, text = write(tmp_path, TREES + "( (NP (NN a)\n", TEXT + "a\n")
    with pytest.raises(InputError, match=r"x\.mrg:4: unbalanced"):
        import_trees([trees], tmp_path / "out", ImportConfig(text=[text]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.mrg", "x.txt"]
    counts = import_trees([trees], tmp_path / "out", ImportConfig(text=[text], on_error="skip"))
    assert counts["dropped"] == {"no words": 1, "unbalanced brackets": 1}


class Killed(BaseException):
    """Stands for a kill: nothing but the writer's own clean-up catches it."""


@pytest.mark.parametrize("num_renames", range(4))
def test_a_kill_between_the_renames_leaves_no_pair_that_a_later_command_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_renames: int
) -> None:
    """The new trees have as many lines and documents as the old trees, so only missing files can reveal a mismatch."""
    stem, bank = tmp_path / "out", tmp_path / "bank"
    old = {
        ".mrg": "(NP (NN old))\n",
        ".txt": "old\n",
        ".docs": "d\n",
        ".documents.tsv": "document\tsource\tlicence\nd\t\t\n",
    }
    old |= {suffix: "old" for suffix in COMPANION_SUFFIXES if suffix not in old}
    for suffix, content in old.items():
        beside(stem, suffix).write_text(content)
    bank.mkdir()
    (bank / "new.mrg").write_text("(NP (NN new))\n")
    with failing_renames(monkeypatch, num_renames, Killed()) as done, pytest.raises(Killed):
        import_trees([bank], stem, ImportConfig())
    assert done == ["out.txt", "out.docs", "out.documents.tsv"][:num_renames]
    left = {path.name for path in tmp_path.glob("out.*")}
    assert left == {"out.txt", *done}  # the old text alone, or new files without trees
    config = BuildConfig(train=(stem,), dev=(stem,), tokenizer=tmp_path / "tokenizer.json", out=tmp_path / "dataset")
    train_tokenizer([stem.with_suffix(".txt")], config.tokenizer, vocab_size=300)
    with pytest.raises(InputError, match=r"there is neither out\.mrg nor out\.mrg\.gz, expected one"):
        build_dataset(config)
    import_trees([bank], stem, ImportConfig())
    assert stem.with_suffix(".txt").read_text() == "new\n"
    assert {path.name for path in tmp_path.glob("out.*")} == {"out.mrg", "out.txt", "out.docs", "out.documents.tsv"}


def test_a_failure_while_writing_leaves_the_old_import_as_it_was(tmp_path: Path) -> None:
    trees, text = write(tmp_path)
    import_trees([trees], tmp_path / "out", ImportConfig(text=[text]))
    (tmp_path / "out.parse.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "bad.mrg").write_text("(NP (NN a))\n(NP\n")
    with pytest.raises(InputError, match=r"bad\.mrg:2: unbalanced"):
        import_trees([tmp_path / "bad.mrg"], tmp_path / "out", ImportConfig())
    (tmp_path / "bad.mrg").unlink()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_import_that_keeps_nothing_is_refused(tmp_path: Path) -> None:
    trees, text = write(tmp_path, TREES, "a\nb\nc\n")
    with pytest.raises(InputError, match="no sentence left of 3 trees"):
        import_trees([trees], tmp_path / "out", ImportConfig(text=[text]))
    assert not (tmp_path / "out.mrg").exists()


def test_inputs_are_never_replaced_and_texts_are_as_many_as_sources(tmp_path: Path) -> None:
    trees, text = write(tmp_path)
    with pytest.raises(ConfigError, match="would be replaced"):
        import_trees([trees], tmp_path / "x", ImportConfig(text=[text]))
    assert trees.read_text() == TREES
    with pytest.raises(ConfigError, match="2 texts for 1 sources"):
        import_trees([trees], tmp_path / "out", ImportConfig(text=[text, text]))
    with pytest.raises(ConfigError, match="0 texts for 0 sources"):
        import_trees([], tmp_path / "out", ImportConfig())
