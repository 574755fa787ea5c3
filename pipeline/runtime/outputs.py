"""Check the paths that a command is given: inputs can be read, and outputs do not replace files that must be kept.

A command replaces an existing file in two cases only: with ``--force``, or if the content of the file, or files next to
it, show that a command of the same kind wrote it. So the same command can be repeated, and a mistyped name loses
nothing. An input is never replaced, even if the output path is a link to it or spells its path differently.
"""

import errno
import glob
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from storage.errors import ConfigError, InputError, StoreError
from storage.files import PARTIAL_SUFFIX, beside

_MAX_BYTES: Final = 1 << 26
"""Largest size of a JSON file that is read. A larger file is not recognised as a file of this program."""
_HEAD_BYTES: Final = 1 << 14
_MAX_LINE: Final = 1 << 22
"""Largest number of characters that are read of one line. Every tree is shorter."""
_MAX_NAME_BYTES: Final = 200
"""Largest number of bytes in the name of an output. File systems allow 255 bytes, and a file has a longer, temporary
name while it is being written."""
_COMPANIONS: Final = {
    ".docs": "", ".speakers": "",
    ".documents.tsv": r"document\tsource\tlicence\n",
    ".dropped.tsv": r"what\tsource\treason\t",
    ".failures.tsv": r"sentence\tdocument\treason\t",
    ".parse.json": r'\{\s*"num_sentences"',
    ".sample.json": r'\{\s*"num_drawn"',
}  # fmt: skip
"""For each suffix of a file that describes STEM.txt and STEM.mrg (a text and its trees): a regular expression for the
beginning of the file. With an empty expression, the file can begin in any way."""
_REPORT: Final = (
    r"(?s)<!doctype html>.{0,400}<title>rnng-distill: |<!-- rnng-distill report -->|### Runs\n\n\| run \||"
    r"% Needs \\usepackage\[T1\]\{fontenc\} and \\usepackage\{booktabs\}|table,row_number,row,column,value\n"
)
"""A regular expression for the beginning of a report in each form: HTML, Markdown (new and old), LaTeX and CSV."""
_SAMPLED_LINES: Final = 20
"""Number of lines that are examined at the beginning of a file of trees or text."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a command writes at an output path."""

    writer: str
    """The command that writes the files, for messages."""
    suffixes: tuple[str, ...] = ("",)
    """The command writes a file PATH + suffix for each of these suffixes. If there are no suffixes, PATH is a folder,
    which the command itself checks."""
    is_own: Callable[[Path, str], bool] | None = None
    """Returns whether a command of this kind wrote the existing file PATH + suffix. If this is None, no file is
    recognised, and the command has no ``--force``, so it replaces no file."""
    kept: tuple[str, ...] = ()
    """Suffixes of files that took hours to make: not even ``--force`` replaces them."""

    def file(self, path: Path, suffix: str) -> Path:
        """Return the file of a suffix. A suffix that begins with a slash is a file in the folder ``path``."""
        return Path(str(path) + suffix)


def _begins(path: Path, pattern: str) -> bool:
    with path.open("rb") as file:
        return re.match(pattern.encode(), file.read(_HEAD_BYTES), re.IGNORECASE) is not None


def _is_companion(stem: Path, suffix: str) -> bool:
    path = beside(stem, suffix)
    return suffix in _COMPANIONS and path.is_file() and bool(_COMPANIONS[suffix]) and _begins(path, _COMPANIONS[suffix])


def _is_of_trees(stem: Path, suffix: str) -> bool:
    """Return whether ``import-trees`` wrote the file STEM + suffix.

    In that case, STEM.mrg has trees under TOP without function tags, and STEM.txt has the words of these trees.
    """
    # Each of these files shows that another command wrote the trees: 'sample-corpus', 'parse' or 'sample'.
    of_others = (stem.parent / "entropy.json", beside(stem, ".parse.json"), beside(stem, ".sample.json"))
    if any(file.exists() for file in of_others):
        return False
    if _COMPANIONS.get(suffix):
        return _is_companion(stem, suffix)
    if _was_interrupted(beside(stem, ".mrg")):
        return True
    return _is_pair(stem) and (suffix not in _COMPANIONS or _num_lines(stem, suffix) == _num_lines(stem, ".mrg"))


def _is_pair(stem: Path) -> bool:
    trees, texts = (_first_lines(beside(stem, end)) for end in (".mrg", ".txt"))
    for tree, text in zip(trees, texts, strict=False):
        words = "".join(re.findall(r"\([^\s()]+ ([^\s()]+)\)", tree)).replace("-LRB-", "(").replace("-RRB-", ")")
        labels = re.findall(r"\(([^\s()]+) \(", tree)
        if labels[:1] != ["TOP"] or any(re.search(r".[-=]", label) for label in labels):
            return False
        if words != "".join(text.split()):
            return False
    return bool(trees and texts)


def _num_lines(stem: Path, suffix: str) -> int:
    with beside(stem, suffix).open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _first_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    lines: list[str] = []
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        while len(lines) < _SAMPLED_LINES and sum(map(len, lines)) < _HEAD_BYTES:
            if not (line := file.readline(_MAX_LINE)).endswith("\n"):
                break
            lines.append(line[:-1])
    return lines


def _was_interrupted(path: Path) -> bool:
    """Return whether a file is missing because a command was killed while writing it: a temporary file exists."""
    orphans = path.absolute().parent.glob(f".{glob.escape(path.name)}.*{PARTIAL_SUFFIX}")
    return not path.exists() and any(orphans)


def _is_of_text(stem: Path, suffix: str) -> bool:
    """Return whether ``clean-text`` wrote the file STEM + suffix: there is a STEM.dropped.tsv, and no STEM.mrg."""
    if _COMPANIONS.get(suffix):
        return _is_companion(stem, suffix)
    return (
        _is_companion(stem, ".dropped.tsv")
        and not beside(stem, ".mrg").exists()
        and _num_lines(stem, ".txt") == _num_lines(stem, ".docs" if suffix == ".txt" else suffix)
    )


def _is_of_parses(stem: Path, suffix: str) -> bool:  # noqa: ARG001  Written.is_own is called with a suffix
    """Return whether ``evaluate parses`` wrote STEM.mrg and STEM.txt.

    This command gives every word the part of speech XX, and writes no other file whose name begins with STEM.
    """
    if any(beside(stem, other).exists() for other in _COMPANIONS) or not _is_pair(stem):
        return False
    tags = (re.findall(r"\(([^\s()]+) [^\s()]+\)", tree) for tree in _first_lines(beside(stem, ".mrg")))
    return {tag for found in tags for tag in found} == {"XX"}


def _is_parsed(stem: Path, suffix: str) -> bool:  # noqa: ARG001  Written.is_own is called with a suffix
    """Return whether an interrupted ``parse`` wrote the files of STEM: its folder STEM.parts still exists."""
    return (beside(stem, ".parts") / "parse.json").is_file()


def _is_tokenizer(path: Path, suffix: str) -> bool:
    """Return whether ``train-tokenizer`` or ``adopt-tokenizer`` wrote the file PATH + suffix.

    The file must not be part of a run, dataset, dump or exported model.
    """
    if any((path.parent / name).exists() for name in ("run.json", "manifest.json", "dataset.zarr", "config.json")):
        return False
    content = _read_json(beside(path, suffix))
    if suffix:  # OUT.words.json records the words that the tokenizer was trained on
        return content.keys() == {"sha256", "trained_on"}
    try:
        first = sorted(content["model"]["vocab"].items(), key=lambda entry: entry[1])[:3]
        template = content["post_processor"]
        is_trained = template is None and [name for name, _ in first] == ["<bos>", "<eos>", "<pad>"]
        return (is_trained and content["added_tokens"] == []) or (
            template["single"] == [{"Sequence": {"id": "A", "type_id": 0}}] and len(template["pair"]) == 6
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _is_parser(path: Path, suffix: str) -> bool:
    """Return whether ``train-parser`` wrote OUT.json or OUT.metrics.jsonl. The model itself is never recognised."""
    marks = {".json": r'\{\s*"parser"', ".metrics.jsonl": r'\{"epoch"'}
    return suffix in marks and _begins(beside(path, suffix), marks[suffix])


def _is_sample_corpus(folder: Path, suffix: str) -> bool:
    """Return whether ``sample-corpus`` wrote the file FOLDER + suffix. A suffix begins with a slash: ``/train.txt``."""
    summary = folder / "entropy.json"
    if not summary.is_file():
        return _was_interrupted(summary)
    content = _read_json(summary)
    try:
        if suffix.endswith(".txt"):
            split: str = content["splits"][suffix[1:-4]]["text_sha256"]
            return split == hashlib.sha256((folder / suffix[1:]).read_bytes()).hexdigest()
        return "rules_sha256" in content["grammar"] and (suffix == "/entropy.json" or _is_pair(folder / suffix[1:-4]))
    except (KeyError, TypeError):
        return False


def _read_json(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > _MAX_BYTES:
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


_STEM: Final = (".mrg", ".txt", *_COMPANIONS)
FOLDER: Final = Written("the command", ())
CORPUS: Final = Written(
    "'sample-corpus'",
    (*(f"/{split}{end}" for split in ("train", "dev", "test") for end in (".mrg", ".txt")), "/entropy.json"),
    _is_sample_corpus,
)
TREES: Final = Written("'import-trees'", _STEM, _is_of_trees)
TEXT: Final = Written("'clean-text'", tuple(s for s in _STEM if s != ".mrg"), _is_of_text)
PARSED: Final = Written("an interrupted 'parse'", _STEM, _is_parsed, kept=(".mrg",))
PARSES: Final = Written("'evaluate parses'", (".mrg", ".txt"), _is_of_parses)
SAMPLED: Final = Written("'sample'", _STEM)
TOKENIZER: Final = Written("'train-tokenizer' or 'adopt-tokenizer'", ("", ".words.json"), _is_tokenizer)
PARSER: Final = Written("'train-parser'", ("", ".json", ".metrics.jsonl"), _is_parser, kept=("",))
REPORT: Final = Written("'report'", ("",), lambda path, _: _begins(path, _REPORT))
SURPRISALS: Final = Written(
    "'evaluate surprisal'", ("",), lambda path, _: _begins(path, r"sentence_number\tword_number\t")
)
_INPUT_SUFFIXES: Final = ("", *(name + end for name in _STEM for end in ("", ".gz")))
"""For an input PATH, a command may read the files PATH + ending for each of these endings. PATH is a file, a folder, or
the STEM of several files."""


def check_paths(inputs: Sequence[Path], outputs: Iterable[tuple[Path, Written]], *, force: bool | None = None) -> None:
    """Check all paths of a command before it does anything.

    An input that does not exist is no error here: the command itself reports it. A pipe or device is refused, because
    files are read more than once.

    Args:
        inputs: Files, folders and STEMs that the command reads.
        outputs: Paths that the command writes, and what it writes there.
        force: Whether files that no command of the same kind wrote may be replaced. None if the command has no option
            ``--force``.

    Raises:
        InputError: If a path cannot be used: its name is not UTF-8, or it is not readable, or not a file or folder, or
            it is ``-`` or begins with ``~/``.
        ConfigError: If an output is also an input.
        StoreError: If an output cannot be written, or would replace a file that no command of the same kind wrote.
    """
    for path in inputs:
        _check_name(path)
        _check_readable(path)
    for path, written in outputs:
        _check_name(path)
        _check_place(path, is_folder=not written.suffixes or written.suffixes[0].startswith("/"))
        for suffix in written.suffixes:
            file = written.file(path, suffix)
            _check_length(file)
            if os.path.lexists(file):
                _check_replaced(path, suffix, written, inputs, force=force)


def same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file: by another spelling, a link or a hard link."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _check_name(path: Path) -> None:
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        problem = "its name is not UTF-8"
    else:
        if "\0" not in str(path):
            _check_shell_name(path)
            return
        problem = "its name has a NUL character"
    raise InputError(f"{path}: {problem}, expected a name in UTF-8; rename it")


def _check_shell_name(path: Path) -> None:
    """Refuse ``-`` and ``~/...`` unless ``-`` or ``~`` exists in the current folder.

    In other programs, ``-`` means standard input or output, and ``~`` means the home folder.
    """
    first = path.parts[:1]
    if first in {("-",), ("~",)} and not os.path.lexists(first[0]):
        if first == ("~",):
            raise InputError(f"{path}: the shell has not replaced ~ by your home folder; write the path in full")
        raise InputError(f"{path}: expected a file; commands here neither read nor write standard streams; name a file")


def _check_readable(path: Path) -> None:
    mode = _mode(path)
    if mode is None:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: is {_kind(mode)}, expected a file or a folder; save it as a file first")
    if not os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)):
        raise InputError(f"{path}: cannot be read (Permission denied); fix its permissions")


def _mode(path: Path) -> int | None:
    """Return the mode of a file or folder, or None if there is none."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def _kind(mode: int) -> str:
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def _check_place(path: Path, *, is_folder: bool) -> None:
    """Check that something can be written at an output path."""
    if not path.name:
        if is_folder:
            return
        raise StoreError(f"{path}: is a folder, expected the name of a file; add a name")
    for parent in path.absolute().parents:
        if (mode := _mode(parent)) is None:
            continue
        if not stat.S_ISDIR(mode):
            raise StoreError(f"{path}: {parent} is a file, expected a folder; choose another name")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise StoreError(f"{path}: cannot be written: no permission to write in {parent}; fix its permissions")
        break


def _check_length(file: Path) -> None:
    if (size := len(os.fsencode(file.name))) > _MAX_NAME_BYTES:
        raise StoreError(f"{file}: its name has {size} bytes, expected at most {_MAX_NAME_BYTES}; choose a shorter one")


def _check_replaced(path: Path, suffix: str, written: Written, inputs: Sequence[Path], *, force: bool | None) -> None:
    file = written.file(path, suffix)
    mode = _mode(file)
    if mode is not None and stat.S_ISDIR(mode):
        raise StoreError(f"{file}: is a folder, expected the name of a file; choose another name")
    if mode is not None and not stat.S_ISREG(mode):
        raise StoreError(f"{file}: is {_kind(mode)}, which cannot be replaced by a file; choose another name")
    if any(same_file(file, beside(read, end) if end else read) for read in inputs for end in _ends(read)):
        raise ConfigError(f"{file}: is read by this command and would be replaced; choose another name")
    try:
        is_own = mode is not None and written.is_own is not None and written.is_own(path, suffix)
    except OSError:
        is_own = False  # the file cannot be read
    if is_own:
        return
    if any(same_file(file, below) for read in inputs if read.is_dir() for below in _files_below(read)):
        raise ConfigError(f"{file}: is read by this command and would be replaced; choose another name")
    if not force or suffix in written.kept:
        can_force = force is not None and suffix not in written.kept
        remedy = "Remove it, or choose another name" + (", or replace it with --force" if can_force else "")
        can_be_own = written.is_own is not None and suffix not in written.kept
        found = f" and was not written by {written.writer}" if can_be_own else ""
        raise StoreError(f"{file}: already exists{found}. {remedy}")


def _ends(read: Path) -> tuple[str, ...]:
    return _INPUT_SUFFIXES if read.name else ("",)


def _files_below(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):
        yield from (Path(where, name) for name in names)
