"""Test that a user's mistake gives one line with the place, the problem and the remedy, and that nothing is written."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import cli
import pipeline


def refused(*arguments: object) -> str:
    """Run a command that must print one line and exit with status 1. Return the line."""
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 1, result.output
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    return lines[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["import-trees", "NOWHERE", "--text", "NOWHERE.txt", "--out", "OUT"],
        ["train-tokenizer", "NOWHERE", "--out", "OUT"],
        ["adopt-tokenizer", "NOWHERE", "--bos", "a", "--eos", "b", "--out", "OUT"],
        ["build-dataset", "--train", "NOWHERE", "--dev", "NOWHERE", "--tokenizer", "NOWHERE", "--out", "OUT"],
        ["train-teacher", "--data", "NOWHERE", "--out", "OUT"],
        ["dump-teacher", "--data", "NOWHERE", "--teacher", "NOWHERE", "--out", "OUT"],
        ["train-student", "--data", "NOWHERE", "--out", "OUT"],
        ["evaluate", "perplexity", "NOWHERE", "--data", "NOWHERE"],
        ["evaluate", "minimal-pairs", "NOWHERE", "NOWHERE"],
        ["evaluate", "syntaxgym", "NOWHERE", "NOWHERE"],
        ["evaluate", "surprisal", "NOWHERE", "NOWHERE", "--out", "OUT"],
        ["export", "NOWHERE", "OUT"],
        ["report", "NOWHERE", "--out", "OUT"],
        ["compare", "NOWHERE"],
        ["runs", "NOWHERE"],
        ["inspect", "NOWHERE"],
        ["verify", "NOWHERE"],
        ["train-teacher", "--data", "NOWHERE", "--out", "OUT", "--config", "NOWHERE"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_path_that_does_not_exist_is_named(arguments, tmp_path):
    paths = [
        argument.replace("NOWHERE", f"{tmp_path}/nowhere").replace("OUT", f"{tmp_path}/out") for argument in arguments
    ]
    assert "nowhere" in refused(*paths)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.mrg").exists()


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["parse", "text.txt", "--model", "benepar_en3", "--out", "trees"], "pipeline.parsing.parse"),
        (["train-parser", "train.mrg", "--dev", "dev.mrg", "--out", "parser.pt"], "pipeline.parsing.train_parser"),
    ],
    ids=lambda value: value[0],
)
def test_a_command_whose_extra_is_not_installed_says_how_to_install_it(command, module, monkeypatch):
    for name in (module, "pipeline.parsing.sentence_parser"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for package in ("spacy", "benepar", "nltk"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    assert "pip install 'rnng-distill[parse]'" in refused(*command)


def test_the_version_is_printed():
    result = CliRunner().invoke(cli.main, ["--version"])
    assert result.output == f"rnng-distill, version {pipeline.__version__}\n"


def test_an_unknown_key_in_the_toml_is_named_with_the_nearest_one(tmp_path):
    options = tmp_path / "options.toml"
    options.write_text("embed-dims = 3\nlr = 'fast'\n")
    line = refused("train-teacher", "--data", tmp_path, "--out", tmp_path / "out", "--config", options)
    assert "embed-dims" in line
    assert "did you mean embed_dim?" in line
    assert "lr is 'fast', expected float" in line


def test_the_command_line_overrides_the_toml(tmp_path):
    options = tmp_path / "options.toml"
    options.write_text("embed-dim = 0\n")
    arguments = ["train-teacher", "--data", tmp_path / "nowhere", "--out", tmp_path / "out", "--config", options]
    assert "embed-dim is 0" in refused(*arguments)
    assert "nowhere" in refused(*arguments, "--embed-dim", 8)


@pytest.mark.parametrize(
    ("trees", "text", "expected"),
    [
        ("(ROOT (S (NN a))\n", "a\n", ["trees.mrg:1"]),
        ("(ROOT (S (NN a)))\n\n()\n", "a\nb\nc\n", ["trees.mrg:3"]),
        ("(ROOT (S (NN a)))\n(ROOT (S (NN b)))\n", "a\n", ["2", "1"]),
        ("(ROOT (S (NN a)))\n", "b\n", ["trees.mrg", "words are not those of the text"]),
        ("no trees at all\n", "no trees at all\n", ["trees.mrg:1"]),
    ],
    ids=["unbalanced", "empty tree", "different length", "other words", "text for trees"],
)
def test_malformed_trees_are_reported_with_file_and_line(trees, text, expected, tmp_path: Path):
    (tmp_path / "trees.mrg").write_text(trees)
    (tmp_path / "text.txt").write_text(text)
    line = refused("import-trees", tmp_path / "trees.mrg", "--text", tmp_path / "text.txt", "--out", tmp_path / "out")
    assert all(part in line for part in expected)
    assert not (tmp_path / "out.mrg").exists()


def test_malformed_trees_can_be_skipped_and_are_counted(tmp_path: Path):
    (tmp_path / "trees.mrg").write_text("(ROOT (S (NN a)))\n(ROOT (S (NN b))\n(ROOT (S (NN c)))\n")
    (tmp_path / "text.txt").write_text("a\nb\nc\n")
    sources = [str(tmp_path / "trees.mrg"), "--text", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.main, ["import-trees", *sources, "--on-error", "skip"])
    assert result.exit_code == 0
    assert (tmp_path / "out.txt").read_text() == "a\nc\n"
    assert "unbalanced" in result.output or "malformed" in result.output


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(
    ("path", "command"),
    list(every_command(cli.main)),
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_option_that_takes_one_value_is_refused_when_given_twice(path, command):
    """The parser refuses the options before it misses arguments, so no command runs."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    for option in options:
        for spelling in (*option.opts, *option.secondary_opts):
            typed = [spelling] if option.is_flag else [spelling, "1"]
            if option.multiple or option.is_eager:
                continue
            result = CliRunner().invoke(cli.main, [*path, *typed, *typed])
            name = next(name for name in option.opts if name.startswith("--"))
            expected = f"Error: {name}: given 2 times, expected once. Give one value.\n"
            assert (result.exit_code, result.stderr) == (2, expected), spelling
    assert options or isinstance(command, click.Group)


def test_equals_signs_short_options_and_switches_are_counted_too(tmp_path):
    for typed in (
        ["train-student", "--alpha=1", "--alpha", "0"],
        ["report", "run", "-o", "a", "--out", "b"],
        ["report", "run", "-oa", "-ob"],
        ["train-student", "--compile", "--no-compile"],
        ["evaluate", "minimal-pairs", "--eos", "--no-eos"],
    ):
        result = CliRunner().invoke(cli.main, typed)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), typed
        assert "given 2 times, expected once" in result.stderr
    twice = ["build-dataset", "--train", f"{tmp_path}/a", "--train", f"{tmp_path}/b", "--tokenizer", "t", "--out", "o"]
    assert "given 2 times" not in CliRunner().invoke(cli.main, twice).output
