"""Sentences of English prose, found by rules: no model, no dependency, linear in the length of a paragraph.

A sentence ends after a full stop, question or exclamation mark or ellipsis, with the closing quotes and brackets behind
it, where white space follows and what comes next can begin a sentence. The rules say where that is not so: after
abbreviations and initials, inside brackets, and before a verb of saying. Sentences inside a quotation are cut apart, as
treebanks do. A text without capitals or full stops is not cut at all; line structure is the caller's. How often the
rules agree with people: ``python -m benchmarks.splitting``.
"""

import re

MAX_WORDS = 400
"""Words of the longest sentence that is left whole; a parser of 510 words needs room for punctuation marks."""

_OPENING = "\"'\u201c\u2018\u00ab([{\u2014\u2013*\u2022-"
_CLOSING = "\"'\u201d\u2019\u00bb)\\]}"
# The stop, what closes behind it, and white space, with the numbers of notes such as [12], which belong to what ends.
_STOP = re.compile(rf"([.!?\u2026]+)([{_CLOSING}]*)((?:\s?\[\d+\])*\s+)(?=\S)")
_LAST_WORD = re.compile(r"[^\W_][\w.'\u2019]*$")
_LAST_WORD_CHARS = 24
"""Looked at before a stop; more than any abbreviation has."""
_BRACKET = re.compile(r"[()\[\]]")
_FIRST_WORD = re.compile(rf"[{re.escape(_OPENING)}\s]*([^\W_]+(?:['\u2019]\w+)?)?")
_PAIRS = {")": "(", "]": "["}
MAX_BRACKETED = 600
"""Characters that a bracket reaches at most; one that stays open for longer is taken for a slip."""


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_ALWAYS = _words(
    """mr mrs ms mx messrs mme mlle dr drs prof rev revd hon gen col capt cpt lt lieut sgt maj cmdr adm gov pres sen rep
    supt insp st mt ft v vv vs viz assoc ext chr cf e.g i.e eg ie ca approx esp incl resp al.e"""
)
"""Abbreviations that something always follows."""
_BEFORE_NUMBERS = _words(
    """no nos fig figs p pp vol vols ch chap sec sect eq eqs art par para app tab ref refs op ed eds n nn b d c
    lib bk ex ser supp suppl"""
)
"""Abbreviations that a number follows; with anything else behind it the full stop ends the sentence."""
_EITHER = _words(
    """etc inc ltd co corp bros dept univ assn est jr sr esq ph.d m.d b.a m.a d.c a.m p.m u.s u.k u.n u.s.a e.u a.d b.c
    al ave blvd rd jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat sun min
    max hr hrs sec secs in oz lb lbs cm mm km kg ml spp sp var subsp ind mass calif conn fla ill mich minn okla ore
    penn tenn tex wash wis"""
) - {"in", "sat", "sun", "mass", "ill", "wash", "ore", "min", "max", "mar", "sec", "conn", "est", "fri"}
"""Abbreviations that can end a sentence: they do where a word follows that begins one more often than a name."""
_STARTERS = _words(
    """the a an this that these those it he she we you they i its his her our your their my there here in on at as if
    when while after before since because although though however but and so then thus yet for from with by to of what
    who why where how which all some many most no not now once one two another each both during under over both let it's
    he's she's that's there's i'm we're they're don't do does did is are was were can could will would should may might
    have has had as such several unlike despite until also only even every today"""
)
_SAYING = re.compile(
    r"(?:[A-Z][\w.'\u2019-]*\s+){1,3}(?:said|says|cried|asked|replied|answered|exclaimed|shouted|whispered|"
    r"muttered|murmured|called|added|continued|remarked|observed|returned|repeated|inquired|demanded|growled|sighed|"
    r"laughed|thought)\b"
)
_ITEM = re.compile(r"\d+|[ivxIVX]+|[a-z]")
"""The number of an item of a list: "1. Wash your hands"."""
_LETTERS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]")
_THREE_CAPITALS = re.compile(r"[A-Z]\w*\s+[A-Z]\w*\s+[A-Z]")
_WEAK_PLACES = tuple(re.compile(p) for p in (r"[;:]\s+", r"\s*(?:--|\u2014)\s*", r",\s+", r"\s+"))


def split_sentences(paragraph: str) -> list[str]:
    """Return the sentences of a normalised paragraph, in order and without the spaces between them.

    Joined by single spaces they are the paragraph. A piece that has neither letter nor digit stays with the sentence
    before it. Nothing is cut inside round or square brackets that are closed within ``MAX_BRACKETED`` characters,
    unless they hold whole sentences: a bracket that opens where a sentence begins.
    """
    sentences: list[str] = []
    start = 0
    brackets = _bracketed(paragraph) if "(" in paragraph or "[" in paragraph else []
    for match in _STOP.finditer(paragraph):
        if any(opens < match.start() < closes and opens > start for opens, closes in _around(brackets, match.start())):
            continue
        if _ends_sentence(paragraph, start, match):
            _append(sentences, paragraph[start : match.end()].rstrip())
            start = match.end()
    _append(sentences, paragraph[start:])
    return sentences


def split_long(sentence: str, max_words: int = MAX_WORDS) -> list[str]:
    """Return the sentence in pieces of at most ``max_words`` words, cut where it is several sentences.

    What is still too long is cut at the weakest place next to its middle: a semicolon or colon in its middle half, else
    a dash, else a comma, else any space.
    """
    if sentence.count(" ") < max_words:
        return [sentence]
    if len(sentences := split_sentences(sentence)) > 1:
        return [part for one in sentences for part in split_long(one, max_words)]
    middle, quarter = len(sentence) // 2, len(sentence) // 4
    for place in _WEAK_PLACES:
        cuts = [m.end() for m in place.finditer(sentence) if abs(m.end() - middle) <= quarter]
        if cuts:
            cut = min(cuts, key=lambda at: abs(at - middle))
            break
    else:  # one word that fills the middle half
        cut = sentence.rindex(" ") if sentence.rfind(" ") > middle else sentence.index(" ")
    pieces = (sentence[:cut].strip(), sentence[cut:].strip())
    return [part for piece in pieces if piece for part in split_long(piece, max_words)]


def has_word(text: str) -> bool:
    """Whether there is a letter or a digit."""
    return any(map(str.isalnum, text))


def _append(sentences: list[str], piece: str) -> None:
    if sentences and not has_word(piece):
        sentences[-1] += " " + piece
    else:
        sentences.append(piece)


def _bracketed(text: str) -> list[tuple[int, int]]:
    """Return where the outermost brackets open and close, in order; those that are never closed are left out."""
    spans: list[tuple[int, int]] = []
    opened: list[tuple[str, int]] = []
    for match in _BRACKET.finditer(text):
        if match[0] in "([":
            opened.append((match[0], match.start()))
            continue
        while opened:
            kind, at = opened.pop()
            if kind == _PAIRS[match[0]]:
                if match.start() - at <= MAX_BRACKETED:
                    while spans and spans[-1][0] > at:
                        spans.pop()
                    spans.append((at, match.start()))
                break
    return spans


def _around(spans: list[tuple[int, int]], at: int) -> list[tuple[int, int]]:
    """Return the span that can hold ``at``, or none; spans that lie behind are forgotten."""
    while spans and spans[0][1] < at:
        spans.pop(0)
    return spans[:1]


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    stop, closing = match[1], match[2]
    following = _FIRST_WORD.match(text, match.end())
    word = following[1] if following else None
    if word is None:  # a mark of its own, or other symbols
        return text[match.end()] not in ",;:.!?"
    if word[0].islower() and (word.islower() or stop != "."):  # "cDNA" and "iPhone" begin sentences
        return False
    if closing and _SAYING.match(text, match.end()):
        return False
    if stop != ".":
        return True
    before = _LAST_WORD.search(text[max(start, match.start() - _LAST_WORD_CHARS) : match.start()])
    last = before[0] if before else ""
    return not last or closing not in ("", ")", "]", "'", "\u2019") or _after_word(text, start, match, last, word)


def _after_word(text: str, start: int, match: re.Match[str], last: str, word: str) -> bool:
    """Whether a single full stop behind ``last`` ends a sentence, the next of which would begin with ``word``."""
    low = last.lower()
    if low in _ALWAYS:
        return False
    if low in _BEFORE_NUMBERS and not (len(last) == 1 and last.isupper()):
        return not (word[0].isdigit() or (len(word) == 1 and word.isupper() and word not in "AI"))
    if low in _EITHER or _LETTERS.fullmatch(last):
        return word.lower() in _STARTERS and not _THREE_CAPITALS.match(text, match.end())
    if len(last) == 1 and last.isupper():  # an initial; but "and I. Then", "vitamin C. The"
        return match.start() - start > 2 and word.lower() in _STARTERS and word not in ("A", "I")
    is_first = match.start() - len(last) - start <= 1
    return not (is_first and len(last) <= 4 and _ITEM.fullmatch(last))
