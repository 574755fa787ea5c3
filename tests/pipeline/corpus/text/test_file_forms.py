"""Test that tables, JSON, markup and trees are recognised, and that no real text is taken for one of them."""

import bz2
import gzip
import lzma
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus.dataset.tokenizer import train_tokenizer
from pipeline.corpus.text.cleaning import clean_texts
from pipeline.corpus.text.corpus_config import CleanConfig
from pipeline.corpus.text.file_forms import form_of, read_head, read_running_text, refuse_unless_text
from pipeline.corpus.text.text_files import Line, read_lines
from storage.errors import ConfigError, InputError


def write(folder: Path, content: str | bytes, name: str = "file.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(path: Path, **options: Any) -> list[tuple[int, str]]:
    return [(line.number, line.text) for line in read_running_text(path, **options)]


TEXTS = {
    "dialogue with commas": '"Oh, there you are," he said.\n"Well, yes, here I am," she said.\n"So, then," he said.\n',
    "one comma per line": "Yes, sir.\nNo, madam.\nWell, perhaps.\nOh, no.\n",
    "spaces before commas": "Yes ,so\nNo no ,but\nWell well ,and\n",
    "verse": "The kettle sings,\nThe kitten swings,\nThe evening brings,\n",
    "quotes": '"Hello."\n"Who is it?"\n"Me, of course."\n',
    "brackets": "[Laughs] Yes.\n[Cries] No.\n{noise} maybe\n",
    "a quotation in a bracket": '["Hello," he said.]\n',
    "footnotes": "[1] See the map.\n[2] See the other map.\n",
    "one tag": "They stopped <br> and went on.\nThe road was long.\n",
    "one element": '<div class="a">They stopped.</div>\nThe road was long.\nIt rained.\n',
    "italics": "<i>Hello there.</i>\n<i>Who is it?</i>\n",
    "marks of transcribers": "<laughter> yes\nno <laughter>\n<laughter>\n",
    "marks of language models": "<s> the <unk> slept </s>\n<s> it ran </s>\n",
    "indents": "\tThe kettle sang. It was late.\n\tThe kitten slept.\n\tNobody came.\n",
    "CHAT": "*MOT:\twhere is it?\n*CHI:\there.\n*MOT:\tyes.\n",
    "Switchboard": "A:\tI grow beans.\nB:\tUh-huh.\nA:\tEvery year.\n",
    "Chinese": "\u732b\u6765,\u72d7\u8d70\n\u72d7\u6765,\u732b\u8d70\n\u4ed6\u6765,\u6211\u8d70\n",
    "an index": "Abbott, Ann, 12\nBell, Tom, 14\nCook, Mary, 15\n",
    "a list of words": "sentence\nphrase\nclause\n",
    "style codes": "{\\an8}Hello.\n{\\i1}Who is it?{\\i0}\n",
    "addresses": "<ann@a.org> wrote: hello\n<http://a.org/b>\n",
    "nothing": "\n\n",
    "numbers of thousands": "1,000 cups\n2,000 cups\n3,000 cups\n",
    "chapters": "Contents\nChapter 1\nChapter 2\nChapter 3\n",
    "numbers at one place": "The first line here\nWe have 3 cats\nThey have 4 cats\nYou have 5 cows\n",
    "verses": "[3:16] For so it was.\n[3:17] And so it is.\n3:18 Then so.\n",
    "a line end of another system": "It ran.\rIt slept.\nSo.\n",
    "a NUL": "It ran.\nThe kitten\0 slept.\n",
    "a title before commas": "The storm\nIt ran, and so on.\nIt slept, and so on.\nIt woke, too.\n",
    "sums": "Some sums today\nadd 3 to 4\nadd 5 to 6\n",
    "a numbered list with commas": "1, It ran.\n2, It slept.\n3, It woke.\n",
    "a time of day": "Monday\n8:30\nIt ran.\n",
    "a line with the name of a part": "Dialogue: 3 cats talk.\nDialogue: 4 cats talk.\n",
    "a heading about results": "# Results on Monday\nIt ran, and so on.\n",
    "descriptions in braces": "{laughs} so: yes\n{sighs} no\n",
    "numbered headings": "# Chapter 1 Hens\nThey ran.\n# Chapter 2 Foxes\nThey slept.\n",
    "words with marks inside": "He/she ran and/or slept.\nIt is 24/7 here.\nThe mother-in-law ran.\n",
    "lines that end like a program": '(They ran.)\n[It slept;]\nIt woke;\n"So,"\nHe said: "Yes."\n',
    "compounds with numbers": "COVID-19 came.\nThe F-16 flew.\n2019-2020 was long.\n",
}
OTHERS = {
    "a JSON array": ('[{"text": "It ran."}]', "jq"),
    "indented JSON": ('{\n  "text": "It ran.",\n  "tags": []\n}\n', "jq"),
    "long indented JSON": ("[\n" + ' {\n  "text": "It ran."\n },\n' * 200 + "{}]", "jq"),
    "JSON arrays in lines": ('["It ran.", 1]\n["It slept.", 2]\n', "jq"),
    "CSV": ('id,text,time\n0,"It ran, then.",301.5\n', "--column NAME"),
    "CSV of quoted cells": ('"","text"\n"1","It ran, then."\n"2","It slept."\n', "--column NAME"),
    "CSV with spaces": ("id, text, time\n1, It ran, 30\n2, It slept, 40\n", "--column NAME"),
    "CSV with semicolons": ("id;text;time\n1;It ran, then.;30,5\n2;It slept.;4,0\n", "--column NAME"),
    "TSV": ("word\tzone\nIt\t1\nran\t2\n", "--column NAME"),
    "TSV without a header": ("17\tIt ran.\n18\tIt slept.\n19\tIt woke.\n", "--column NAME"),
    "vertical bars": ("A1|It ran.|x\nA2|It slept.|x\nA3|It woke.|x\n", "--column NAME"),
    "CoNLL-U": ('# text = It "\n1\tIt\tit\tPRON\n2\t"\t"\tPUNCT\n\n# text = So\n1\tSo\tso\tADV\n', "--column NAME"),
    "words between tags": ("<s>\nIt\tPRP\nran\tVBD\n</s>\n<s>\nSo\tRB\n</s>\n", "--column NAME"),
    "XML": ('<?xml version="1.0"?>\n<a>\nIt ran.\n</a>\n', "extract the text"),
    "XML without a declaration": ('<book>\n<s id="1">It ran.</s>\n<s id="2">It slept.</s>\n</book>\n', "extract"),
    "HTML": ("<!DOCTYPE html>\n<p>It ran.\n", "extract the text"),
    "a fragment of HTML": ("<p>It ran.</p>\n<p>It slept.</p>\n", "extract the text"),
    "marks of paragraphs": ("<p>\nIt ran.\n<p>\nIt slept.\n", "extract the text"),
    "SGML": ("<DOC>\n" + "It ran.\n" * 300 + "</DOC>\n", "extract the text"),
    "TextGrid": ('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\n', "extract the text first"),
    "extracted pages": ('<doc id="1" title="A">\n' + "It ran.\n" * 300 + "</doc>\n", "--json"),
    "a web archive": ("WARC/1.0\r\nWARC-Type: warcinfo\r\n", "extract the text"),
    "a Markdown table": ("| a | b |\n|---|---|\n| It ran | 1 |\n", "leave only the text"),
    "SubRip": ("1\n00:00:01,000 --> 00:00:02,000\nHi.\n\n2\n00:00:03,000 --> 00:00:04,000\nNo.\n", "open_subtitles"),
    "a damaged JSON line": ('{"text": "It ran', "jq"),
    "dictionaries of Python": ("{'text': 'It ran.'}\n{'text': 'It slept.'}\n", "jq"),
    "JSON after keys": ('data: {"text": "It ran."}\n\ndata: {"text": "It slept."}\n', "jq"),
    "CSV without quotes": ("id,text\n1,It ran, then.\n2,It slept.\n3,It, too.\n", "--column NAME"),
    "CSV with wrong quotes": ('id,text\n1,"It \\"ran\\", then."\n2,"It slept."\n3,"No."\n', "--column NAME"),
    "CSV without a header": ("1,It ran.\n2,It slept.\n3,It woke.\n", "--column NAME"),
    "CSV with a comment": ("# made by hand\nword,zone,item\nIt,1,1\nran,2,1\n", "--column NAME"),
    "columns between spaces": ("word rt\nIt 301\nran 290\nthen 288\n", "tabs or commas"),
    "aligned columns": ("word  n  bits\nIt    1   3.2\nran   2  14.0\nthen  3   1.5\n", "tabs or commas"),
    "a table of R": ('"text" "n"\n"1" "It ran." 2\n"2" "It slept." 3\n', "write.csv"),
    "a Markdown table after a heading": ("# Data\n\na | b\n--- | ---\nIt ran | 1\n", "leave only the text"),
    "one subtitle": ("1\n00:00:01,000 --> 00:00:02,000\nHi.\n", "open_subtitles"),
    "Whisper": ("[00:00.000 --> 00:02.000] Hi.\n[00:02.000 --> 00:03.000] No.\n", "open_subtitles"),
    "SBV": ("0:00:01.000,0:00:02.000\nHi.\n\n0:00:03.000,0:00:04.000\nNo.\n", "open_subtitles"),
    "lyrics with times": ("[00:12.00]Hi\n[00:15.00]No\n", "open_subtitles"),
    "lyrics with seconds": ("[00:12]Hi\n[00:15]No\n", "remove the times"),
    "ASS": ("[Script Info]\nTitle: x\n\n[Events]\nDialogue: 0,0:00:01.00,0:00:02.00,A,,0,0,0,,Hi.\n", "open_subtitles"),
    "speakers and times in brackets": ("Speaker 1 (00:02):\nHi.\n\nSpeaker 2 (00:05):\nNo.\n", "names"),
    "speakers in bold": ("**Ann B. Bell (00:02)**\nHi.\n\n**Bo (01:02:05)**\nNo.\n", "names"),
    "times after a colon": ("Ann: (00:02)\nHi.\n\nBo: (12:05)\nNo.\n", "names"),
    "speakers before times and text": ("Ann [1:02:03]: Hi.\nO'Dea [1:02:05]: No.\n", "names"),
    "times before speakers": ("0:02 Ann: Hi.\n0:05 Bo B: No.\n", "names"),
    "speakers apart from times": ("Ann  0:02\nHi.\n\nBo Bell  1:00:05\nNo.\n", "names"),
    "front matter in YAML": ("---\ntitle: Hens\ntags:\n - hens\n---\n\nIt ran.\n", "sed -E '1,/^(---|[+]{3})/d'"),
    "front matter in TOML": ('+++\ntitle = "Hens"\n+++\nIt ran.\n', "sed -E '1,/^(---|[+]{3})/d'"),
    "a mailbox": ("From ann@a.org Mon Jan  1 10:15:00 2024\nFrom: Ann <ann@a.org>\n\nIt ran.\n", "the headers"),
    "an e-mail": ("Message-ID: <1.2@a.org>\nDate: Mon, 14 May\nFrom: a@b.org\nSubject:\n\nIt ran.\n", "the headers"),
    "a message of Usenet": ("From: a@b.org (Ann)\nSubject: Re: hens\nLines: 3\n\nIt ran.\n", "the headers"),
    "numbers of verses": ("1:1 It ran.\n1:2 It slept.\n[1:3] So.\nGenesis 1:4 No.\n" * 2, "sed -E 's/^[^:]*:"),
    "MicroDVD": ("{0}{25}Hi.\n{26}{50}No.\n{51}{70}So.\n", "open_subtitles"),
    "LaTeX": ("\\documentclass{book}\n\\begin{document}\nIt ran.\n", "extract the text"),
    "Git LFS": ("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git lfs pull"),
    "CR": ("id,text\r1,It ran.\r2,It slept.\r", "line ends"),
    "CSV after a title": ("My pilot\nword,zone,item\nIt,1,1\nran,2,1\n", "--column NAME"),
    "TSV after a title": ("My pilot\ntext\tzone\nIt ran.\t1\nIt slept.\t2\n", "--column NAME"),
    "columns of whole numbers": ("word zone time who\nIt 1 301 s01\nran 2 290 s01\n", "tabs or commas"),
    "a printed data frame": ("   word  time\n0    It   301\n1   ran   290\n", "tabs or commas"),
    "Ibex": ("#\n# Results on Monday\n# 1. Time.\n15,Form,age,31\n15,Dash,0,It,301,7\n15,Ask,Yes\n", "begin with #"),
    "dialogues of films": ("L1 +++$+++ u0 +++$+++ Ann +++$+++ It ran.\nL2 +++$+++ u2 +++$+++ Bo +++$+++ No.\n", "sed"),
    "words with entities": (
        "-DOCSTART- -X- -X- O\n\nAnn NNP B-NP B-PER\nran VBD B-VP O\n. . O O\n" * 3,
        "only the words",
    ),
    "a tag on each line": ("The/DT\nhen/NN\nran/VBD\n\n" * 3, "only the words"),
    "speakers with times": ("# a.sph\n" + "3.76 5.54 A: it ran\n\n5.82 6.48 B: no\n\n" * 5, "cut"),
    "speakers with sexes": ("talk 1 Ann_B 0.00 5.10 <o,f0,female> it ran\n" * 9, "cut"),
    "names of recordings": ("84-12-0000 IT RAN\n84-12-0001 NO\n84-12-0002 SO IT SLEPT\n" * 3, "cut"),
    "recordings with times": ("sw1A-a-0001 0.0 0.9 um\nsw1A-a-0002 0.9 1.5 yes\nsw1A-a-0003 1.5 2.1 so\n" * 3, "cut"),
    "tags after slashes": (
        "\tThe/at hen/nn ran/vbd ./.\n\n\t``/`` No/rb ,/, so/rb ''/''\n\tIt/pp ran/vbd ./.\n" * 3,
        "tags",
    ),
    "tags after underscores": ("The_DT hen_NN ran_VBD ._.\nNo_UH ,_, it_PRP ran_VBD\nIt_PRP ran_VBD ._.\n" * 3, "tags"),
    "a script of Ibex": (
        'var items = [\n  ["a", "Dash", {s: "It ran."}],\n  ["b", "Dash", {s: "No."}],\n];\n' * 3,
        "only",
    ),
    "stimuli of jsPsych": ('all = [\n  {\n    "item": 1,\n    "sentence": "It ran."\n  },\n];\n' * 3, "only the text"),
    "items of Linger": (
        "# gp 1 amb\nIt ran@ fast.\n? Did it run? Y\n\n# gp 1 una\nIt@ ran.\n? Did it? Y\n",
        "every @",
    ),
    "messages with dates": ("1/24/26, 10:15 AM - Ann: Hi.\n1/24/26, 10:16 AM - Bo: No.\n", "remove the times"),
    "messages with dates after times": ("[10:15, 1/24/26] Ann: Hi.\n[10:16 AM, 1/24/26] Bo: No.\n", "remove the times"),
    "two subtitles of MicroDVD": ("{0}{25}Hi.\n{26}{50}No.\n", "open_subtitles"),
    "a log": ("2026-01-24 10:15:02 INFO it ran\n2026-01-24 10:15:03 INFO it slept\n", "remove the times"),
    "a chat": ("[10:15] <ann> hi\n[10:16] <bo> no\n[10:18] <ann> so\n", "remove the times"),
    "a chapter of LaTeX": ("% !TEX root = a.tex\n\\section{Hens}\nThey \\emph{ran}.\n", "extract the text"),
    "trees": ("(TOP (S (NP it) (VP ran)))\n", "import-trees"),
}


@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS)
def test_text_is_text(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, content)
    assert list(read_running_text(path)) == list(read_lines(path))
    refuse_unless_text(path)


@pytest.mark.parametrize(("content", "remedy"), OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("is_zipped", [False, True])
def test_what_is_not_text_is_refused_with_a_remedy(tmp_path: Path, content: str, remedy: str, is_zipped: bool) -> None:
    data = b"\xef\xbb\xbf" + content.encode()
    path = write(tmp_path, gzip.compress(data) if is_zipped else data)
    with pytest.raises(InputError, match=rf"file\.txt: looks like .*, expected running text; .*{re.escape(remedy)}"):
        list(read_running_text(path))
    with pytest.raises(InputError, match=r"looks like .*, expected running text; "):
        refuse_unless_text(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"PAR1\x15\x04\x15\xff\n", "a Parquet file"),
        (b"PK\x03\x04\x14\x00\xff\n", "a ZIP archive"),
        (bz2.compress(b"It ran.\n"), "compressed, but not by gzip"),
        (lzma.compress(b"It ran.\n"), "compressed, but not by gzip"),
        ("It ran.\n".encode("utf-16"), "UTF-16"),
        ("It ran.\n".encode("utf-16-le"), "UTF-16"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "a binary file"),
        (b"it.txt" + b"\0" * 94 + b"0000644\0", "a binary file"),
        (b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", "a PDF document"),
        (b"{\\rtf1\\ansi It ran.}\n", "an RTF document"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path: Path, content: bytes, found: str) -> None:
    for read in (refuse_unless_text, texts):
        with pytest.raises(InputError, match=rf"looks like .*{re.escape(found)}"):
            read(write(tmp_path, content))


def test_real_text_is_text_wherever_it_begins(shared_data: Path) -> None:
    for path in [*(shared_data / "raw").glob("[pw]*.txt.gz"), *shared_data.glob("[gm]*/train.docs.txt")]:
        lines = list(read_lines(path))
        for start in range(0, len(lines), 4001):
            for length in (2, 5, 200):
                assert form_of(lines[start : start + length], path).kind == "text", (path, start, length)


@pytest.mark.parametrize(
    ("content", "column", "expected"),
    [
        ('{"text": "It ran.\\nIt fell."}\n\n{"text": "No."}', "", [(1, "It ran."), (1, "It fell."), (3, "No.")]),
        ('\ufeff{"id": 1, "body": "It ran."}\n', "body", [(1, "It ran.")]),
        ('id,text\n1,"It ""ran"",\nthen."\n2,No.\n', "text", [(2, 'It "ran",'), (2, "then."), (4, "No.")]),
        ('id\ttext\n1\t"It" ran.\n2\t\'No.\n', "text", [(2, '"It" ran.'), (3, "'No.")]),
        ('text\tid\n"It\t1\nran"\t2\nNo.\t3\n', "text", [(2, '"It'), (3, 'ran"'), (4, "No.")]),
        ('text\tid\n"It\nran"\t1\nNo.\t2\n', "text", [(2, "It"), (2, "ran"), (4, "No.")]),
        ('id\ttext\n1\t"It ""ran"""\n2\tNo.\n', "text", [(2, 'It "ran"'), (3, "No.")]),
        ("7\tIt ran.\n8\tNo.\n9\tYes.\n", "2", [(1, "It ran."), (2, "No."), (3, "Yes.")]),
        ("1\t2\t4\tIt ran.\n1\t3\t4\tNo.\n2\t2\t1\tYes.\n", "4", [(1, "It ran."), (2, "No."), (3, "Yes.")]),
        ("1\tIt\t2\n2\tran\t0\n3\tso\t2\n", "2", [(1, "It"), (2, "ran"), (3, "so")]),
        (",0,1\n0,It ran.,x\n1,No.,y\n2,So.,z\n", "0", [(2, "It ran."), (3, "No."), (4, "So.")]),
        ("id;text;n\n1;It ran, then.;2,5\n2;No.;3\n", "text", [(2, "It ran, then."), (3, "No.")]),
        ('id, text, n\n1, "It ran, then.", 2\n2, "No.", 3\n', "text", [(2, "It ran, then."), (3, "No.")]),
        ("Table 1\n\nid,text,n\n1,It ran.,2\n2,No.,3\n" + "3,So.,4\n" * 20, "text", [(4, "It ran."), (5, "No.")]),
        ('sentence\n"It ran, then."\nNo.\n', "sentence", [(2, "It ran, then."), (3, "No.")]),
        ("sep=;\nid;text\n1;It ran.\n2;No.\n", "text", [(3, "It ran."), (4, "No.")]),
        ("#\ttext\n1\tIt ran.\n2\tNo.\n", "text", [(2, "It ran."), (3, "No.")]),
        ("Table 1\nn|text\n1|It ran.\n2|No.\n", "text", [(3, "It ran."), (4, "No.")]),
        ("n,text,form\n1,It ran.,ran|s\n2,No.,no|s\n3,So.,so|s\n", "text", [(2, "It ran."), (3, "No.")]),
        ('\x1e{"text": "It ran."}\n\x1e{"text": "No."}\n', "", [(1, "It ran."), (2, "No.")]),
    ],
)
def test_the_text_of_records_is_read(tmp_path: Path, content: str, column: str, expected: list[Any]) -> None:
    assert texts(write(tmp_path, content), column=column)[: len(expected)] == expected


def test_a_name_that_ends_in_csv_makes_one_column_a_table(tmp_path: Path) -> None:
    assert texts(write(tmp_path, 'title\n"It ran, then."\nNo.\n', "a.csv"), column="title") == [
        (2, "It ran, then."),
        (3, "No."),
    ]
    assert texts(write(tmp_path, '"It ran, then.","No, no."\n', "a.csv"), column="2") == [(1, "No, no.")]


def test_a_file_named_jsonl_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.jsonl: looks like JSON .*jq"):
        texts(write(tmp_path, '"It ran."\n"It slept."\n', "a.jsonl"))


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    lines = write(tmp_path, '{"id": 1, "body": "It ran."}\n')
    for options in {}, {"column": "text"}:
        with pytest.raises(InputError, match=r"id( \||,) body.*name the column of the text with --column NAME"):
            texts(lines, **options)
    with pytest.raises(ConfigError, match="running text, expected a table or JSON lines; leave out --column text"):
        texts(write(tmp_path, "It ran.\n"), column="text")


@pytest.mark.parametrize(
    ("content", "column", "fault"),
    [
        ('{"text": "It ran."}\n{"text": \n{"text": "No."}\n', "text", ":2: not a JSON object"),
        ('{"text": "It ran."}\n{"body": "It ran."}\n{"text": "No."}\n', "text", ":2: no field text"),
        ('{"text": "It ran."}\n{"text": ["a"]}\n{"text": "No."}\n', "text", ":2: text is .*, expected a string.*jq"),
        ('# by hand\n{"text": "It ran."}\n{"text": "No."}\n', "text", ":1: not a JSON object"),
        ('{"by": "hand"}\n{"text": "It ran."}\n{"text": "No."}\n', "text", ":1: no field text"),
        (b'{"text": "It ran."}\n{"text": "\xff"}\n{"text": "No."}\n', "text", ":2: not UTF-8"),
        ("id,text\n1,It ran.\n2,It,fell\n3,No.\n" + "4,No.\n" * 40, "text", ":3: 3 cells, expected 2"),
    ],
)
def test_a_record_without_text_stops_or_is_counted(
    tmp_path: Path, content: str | bytes, column: str, fault: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=fault):
        texts(path, column=column)
    summary = clean_texts([path], tmp_path / "out", CleanConfig(source="plain", column=column, on_error="skip"))
    assert summary["dropped"] == {"object or row without text": 1}
    assert (tmp_path / "out.txt").read_text().splitlines()[:2] == ["It ran.", "No."]


def test_each_object_is_a_document_with_its_paragraphs(tmp_path: Path) -> None:
    path = write(tmp_path, '{"text": "It ran. It fell.\\n\\nSo."}\n{"text": "No."}\n')
    summary = clean_texts([path], tmp_path / "out", CleanConfig(source="plain"))
    assert (tmp_path / "out.txt").read_text().splitlines() == ["It ran.", "It fell.", "So.", "No."]
    assert (tmp_path / "out.docs").read_text().splitlines() == [*["plain/file.txt:1"] * 3, "plain/file.txt:2"]
    assert summary["lines"] == {"text": 3, "blank": 1, "header": 0, "dropped": 0}


def test_a_tokenizer_is_trained_on_the_text_of_records(tmp_path: Path) -> None:
    rows = write(tmp_path, "id,body\n" + "".join(f"{i},It ran {i} miles.\n" for i in range(20)), "a.csv")
    plain = write(tmp_path, "".join(f"It ran {i} miles.\n" for i in range(20)), "a.txt")
    with pytest.raises(InputError, match="looks like a table"):
        train_tokenizer([rows], tmp_path / "no.json", vocab_size=300)
    found = train_tokenizer([rows], tmp_path / "rows.json", vocab_size=300, column="body")
    assert found["sha256"] == train_tokenizer([plain], tmp_path / "plain.json", vocab_size=300)["sha256"]


def test_the_head_of_a_file_is_short_and_loses_no_line(tmp_path: Path) -> None:
    path = write(tmp_path, "It ran.\n" * 500)
    lines = read_lines(path)
    head = read_head(lines)
    assert len(head) == 200
    assert next(lines) == Line(201, "It ran.", is_utf8=True)
