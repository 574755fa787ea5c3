"""Find the files of trees in a treebank, and decide how to read each file and which document it is.

A source is a file or a folder. Its format is one of

    ptb        Penn Treebank (LDC99T42). Folders of .mrg files such as wsj/02/wsj_0201.mrg. Each file is a document.
    bllip      Parses by the Charniak parser (LDC2000T43, LDC2008T13). Trees with root S1, one per line, or n-best
               lists.
    brackets   Any other files of trees in brackets.

To find files of trees, this module reads only the first lines of each file. docs/treebanks.md lists the assumptions
about each format.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Final

from pipeline.corpus.text.corpus_config import TreeFormat
from pipeline.corpus.text.documents import Document
from pipeline.corpus.text.text_files import Line, read_lines
from pipeline.corpus.trees.dialects import read_plain_trees
from pipeline.corpus.trees.raw_trees import NOT_UTF8, REMARK, TOO_LONG, RawTree, read_raw_trees
from pipeline.corpus.trees.readers import Read
from storage.errors import ConfigError, InputError
from storage.files import list_files

_PERHAPS_TREES: Final = (".parsed", ".clean", ".txt")
"""A file with one of these suffixes is read if it begins with a tree."""
TREE_SUFFIXES: Final = (
    *(".mrg", ".ptb", ".tree", ".trees", ".brackets", ".parse", ".psd", ".penn"),
    *_PERHAPS_TREES,
)
"""Suffixes of files of trees in a folder, in upper or lower case, with or without a further ``.gz``."""
BROKEN_LIST: Final = "broken n-best list"
NO_PARSE: Final = "no parse in its n-best list"
OTHER_SUFFIX: Final = "trees with another suffix (--format brackets would read them)"
"""With ``--format auto``, a file in a folder is passed over for this reason if it begins with a tree, but has none of
``TREE_SUFFIXES``."""

_WSJ: Final = re.compile(r"wsj_?(\d\d)\d\d", re.IGNORECASE)
_HEADER: Final = re.compile(r"\s*(\d{1,6})\s+\S+\s*")
_S1: Final = re.compile(r"\s*\(\s*S1\s*\(")
_NESTED: Final = re.compile(r"\(\s*[^\s()]*\s*\(\s*[^\s()]+[\s(]")
_ANY_SUFFIX: Final = re.compile(r"(?<=.)\.[A-Za-z]\w{0,7}$")
_ALWAYS_TREES: Final = TREE_SUFFIXES[:5]
"""With ``--format auto``, a folder with files of these suffixes has the format brackets, even if its files begin like
bllip files. But it has the format ptb if one of its files has a name such as ``wsj_0201.mrg``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeFile:
    """A file of trees."""

    path: Path
    read: Read
    """Function that yields the trees of the file."""
    format: str
    """Format in which the file is read: a ``TreeFormat``, or "bllip n-best" for lists of parses."""
    stem: Path
    """Path relative to the source, without ``.gz`` and other suffixes. With the format bllip, suffixes that are not in
    ``TREE_SUFFIXES`` are kept, because they tell the files apart."""
    document: Document | None
    """Each file of a folder is one document. This is its name and source. None if the source of the trees is a single
    file."""


def find_trees(
    source: Path,
    wanted: TreeFormat = "auto",
    *,
    sections: frozenset[int] | None = None,
    names: frozenset[str] | None = None,
) -> tuple[list[TreeFile], Counter[str]]:
    """Return the files of trees of a source, sorted by path, and for each reason the number of files passed over.

    Args:
        source: A file, or a folder that is searched to any depth.
        wanted: The format, or "auto" to detect it by the rules in docs/treebanks.md. If a format is given, files with
            any suffix are read if they begin with a tree. But in a ptb folder with files that end in ``.mrg``, only
            these files are read, because the other files of such a folder have the same trees.
        sections: Sections of the Wall Street Journal to read. The section of a file is the first two digits of its
            number, or the name of its folder.
        names: Names of the files to read, without folders and suffixes.

    Raises:
        InputError: If the source does not exist, has no file of trees, or has no file of one of the sections or names.
        ConfigError: If ``sections`` is given and the format is not ptb, or if ``sections`` or ``names`` is given and
            the source is one file.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder, expected trees in brackets")
    if not source.is_dir():
        if sections is not None or names is not None:
            option = "--split-list" if sections is None else "--sections"
            raise ConfigError(f"import-trees: {option} chooses files of a folder, but {source} is one file")
        return [_tree_file(source, _format_of_file(source) if wanted == "auto" else wanted, None)], Counter()
    everything = sorted(path for name in list_files(source) if (path := source / name).is_file())
    hidden = {p for p in everything if any(part.startswith(".") for part in p.relative_to(source).parts)}
    visible = [path for path in everything if path not in hidden]
    found_format = _format_of_folder(source, visible) if wanted == "auto" else wanted
    by_suffix = wanted == "auto" or (wanted == "ptb" and any(_has_suffix(path, ".mrg") for path in everything))
    if sections is not None and found_format != "ptb":
        raise ConfigError(
            f"import-trees: --sections is given, but the format of {source} is {found_format}; only ptb has sections. "
            "Leave out --sections, or use --format ptb if its files have names such as wsj_0201"
        )
    # Links to folders are not followed, because they may lead in circles.
    passed_over = Counter("links to folders" for path in source.rglob("*") if path.is_symlink() and path.is_dir())
    files = []
    for path in everything:
        reasons = {
            OTHER_SUFFIX: wanted == "auto" and found_format == "brackets" and _has_other_suffix(path, hidden),
            "not trees, by name or beginning": path in hidden
            or not _holds_trees(path, found_format, by_suffix=by_suffix),
            "empty files": path.stat().st_size == 0,
            "other sections": sections is not None and _section(path) not in sections,
            "not in the split": names is not None and _without_suffix(path, found_format).name not in names,
        }
        if (reason := next((reason for reason, applies in reasons.items() if applies), None)) is not None:
            passed_over[reason] += 1
        else:
            files.append(_tree_file(path, found_format, source))
    if names and (lacking := sorted(names - {file.stem.name for file in files})):
        raise InputError(
            f"{source}: no file of trees named {lacking[0]} in it ({len(lacking)} of {len(names)} documents of the "
            "split are missing); give the folder of all documents, or list only documents that it has"
        )
    missing = (sections or frozenset()) - {_section(file.path) for file in files}
    if missing or not files:
        in_it = f"no wsj file of section {min(missing):02} in it" if missing else ""
        in_it = in_it or f"no file of trees ({found_format}) among its {_listed(everything)}"
        raise InputError(f"{source}: {in_it}; looked for {_looked_for(found_format)}")
    return files, passed_over


def parse_sections(text: str) -> frozenset[int]:
    """Return the sections of a list such as ``02-21`` or ``00,01,24``.

    Raises:
        ConfigError: If ``text`` is not such a list.
    """
    found: set[int] = set()
    for part in text.split(","):
        numbers = re.fullmatch(r"\s*(\d\d?)(?:-(\d\d?))?\s*", part)
        first, last = (int(numbers[1]), int(numbers[2] or numbers[1])) if numbers else (1, 0)
        if first > last:
            raise ConfigError(
                f"import-trees: --sections is {text!r}, expected numbers and ranges such as 02-21 or 00,01,24, or all"
            )
        found |= set(range(first, last + 1))
    return frozenset(found)


def read_split_list(path: Path, split: str) -> frozenset[str]:
    """Return the names below the heading ``split`` in a list of documents, or all names if the list has no headings.

    A heading is a line that begins with ``#``. A name is a line of one word, with or without a mark such as ``*``
    or ``-`` before it. A suffix such as ``.mrg`` is removed. Lines of several words are comments.

    Raises:
        InputError: If the file cannot be read, or has no name below the heading.
        ConfigError: If the list has headings and ``split`` is not one of them, or if ``split`` is not empty and the
            list has no headings.
    """
    below: dict[str, set[str]] = {}
    heading = ""
    for line in read_lines(path):
        words = line.text.split()
        if line.text.startswith("#"):
            heading = line.text.lstrip("#").strip()
        elif len(words := words[1:] if words and words[0] in {"*", "-", "+"} else words) == 1:
            below.setdefault(heading, set()).add(_without_suffix(Path(words[0]), "bllip").name)
    if split not in below:
        there = ", ".join(filter(None, below))
        found = f"splits are {there}" if there else f"{len(below.get('', ()))} documents have no headings"
        remedy = f"give one of {there}" if there else "leave out --split"
        raise ConfigError(f"import-trees: --split is {split or 'not given'}, but in {path} the {found}; {remedy}")
    return frozenset(below[split])


def read_n_best(path: Path) -> Iterator[RawTree]:
    """Read a file of n-best lists. Yield the best parse of each sentence, and how many other parses the sentence has.

    Blank lines are ignored. A list has this form:

        2 NAME              number of parses, and name of the sentence
        -50.1 -48.9         score of the first parse; a second score in this line is ignored
        (S1 ...)            first parse
        -51.0 -47.2
        (S1 ...)

    The best parse is the first one with the highest score. A list in another form is yielded as one faulty piece, which
    ends before the first line of the next list.

    Raises:
        InputError: If the file cannot be read.
    """
    lines: Iterator[Line] = (line for line in read_lines(path, "skip") if line.text.strip() or not line.is_whole)
    line = next(lines, None)
    while line is not None:
        first, header = line, _HEADER.fullmatch(line.text)
        num_parses = int(header[1]) if header else -1
        best, best_score, num_read = None, -math.inf, 0
        line = next(lines, None)
        while line is not None and num_read < num_parses:
            score, tree = _score(line), next(lines, None)
            if score is None or tree is None or (tree.is_whole and not tree.text.lstrip().startswith("(")):
                lines = chain(filter(None, [tree]), lines)  # ``line`` or ``tree`` may begin the next list
                break
            if best is None or score > best_score:
                best, best_score = tree, score
            num_read += 1
            line = next(lines, None)
        is_broken = num_read != num_parses or (line is not None and not _HEADER.fullmatch(line.text))
        while line is not None and not _HEADER.fullmatch(line.text):
            line = next(lines, None)
        if is_broken or best is None:
            yield RawTree(first.number, None, BROKEN_LIST if is_broken else NO_PARSE)
        elif best.is_utf8 and best.is_whole:
            yield RawTree(best.number, best.text, num_other_parses=num_parses - 1)
        else:
            yield RawTree(best.number, None, TOO_LONG if best.is_utf8 else NOT_UTF8)


def _score(line: Line) -> float | None:
    try:
        scores = [float(number) for number in line.text.split()]
    except ValueError:
        return None
    return None if not 1 <= len(scores) <= 2 or math.isnan(scores[0]) else scores[0]


def _tree_file(path: Path, found_format: str, folder: Path | None) -> TreeFile:
    read: Read = read_plain_trees
    if found_format == "bllip" and _begins_with_list(path):
        found_format, read = "bllip n-best", read_n_best
    stem = _without_suffix(Path(path.name) if folder is None else path.relative_to(folder), found_format.split()[0])
    document = None if folder is None else _document(path, stem, found_format, folder)
    return TreeFile(path=path, read=read, format=found_format, stem=stem, document=document)


def _document(path: Path, stem: Path, found_format: str, folder: Path) -> Document:
    section = _section(path)
    if found_format == "ptb":
        parts = tuple(part for part in stem.parent.parts if part not in ("parsed", "mrg"))
        source = f"wsj/{section:02}" if section is not None else "/".join(parts) or folder.name
        return Document(stem.name, source)
    return Document(stem.as_posix(), folder.resolve().name)


def _without_suffix(path: Path, found_format: str) -> Path:
    path = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    is_known = path.suffix.lower() in TREE_SUFFIXES
    while path.suffix.lower() in TREE_SUFFIXES:
        path = path.with_suffix("")
    return path if is_known or found_format == "bllip" else path.with_name(_ANY_SUFFIX.sub("", path.name))


def _section(path: Path) -> int | None:
    """Return the section of the Wall Street Journal that a file belongs to."""
    number = _WSJ.match(path.name)
    if number:
        return int(number[1])
    parent, above = path.parent.name, path.parent.parent.name.lower()
    return int(parent) if re.fullmatch(r"\d\d", parent) and above not in ("atis", "brown", "swbd") else None


def _holds_trees(path: Path, found_format: str, *, by_suffix: bool) -> bool:
    if found_format == "bllip":
        return _begins_with_list(path) or any(line.text.lstrip().startswith("(") for line in _beginning(path))
    suffixes = (".mrg",) if found_format == "ptb" else TREE_SUFFIXES
    if _has_suffix(path, *suffixes) and not _has_suffix(path, *_PERHAPS_TREES):
        return True
    return (not by_suffix or _has_suffix(path, *suffixes)) and _begins_with_tree(path)


def _has_other_suffix(path: Path, hidden: Collection[Path]) -> bool:
    return path not in hidden and not _has_suffix(path, *TREE_SUFFIXES) and _begins_with_tree(path)


def _has_suffix(path: Path, *suffixes: str) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(suffixes)


def _begins_with_tree(path: Path) -> bool:
    try:
        first = list(islice(read_raw_trees(path), 3))
    except InputError:
        return False
    are_trees = [raw.text is not None and _NESTED.match(raw.text) is not None for raw in first]
    if first and REMARK in first[0].lines_left_out:  # perhaps a text that shows a tree, such as a readme
        return len(first) > 1 and all(are_trees)
    return any(are_trees)


def _format_of_folder(source: Path, paths: list[Path]) -> str:
    if any(_WSJ.match(path.name) and _has_suffix(path, ".mrg") for path in paths):
        return "ptb"
    if any(_has_suffix(path, *_ALWAYS_TREES) for path in paths):
        return "brackets"
    if any(_format_of_file(path) == "bllip" for path in paths if path.stat().st_size):
        return "bllip"
    if any(_holds_trees(path, "brackets", by_suffix=True) for path in paths):
        return "brackets"
    with_trees = [path for path in paths if _begins_with_tree(path)]
    remedy = (
        f"{len(with_trees)} of the files, such as {with_trees[0].name}, begin with a tree: use --format brackets"
        if with_trees
        else "if other files hold trees, name these files; unpack archives first"
    )
    looked_for = "; ".join(map(_looked_for, ("ptb", "brackets", "bllip")))
    raise InputError(f"{source}: no file of trees among its {_listed(paths)}; looked for {looked_for}; {remedy}")


def _listed(paths: list[Path]) -> str:
    """Return how many files there are, and their most frequent suffixes."""
    suffixes = Counter(path.suffix or "no suffix" for path in paths)
    listed = ", ".join(f"{number} {suffix}" for suffix, number in suffixes.most_common(5))
    return f"{len(paths)} files" + (f" ({listed})" if listed else "")


def _looked_for(found_format: str) -> str:
    return {
        "ptb": "files that end in .mrg, plain or .gz, as in parsed/mrg/wsj/02/wsj_0201.mrg",
        "bllip": "files that begin with a tree '(S1 ...' or with an n-best list",
    }.get(found_format, f"files that end in {', '.join(TREE_SUFFIXES)}, plain or .gz, or begin with a tree")


def _format_of_file(path: Path) -> str:
    is_bllip = _begins_with_list(path) or any(_S1.match(line.text) for line in _beginning(path))
    return "bllip" if is_bllip else "brackets"


def _begins_with_list(path: Path) -> bool:
    """Return whether a file begins with an n-best list: a line with a number and a name, then a line with a score.

    If the number of parses is 0, the second line may also be the first line of the next list.
    """
    lines = [line for line in _beginning(path, 2) if _HEADER.fullmatch(line.text) or _score(line) is not None]
    if len(lines) != 2 or not (header := _HEADER.fullmatch(lines[0].text)):
        return False
    return int(header[1]) == 0 or _score(lines[1]) is not None


def _beginning(path: Path, num_lines: int = 1) -> list[Line]:
    """Return the first lines of a file that are not blank, without lines that are not UTF-8."""
    lines = (line for line in islice(read_lines(path, "skip"), 100) if line.text.strip())
    return [line for line in islice(lines, num_lines) if line.is_utf8]
