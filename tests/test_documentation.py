"""Check the README and the pages in docs/: every command parses, and every link leads to a file."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def command_lines(page: str) -> Iterator[str]:
    """Yield each line of a page that is a command. Replace shell variables that the page defines."""
    variables = dict(re.findall(r'^\s*(\w+)="([^"]*)"$', page, re.MULTILINE))
    for line in page.replace("\\\n", " ").splitlines():
        if re.match(r"\s*(python|torchrun)\b", line):
            yield re.sub(r"\$(\w+)", lambda found: variables.get(found[1], found[1]), line)


def commands_of(page: Path) -> list[list[str]]:
    """Return the arguments of every ``cli.py`` command that has its own line in a page."""
    found = []
    for line in command_lines(page.read_text(encoding="utf-8")):
        words = shlex.split(line, comments=True)
        if "cli.py" in words:
            found.append(words[words.index("cli.py") + 1 :])
    return found


def parse(arguments: list[str]) -> None:
    """Parse a command with click, without running it."""
    command: click.Command = cli.main
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, arguments)


def test_every_command_in_the_pages_parses() -> None:
    num_commands = 0
    for page in PAGES:
        for arguments in commands_of(page):
            try:
                parse(arguments)
            except (click.UsageError, KeyError) as error:
                pytest.fail(f"{page.relative_to(ROOT)}: {shlex.join(arguments)}: {error}")
            num_commands += 1
    assert num_commands > 30


def test_an_unknown_option_in_a_command_is_found() -> None:
    with pytest.raises(click.NoSuchOption):
        parse(["train-teacher", "--data", "dataset", "--out", "run", "--no-such-option", "1"])


def test_every_link_to_a_file_leads_to_a_file() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_every_module_that_a_page_names_exists() -> None:
    for page in PAGES:
        for name in re.findall(
            r"\b(?:storage|pipeline|teacher|student|tests|benchmarks)/[\w/]+\.py\b", page.read_text("utf-8")
        ):
            assert (ROOT / name).is_file(), f"{page.relative_to(ROOT)} names {name}"


def test_the_readme_can_be_read_in_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
