"""Test that cleaned files are line-aligned, every line is counted, and bad input is refused in one line."""

import gzip
import re
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cli
from pipeline.corpus.text import text_files
from pipeline.corpus.text.babylm import BABYLM, SOURCES
from pipeline.corpus.text.cleaning import MAX_WORD_CHARS, OVERLONG_LINE, clean_texts
from pipeline.corpus.text.cleaning_record import CleaningRecord
from pipeline.corpus.text.corpus_config import CleanConfig
from pipeline.corpus.text.documents import read_document_table, read_documents
from pipeline.corpus.text.line_blocks import (
    MAX_LICENCE_LINES,
    with_whole_cues,
    with_whole_notes,
    with_whole_tiers,
    without_licences,
)
from pipeline.corpus.text.sentences import MAX_WORDS
from pipeline.corpus.text.text_files import Line, normalise_text
from storage.errors import ConfigError, InputError, StoreError
from tests.pipeline.corpus.babylm_lookalikes import ASS, RELEASES, write_babylm
from tests.pipeline.corpus.corpora import failing_renames


def cleaned(folder: Path, text: str | bytes, source: str = "plain", **options: Any) -> tuple[dict[str, Any], list[str]]:
    """Clean one file with this content. Return the summary and the sentences."""
    path = folder / f"in/{source}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    summary = clean_texts([path], folder / "out", CleanConfig(source=source, **options))
    return summary, (folder / "out.txt").read_text().splitlines()


def rows(stem: Path) -> list[dict[str, str]]:
    header, *lines = [line.split("\t") for line in stem.with_name(f"{stem.name}.dropped.tsv").read_text().splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


@pytest.mark.parametrize("release", sorted(RELEASES))
def test_lookalikes_of_babylm_give_their_sentences_documents_and_speakers(tmp_path: Path, release: int) -> None:
    pages = write_babylm(tmp_path / "babylm", release=release)
    seen: list[int] = []
    summary = clean_texts([tmp_path / "babylm"], tmp_path / "out", CleanConfig(source="babylm"), seen.append)
    expected = [row for source in sorted(pages) for row in pages[source].rows]
    assert (tmp_path / "out.txt").read_text().splitlines() == [row.text for row in expected]
    assert (tmp_path / "out.docs").read_text().splitlines() == [row.document for row in expected]
    assert (tmp_path / "out.speakers").read_text().splitlines() == [row.speaker for row in expected]
    for source, page in pages.items():
        found: Any = summary["sources"]
        lines = found[source]["lines"]
        assert sum(lines.values()) == found[source]["num_lines"] == len(page.lines)
        assert lines["dropped"] == sum(found[source]["dropped"].values()) == page.num_dropped
        assert lines["blank"] == sum(not line for line in page.lines)
        assert lines["header"] == sum(line.startswith(("= = = ", "_BOOK")) for line in page.lines)
    assert sum(seen) == summary["num_lines"] == sum(len(page.lines) for page in pages.values())
    assert summary["num_sentences"] == len(expected)
    assert summary["num_words"] == sum(len(row.text.split()) for row in expected)
    assert summary["num_speakers"] == len({row.speaker for row in expected} - {"-"})


def test_the_table_has_one_row_for_each_document_of_the_sentences(tmp_path: Path) -> None:
    write_babylm(tmp_path / "babylm", release=2024)
    summary = clean_texts([tmp_path / "babylm"], tmp_path / "out", CleanConfig(source="babylm", licence="mixed"))
    names = read_documents(tmp_path / "out.docs", num_trees=summary["num_sentences"])  # type: ignore[arg-type]
    table = read_document_table(tmp_path / "out.documents.tsv")
    assert [row.document for row in table] == list(dict.fromkeys(names))
    assert len(table) == summary["num_documents"]
    assert {row.source for row in table} == set(RELEASES[2024])
    assert {row.licence for row in table} == {"mixed"}


@pytest.mark.parametrize(
    ("given", "source"), [("", "plain"), ("fairy tales", "fairy tales"), ("a\tb\n", "a b"), ("д 字", "д 字")]
)
def test_documents_come_from_the_source_name_that_is_given(tmp_path: Path, given: str, source: str) -> None:
    cleaned(tmp_path, "One.\n\nTwo.\n", source_name=given)
    assert {row.source for row in read_document_table(tmp_path / "out.documents.tsv")} == {source}
    names = [f"{source}/plain.txt:1", f"{source}/plain.txt:2"]
    assert read_documents(tmp_path / "out.docs", num_trees=2) == names


def test_the_lookalikes_cover_every_source() -> None:
    assert {source for release in RELEASES.values() for source in release} == set(BABYLM)


def test_documents_with_equal_titles_get_different_names(tmp_path: Path) -> None:
    text = "= = = A = = =\nOne.\n\n= = = A = = =\nTwo.\n= = = B = = =\n\nThree.\n"
    _, sentences = cleaned(tmp_path, text, "wikipedia")
    assert sentences == ["One.", "Two.", "Three."]
    assert (tmp_path / "out.docs").read_text().split("\n") == ["wikipedia/A", "wikipedia/A (2)", "wikipedia/B", ""]


def test_files_of_the_same_name_are_different_documents(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "qed.train").write_text("Hello.\n")
    summary = clean_texts([tmp_path / "a", tmp_path / "b"], tmp_path / "out", CleanConfig(source="babylm"))
    assert summary["num_documents"] == 2
    assert (tmp_path / "out.docs").read_text().splitlines() == ["qed/qed.train", "qed/qed.train (2)"]


def test_paragraphs_are_split_and_blank_lines_separate_documents(tmp_path: Path) -> None:
    summary, sentences = cleaned(tmp_path, "A cup. Two cups.\nMore.\n\n\n \u200b\nThe end.\n")
    assert sentences == ["A cup.", "Two cups.", "More.", "The end."]
    assert (tmp_path / "out.docs").read_text().splitlines() == ["plain/plain.txt:1"] * 3 + ["plain/plain.txt:2"]
    assert summary["lines"] == {"text": 3, "blank": 3, "header": 0, "dropped": 0}
    assert not (tmp_path / "out.speakers").exists()


def test_source_sentences_does_not_split_lines(tmp_path: Path) -> None:
    _, sentences = cleaned(tmp_path, "A cup. Two cups.\n  = = = no title = = =\n", "sentences")
    assert sentences == ["A cup. Two cups.", "= = = no title = = ="]


def test_lines_may_end_with_cr_lf_and_files_may_be_gzipped(tmp_path: Path) -> None:
    _, sentences = cleaned(tmp_path, gzip.compress(b"\xef\xbb\xbfOne.\r\n\r\nTwo.\r\n"))
    assert sentences == ["One.", "Two."]


@pytest.mark.parametrize("text", ["", "\n \n\t\n", "\u200b\n\ufeff \u2060\n", "...\n* * *\n"])
def test_a_file_without_a_word_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"plain\.txt: no sentence left of"):
        cleaned(tmp_path, text)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_undecodable_line_stops_or_is_counted(tmp_path: Path) -> None:
    text = b"Good.\nBad \xff.\nGood again.\n"
    with pytest.raises(InputError, match=r"plain\.txt:2: not UTF-8"):
        cleaned(tmp_path, text)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    summary, sentences = cleaned(tmp_path, text, on_error="skip")
    assert sentences == ["Good.", "Good again."]
    assert summary["dropped"] == {"not UTF-8": 1}
    assert [(row["what"], row["line"], row["text"]) for row in rows(tmp_path / "out")] == [
        ("dropped", "2", "Bad \ufffd.")
    ]


def test_an_overlong_line_stops_or_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 64)
    text = "Good.\n" + "no end " * 20 + "\nGood again.\n"
    with pytest.raises(InputError, match=r"plain\.txt:2: a line longer than"):
        cleaned(tmp_path, text)
    summary, sentences = cleaned(tmp_path, text, on_error="skip")
    assert sentences == ["Good.", "Good again."]
    assert summary["dropped"] == {OVERLONG_LINE: 1}


def test_a_word_of_3000_characters_is_left_out_and_counted(tmp_path: Path) -> None:
    summary, sentences = cleaned(tmp_path, f"Good. {'X' * 3000} is long. Better.\n{'y' * 3000}\n")
    assert sentences == ["Good.", "Better."]
    reason = f"a word of over {MAX_WORD_CHARS} characters"
    assert summary["dropped"] == {reason: 1}
    assert summary["repaired"] == {f"sentence left out: {reason}": 1}
    assert all(len(row["text"]) <= 200 for row in rows(tmp_path / "out"))


def test_a_line_of_100_000_words_passes(tmp_path: Path) -> None:
    summary, sentences = cleaned(tmp_path, "no end in sight " * 25_000)
    assert max(len(sentence.split()) for sentence in sentences) <= MAX_WORDS
    assert summary["num_words"] == 100_000


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_long_odd_lines_take_little_time(tmp_path: Path, source: str) -> None:
    odd = (
        "x",
        "xx",
        "= ",
        "[",
        "[[",
        "(",
        "[Illustration: ",
        "*",
        "* a",
        "a=a ",
        "# ",
        "TOM: ",
        "TOM ",
        "OK. TOM: x ",
        "(sighs ",
        "] ",
        "<ref>",
        "&=a",
        "&amp;",
        "- ",
        ". ",
        "'",
        "_a",
        "subtitles ",
        "`` ",
        "1_",
        "{a",
        "(AAAAAA",
        "n ' ",
    )
    text = "".join(f"a {piece * 2000} b\n{piece * 2000}\n" for piece in odd)
    start = time.process_time()
    summary, _ = cleaned(tmp_path, "Hello.\n" + text, source)
    assert summary["num_lines"] == 1 + 2 * len(odd)
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("source", "line"),
    [("wikipedia", "[http://" + "a" * 50_000), ("open_subtitles", "{" + r"\p1" * 50_000)],
    ids=["an address", "codes of drawings"],
)
def test_a_bracket_that_never_closes_takes_time_in_proportion_to_its_line(
    tmp_path: Path, source: str, line: str
) -> None:
    start = time.process_time()
    cleaned(tmp_path, f"Hello.\n{line}\n", source)
    assert time.process_time() - start < 4  # in proportion to the square, it took more than 20 s


def test_only_the_rules_of_open_subtitles_remove_the_frames_of_subtitles(tmp_path: Path) -> None:
    text = "{0}{25}It ran.\n{26}{50}It slept.\n{51}{70}It woke.\n"
    assert cleaned(tmp_path, text, "open_subtitles")[1] == ["It ran.", "It slept.", "It woke."]
    with pytest.raises(InputError, match="looks like subtitles with times"):
        cleaned(tmp_path, text, "sentences")


def test_trees_are_refused(tmp_path: Path) -> None:
    for trees in ("( (S (NP (NN a)) (VP (VB b))) )\n" * 3, "(ROOT\n  (S\n    (NP (NN a))))\n" * 3):
        with pytest.raises(InputError, match=r"plain\.txt: looks like bracketed trees.*import-trees"):
            cleaned(tmp_path, trees)
    _, sentences = cleaned(tmp_path, "(sighs) (laughs)\n(The end (of it).)\n")
    assert len(sentences) == 2


@pytest.mark.parametrize(
    ("text", "sentences", "num_dropped"),
    [
        ("He sat.\n[Illustration: A CAT\n\nON A [BIG] WALL.]\nShe ran.\n", ["He sat.", "She ran."], 3),
        ("He sat. [Illustration:\nA CAT] She ran.\nIt fell.\n", ["He sat.", "She ran.", "It fell."], 1),
        ("[Footnote 1: See\nthe map.]\nShe ran.\n", ["She ran."], 2),
        ("[Illustration: A CAT\n" + "She ran.\n" * 30, ["She ran."] * 30, 1),
        ("[Illustration: A CAT\n[Illustration: A DOG\nON A WALL]\nShe ran.\n", ["She ran."], 3),
        ("[Transcriber's Note: See\nthe map.] She ran.\nIt fell.\n", ["She ran.", "It fell."], 1),
    ],
)
def test_captions_and_notes_may_have_several_lines(
    tmp_path: Path, text: str, sentences: list[str], num_dropped: int
) -> None:
    summary, found = cleaned(tmp_path, text, "gutenberg")
    assert found == sentences
    assert set(summary["dropped"]) <= {"illustration", "note in brackets", "Project Gutenberg notice"}
    assert summary["lines"]["dropped"] == num_dropped
    assert sum(summary["lines"].values()) == text.count("\n")


LICENCES = {  # before a book, and after it
    "of today": (
        "The Project Gutenberg eBook of A Hen\n\nTitle: A Hen\n*** START OF THE PROJECT GUTENBERG EBOOK A HEN ***\n",
        "*** END OF THE PROJECT GUTENBERG EBOOK A HEN ***\n\nIt has terms.\nnewsletter to hear about new eBooks.\n",
    ),
    "of 2008": (
        "Project Gutenberg's A Hen, by Nobody\n\n***START OF THIS PROJECT GUTENBERG EBOOK A HEN***\n",
        "End of Project Gutenberg's A Hen\nTerms.\nArchive, and our newsletter to hear about new eBooks.\n",
    ),
    "of 1993": (
        "**The Project Gutenberg Etext of A Hen**\nTerms.\n*END*THE SMALL PRINT! FOR ETEXTS*Ver.04.29.93*END*\n",
        "",
    ),
}


@pytest.mark.parametrize(("before", "after"), LICENCES.values(), ids=LICENCES)
def test_the_licences_around_a_book_are_left_out(tmp_path: Path, before: str, after: str) -> None:
    text = f"{before}She ran.\nProject Gutenberg's aims are good.\n{after}It fell.\n"
    summary, found = cleaned(tmp_path, text, "gutenberg")
    assert found == ["She ran.", "Project Gutenberg's aims are good.", "It fell."]
    assert set(summary["dropped"]) == {"Project Gutenberg notice"}
    assert sum(summary["lines"].values()) == text.count("\n")


def test_lines_that_continue_a_line_of_chat_are_joined_with_it(tmp_path: Path) -> None:
    text = (
        "@Participants:\tCHI Ann Target_Child,\n\tMOT Mother\n*MOT:\twhere is <the big\n\tbig> [/] cup ?\n"
        "%mor:\tadv|where\n\tn|cup ?\n*CHI:\there .\n\n\tno tier\n"
    )
    summary, found = cleaned(tmp_path, text, "childes")
    assert found == ["where is cup?", "here.", "no tier"]
    assert (tmp_path / "out.speakers").read_text().splitlines() == ["MOT", "CHI", "-"]
    assert summary["lines"] == {"text": 4, "blank": 1, "header": 0, "dropped": 4}


@pytest.mark.parametrize(
    ("text", "found", "dropped"),
    [
        ("7\n00:00:01,000 --> 00:00:02,500\n- Is it\nate?\n- No.\n8\n0:00:03,0 --> 0:00:04,0\n1984 &amp; so.\n", 3, 4),
        ("WEBVTT - x\nKind: a\n\nab-1/2\n00:01.000 --> 00:02.000 line:0%\n<v Ann>Is it <c.red>ate?</c></v>\n", 1, 4),
        ("NOTE x\ny\n\n1\n00:01.0 --> 00:02.0\n(HISSES)\n\nIs it ate?\n", 1, 5),
        ("0:00:01.000,0:00:02.000\nIs it\nate?\n\n0:00:03.000,0:00:04.000\nIs it\n", 2, 2),
        ("[00:00.000 --> 00:02.000]  Is it ate?\n[00:02.000 --> 00:03.000] It is.\n", 2, 0),
        (
            "0:01.0 --> 0:02.0\n \nIs<0:01><c> it</c>\n\n0:02.0 --> 0:02.1\nIs it\n\n0:02.1 --> 0:03.0\nIs it\nate?\n",
            2,
            5,
        ),
        (ASS, 2, 8),
        ("[ti:x]\n[ar:y z]\n[00:01.00]Is it ate?\n[00:02.50][00:04.50] It is.\n[00:03.00]\n", 2, 3),
        ("WEBVTT\n00:01.000 --> 00:02.000\nIs it\nate?\n", 1, 2),
    ],
    ids=[
        "SubRip",
        "WebVTT",
        "WebVTT with a note",
        "SBV",
        "Whisper",
        "automatic captions",
        "ASS and SSA",
        "LRC",
        "no blank line after a header",
    ],
)
def test_subtitles_with_times_give_one_line_for_each_subtitle(
    tmp_path: Path, text: str, found: int, dropped: int
) -> None:
    summary, sentences = cleaned(tmp_path, text + "\n", "open_subtitles")
    assert summary["lines"]["dropped"] == dropped
    assert summary["lines"]["blank"] == text.count("\n\n") + text.count("\n \n") + 1
    assert sum(summary["lines"].values()) == text.count("\n") + 1
    assert " ".join(sentences).startswith("Is it ate?")
    assert len(sentences) == found
    assert set((tmp_path / "out.docs").read_text().splitlines()) == {"open_subtitles/open_subtitles.txt"}


def test_marks_between_texts_begin_documents(tmp_path: Path) -> None:
    text = (
        'One.\n\nTwo.\n<|endoftext|>\n\nThree.<|end_of_text|>\n<|endoftext|>Four.<|endoftext|>"<|endoftext|>" ends.\n'
    )
    _, sentences = cleaned(tmp_path, text)
    assert sentences == ["One.", "Two.", "Three.", 'Four.<|endoftext|>"<|endoftext|>" ends.']
    assert [line[-1] for line in (tmp_path / "out.docs").read_text().splitlines()] == ["1", "1", "2", "3"]
    _, sentences = cleaned(tmp_path, "<|startoftext|>One.<|endoftext|>Two.<|endoftext|>\n", "sentences")
    assert sentences == ["One.", "Two."]


@pytest.mark.parametrize("read", [with_whole_notes, without_licences, with_whole_tiers, with_whole_cues])
def test_lines_are_read_a_bounded_number_of_lines_ahead(read: Any) -> None:
    read_so_far = 0

    def lines() -> Iterator[Line]:
        nonlocal read_so_far
        for number in range(3000):
            read_so_far = number
            text = ("[Footnote", "Project Gutenberg's aims", "*A: hens", "\tand birds")[number % 4]
            yield Line(number, text, is_utf8=True)

    record = CleaningRecord()
    record.begin(Path("a"), "b")
    ahead = [read_so_far - line.number for line in read(lines(), record)]
    assert max(ahead) <= MAX_LICENCE_LINES
    assert read_so_far == 2999


PROSE = (
    "The kettle had been singing for an hour before anyone in the well-kept house thought of taking it from the fire, "
    "and by then there was hardly any water left in it. Nobody said a word about the kettle. The old clock on the wall "
    "struck nine, and the children were sent to bed although it was still light outside and their uncle had only just "
    "begun a long story about a whale."
)


@pytest.mark.parametrize("width", [40, 72, 100])
@pytest.mark.parametrize("indent", ["", "    "])
def test_hard_wrapped_text_is_noticed_and_joined(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, width: int, indent: str
) -> None:
    text = "".join("\n".join(textwrap.wrap(indent + PROSE, width)) + "\n\n" for _ in range(3))
    cleaned(tmp_path, text)
    assert re.search(r"plain\.txt: looks hard-wrapped: \d+ % .* Give --wrapped", caplog.text)
    caplog.clear()
    summary, sentences = cleaned(tmp_path, text, wrapped=True)
    assert not caplog.text
    assert sentences == [*re.split(r"(?<=[.]) ", PROSE)] * 3
    assert summary["num_documents"] == 1
    assert sum(summary["lines"].values()) == text.count("\n")


@pytest.mark.parametrize(
    "text",
    [
        PROSE + "\n\n" + PROSE + "\n" + PROSE + "\n",
        PROSE.replace(". ", ".\n") * 3,
        "The kettle sings beside the door,\nThe kitten rolls upon the floor,\nAnd I shall go to sea no more,\n" * 5,
        "*MOT:\twhere is it?\n*CHI:\tunder the table.\n*MOT:\toh, is it really there?\n" * 5,
        "kettle\nkitten\nclock\nwhale\n" * 5,
        "yes i think so\nwell that was a very long time ago when we were both still young and\noh\ni see\nno no\n" * 5,
    ],
    ids=["paragraphs", "sentences", "verse", "speech", "words", "speech without stops"],
)
def test_text_that_is_not_wrapped_gives_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    cleaned(tmp_path, text)
    assert not caplog.text


def test_a_divided_word_is_joined_as_the_file_writes_it_elsewhere(tmp_path: Path) -> None:
    text = "An example of a whole para-\ngraph with a well-\nknown exam-\nple and half a par\u00ad\nrot and --\nso.\n"
    summary, sentences = cleaned(tmp_path, text, wrapped=True)
    assert sentences == ["An example of a whole para-graph with a well-known example and half a parrot and -- so."]
    assert summary["repaired"] == {"hard-wrapped line joined": 5, "hyphen at a line end removed": 1}


def test_only_plain_text_is_joined_on_request(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--wrapped is given with --source childes, expected --source plain"):
        cleaned(tmp_path, "It ran.\n", "childes", wrapped=True)


def test_an_empty_folder_and_unknown_names_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "babylm"
    folder.mkdir()
    (folder / ".hidden").write_text("x\n")
    with pytest.raises(InputError, match="this folder has no files"):
        clean_texts([folder], tmp_path / "out", CleanConfig(source="babylm"))
    (folder / "bnc_spoken.train").write_text("x\n")
    (folder / "readme.md").write_text("x\n")
    with pytest.raises(InputError, match=r"readme\.md: no source of BabyLM.*aochildes, bnc_spoken, cbt"):
        clean_texts([folder], tmp_path / "out", CleanConfig(source="babylm"))
    with pytest.raises(ConfigError, match="--source novels is unknown; expected babylm or one of"):
        clean_texts([folder], tmp_path / "out", CleanConfig(source="novels"))
    with pytest.raises(InputError, match="nowhere"):
        clean_texts([tmp_path / "nowhere"], tmp_path / "out", CleanConfig(source="plain"))


def test_inputs_are_never_replaced_or_read_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("Hello.\n")
    with pytest.raises(ConfigError, match="would be replaced"):
        clean_texts([path], tmp_path / "x", CleanConfig(source="plain"))
    with pytest.raises(ConfigError, match="given twice"):
        clean_texts([path, path], tmp_path / "out", CleanConfig(source="plain"))


def test_speakers_of_an_earlier_run_are_removed(tmp_path: Path) -> None:
    cleaned(tmp_path, "A:\tHello.\n", "switchboard")
    assert (tmp_path / "out.speakers").read_text() == "A\n"
    cleaned(tmp_path, "Hello.\n", "plain")
    assert not (tmp_path / "out.speakers").exists()


@pytest.mark.parametrize("num_renames", range(4))
def test_a_failure_between_the_renames_leaves_no_text_next_to_older_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_renames: int
) -> None:
    cleaned(tmp_path, "= = = A = = =\n*MOT:\tOld text.\n", "childes")
    with (
        failing_renames(monkeypatch, num_renames, OSError(5, "Input/output error")) as done,
        pytest.raises(StoreError, match="cannot be written: Input/output error"),
    ):
        cleaned(tmp_path, "New text.\n")
    assert done == ["out.docs", "out.documents.tsv", "out.dropped.tsv"][:num_renames]
    assert sorted(path.name for path in tmp_path.glob("out.*")) == sorted(done)
    cleaned(tmp_path, "New text.\n")
    names = ["out.docs", "out.documents.tsv", "out.dropped.tsv", "out.txt"]
    assert sorted(path.name for path in tmp_path.glob("out.*")) == names


def test_examples_are_spread_over_the_file_and_bounded(tmp_path: Path) -> None:
    summary, _ = cleaned(tmp_path, "Hello.\n" + "...\n" * 1000)
    assert summary["dropped"] == {"no letter or digit": 1000}
    found = rows(tmp_path / "out")
    lines = [int(row["line"]) for row in found]
    assert {row["count"] for row in found} == {"1000"}
    assert 10 <= len(lines) <= 20
    assert lines[0] == 2
    assert lines[-1] > 900


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.sampled_from(sorted(SOURCES)),
    st.text(st.sampled_from("aB1 \n\t.,?!()[]<>&'\"=_*-:xw\u2026\u201c|{}@0"), max_size=200),
)
def test_for_any_text_every_line_is_counted_and_every_sentence_is_normalised(
    tmp_path: Path, source: str, text: str
) -> None:
    summary, sentences = cleaned(tmp_path, "Hello there.\n" + text, source)
    lines: Any = summary["lines"]
    assert sum(lines.values()) == summary["num_lines"] == ("Hello there.\n" + text).removesuffix("\n").count("\n") + 1
    assert len(sentences) == summary["num_sentences"] == len((tmp_path / "out.docs").read_text().splitlines())
    assert all(sentence and sentence == normalise_text(sentence) for sentence in sentences)


def test_the_command_prints_the_counts(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("One. Two.\n")
    arguments = ["clean-text", str(tmp_path / "x.txt"), "--source", "plain", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.main, [*arguments, "--licence", "CC0 1.0"])
    assert result.exit_code == 0, result.output
    assert "num_sentences  2" in result.output
    assert (tmp_path / "out.documents.tsv").read_text().endswith("plain/x.txt:1\tplain\tCC0 1.0\n")


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    raw = shared_data / "raw" / "presidents.txt.gz"
    if not raw.is_file():
        pytest.skip("no raw text: the folder of treebanks has no raw/presidents.txt.gz")
    out = tmp_path_factory.mktemp("real") / "out"
    summary = clean_texts([raw], out, CleanConfig(source="plain"))
    return summary, out.with_name("out.txt").read_text().splitlines()


def test_no_word_of_real_text_is_lost(real: tuple[dict[str, Any], list[str]]) -> None:
    summary, sentences = real
    assert summary["num_documents"] == 115
    assert summary["num_words"] == 454_793 == sum(len(sentence.split()) for sentence in sentences)
    assert summary["dropped"] == {}
    assert max(len(sentence.split()) for sentence in sentences) <= MAX_WORDS
