"""Recognise the dialect of a file of trees, and keep only those words of its trees that were written or said.

A dialect is a way to write the leaves of trees. docs/treebanks.md lists the dialects. A dialect is recognised by the
first trees of a file, and for historical corpora also by the suffix ``.psd``. The module ``readers`` counts what was
left out of the trees. A file is refused if its leaves are not words and no known dialect has such leaves.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Final

from pipeline.corpus.trees.raw_trees import ALWAYS_DROPPED, END_OF_TEXT, ONLY_CODES, UNCLEAR, RawTree, read_raw_trees
from pipeline.corpus.trees.trees import (
    TRACE_TAG,
    MalformedTreeError,
    Tree,
    parse_tree,
    shortened,
    strip_label,
    without_words,
)
from storage.errors import InputError

HISTORICAL: Final = "Penn historical (.psd)"
SLASH_TAGS: Final = "word/TAG leaves"

_NUM_TREES = 200
_MOST = 0.8
_MANY_TRACES = 0.25
"""If more than this share of the trees has a trace whose tag is the label of a phrase and not ``-NONE-``, the dialect
is historical. In files of other dialects, such traces come only from conversions between formats and are rarer."""

_PHRASE_TAG = re.compile(r"(W|Q)?(NP|PP|ADVP|ADJP|CONJP|QP|VP)|CP|IP|S|SBAR|SINV|SQ|SBARQ|NX|BIND")
_NUMBER_TAG = re.compile(r"NUM|ONE|CD|LS|QN|FRAC|FP|N$|X$")
_TRACE = re.compile(r"\*([^\s*]*\*)?(-\d+)?|0")
_TRACE_BY_NAME = re.compile(r"\*(T\d*|PRO|pro|ICH|RNR|EXP|PPA|NULL)\*(-?\d+)?|\*-\d+")
"""Words that are traces whatever their tag is."""
_TRACE_TAGS = re.compile(r"-?NONE-?", re.IGNORECASE)
_TAG_OF_0 = re.compile(r"IN|C|COMP|W(DT|P|RB)")
"""With one of these tags, ``0`` is a trace, such as an omitted "that", and not a number."""
_SPEAKER = re.compile(r"Speaker[A-Z]\d+")
_SPOKEN_MARK_TAG = re.compile(r"SYM|XX?|\W")
_BRACKET = re.compile(r"([*#-])([LR][RSC]B)\1", re.IGNORECASE)
_CODE_TAGS = frozenset({"CODE", "COMMENT", "LB", "PB", "REF"})
_CODE = re.compile(r"<[^<>]*>|\{[^{}]*\}")
_NO_PUNCTUATION = ("PONFP", "EOS")
"""Tag and word of a leaf in MCVF, the treebank of historical French. It says that the sentence ends here without a
punctuation mark."""
_CHARACTERS: Final = {
    "<paren>": ("-LRB-", "-LRB-"),
    "<$$paren>": ("-RRB-", "-RRB-"),
    "<dash/>": (":", "\u2014"),
}
"""For each code that stands for a character: the tag and the word that the leaf gets instead."""
_HYPHEN_IN_WORD: Final = re.compile("<dash/?>")
_METADATA = re.compile(r"\(\s*(METADATA|VERSION)\b|\(\s*ORTHO\s[^()]*\)\s*\(\s*META\b")
"""The last opening bracket of a match begins the metadata. A node ``META`` is metadata only if a node ``ORTHO`` comes
just before it. Elsewhere it may be a phrase, such as a stage direction."""
_WITH_LEMMA = re.compile(r".+-.+")
_SAME_LEMMA = re.compile(r"(.+?)[$@]?-\1", re.IGNORECASE)
_SPLIT_WORD = re.compile(r"[^\W\d]([$@])(?:-\S{1,100}+)? \1[^\W\d]")
"""Matches where two parts of a split word meet, as in ``hest$ $inn``. The first part may be followed by its lemma, as
in ``hest$-hestur $inn``. A lemma may have at most 100 characters. Without this limit, a search in a word that repeats
``a$-`` would take very long."""
_MARK_WITH_LEMMA = re.compile(r"([^\w\s-])-\1")
_SEPARATORS = re.compile(r"[_@=/|#^+~:;{<\\\[]")
_PTB_TAG = (
    r"(?:CC|CD|DT|EX|FW|IN|JJ[RS]?|LS|MD|NNP?S?|PDT|POS|PRP\$?|RB[RS]?|RP|SYM|TO|UH|VB[DGNPZ]?|WDT|WP\$?|WRB|XX|AFX"
    r"|HYPH|NIL|-[LR]RB-|[.,:#$]|``|'')"
)
_ORDINARY = r"\d[\d\W]*\d$|\w+://|www\.|\w+\++$"
"""Ordinary words that contain a separator, such as ``10:30``, a web address or ``C++``."""
_WORD_AS_LEMMA = re.compile(rf"(.*[^\W_])(?:{_SEPARATORS.pattern}|-)\1", re.IGNORECASE)
_WORD_WITH_TAG = re.compile(rf".+[_@/]{_PTB_TAG}")
_SLASH_TAG = re.compile(rf".+/(?:{_PTB_TAG}|-NONE-|PUNC\W)(?:\|[A-Z$]+)*")
_QUOTED = re.compile(r"([\"'|])\S+\1|\[\S+\]|<\S+>|\{\S+\}")
_TOKEN = re.compile(r"(\(\s*[^\s()]*)|([^\s()]+)")
_SPLIT_MARKS = "$@"
_WRITE_WORDS: Final = "Write the words alone, as in (NN dog)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How the leaves of a file are written."""

    name: str = ""
    """``HISTORICAL``, ``SLASH_TAGS``, or "" for the leaves of the Penn Treebank."""
    has_lemmas: bool = False
    """Whether leaves are ``word-lemma``."""


def read_plain_trees(path: Path) -> Iterator[RawTree]:
    """Yield the trees of a file as ``read_raw_trees`` does, but parsed by the rules of the file's dialect.

    A tree that cannot be parsed is yielded as ``read_raw_trees`` yields it. A tree that holds only codes, ids or
    comments has the fault ``ONLY_CODES``. If no word is left because the transcriber did not understand the speech, the
    fault is ``UNCLEAR``. A mark ``( END_OF_TEXT_UNIT )``, which some files have after each text, has the fault
    ``END_OF_TEXT``.

    Raises:
        InputError: As ``read_raw_trees`` and ``recognise``.
    """
    trees = read_raw_trees(path)
    first = list(islice(trees, _NUM_TREES))
    dialect = recognise(path, first)
    for raw in chain(first, trees):
        yield as_plain(raw, dialect)


def recognise(path: Path, first: list[RawTree]) -> Dialect:
    """Return the dialect of a file, judged by its first trees.

    Raises:
        InputError: If some leaves look like ``word-lemma`` and the others do not. Also if nearly all leaves have a form
            that no dialect has, for example ``dog_NN``, ``"dog"``, a number in place of each word, or ``(dog NN)``.
    """
    texts = [raw.text for raw in first if raw.text is not None]
    tokens = [leaf for text in texts for _, leaf in _TOKEN.findall(text) if leaf and not _TRACE.fullmatch(leaf)]
    if len(tokens) >= 2 and _share(tokens, _SLASH_TAG) >= _MOST:
        return Dialect(name=SLASH_TAGS)
    trees = []
    for text in texts:
        try:
            trees.append(parse_tree(_without_metadata(text)))
        except MalformedTreeError:
            continue
    is_named_psd = path.name.lower().removesuffix(".gz").endswith(".psd")
    leaves = [leaf for tree in trees for leaf in zip(tree.tags, tree.words, strict=True)]
    with_bare_trace = [any(map(_is_trace_in_phrase, tree.tags, tree.words)) for tree in trees]
    is_historical = any(map(_has_id, trees)) or (
        all(tag != TRACE_TAG for tag, _ in leaves)
        and (
            is_named_psd
            or ("C", "0") in leaves
            or sum(with_bare_trace) > _MANY_TRACES * len(trees)
            or any(_SPLIT_WORD.search(" ".join(tree.words)) for tree in trees)
        )
    )
    words = [word for tag, word in leaves if not _is_no_word(tag, word)]
    share = _share(words, _WITH_LEMMA)
    has_marks = any(map(_MARK_WITH_LEMMA.fullmatch, words))
    has_lemmas = has_marks or (is_historical and any(map(_SAME_LEMMA.fullmatch, words)))
    if has_lemmas and share >= _MOST:
        return Dialect(name=HISTORICAL, has_lemmas=True)
    if has_lemmas and share > 0.3:
        raise InputError(
            f"{path}: {share:.0%} of the words look like word-lemma, as in {_example(words, _WITH_LEMMA)}, and the "
            "others do not; expected all or none. Write the words alone"
        )
    visible = words if is_historical else [word for tag, word in leaves if tag not in (TRACE_TAG, "CODE")]
    _refuse_other_leaves(path, words, visible, trees)
    return Dialect(name=HISTORICAL if is_historical else "")


def _refuse_other_leaves(path: Path, words: list[str], visible: list[str], trees: list[Tree]) -> None:
    """Raise InputError if the leaves of a file are not words, and no known dialect has such leaves.

    ``words`` are the words of ``trees``, the first trees of the file. ``visible`` are the leaves that are searched for
    words in quotes or brackets. They are the words and, if the dialect is not historical, also leaves that would not
    be words in a historical file, such as ``<dog>``.
    """
    if len(visible) >= 3 and _share(visible, _QUOTED) >= _MOST:
        example = _example(visible, _QUOTED)
        raise InputError(
            f"{path}: nearly all words are in quotes or brackets of their own, as in {example}. {_WRITE_WORDS}"
        )
    leaves = [leaf for tree in trees for leaf in zip(tree.tags, tree.words, strict=True) if leaf[1].isalpha()]
    swapped = [leaf for leaf in leaves if re.fullmatch(_PTB_TAG, leaf[1]) and not re.fullmatch(_PTB_TAG, leaf[0])]
    if len(leaves) >= 2 and len(swapped) >= _MOST * len(leaves):
        example = shortened("({} {})".format(*swapped[0]))
        raise InputError(
            f"{path}: words seem to come before their tags, as in {example}. Write the tag first: (NN dog)"
        )
    if (
        any(len(tree.words) > 1 for tree in trees)
        and len(words) >= 3
        and all(sorted(tree.words) == sorted(map(str, range(len(tree.words)))) for tree in trees)
    ):
        raise InputError(
            f"{path}: the leaves are numbers in place of words, as in discontinuous trees, which are not read. "
            f"{_WRITE_WORDS}"
        )
    has_lemma = any(map(_WORD_AS_LEMMA.fullmatch, words)) or any(map(_WORD_WITH_TAG.fullmatch, words))
    for separator in {found[0] for word in words if (found := _SEPARATORS.search(word))} | {"-"}:
        form = re.compile(rf"(?!{_ORDINARY}).*[^{re.escape(separator)}].*{re.escape(separator)}.+")
        if len({*words}) >= (2 if has_lemma else 8 if separator in "-_@/" else 3) and _share(words, form) >= _MOST:
            example = _example(words, form)
            what = "discontinuous trees (discbracket)" if re.match(r"'\d+=", example) else "words with a lemma or a tag"
            raise InputError(
                f"{path}: nearly all words have a {separator!r} inside, as in {example}. This looks like {what}, in a "
                f"form that is not read. {_WRITE_WORDS}"
            )


def as_plain(raw: RawTree, dialect: Dialect) -> RawTree:
    """Return ``raw`` with a parsed tree. Its field ``left_out`` names what was left out or changed.

    The tree is read by the rules of ``dialect``. Traces stay in the tree, with the tag ``-NONE-``. If the text
    cannot be parsed, no tree is added.
    """
    if raw.text is None:
        return raw
    reasons: dict[str, None] = {}
    try:
        tree = _without_codes(raw.text, dialect, reasons)
    except MalformedTreeError as error:
        if error.reason in ALWAYS_DROPPED:
            return raw._replace(text=None, fault=error.reason, dialect=dialect.name)
        return raw
    return raw._replace(tree=tree, dialect=dialect.name, left_out=tuple(reasons))


def _without_codes(text: str, dialect: Dialect, reasons: dict[str, None]) -> Tree:
    """Return the tree of a text, read by the rules of its dialect. Add to ``reasons`` what was left out or changed.

    Raises:
        MalformedTreeError: If the text is not a tree, or the tree has no words.
    """
    if len(text) < 80 and text.split() == ["(", "END_OF_TEXT_UNIT", ")"]:
        raise MalformedTreeError("no sentence", END_OF_TEXT)
    tree = _parsed(text, dialect, reasons)
    if dialect.name == SLASH_TAGS:
        phrases = tuple(p for p in tree.phrases if p[2] - p[1] != 1 or p[0] != tree.tags[p[1]])
        tree = Tree(tree.words, tree.tags, phrases)
    elif dialect.name == HISTORICAL:
        tree = _historical(tree, reasons, has_lemmas=dialect.has_lemmas)
    tree = _spoken(tree, reasons)
    tags = tuple(TRACE_TAG if _is_bare_trace(*leaf) else leaf[0] for leaf in zip(tree.tags, tree.words, strict=True))
    codes = {i for label, start, stop in tree.phrases if label == "CODE" for i in range(start, stop)}
    kept = [word for i, word in enumerate(tree.words) if tags[i] not in ("CODE", "-DFL-") and i not in codes]
    if not kept and "-DFL-" not in tags:
        raise MalformedTreeError("no words", ONLY_CODES)
    if UNCLEAR in reasons and not any(character.isalnum() for word in kept for character in word):
        raise MalformedTreeError("no words", UNCLEAR)
    return Tree(tree.words, tags, tree.phrases)


def _parsed(text: str, dialect: Dialect, reasons: dict[str, None]) -> Tree:
    """Return the tree of a text with all its leaves, but without metadata.

    A leaf ``word/TAG`` is read as ``(TAG word)``. Words that are brackets are spelt as in the Penn Treebank.

    Raises:
        MalformedTreeError: If the text is not a tree, or holds only metadata.
    """
    plain = text
    if dialect.name == SLASH_TAGS:
        plain = _TOKEN.sub(_leaf_with_slash, text)
    elif dialect.name == HISTORICAL and (plain := _without_metadata(text)) != text:
        reasons["metadata left out"] = None
        if not plain.strip("() \t\r\n"):
            raise MalformedTreeError("no words", ONLY_CODES)
    tree = parse_tree(plain)
    if any(start == stop for _, start, stop in tree.phrases):
        reasons["brackets without a word left out"] = None
    if _BRACKET.search(plain):
        tree = Tree(tuple(_BRACKET.sub(_as_bracket, word) for word in tree.words), tree.tags, tree.phrases)
    return tree


def _historical(tree: Tree, reasons: dict[str, None], *, has_lemmas: bool) -> Tree:
    """Read a tree of the Penn parsed corpora of historical English, IcePaHC, Keyaki and similar corpora."""
    words, tags = list(tree.words), [tag.split(";")[0] or tag for tag in tree.tags]
    without: set[int] = set()
    for i, (tag, word) in enumerate(zip(tags, words, strict=True)):
        if tag in ("ID", "id"):
            reasons["ids left out"] = None
            without.add(i)
        elif tag == "LEMMA":
            reasons["lemmas left out"] = None
            without.add(i)
        elif word in _CHARACTERS:
            reasons["brackets and dashes written as codes"] = None
            tags[i], words[i] = _CHARACTERS[word]
        elif tag in _CODE_TAGS or _CODE.fullmatch(word) or (tag, word) == _NO_PUNCTUATION:
            reasons["codes and comments left out"] = None
            without.add(i)
        elif _is_no_word(tag, word):
            tags[i] = TRACE_TAG
        elif (has_lemmas or _MARK_WITH_LEMMA.fullmatch(word)) and (plain := _without_lemma(word)) != word:
            reasons["lemmas left out"] = None
            words[i] = plain
        if _HYPHEN_IN_WORD.search(words[i]):
            reasons["brackets and dashes written as codes"] = None
            words[i] = _HYPHEN_IN_WORD.sub("-", words[i])
    _join_split_words(
        words, [i for i, tag in enumerate(tags) if i not in without and tag != TRACE_TAG], without, reasons
    )
    phrases = tuple((label.split(";")[0] or label, start, stop) for label, start, stop in tree.phrases)
    found = without_words(Tree(tuple(words), tuple(tags), phrases), without)
    return _with_spellings(found) if "ORTHO" in found.tags else found


def _join_split_words(words: list[str], present: list[int], without: set[int], reasons: dict[str, None]) -> None:
    """Join the parts of split words, such as ``hest$ $inn`` or ``hest@ @inn``.

    If a part has no counterpart beside it, only remove its ``$`` or ``@``.
    """
    at = present[0] if present else -1
    for following in present[1:]:
        mark = words[at][-1:]
        if mark in _SPLIT_MARKS and words[following][:1] == mark and words[at] != mark != words[following]:
            words[at] = words[at][:-1] + words[following][1:]
            without.add(following)
            reasons["split words joined"] = None
        else:
            at = following
    for i in sorted({*present} - without):
        plain = re.sub(r"^[$@](?=[^\W\d])|(?<=[^\W\d])[$@]$", "", words[i])
        if plain != words[i]:
            words[i] = plain
            reasons["marks of split words left out"] = None


def _with_spellings(tree: Tree) -> Tree:
    """Return a tree in which ``(N (ORTHO dog))`` is ``(N dog)``."""
    tags, phrases = list(tree.tags), list(tree.phrases)
    for i, tag in enumerate(tree.tags):
        above = (
            [n for n, (_, start, stop) in enumerate(phrases) if (start, stop) == (i, i + 1)] if tag == "ORTHO" else []
        )
        if above:
            tags[i] = phrases.pop(above[-1])[0]
    return Tree(tree.words, tuple(tags), tuple(phrases))


def _spoken(tree: Tree, reasons: dict[str, None]) -> Tree:
    """Find marks of transcribed speech (Switchboard, OntoNotes) by their spelling, and retag or remove them."""
    words, tags, without = list(tree.words), list(tree.tags), set()
    for i, (tag, word) in enumerate(zip(tree.tags, words, strict=True)):
        if word.startswith("Speaker") and _SPEAKER.fullmatch(word) and _SPOKEN_MARK_TAG.fullmatch(tag):
            tags[i] = "CODE"
            if words[i + 1 : i + 2] == ["."]:  # the name of the speaker ends with a period
                tags[i + 1] = "CODE"
        elif word in ("E_S", "N_S") and _SPOKEN_MARK_TAG.fullmatch(tag):
            tags[i] = "-DFL-"
        elif word in ("MUMBLEx", "%pw") and tag != TRACE_TAG:
            without.add(i)
            reasons[UNCLEAR] = None
        elif word in ("/.", "/?", "/-", "/!") and tag in (".", ":", ",", "HYPH"):
            words[i] = word[1:]
            reasons["slashes before punctuation left out"] = None
        elif tag == "UH" and re.fullmatch(r"%[^\W\d_]+", word):
            words[i] = word[1:]
            reasons["percent signs before hesitations left out"] = None
    return without_words(Tree(tuple(words), tuple(tags), tree.phrases), without)


def _as_bracket(found: re.Match[str]) -> str:
    """Return ``-LRB-`` for ``-lrb-``, ``*LRB*`` or ``#LRB#``, and likewise for the other brackets."""
    return f"-{found[2].upper()}-"


def _leaf_with_slash(found: re.Match[str]) -> str:
    leaf = found[2]
    if leaf is None or not _SLASH_TAG.fullmatch(leaf):
        return f"({TRACE_TAG} {leaf})" if leaf is not None and _TRACE.fullmatch(leaf) else found[0]
    word, _, tag = leaf.rpartition("/")
    return f"({tag.split('|')[0].removeprefix('PUNC')} {word})"


def _without_lemma(leaf: str) -> str:
    """Return the word of ``word-lemma``: ``ice-cream`` for ``ice-cream-ice-cream``.

    The leaf is cut at one of its hyphens. Candidates are the hyphens before a letter that is also the first letter of
    the leaf, because a lemma often begins like its word. If there is no such hyphen, all hyphens are candidates. If the
    number of hyphens is odd and the middle one is a candidate, the leaf is cut there. Otherwise it is cut at the last
    candidate.
    """
    cuts = [i for i, character in enumerate(leaf) if character == "-" and 0 < i < len(leaf) - 1]
    likely = [i for i in cuts if leaf[0].casefold() == leaf[i + 1].casefold()] or cuts
    if not cuts:
        return leaf
    middle = cuts[len(cuts) // 2]
    return leaf[: middle if len(cuts) % 2 == 1 and middle in likely else likely[-1]]


def _without_metadata(text: str) -> str:
    """Return the text of a tree without its nodes of metadata. Such nodes hold words without tags."""
    while found := _METADATA.search(text):
        begin = text.rindex("(", 0, found.end())
        depth = 0
        for bracket in re.finditer("[()]", text[begin:]):
            depth += 1 if bracket[0] == "(" else -1
            if depth == 0:
                break
        text = text[:begin] + text[begin + bracket.end() :]
    return text


def _has_id(tree: Tree) -> bool:
    """Return whether the first or the last leaf is the id of the sentence, as in ``( (IP-MAT ...) (ID 1,2))``."""
    return any(
        tree.tags[i] in ("ID", "id")
        and len(tree.words) > 1
        and (re.search(r"\d", tree.words[i]) is not None or _is_beside_sentence(tree, i % len(tree.words)))
        for i in (0, -1)
    )


def _is_beside_sentence(tree: Tree, i: int) -> bool:
    return sum(start <= i < stop for _, start, stop in tree.phrases) == 1 and tree.phrases[0][0] == ""


def _is_bare_trace(tag: str, word: str) -> bool:
    """Return whether a leaf is certainly a trace, even if its tag is not exactly ``-NONE-``.

    A leaf is a trace if its word and tag fit a row of this table.

        word                    tag
        any                     begins with ``-NONE-``, such as ``-NONE-ABAR-WH-`` in the CHILDES Treebank
        ``*T*-1``, ``*-1``      any
        ``*``, ``*x*``, ``0``   a spelling of ``-NONE-``, or the label of a phrase
        ``0``                   a tag of ``_TAG_OF_0``
    """
    if tag.startswith(TRACE_TAG):
        return True
    if word[:1] not in ("*", "0") or not _TRACE.fullmatch(word):
        return False
    plain = strip_label(tag)
    if _TRACE_TAGS.fullmatch(plain) or (word == "0" and _TAG_OF_0.fullmatch(plain)):
        return True
    return _TRACE_BY_NAME.fullmatch(word) is not None or _is_trace_in_phrase(tag, word)


def _is_trace_in_phrase(tag: str, word: str) -> bool:
    return _TRACE.fullmatch(word) is not None and _PHRASE_TAG.fullmatch(strip_label(tag)) is not None


def _is_no_word(tag: str, word: str) -> bool:
    """Return whether a leaf of a file in the dialect ``HISTORICAL`` is not a word."""
    if tag in _CODE_TAGS or tag in ("ID", "id", "LEMMA", TRACE_TAG) or _CODE.fullmatch(word):
        return True
    return word.startswith("*") or (word == "0" and not _NUMBER_TAG.match(tag))


def _share(words: list[str], form: re.Pattern[str]) -> float:
    return sum(form.fullmatch(word) is not None for word in words) / max(1, len(words))


def _example(words: list[str], form: re.Pattern[str]) -> str:
    return shortened(next(word for word in words if form.fullmatch(word)))
