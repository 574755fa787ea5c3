"""Test the joiners, and that a corpus that is not English is noticed."""

import logging
from pathlib import Path

import pytest

from pipeline.corpus.text.corpus_config import ImportConfig, Joiner
from pipeline.corpus.trees.import_trees import import_trees
from pipeline.corpus.trees.joiners import EnglishCheck
from pipeline.corpus.trees.readers import Counts, read_sentences
from storage.errors import ConfigError

ENGLISH = "The dog that you saw was not in the garden , and they have to look for it by the river ."
OTHERS = {
    "Dutch": "De hond die je zag was niet in de tuin , en ze moeten hem nu bij de rivier zoeken .",
    "German": "Der Hund , den du gesehen hast , war nicht im Garten , und sie suchen ihn nun am Fluss .",
    "Icelandic": "Hundurinn sem þú sást var ekki í garðinum og þau verða að leita að honum við ána .",
    "Spanish": "El perro que viste no estaba en el jardín y ahora lo tienen que buscar junto al río .",
    "Chinese": "你 看到 的 狗 不 在 花园 里 \uff0c 他们 要 去 河边 找 。",
    "Russian": "Собаки , которую ты видел , не было в саду , и теперь её ищут возле реки .",
}


def write_trees(path: Path, sentence: str, times: int = 1) -> Path:
    words = " ".join(f"(X {word})" for word in sentence.split())
    path.write_text(f"(S {words})\n" * times)
    return path


@pytest.mark.parametrize("language", OTHERS)
def test_a_corpus_that_is_not_english_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, language: str
) -> None:
    trees = write_trees(tmp_path / "x.mrg", OTHERS[language], times=3)
    import_trees([trees], tmp_path / "out", ImportConfig())
    assert "does not look like English" in caplog.text
    assert "--joiner" in caplog.text
    caplog.clear()
    import_trees([trees], tmp_path / "out", ImportConfig(joiner="space"))
    import_trees([trees], tmp_path / "given", ImportConfig(text=(tmp_path / "out.txt",)))
    assert not caplog.records


@pytest.mark.parametrize(
    ("words", "is_other"), [("我 爱 北京 。", True), ("ψω δ , x", True), ("A δ β-test run", False)]
)
def test_a_few_words_in_another_script_are_enough(words: str, is_other: bool) -> None:
    check = EnglishCheck()
    check.add(words.split())
    assert check.is_other_language == is_other


@pytest.mark.parametrize("times", [1, 40])
def test_english_is_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture, times: int) -> None:
    with caplog.at_level(logging.WARNING):
        import_trees([write_trees(tmp_path / "x.mrg", ENGLISH, times)], tmp_path / "out", ImportConfig())
        import_trees([write_trees(tmp_path / "y.mrg", "Chapter Two")], tmp_path / "out", ImportConfig())
    assert not caplog.records


@pytest.mark.parametrize(
    ("joiner", "words", "text"),
    [
        ("none", "我 爱 -LRB- 北京 -RRB- 。", "我爱(北京)。"),
        ("none", "2026 年 \uff0c Python", "2026年\uff0cPython"),
        ("space", "l' eau , -LRB- oui -RRB- .", "l' eau , ( oui ) ."),
        ("space", "`` Ja '' , 1\\/2", '" Ja " , 1/2'),
        ("english", "l' eau , -LRB- oui -RRB- .", "l'eau, (oui)."),
    ],
)
def test_joiners_join_the_words(tmp_path: Path, joiner: Joiner, words: str, text: str) -> None:
    summary = import_trees([write_trees(tmp_path / "x.mrg", words)], tmp_path / "out", ImportConfig(joiner=joiner))
    assert (tmp_path / "out.txt").read_text() == text + "\n"
    assert summary["rebuilt_by"] == joiner
    [sentence] = read_sentences(tmp_path / "out.mrg", tmp_path / "out.txt", on_error="stop", counts=Counts())
    assert len(sentence.spans) == len(words.split())


def test_a_joiner_next_to_a_given_text_is_refused(tmp_path: Path) -> None:
    trees = write_trees(tmp_path / "x.mrg", ENGLISH)
    with pytest.raises(ConfigError, match="--joiner none rebuilds texts, but --text gives them"):
        import_trees([trees], tmp_path / "out", ImportConfig(text=(trees,), joiner="none"))


@pytest.mark.parametrize("treebank", ["gum", "craft", "masc"])
def test_real_english_treebanks_are_english(shared_data: Path, treebank: str) -> None:
    check = EnglishCheck()
    for sentence in read_sentences(shared_data / treebank / "dev.mrg", None, on_error="stop", counts=Counts()):
        check.add(sentence.tree.words)
    assert not check.is_other_language
