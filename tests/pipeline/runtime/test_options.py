"""Options come from dataclasses, and every bad key of a TOML file is named."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner

from pipeline.dumping.dump_config import DumpConfig
from pipeline.runtime.click_options import configured_by
from pipeline.runtime.options import build, options_of, read_toml, to_json
from pipeline.runtime.train_config import TrainConfig
from storage.errors import ConfigError, InputError
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


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "options.toml"
    path.write_text(text)
    return path


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


def test_toml_values_reach_the_configuration(tmp_path):
    path = write(tmp_path, 'size = 7\nkind = "b"\nrates = [1, 2.5]\ncareful = true\n')
    config = build(Derived, read_toml(path, options_of(Derived)))
    assert config == Derived(size=7, kind="b", rates=(1.0, 2.5), careful=True)
    assert to_json(config) == {"size": 7, "kind": "b", "rates": [1.0, 2.5], "careful": True}


def test_hyphens_are_underscores(tmp_path):
    assert read_toml(write(tmp_path, "batch-tokens = 5"), options_of(TrainConfig)) == {"batch_tokens": 5}


def test_all_bad_keys_are_named_with_what_was_expected(tmp_path):
    path = write(tmp_path, 'sizes = 7\nkind = "c"\nrates = 3\nsize = true\ncareful = 1\n')
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
    ):
        assert expected in message


def test_a_missing_or_broken_file_is_one_line(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_toml(tmp_path / "none.toml", [])
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(write(tmp_path, "a ="), [])


@pytest.mark.parametrize(
    ("cls", "values", "expected"),
    [
        (TrainConfig, {"num_epochs": 0, "lr": 0.0}, ["num-epochs is 0", "lr is 0.0"]),
        (StudentTrainConfig, {"alpha": 1.5, "temperature": 0.0}, ["alpha is 1.5", "temperature is 0.0"]),
        (StudentTrainConfig, {"batch_tokens": 0}, ["batch-tokens is 0"]),
        (TeacherConfig, {"embed_dim": 0, "dropout": 1.0}, ["embed_dim is 0", "dropout is 1.0"]),
        (DumpConfig, {"k": 0, "temperatures": (2.0,)}, ["k is 0", "expected 1 among them"]),
    ],
)
def test_impossible_values_are_all_named_at_once(cls, values, expected):
    with pytest.raises(ConfigError) as error:
        cls(**values)
    assert all(part in str(error.value) for part in expected)


@pytest.mark.parametrize(("typed", "expected"), [([], True), (["--careful"], True), (["--no-careful"], False)])
def test_a_switch_can_be_turned_on_and_off_over_the_toml(tmp_path, typed, expected):
    found = {}

    @click.command()
    @configured_by(Derived)
    def command(values: dict) -> None:
        found.update(values)

    path = write(tmp_path, "careful = true")
    result = CliRunner().invoke(command, ["--config", str(path), *typed])
    assert result.exit_code == 0, result.output
    assert found == {"careful": expected}
    assert "[default: no-careful]" in CliRunner().invoke(command, ["--help"]).output
