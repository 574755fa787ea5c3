"""Test what reaches the terminal: nothing that steers it, and never a traceback when a stream or Ctrl-C fails us."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import cli
from pipeline.corpus.text.documents import Document, documents_array, documents_of_array, write_document_table
from pipeline.corpus.text.table_forms import as_cell, text_of_cell
from pipeline.runtime.display import as_text, configure_logging, table
from pipeline.runtime.terminal import say_json, visible, visible_json, visible_line
from tests.processes import ROOT

EVIL = "a\x1b[2J\x9b1m\u202eb\nError: all is well\t\r\x00\udce9\U000e0041c"
SHOWN = r"a\x1b[2J\x9b1m\u202eb\nError: all is well\t\r\x00\xe9\U000e0041c"
STEERING = ("\x1b", "\x9b", "\u202e", "\r", "\x00", "\udce9", "\U000e0041")


def test_characters_that_steer_a_terminal_are_written_as_escapes():
    assert visible_line(EVIL) == SHOWN
    assert visible("naïve “日本” \u200d👩\n\té") == "naïve “日本” \u200d👩\n\té"


@given(st.text(st.characters(), max_size=20))
def test_json_keeps_its_content_and_holds_no_such_character(text: str):
    shown = visible_json(json.dumps({text: [text]}, ensure_ascii=False))
    assert json.loads(shown) == {text: [text]}
    assert visible(shown) == shown
    shown.encode()


def test_printed_json_has_no_infinity_and_no_nan(capsys):
    say_json({"per word": [float("inf"), float("-inf"), float("nan"), 1.5], "é": None})
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"per word": [None, None, None, 1.5], "é": None}


def test_names_are_visible_in_summaries_tables_and_log_lines(capsys):
    for shown in (
        as_text({EVIL: EVIL, "inside": {EVIL: [EVIL]}}),
        table([[EVIL, 1]], header=[EVIL, "b"]),
    ):
        assert SHOWN in shown
        assert not any(letter in shown for letter in STEERING)
    handlers = logging.getLogger().handlers[:]
    try:
        configure_logging()
        logging.getLogger("pipeline.test").warning("%s: looks odd", EVIL)
        assert capsys.readouterr().err == f"{SHOWN}: looks odd\n"
    finally:
        logging.getLogger().handlers[:] = handlers


@pytest.mark.parametrize(
    "arguments",
    [["inspect", "NAME"], ["runs", "NAME"], ["compare", "NAME"], ["NAME"], ["inspect", "--NAME"], ["verify", "NAME"]],
)
def test_names_are_visible_in_errors(arguments):
    name = "a\x1b[2J\u202eb\nc"
    result = CliRunner().invoke(cli.main, [word.replace("NAME", name) for word in arguments])
    assert result.exit_code
    assert r"a\x1b[2J\u202eb" in result.stderr
    assert "\x1b" not in result.output + result.stderr
    assert "\u202e" not in result.output + result.stderr


def test_names_are_visible_in_the_list_of_runs(tmp_path):
    from tests.pipeline.conftest import made_up_run

    made_up_run(tmp_path / "a\x1b[2J\nb", "student", 2.0)
    result = CliRunner().invoke(cli.main, ["runs", str(tmp_path)])
    assert r"a\x1b[2J\nb" in result.output
    assert "\x1b" not in result.output
    in_json = CliRunner().invoke(cli.main, ["runs", str(tmp_path), "--json"])
    assert "\x1b" not in in_json.output
    assert "a\x1b[2J\nb" in json.dumps(json.loads(in_json.output), ensure_ascii=False).encode().decode("unicode_escape")


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "'=1+1", "''@x", "\uff1d1"])
def test_a_text_that_a_spreadsheet_would_compute_gets_an_apostrophe(text):
    assert as_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1.5", "+3", "1e-5", "-12,000", "-5%", "--", "=", "@", "dog", "'s", "don't", ""])
def test_numbers_signs_alone_and_other_texts_stay_as_they_are(text):
    assert as_cell(text) == text
    assert text_of_cell(text) == text


@given(st.text("'=+-@1a", max_size=6))
def test_a_cell_gives_its_text_back(text: str):
    assert text_of_cell(as_cell(text)) == text


def test_documents_with_names_like_formulas_are_read_back(tmp_path):
    from pipeline.corpus.text.documents import read_document_table

    documents = [Document("=HYPERLINK(1)", "@source", "-licence"), Document("-1", "+2"), Document("'=a")]
    with (tmp_path / "t.tsv").open("w") as file:
        write_document_table(file, documents)
    assert "\n'=HYPERLINK(1)\t'@source\t'-licence\n-1\t+2\t\n" in (tmp_path / "t.tsv").read_text()
    assert read_document_table(tmp_path / "t.tsv") == documents
    assert list(documents_of_array(documents_array(documents))) == documents


def start(*arguments: object, **streams: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    return subprocess.Popen(command, text=True, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams})


def test_a_stream_that_cannot_be_written_is_one_line_or_silence(tmp_path: Path):
    """All commands run at the same time. Each prints its help or a summary, or fails."""
    (tmp_path / "text").write_text("A dog barks.\n")
    fails = ["clean-text", tmp_path / "nowhere", "--source", "plain", "--out", tmp_path / "none"]

    def works(name: str) -> list[object]:
        return ["clean-text", tmp_path / "text", "--source", "plain", "--out", tmp_path / name, "--licence", "\u20ac"]

    with Path("/dev/full").open("w") as full:
        closed_out = start(*works("a"), stdout=None, preexec_fn=lambda: os.close(1))
        closed_err = start(*fails, stderr=None, preexec_fn=lambda: os.close(2))
        full_out, full_help = start(*works("b"), stdout=full), start("--help", stdout=full)
        full_err = start(*fails, stderr=full)
        broken = start("evaluate", "--help")
        assert broken.stdout is not None
        broken.stdout.close()
        broken.stdout = None
    ascii_out = start(*fails[:1], "\u20ac", *fails[2:], env={**os.environ, "PYTHONIOENCODING": "ascii"})
    outcomes = {
        name: (process.communicate(timeout=60)[1].splitlines(), process.returncode)
        for name, process in (
            ("full", full_out),
            ("help", full_help),
            ("broken", broken),
            ("closed", closed_out),
            ("ascii", ascii_out),
        )
    }
    for name, (lines, _) in outcomes.items():
        errors = [line for line in lines if not line.startswith("clean: 1, ")]  # the line of progress
        assert len(errors) == (name in {"full", "help", "ascii"}), (name, errors)
        assert all(line.startswith("Error: ") for line in errors)
    assert "standard output: cannot be written: No space left on device" in outcomes["full"][0][-1]
    assert {name: status for name, (_, status) in outcomes.items()} == {
        "full": 1, "help": 1, "broken": 1, "closed": 0, "ascii": 1,
    }  # fmt: skip
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "b.txt").read_text() == "A dog barks.\n"
    for process in (closed_err, full_err):
        assert process.communicate(timeout=60)[0] == ""
        assert process.returncode == 1


@pytest.mark.processes
def test_ctrl_c_while_modules_are_imported_ends_a_command_silently(tmp_path: Path):
    """Parsing imports for seconds. The commands are interrupted at different times."""
    (tmp_path / "text.txt").write_text("a\n")
    processes = [start("parse", tmp_path / "text.txt", "--flat", "--out", tmp_path / "out") for _ in range(2)]
    for process, delay in zip(processes, (0.4, 0.5), strict=True):
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
    for process in processes:
        _, error = process.communicate(timeout=60)
        assert process.returncode in {-signal.SIGINT, 1}
        assert "Traceback" not in error
        assert len(error.strip().splitlines()) <= 1
    assert not list(tmp_path.glob("out*"))


def test_ctrl_c_at_work_is_one_line_and_ends_the_loop_of_a_shell_too(monkeypatch, capfd):
    """A shell ends its loop only if the signal itself has ended the command."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.training.run_list.list_runs", interrupted)
    if (child := os.fork()) == 0:
        cli.main(["runs", "anywhere"])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGINT
    assert capfd.readouterr().err.strip() == "Aborted."


def test_an_error_of_the_system_that_no_command_expects_is_one_line(monkeypatch):
    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error", "/data/a\x1bb")

    monkeypatch.setattr("pipeline.training.run_list.list_runs", fails)
    result = CliRunner().invoke(cli.main, ["runs", "anywhere"])
    assert result.exit_code == 1
    assert result.stderr.startswith(r"Error: /data/a\x1bb: Input/output error. ")
    assert result.stderr.count("\n") == 1
