"""Split English prose into sentences by rules. There is no model, and time is linear in the length of a paragraph.

A sentence ends with a full stop, question mark, exclamation mark or ellipsis, together with the closing quotes and
brackets that follow it. White space must come next, and then a word that can begin a sentence. No sentence ends after
certain abbreviations and initials, inside brackets, or between a quotation and a phrase such as "Mr. Smith said".
Sentences inside a quotation are split, as in treebanks. A text without capitals is hardly ever split, because no
sentence begins with a small letter (except in words such as "iPhone"). ``python -m benchmarks.splitting`` measures how
often the rules agree with people.
"""

import re

MAX_WORDS = 400
"""``split_long`` cuts a sentence of more words than this. A parser reads at most 510 words and punctuation marks."""

_OPENING = "\"'\u201c\u2018\u00ab([{\u2014\u2013*\u2022-"
_CLOSING = "\"'\u201d\u2019\u00bb)\\]}"
# The stop, the closing marks after it, and white space. A note's number, as in "end.[12]", belongs to the sentence.
_STOP = re.compile(rf"([.!?\u2026]+)([{_CLOSING}]*)((?:\s?\[\d+\])*\s+)(?=\S)")
_LAST_WORD = re.compile(r"[^\W_][\w.'\u2019]*$")
_LAST_WORD_CHARS = 24
"""Number of characters that are searched for the word before a stop. No abbreviation is longer."""
_BRACKET = re.compile(r"[()\[\]]")
_FIRST_WORD = re.compile(rf"[{re.escape(_OPENING)}\s]*([^\W_]+(?:['\u2019]\w+)?)?")
_PAIRS = {")": "(", "]": "["}
MAX_BRACKETED = 600
"""A bracket that does not close within this number of characters is ignored as a mistake."""


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_ALWAYS = _words(
    """mr mrs ms mx messrs mme mlle dr drs prof rev revd hon gen col capt cpt lt lieut sgt maj cmdr adm gov pres sen rep
    supt insp st mt ft v vv vs viz assoc ext chr cf e.g i.e eg ie ca approx esp incl resp al.e"""
)
"""Abbreviations after which a full stop does not end a sentence. The exception: if a closing double quote follows the
full stop, the sentence can end there."""
_BEFORE_NUMBERS = _words(
    """no nos fig figs p pp vol vols ch chap sec sect eq eqs art par para app tab ref refs op ed eds n nn b d c
    lib bk ex ser supp suppl"""
)
"""Abbreviations that do not end the sentence if a number or a single capital other than "A" and "I" follows."""
_EITHER = _words(
    """etc inc ltd co corp bros dept univ assn jr sr esq ph.d m.d b.a m.a d.c a.m p.m u.s u.k u.n u.s.a e.u a.d b.c
    al ave blvd rd jan feb apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs hr hrs secs oz lb lbs
    cm mm km kg ml spp sp var subsp ind calif fla mich minn okla penn tenn tex wis
    wm geo chas thos jas jno robt benj edw saml danl th chr ph"""
)
"""Abbreviations that end a sentence only if the next word is in ``_STARTERS`` and is not the first of three capitalised
words. Abbreviations that are also words or names, such as "in", "sun" or "Max", are not listed."""
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
"""A name and a verb of saying, such as "Mr. Smith said". After a closing quote, they continue the sentence."""
_ITEM = re.compile(r"\d+|[ivxIVX]+|[a-z]")
"""Number or letter of an item of a list, as in "1. Wash your hands"."""
_INITIAL = re.compile(r"(?:[^\W\d_]['\u2019])?[^\W\d_]")
"""An initial, also as in "D'A. Thompson"."""
_LETTERS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]")
_THREE_CAPITALS = re.compile(r"[A-Z]\w*\s+[A-Z]\w*\s+[A-Z]")
_WEAK_PLACES = tuple(re.compile(p) for p in (r"[;:]\s+", r"\s*(?:--|\u2014)\s*", r",\s+", r"\s+"))


def split_sentences(paragraph: str) -> list[str]:
    """Return the sentences of a normalised paragraph, in order and without the spaces between them.

    Joining the sentences with single spaces restores the paragraph. A piece without a letter or digit stays with the
    sentence before it. Text in round or square brackets that close within ``MAX_BRACKETED`` characters is split only
    if the bracket opens at the beginning of a sentence.
    """
    sentences: list[str] = []
    start = 0
    brackets = _bracketed(paragraph) if "(" in paragraph or "[" in paragraph else []
    for match in _STOP.finditer(paragraph):
        while brackets and brackets[0][1] < match.start():
            brackets.pop(0)
        is_bracketed = bool(brackets) and start < brackets[0][0] < match.start()
        if not is_bracketed and _ends_sentence(paragraph, start, match):
            _append(sentences, paragraph[start : match.end()].rstrip())
            start = match.end()
    _append(sentences, paragraph[start:])
    return sentences


def split_long(sentence: str, max_words: int = MAX_WORDS) -> list[str]:
    """Return the sentence in pieces of at most ``max_words`` words.

    A long sentence is first split again with ``split_sentences``. A piece that is still too long is cut in its middle
    half, as near to the middle as possible. It is cut at a semicolon or colon if there is one there, else at a dash,
    else at a comma, else at a space.
    """
    if sentence.count(" ") < max_words:
        return [sentence]
    if len(sentences := split_sentences(sentence)) > 1:
        return [part for each in sentences for part in split_long(each, max_words)]
    middle, quarter = len(sentence) // 2, len(sentence) // 4
    for place in _WEAK_PLACES:
        cuts = [m.end() for m in place.finditer(sentence) if abs(m.end() - middle) <= quarter]
        if cuts:
            cut = min(cuts, key=lambda at: abs(at - middle))
            break
    else:  # a single word fills the middle half
        cut = sentence.rindex(" ") if sentence.rfind(" ") > middle else sentence.index(" ")
    pieces = (sentence[:cut].strip(), sentence[cut:].strip())
    return [part for piece in pieces if piece for part in split_long(piece, max_words)]


def has_word(text: str) -> bool:
    """Return whether the text has a letter or a digit."""
    return any(map(str.isalnum, text))


def _append(sentences: list[str], piece: str) -> None:
    if sentences and not has_word(piece):
        sentences[-1] += " " + piece
    else:
        sentences.append(piece)


def _bracketed(text: str) -> list[tuple[int, int]]:
    """Return the positions of the outermost brackets that close within ``MAX_BRACKETED`` characters, in order."""
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


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    stop, closing = match[1], match[2]
    following = _FIRST_WORD.match(text, match.end())
    word = following[1] if following else None
    if word is None:  # only symbols come next
        return text[match.end()] not in ",;:.!?"
    if word[0].islower() and (word.islower() or stop != "."):  # "cDNA" and "iPhone" may begin a sentence
        return False
    if closing and _SAYING.match(text, match.end()):
        return False
    if stop != ".":
        return True
    before = _LAST_WORD.search(text[max(start, match.start() - _LAST_WORD_CHARS) : match.start()])
    last = before[0] if before else ""
    return not last or closing not in ("", ")", "]", "'", "\u2019") or _after_word(text, start, match, last, word)


def _after_word(text: str, start: int, match: re.Match[str], last: str, word: str) -> bool:
    """Return whether a single full stop after ``last`` ends a sentence, if ``word`` comes next."""
    low = last.lower()
    if low in _ALWAYS:
        return False
    if low in _BEFORE_NUMBERS and not (len(last) == 1 and last.isupper()):
        return not (word[0].isdigit() or (len(word) == 1 and word.isupper() and word not in "AI"))
    if low in _EITHER or _LETTERS.fullmatch(last):
        return word.lower() in _STARTERS and not _THREE_CAPITALS.match(text, match.end())
    # A single capital is usually an initial, but not in "and I. Then" or "vitamin C. The".
    if _INITIAL.fullmatch(last) and last.isupper():
        is_name = word in ("A", "I") or (word in ("May", "Will") and last != "I")
        return match.start() - start > 2 and word.lower() in _STARTERS and not is_name
    is_first = match.start() - len(last) - start <= 1
    return not (is_first and len(last) <= 4 and _ITEM.fullmatch(last))
