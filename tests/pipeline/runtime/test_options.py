"""Options come from configuration classes; bad keys of a TOML file and repeated options are refused by name."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

import cli
from pipeline.dumping.dump_config import DumpConfig
from pipeline.runtime.click_options import OneLineErrors, configured_by
from pipeline.runtime.distributed import joined
from pipeline.runtime.options import build, options_of, path_or_url, read_toml, to_json
from pipeline.runtime.train_config import TrainConfig
from storage.errors import ConfigError
from student.student_config import StudentConfig, StudentTrainConfig
from teacher.teacher_config import TeacherConfig, TeacherTrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """For the tests."""

    size: int = 3
    """How
    large."""
    kind: Literal["a", "b"] = "a"
    """Which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived(Base):
    """For the tests."""

    size: int = 4
    """How large here."""
    rates: tuple[float, ...] = (1.0,)
    """Rates."""
    careful: bool = False
    """Whether to be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Paths, for the tests."""

    out: Path
    """Where to write."""
    data: Path | str
    """A path or a URL."""
    stems: tuple[Path, ...] = ()
    """Files to read."""
    places: tuple[Path | str, ...] = ()
    table: Path | None = None
    """A table."""
    title: str | None = None
    """A title."""
    mode: Literal["fast", "slow"] = field(default="fast", metadata={"aliases": ("--old-mode",)})
    """How to work."""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "options.toml"
    path.write_text(text)
    return path


def run(cls: type, *typed: object, toml: bool = True) -> Any:
    """Return the values that a command of options ``cls`` gets, or click's result if it fails."""
    found: dict[str, Any] = {}

    @click.group(cls=OneLineErrors)
    def main() -> None: ...

    @main.command()
    @configured_by(cls, toml=toml)
    def command(values: dict[str, Any]) -> None:
        found.update(values)

    result = CliRunner().invoke(main, ["command", *map(str, typed)])
    return found if result.exit_code == 0 and "--help" not in typed else result


def test_a_field_is_an_option_with_its_docstring_as_help():
    options = {option.name: option for option in options_of(Derived)}
    assert list(options) == ["size", "kind", "rates", "careful"]
    assert options["size"].help == "How large here."
    assert options["size"].default == 4
    assert options["kind"].choices == ("a", "b")
    assert options["rates"].many
    assert options["rates"].type is float
    assert options_of(Base)[0].help == "How large."


@pytest.mark.parametrize(
    "cls", [TrainConfig, TeacherConfig, TeacherTrainConfig, StudentConfig, StudentTrainConfig, DumpConfig]
)
def test_every_option_of_ours_has_a_help_and_a_plain_type(cls):
    for option in options_of(cls):
        assert option.help.endswith("."), option.name
        assert option.type in {int, float, str, bool}, option.name


def test_a_byte_order_mark_before_toml_is_no_fault(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes("\ufeffbatch-tokens = 5\r\n".encode())
    assert read_toml(path, options_of(TrainConfig)) == {"batch_tokens": 5}


def test_toml_values_reach_the_configuration(tmp_path):
    path = write(tmp_path, 'size = 7\nkind = "b"\nrates = [1, 2.5]\ncareful = true\n')
    config = build(Derived, read_toml(path, options_of(Derived)))
    assert config == Derived(size=7, kind="b", rates=(1.0, 2.5), careful=True)
    assert to_json(config) == {"size": 7, "kind": "b", "rates": [1.0, 2.5], "careful": True}


def test_hyphens_are_underscores(tmp_path):
    assert read_toml(write(tmp_path, "batch-tokens = 5"), options_of(TrainConfig)) == {"batch_tokens": 5}


def test_all_bad_keys_are_named_with_what_was_expected(tmp_path):
    path = write(tmp_path, 'sizes = 7\nkind = "c"\nrates = 3\nsize = true\ncareful = 1\n[train-student]\n')
    with pytest.raises(ConfigError) as error:
        read_toml(path, options_of(Derived))
    message = str(error.value)
    assert "\n" not in message
    for expected in (
        str(path),
        "'sizes' (did you mean size?)",
        "kind is 'c', expected one of a, b",
        "rates is 3",
        "size is True",
        "careful is 1, expected true or false",
        "has a section [train-student], expected options without sections",
    ):
        assert expected in message


def test_a_missing_or_broken_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"No such file.*; give a TOML file of options"):
        read_toml(tmp_path / "none.toml", [])
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(write(tmp_path, "a ="), [])


@pytest.mark.parametrize(
    ("cls", "values", "expected"),
    [
        (TrainConfig, {"num_epochs": 0, "lr": 0.0}, ["num-epochs is 0", "lr is 0.0"]),
        (StudentTrainConfig, {"alpha": 1.5, "temperature": 0.0}, ["alpha is 1.5", "temperature is 0.0"]),
        (StudentTrainConfig, {"batch_tokens": 0}, ["batch-tokens is 0"]),
        (TeacherConfig, {"embed_dim": 0, "dropout": 1.0}, ["embed-dim is 0", "dropout is 1.0"]),
        (DumpConfig, {"k": 0, "temperatures": (2.0,)}, ["k is 0", "expected 1 among them"]),
    ],
)
def test_impossible_values_are_all_named_at_once(cls, values, expected):
    with pytest.raises(ConfigError) as error:
        cls(**values)
    assert all(part in str(error.value) for part in expected)


@pytest.mark.parametrize(("typed", "expected"), [([], True), (["--careful"], True), (["--no-careful"], False)])
def test_a_switch_can_be_turned_on_and_off_over_the_toml(tmp_path, typed, expected):
    path = write(tmp_path, "careful = true")
    assert run(Derived, "--config", path, *typed) == {"careful": expected}
    assert "[default: no-careful]" in run(Derived, "--help").output


def test_paths_urls_and_optional_values_come_from_the_command_line():
    typed = ["--out", "a", "--data", "s3://bucket/b", "--stems", "c", "--stems", "d,e", "--places", "memory://f"]
    values = run(Files, *typed, "--title", "t", "--table", "g", toml=False)
    assert values == {
        "out": Path("a"),
        "data": "s3://bucket/b",
        "stems": (Path("c"), Path("d,e")),
        "places": ("memory://f",),
        "title": "t",
        "table": Path("g"),
    }
    config = build(Files, values)
    assert to_json(config)["stems"] == ["c", "d,e"]
    assert run(Files, "--out", "a", "--data", "b", toml=False) == {"out": Path("a"), "data": Path("b")}
    defaults = Files(out=Path("a"), data=Path("b"))
    assert (defaults.stems, defaults.table, defaults.title) == ((), None, None)
    assert to_json(defaults)["table"] is None


def test_paths_come_from_a_toml_file_too(tmp_path):
    path = write(tmp_path, 'out = "a"\ndata = "s3://b"\nstems = ["c", "d"]\nplaces = ["e", "s3://f"]\n')
    expected = {
        "out": Path("a"),
        "data": "s3://b",
        "stems": (Path("c"), Path("d")),
        "places": (Path("e"), "s3://f"),
    }
    assert run(Files, "--config", path) == expected
    assert run(Files, "--config", path, "--stems", "x")["stems"] == (Path("x"),)
    with pytest.raises(ConfigError, match=r"out is 3, expected path; stems is 'c', expected a list of path$"):
        read_toml(write(tmp_path, 'out = 3\nstems = "c"'), options_of(Files))


def test_a_required_option_may_come_from_the_toml_but_not_from_nowhere(tmp_path):
    result = run(Files, "--out", "a")
    assert result.exit_code == 2
    assert "Missing option '--data'." in result.output
    assert run(Files, "--out", "a", "--config", write(tmp_path, 'data = "b"'))["data"] == Path("b")
    assert "--out PATH" in (text := " ".join(run(Files, "--help").output.split()))
    assert "Where to write. [required]" in text


def test_without_toml_there_is_no_config_option():
    assert "--config" in run(Files, "--help").output
    assert "--config" not in run(Files, "--help", toml=False).output


def test_an_alias_is_a_second_spelling_of_the_same_option(tmp_path):
    required = ["--out", "a", "--data", "b"]
    for spelling in ("--mode", "--old-mode"):
        assert run(Files, *required, spelling, "slow")["mode"] == "slow"
    assert read_toml(write(tmp_path, 'old-mode = "slow"'), options_of(Files)) == {"mode": "slow"}
    with pytest.raises(ConfigError, match="mode is given twice, expected once"):
        read_toml(write(tmp_path, 'mode = "slow"\nold_mode = "fast"'), options_of(Files))
    result = run(Files, *required, "--mode", "slow", "--old-mode", "fast")
    assert (result.exit_code, result.output) == (2, "Error: --mode: given 2 times, expected once. Give one value.\n")


def test_a_url_is_text_and_a_path_is_a_path():
    assert path_or_url("s3://bucket/x") == "s3://bucket/x"
    assert path_or_url("x/y") == Path("x/y")


def test_a_field_without_a_docstring_is_an_option_without_help():
    assert next(option for option in options_of(Files) if option.name == "places").help == ""
    assert dataclasses.MISSING is options_of(Files)[0].default


@pytest.mark.parametrize("arguments", [["--seed", str(2**64)], ["--seed", "-1"], ["--max-steps", "1" * 400]])
def test_a_number_that_torch_does_not_take_is_refused_in_one_line(arguments):
    result = CliRunner().invoke(cli.main, ["train-student", "--data", "data", "--out", "out", *arguments])
    assert result.exit_code in {1, 2}
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert f"{arguments[0][2:]}" in result.output.splitlines()[-1]


@pytest.mark.parametrize("threads", [5000, -1, 2**62])
def test_more_threads_than_any_machine_has_are_refused(threads):
    with (
        pytest.raises(ConfigError, match=f"--threads is {threads}, expected 0 to 1024"),
        joined("cpu", threads=threads),
    ):
        pass


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_of_toml_that_is_not_finite_is_refused(tmp_path, value):
    with pytest.raises(ConfigError, match=f"lr is {value}, expected float"):
        read_toml(write(tmp_path, f"lr = {value}"), options_of(TrainConfig))
