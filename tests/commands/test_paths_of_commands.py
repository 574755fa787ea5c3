"""Test what all commands do alike with paths: bad ones are refused in one line, and no file of value is replaced."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import cli
from pipeline.runtime.click_options import STORE, OutPath
from storage.files import list_files
from storage.fingerprints import sha256_file
from tests.commands.test_cli import every_command

TREES = "(ROOT (S (NP (DT the) (NN dog)) (VP (VBZ barks)) (. .)))\n(ROOT (S (NP (NNP Ann)) (VP (VBZ sings)) (. .)))\n"
TEXT = "The dog barks. It is loud.\nAnn sings a song.\n"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    """Run a command that must print one line and exit with status 1. Return the line."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def path_parameters() -> Iterator[tuple[tuple[str, ...], click.Command, click.Parameter]]:
    for path, command in every_command(cli.main):
        for param in command.params:
            if isinstance(param.type, click.Path) or param.type is STORE:
                yield path, command, param


def typed(path: tuple[str, ...], command: click.Command, param: click.Parameter, value: object) -> list[str]:
    """Return a command line in which one path parameter has a value, and all required ones have some value."""
    words = list(path)
    for other in command.params:
        if other is param or other.required:
            given = str(value) if other is param else "1" if other.type is click.INT else "nowhere"
            words += [other.opts[-1], given] if isinstance(other, click.Option) else [given]
    return words


@pytest.fixture
def bad_paths(tmp_path: Path) -> list[tuple[object, str]]:
    """Return paths that no command can use, and what the error says of each."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as file:
        file.bind(str(tmp_path / "socket"))
    return [
        (tmp_path / "pipe", "a pipe"),
        (tmp_path / "socket", "a socket"),
        ("/dev/zero", "a device"),
        (tmp_path / "loop", "Too many levels"),
        (tmp_path / ("x" * 300), "name"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9: its name is not UTF-8"),
        ("-", "-: expected a file; commands here neither read nor write standard streams"),
        ("~/a/b", "~/a/b: the shell has not replaced ~"),
    ]


@pytest.mark.parametrize(
    ("path", "command", "param"),
    list(path_parameters()),
    ids=lambda value: getattr(value, "name", None) or "-".join(value),
)
def test_a_path_that_cannot_be_used_is_one_line(path, command, param, bad_paths, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = set(list_files(tmp_path))
    for bad, reason in bad_paths:
        if isinstance(param.type, OutPath) and "" not in param.type.writes.suffixes and "UTF-8" not in reason:
            continue  # its files have other names, or the command itself checks its folder
        line = refusal(*typed(path, command, param, bad))
        assert reason in line, line
        assert line.isprintable()
    assert set(list_files(tmp_path)) == before


def test_a_path_from_a_toml_file_is_checked_too(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "options.toml").write_text(f'spans = "{tmp_path / "pipe"}"')
    arguments = ["nowhere", tmp_path / "text", "--out", tmp_path / "out", "--config", tmp_path / "options.toml"]
    assert "is a pipe" in refusal("evaluate", "surprisal", *arguments)


def test_every_option_for_an_output_says_what_it_writes():
    for path, command in every_command(cli.main):
        for param in command.params:
            if param.name in {"out", "trees_out"}:
                assert isinstance(param.type, OutPath) or param.type is STORE, path


def test_an_unreadable_file_or_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.setattr(os, "access", lambda path, _: not str(path).startswith(str(tmp_path)))  # root reads all
    line = refusal("clean-text", tmp_path / "text.txt", "--source", "plain", "--out", tmp_path / "out")
    assert "text.txt: cannot be read (Permission denied)" in line
    line = refusal("report", "nowhere", "--out", tmp_path / "new" / "out.html")
    assert f"no permission to write in {tmp_path}" in line


WRITERS = {
    "import-trees": (["trees.mrg", "--out", "OUT"], [".mrg", ".txt"]),
    "import-trees folder": (["treebank", "--out", "OUT"], [".mrg", ".txt", ".docs", ".documents.tsv"]),
    "clean-text": (["text.txt", "--source", "plain", "--out", "OUT"], [".txt", ".docs", ".documents.tsv"]),
    "train-tokenizer": (["text.txt", "--out", "OUT", "--vocab-size", "300"], ["", ".words.json"]),
    "adopt-tokenizer": (["foreign.json", "--bos", "<bos>", "--eos", "<eos>", "--out", "OUT"], [""]),
    "sample-corpus": (["OUT", "--num-sentences", "5"], ["/train.mrg", "/dev.txt", "/entropy.json"]),
    **{f"report {form}": (["run", "--out", "OUT", "--format", form], [""]) for form in ("html", "latex", "markdown")},
    "report": (["run", "--format", "csv", "--out", "OUT"], [""]),
}
"""For each command: its arguments, and the suffixes of files that it replaces."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a folder with the inputs of the commands."""
    from tests.pipeline.conftest import made_up_run

    folder = tmp_path_factory.mktemp("inputs")
    (folder / "treebank").mkdir()
    for name in ("trees.mrg", "treebank/a.mrg"):
        (folder / name).write_text(TREES)
    (folder / "text.txt").write_text(TEXT)
    made_up_run(folder / "run", "student", 2.0)
    arguments = [folder / "text.txt", "--out", folder / "foreign.json", "--vocab-size", 300]
    assert run("train-tokenizer", *arguments).exit_code == 0
    content = json.loads((folder / "foreign.json").read_text())
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] = [{"id": i, "content": name, **special} for i, name in enumerate(("<bos>", "<eos>"))]
    (folder / "foreign.json").write_text(json.dumps(content))
    return folder


def written(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in list_files(folder)}


@pytest.mark.parametrize("name", WRITERS)
def test_only_a_file_of_this_program_is_replaced(name, folder, tmp_path, monkeypatch):
    words, suffixes = WRITERS[name]
    monkeypatch.chdir(folder)
    command = [name.split()[0], *(str(tmp_path / "out/new") if word == "OUT" else word for word in words)]
    assert (first := run(*command)).exit_code == 0, first.output
    files = written(tmp_path)
    assert run(*command).exit_code == 0  # the same command again
    assert written(tmp_path) == files
    for suffix in suffixes:
        target = Path(f"{tmp_path}/out/new{suffix}")
        own, foreign = target.read_bytes(), b"(S (NN years)) of work\n"
        target.write_bytes(foreign)
        line = refusal(*command)
        assert ": already exists and was not written by " in line
        assert "with --force" in line
        assert target.read_bytes() == foreign
        if suffix == suffixes[0]:
            assert run(*command, "--force").exit_code == 0
        target.write_bytes(own)
    assert written(tmp_path) == files


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["parse", "text.txt", "--flat", "--out", "OUT"], "new.mrg"),
        (["train-parser", "trees.mrg", "--dev", "trees.mrg", "--out", "OUT"], "new"),
    ],
)
def test_what_took_hours_is_kept_and_no_option_is_offered_that_would_replace_it(
    command, file, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(folder)
    (tmp_path / file).write_text("the work of hours")
    command = [str(tmp_path / "new") if word == "OUT" else word for word in command]
    for more in [], ["--force"]:
        line = refusal(*command, *more)
        assert f"{file}: already exists" in line
        assert "--force" not in line
    assert (tmp_path / file).read_text() == "the work of hours"


def test_trees_with_a_long_first_line_are_replaced_by_the_same_command(tmp_path):
    words = " ".join(f"(NN word{i})" for i in range(3_000))
    (tmp_path / "long.mrg").write_text(f"(TOP (S {words}))\n(TOP (S (NN a) (NN dog)))\n")
    for _ in range(2):
        assert run("import-trees", tmp_path / "long.mrg", "--out", tmp_path / "out").exit_code == 0


def test_a_report_in_markdown_of_an_older_version_is_replaced(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    command = ["report", "run", "--format", "markdown", "--out", str(tmp_path / "page.md")]
    assert run(*command).exit_code == 0
    mark, rest = (tmp_path / "page.md").read_text().split("\n\n", 1)
    assert mark == "<!-- rnng-distill report -->"
    (tmp_path / "page.md").write_text(rest)
    assert run(*command).exit_code == 0
    (tmp_path / "page.md").write_text("### Runs\n\nMy own notes.\n")
    assert "was not written by 'report'" in refusal(*command)


@pytest.mark.parametrize("spelling", ["same", "dots", "link", "hard link"])
@pytest.mark.parametrize(
    ("command", "source"),
    [
        (["train-tokenizer", "text.txt", "--vocab-size", "300", "--out"], "text.txt"),
        (["adopt-tokenizer", "foreign.json", "--bos", "<bos>", "--eos", "<eos>", "--out"], "foreign.json"),
        (["report", "run", "--out"], "run/run.json"),
        (["report", "run", "--data", "treebank", "--out"], "treebank/a.mrg"),
        (["evaluate", "surprisal", "run", "text.txt", "--out"], "text.txt"),
        (["evaluate", "surprisal", "run", "other", "--frequencies", "text.txt", "--out"], "text.txt"),
        (["import-trees", "trees.mrg", "--out"], "trees.mrg"),
        (["evaluate", "parses", "run", "trees", "--trees-out"], "trees.mrg"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_an_input_is_never_replaced_whatever_its_spelling(command, source, spelling, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    link = tmp_path / Path(source).name
    if "link" in spelling:
        (link.symlink_to if spelling == "link" else link.hardlink_to)(folder / source)
    target = {"same": source, "dots": f"treebank/../{source}"}.get(spelling, str(link))
    before = written(folder)
    target = target.removesuffix(".mrg") if command[-1] == "--trees-out" or "trees.mrg" in command else target
    line = refusal(*command, target, "--force")
    assert "is read by this command and would be replaced" in line
    assert written(folder) == before


def test_an_output_that_is_a_folder_or_a_device_or_lies_in_a_file_is_refused_before_the_work(folder, tmp_path):
    (tmp_path / "taken").mkdir()
    for out, reason in (
        (tmp_path / "taken", "is a folder"),
        (".", "is a folder"),
        ("/dev/null", "is a device"),
        (folder / "text.txt" / "new", "text.txt is a file"),
    ):
        assert reason in refusal("report", folder / "run", "--out", out)
        assert reason in refusal("train-tokenizer", folder / "text.txt", "--out", out)


def test_a_tokenizer_of_a_run_is_not_replaced(folder, tmp_path):
    for name in ("tokenizer.json", "run.json"):
        arguments = [folder / "text.txt", "--vocab-size", 300, "--out", tmp_path / name]
        if name == "tokenizer.json":
            assert run("train-tokenizer", *arguments).exit_code == 0
        else:
            (tmp_path / name).write_text("{}")
    assert "was not written by 'train-tokenizer' or 'adopt-tokenizer'" in refusal(
        "train-tokenizer", folder / "text.txt", "--vocab-size", 300, "--out", tmp_path / "tokenizer.json"
    )


def test_trees_that_others_wrote_are_not_taken_for_ours(folder, tmp_path):
    for trees, text in (
        ("(TOP (S (NP-SBJ (NN dog)) (VP (VBZ barks))))\n", "dog barks\n"),  # function tags stay only in treebanks
        ("(TOP (S (NP (NN dog)) (VP (VBZ barks))))\n", "a cat sleeps\n"),
        ("(S (NP (NN dog)) (VP (VBZ barks)))\n", "dog barks\n"),
        ("(TOP (S (NP (NN dog)) (VP (VBZ barks))))\n", None),
    ):
        (tmp_path / "gold.mrg").write_text(trees)
        if text is not None:
            (tmp_path / "gold.txt").write_text(text)
        else:
            (tmp_path / "gold.txt").unlink()
        line = refusal("import-trees", folder / "trees.mrg", "--out", tmp_path / "gold")
        assert "gold.mrg: already exists and was not written by 'import-trees'" in line


def test_what_a_killed_import_left_does_not_stop_the_next(folder, tmp_path):
    out = ["--out", tmp_path / "new"]
    assert run("import-trees", folder / "trees.mrg", *out).exit_code == 0
    (tmp_path / "new.mrg").rename(tmp_path / f".new.mrg.{'0' * 16}.locked.partial")
    assert run("import-trees", folder / "trees.mrg", *out).exit_code == 0


def test_a_name_in_a_folder_that_is_not_utf8_and_a_pipe_in_it_are_one_line(tmp_path):
    for name, reason in ((os.fsdecode(b"caf\xe9.txt"), r"caf\xe9.txt: its name is not UTF-8"), ("pipe.txt", "a pipe")):
        texts = tmp_path / reason[-5:].strip()
        texts.mkdir()
        if reason == "a pipe":
            os.mkfifo(texts / name)
        else:
            (texts / name).write_text(TEXT)
        assert reason in refusal("clean-text", texts, "--source", "plain", "--out", tmp_path / "out")
