"""Define how to read each source of BabyLM 2023 and 2024/25.

A source is a corpus of BabyLM, such as CHILDES, or one of two forms of other text, ``plain`` and ``sentences``. Rules
remove what a file format or an editor added, such as tags, remarks and spaces before punctuation marks. They drop lines
that are not language, such as page numbers. They note a reason for each change and each dropped line. Rules do not
change case, and the only letter that they correct is an *l* that should be *I*.

Successive lines of a file may come from different places of the original. The releases were sampled in blocks of some
thousand lines, and nothing marks where a block begins.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.corpus.text.draft import Draft, Rules, undo_entities
from pipeline.corpus.text.subtitles import clean_subtitle, open_subtitles, replace_tags
from pipeline.corpus.text.text_files import unescape_brackets


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """How to read the files of one source."""

    rules: Callable[[Draft], None]
    """Function that rewrites each normalised line, except blank lines and headers."""
    has_headers: bool = False
    """Whether a header with a title begins a document."""
    has_blanks: bool = False
    """Whether a blank line ends a document. If neither headers nor blank lines divide a file, it is one document."""
    is_prose: bool = False
    """Whether a line can hold several sentences."""
    has_speakers: bool = False
    """Whether lines name their speakers."""
    may_be_wrapped: bool = False
    """Whether some releases have hard-wrapped lines, with a blank line between paragraphs."""
    has_notes: bool = False
    """Whether files can have licences, and notes or captions in brackets that go over several lines."""
    has_tiers: bool = False
    """Whether a line that begins with a tab continues the line before it, as in CHAT."""
    is_subtitles: bool = False
    """Whether files can be subtitles with times or frames, as in SRT, WebVTT, SBV and MicroDVD."""


_TITLE = re.compile(r"(?:= = =|_BOOK_TITLE_ :)\s*(.+?)\s*(?:= = =)?$")
_SPACED = re.compile(r"(?<!\s)\s+(?=[.,;:!?]+(?:\s|[\"')\]]|$))")
# A mark between a space and a word, as in "yes ,and". A full stop is such a mark only before a capitalised word.
_MISPLACED = re.compile(r"(?<=\w)\s+([,;!?]|\.(?=[A-Z]['\u2019a-z\s]))(?=[^\W\d_])(?![DPOX]\b)")
# The space inside a word that transcripts and treebanks write apart, as in "do n't" or "gon na". It is kept before 'em,
# 'cause and 'til, which are words of their own, and before a letter in quotes ("the letter 's'"). The space before 'm
# is removed only after I. Elsewhere 'm is short for I'm, and is a word of its own.
_SPACED_PARTS = re.compile(
    r"(?:(?<=\w)\s+(?=(?:n['\u2019]t|['\u2019](?:s|d|re|ve|ll))\b(?!['\u2019](?!\w)))"
    r"|(?<=\bI)\s+(?=['\u2019]m\b(?!['\u2019]))"
    r"|(?<=[a-z]n)\s+(?=['\u2019]t\b(?!['\u2019]|\s+(?:is|was|were|will|would)\b))"
    r"|(?<=(?<!\w)(?:gon|wan))\s+(?=na\b)|(?<=(?<!\w)got)\s+(?=ta\b)|(?<=(?<!\w)(?:lem|gim))\s+(?=me\b)"
    r"|(?<=(?<![\w'\u2019])[cg]['\u2019])\s+(?=(?:mon|day|night|morning|bye)\b)|(?<=(?<!\w)ma['\u2019])\s+(?=am\b)"
    r"|(?<=(?<!\w)ma)\s+(?=['\u2019]am\b)|(?<=(?<!\w)[coy])\s+(?=['\u2019](?:mon|clock|all|know)\b(?!\s\w+['\u2019]|['\u2019]))"
    r"|(?<=(?<!\w)['\u2019]t)\s+(?=(?:is|was|were|will|would)\b)"
    r"|(?<=(?<![\w'\u2019])d['\u2019])\s+(?=(?:you|ya|ye)\b)|(?<=(?<![\w'\u2019])y['\u2019])\s+(?=(?:know|all|see)\b)"
    r"|(?<=(?<![\w'\u2019])o['\u2019])\s+(?=clock\b))",
    re.IGNORECASE,
)
_BRACKETS_ONLY = re.compile(r"^[-\u2013\s]*(?:\[[^\[\]]*\]|\{[^{}]*\})(?:\s*(?:\[[^\[\]]*\]|[.?!]))*$")


def _compiled(*rules: tuple[str, str, str]) -> Rules:
    return tuple((re.compile(pattern), replacement, reason) for pattern, replacement, reason in rules)


def title_of(text: str) -> str:
    """Return the title of a header (``= = = title = = =``, ``_BOOK_TITLE_ : title``), or "" for any other line."""
    match = _TITLE.match(text) if text[:1] in "=_" else None
    return match[1] if match else ""


# An apostrophe between two spaces, as in "it ' s" and "pick ' em".
_SPACED_APOSTROPHE = re.compile(
    r"(?:(?<=\w)\s+(?=['\u2019]\s+(?:s|re|ve|ll|d)\b)|(?<=n)\s+(?=['\u2019]\s+t\b)|(?<=\bI)\s+(?=['\u2019]\s+m\b)|(?<=\s))"
    r"(['\u2019])\s+(?=(?:s|re|ve|ll|d|t|m|em)\b(?!\s?['\u2019]))",
    re.IGNORECASE,
)


def _join_punctuation(draft: Draft) -> None:
    draft.replace(_SPACED, "", "space before punctuation")
    draft.replace(_MISPLACED, r"\1 ", "space before punctuation")
    draft.replace(_SPACED_APOSTROPHE, r"\1", "space inside a contraction")
    draft.replace(_SPACED_PARTS, "", "space inside a contraction")


def _as_it_is(draft: Draft) -> None:
    del draft


_CHAT_SPEAKER = re.compile(r"\*(\w+)::?\s*(?:\[- \w+\]\s*)?")
_CHAT_METADATA = re.compile(r"^(?:@[A-Z]\w*(?: \w+)?:?(?:\s|$)|%\w{3}:)")
_CHAT_RULES = _compiled(
    (r"\u2022?\d+_\d+\u2022?\s*$", "", "CHAT time stamp"),
    # Twice, because one retracing may be inside another.
    *[(r"(?:<[^<>]*>|(?<!\S)[^\s<>\[]++)\s*\[(?:/{1,3}|/-|/\?)\]", "", "CHAT retracing")] * 2,
    (r"(?:<[^<>]*>|(?<!\S)[^\s<\[]++)\s*\[::?\s+([^\[\]]*)\]", r"\1", "CHAT replacement"),
    (r"\[[^\[\]]*\]", "", "bracketed comment"),
    (r"&=\S+|&\{\w=\S*|&\}\w=\S*", "", "CHAT event"),
    (r"&\+\S+|&\*\w+:\S+", "", "CHAT fragment"),
    (r"(?<!\w)&[-~]?(?=\w)", "", "CHAT filler mark"),
    (r"\((?:\.+|\d*\.\d*)\)", "", "CHAT pause"),
    (r"(?<=\w)@[\w:$*]+", "", "CHAT form marker"),
    (r"(?<![\w.,:$])0(?=[a-z])\S+", "", "CHAT omitted word"),
    (r"\(([a-z']+)\)(?=\w)|(?<=\w)\(([a-z']+)\)", r"\1\2", "CHAT shortened word"),
    (r"\+(?:\.\.\.|/\.|//\.)", "...", "CHAT terminator"),
    (r"\+(?:\.\.\?|/\?|//\?)", "?", "CHAT terminator"),
    (r"\+!\?", "!?", "CHAT terminator"),
    (r"\+[\"/]*\.", ".", "CHAT terminator"),
    (r"(?<!\S)\+(?:[<^,+\"]|\u2248|\u224b)", "", "CHAT linker"),
    (r"(?<=\w)[_+](?=\w)", " ", "CHAT compound"),
    (r"(?<=[a-z]):(?:(?=[a-z])|:+)|(?<=[a-z])\^(?=[a-z])", "", "CHAT prosody"),
    (r"[\u2191\u2193\u2206\u2207\u2021\u201e\u02c8\u02cc\u2260\u2308-\u230b\u2219<>]", "", "CHAT prosody"),
    (r"(?<![\w-])(?:xxx?|yyy?|www)(?![\w-])", "", "unintelligible word"),
)
# A colon right after a word, which marks a long sound. This rule is used only for lines with a speaker. There, ordinary
# colons have a space before them.
_CHAT_LENGTHENED = re.compile(r"(?<=[a-z]):(?=[\s.,?!]|$)")
_CHAT_SIGNS = re.compile(
    r"[\[&(@0+_:^<>\u2191\u2193\u2206\u2207\u2021\u201e\u02c8\u02cc\u2260\u2308-\u230b\u2219]|xx|yy|www|\d_\d"
)
_UNINTELLIGIBLE = re.compile(r"^(?:xxx?|yyy?|www|0|[\s.,?!\u2021\u201e+/\"]|\[[^\[\]]*\]|&=\S+)*+$")


def childes(draft: Draft) -> None:
    """Clean CHILDES of 2024/25: transcripts in CHAT (MacWhinney 2000) with one utterance and its speaker per line."""
    draft.drop(_BRACKETS_ONLY, "bracket-only comment")
    draft.drop(_CHAT_METADATA, "CHAT metadata")
    if speaker := _CHAT_SPEAKER.match(draft.text):
        draft.speaker, draft.text = speaker[1], draft.text[speaker.end() :]
    draft.drop(_BRACKETS_ONLY, "bracket-only comment")
    draft.drop(_UNINTELLIGIBLE, "unintelligible")
    if not draft.dropped and _CHAT_SIGNS.search(draft.text):
        draft.apply(_CHAT_RULES)
        if draft.speaker:
            draft.replace(_CHAT_LENGTHENED, "", "CHAT prosody")
    _join_punctuation(draft)


def aochildes(draft: Draft) -> None:
    """Clean CHILDES of 2023: one utterance per line, no speakers, spaces before punctuation marks."""
    draft.drop(_UNINTELLIGIBLE, "unintelligible")
    draft.replace(_CHAT_RULES[-1][0], "", "unintelligible word")
    _join_punctuation(draft)


# A speaker's letter. In the Switchboard Dialog Act Corpus, the tag of a dialogue act comes first: "qw A.1 utt2: So".
_SPEAKER = re.compile(r"([A-Z]):\s+|(?:\S+\s+)?@*([A-Z])\.\d+\s+utt\d+:\s*")
_SWDA_HEADER = re.compile(
    r"^(?:\*x\*|=+$|(?:FILENAME|TOPIC#|DATE|TRANSCRIBER|UTT_CODER|DIFFICULTY|TOPICALITY|NATURALNESS|ECHO_FROM_[AB]|"
    r"STATIC_ON_[AB]|BACKGROUND_[AB]|REMARKS):)"
)
# Text in double square brackets is a remark. Any other remark starts at an asterisk. Such a remark ends at a closing
# bracket, at a second asterisk, after a phrase that annotators use ("typo"), or at the end of the sentence or line.
_REMARK = re.compile(
    r"\[\[[^\[\]]*\]\]+|(?:(?<!\S)\*+\s*|(?<![\w*])\*+(?=\S))"
    r"(?:\[+[^\[\]]*\]+|\([^()]*\)|\{[^{}]*\}|\"[^\"]*\"(?=\s+(?-i:[A-Z])|$)|[?!]+(?=\s|$)|$|"
    r"[^*]{0,200}(?<=[^\s*])\*+(?!\w)|[a-z]\w*\s?=\s?[a-z][\w']*\b[.,;]?|"
    r"(?:slash errors?|typos?|sic|listen|(?:\d+|one|two|three|four) utt(?:erance)?s?)\b"
    r"(?!\s*[;:,=-]|\s+(?:for|should|instead)\b)[.?!]*|"
    r"[\[\"]*[^\W\d](?:[^.?!]|\.(?=\S)|(?<=\b\w)\.(?=\s+(?-i:[a-z\d]))|(?<=\b(?:mr|ms|dr))\.|(?<=\bmrs)\.|"
    r"(?<=\b(?:diff|spkr))\.)*[.?!]*)",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"(?<![\w=])([A-Za-z][\w'-]*)(?:=|(?<=[\w'-]{2})\s=\s(?=[\w'-]{2}))[A-Za-z][\w'-]*(?![\w=])([.,;?!]?)"
)
"""A word as it was said, and the word that an annotator expected, as in ``see=seen``."""
_NOISE = re.compile(
    r"<++[^<>]*>+|\[(?:laugh(?:ter|ing|s)|(?:vocalized[- ])?noise|silence|(?:cough|sigh|sniff|breath)\w*)\]|"
    r"\(\(|\)\)|\{[A-Z] |\}|\[(?:laughter-)?|\]|#(?!\d)|(?<!\S)(?:\+|-?/)(?!\S)|\b(?:MUMBLEx|[EN]_S)\b",
    re.IGNORECASE,
)


def _as_said(correction: re.Match[str]) -> str:
    """Return the word as it was said, or "" if the line already has this word before the correction.

    For example, ``He brung=brought one.`` becomes ``He brung one.`` But in ``I have see it. see=seen``, the whole
    correction is a remark that follows the sentence, so ``I have see it.`` is left.
    """
    is_again = re.search(rf"\b{re.escape(correction[1])}\b", correction.string[: correction.start()], re.IGNORECASE)
    return "" if is_again else correction[1] + correction[2]


def switchboard(draft: Draft) -> None:
    """Clean Switchboard: a speaker's letter and a turn per line, with annotators' remarks after asterisks."""
    draft.drop(_SWDA_HEADER, "header of a transcript")
    if speaker := _SPEAKER.match(draft.text):
        draft.speaker, draft.text = speaker[1] or speaker[2], draft.text[speaker.end() :]
    draft.replace(_REMARK, " ", "annotator's remark")
    draft.replace(_CORRECTION, _as_said, "annotator's remark")
    draft.replace(_NOISE, "", "noise or disfluency mark")
    _join_punctuation(draft)


_OPEN_BRACKET = re.compile(r"-L(?:R|S|C)B-\s*")
_CLOSED_BRACKET = re.compile(r"\s*-R(?:R|S|C)B-")
_POSSESSIVE = re.compile(r"(?<=[a-z]s) (?=' [a-z])")
_CBT_RULES = _compiled(
    (r"``\s*", '"', "PTB quote"),
    (r"\s*''", '"', "PTB quote"),
    (r"(?<!\S)`\s*", "'", "PTB quote"),
    (r"(?<=[.,!?;:\u2014-])\s+'(?=\s|\"|$)", "'", "PTB quote"),
    (r"(?i)(?<!\w)('t) (?=is\b|was\b|were\b|will\b|would\b)", r"\1", "space inside a contraction"),
    (r"\$\s+(?=\d)", "$", "PTB spacing"),
    (r"(?<=\d)\s+%", "%", "PTB spacing"),
)


def cbt(draft: Draft) -> None:
    """Clean the Children's Book Test (2023): undo the brackets, quotes and spaces of Penn Treebank tokenisation."""
    for pattern in (_OPEN_BRACKET, _CLOSED_BRACKET):
        draft.replace(pattern, lambda match: unescape_brackets(match[0].strip()), "PTB bracket")
    if "`" not in draft.text.replace("``", ""):
        draft.replace(_POSSESSIVE, "", "space inside a contraction")
    draft.apply(_CBT_RULES)
    _join_punctuation(draft)


_PAGE = re.compile(
    r"^[-\u2013\u2014\[{(]?\s*(?:(?:p(?:age|g)?\.?\s*)?\d{1,4}|p(?:age|g)?\.?\s+[ivxlc]+|blank page)\s*"
    r"[-\u2013\u2014\]})]?$",
    re.IGNORECASE,
)
_CONTENTS_LINE = re.compile(r"(?:\. ?){4,}+\s*(?:\d+|[ivxlc]+)$")
_NOTICE = re.compile(
    r"^(?:\*+\s*)?(?:start of (?:the|this) project gutenberg|end of (?:the |this )?project gutenberg|"
    r"produced by .{3,80}$|transcriber['\u2019]?s['\u2019]? note|e-?text prepared by|\[?transcriber)",
    re.IGNORECASE,
)
_INSIDE = r"(?:[^\[\]]|\[[^\[\]]*\])*+(?:\]|$)"
_ILLUSTRATION = re.compile(
    r"\[[\s_*=]*(?:(?:Illustrations?|Illus|Illustrated(?= by|:)|Image unavailable|Frontispiece|Decorati(?:on|ve)|"
    r"Ornament)(?![a-z])|"
    r"(?:(?:[a-z-]+ ){1,2}Illustration|Picture|Image|Plate|Drawing|Figure|Fig|Map|Chart|Diagram|Photo|Sketch|Ill|"
    rf"Portrait|Photograph|Vignette|(?:Head|Tail)-?piece|Cover)s?\b(?=\.?\s*(?:\d+|[IVXLC]+\b)?\s*[:.\]])){_INSIDE}|"
    r"[({]Illustrations?\s*(?::[^(){}]*)?[)}]",
    re.IGNORECASE,
)
_NOTE = re.compile(
    r"\[[\s_*=]*(?:(?:Foot|Side|End)-?note|Music|Note(?=\s*(?:\d+|[A-Z])?\s*:)|"
    rf"(?:Editor|Author|Publisher|Printer|Translator|Illustrator)(?:['\u2019]?s['\u2019]?)? note)\b{_INSIDE}",
    re.IGNORECASE,
)
_TRANSCRIBER = re.compile(rf"\[[\s_*=]*Transcriber{_INSIDE}", re.IGNORECASE)
_MARK_INSIDE = re.compile(
    r"\s*\[(?:\d{1,3}|[A-Z*]|(?:Pg|Page|p)\.?(?:\s*\d+|\s+[ivxlc]+))\]|\s*\{\d{1,4}\}", re.IGNORECASE
)
_ITALICS = re.compile(r"(?<![A-Za-z0-9_])_([^_]+)_(?!_)")
_BOLD = re.compile(r"(?<![\w=])=([^=]+)=(?![\w=])")


_BRACKETED = (
    (_ILLUSTRATION, "illustration"),
    (_NOTE, "note in brackets"),
    (_TRANSCRIBER, "Project Gutenberg notice"),
)


def open_note(text: str) -> str:
    """Return the reason to drop a note or caption whose bracket is open at the end of ``text``; "" if none is open."""
    for pattern, reason in _BRACKETED:
        if (found := pattern.search(text)) and found.end() == len(text) and found[0].count("[") > found[0].count("]"):
            return reason
    return ""


def gutenberg(draft: Draft) -> None:
    """Clean Project Gutenberg: remove captions, notes, notices, page marks, and the signs of italics and bold."""
    for pattern, reason in _BRACKETED:
        draft.replace(pattern, " ", reason)
    draft.drop(_NOTICE, "Project Gutenberg notice")
    draft.drop(_PAGE, "page number")
    draft.drop(_CONTENTS_LINE, "line of a table of contents")
    draft.replace(_MARK_INSIDE, "", "mark of a page or footnote")
    draft.replace(_ITALICS, r"\1", "italics between underscores")
    draft.replace(_BOLD, r"\1", "bold between equals signs")


def qed(draft: Draft) -> None:
    """Clean QED (2023), which has subtitles of lectures."""
    undo_entities(draft)
    clean_subtitle(draft)
    _join_punctuation(draft)


_WIKI_LINE = re.compile(
    r"^(?:\[\[(?:File|Image|Category|Media|[a-z]{2,3}(?:-[a-z]+)?):|\{\||\|[-+}|]|[|!]\s|#REDIRECT"
    r"|__[A-Z]+__\s*$|[*#:]*\s*\{\{[^{}]*$|</?gallery\b|(?:File|Image):[^|]*\|)",
    re.IGNORECASE,
)
_WIKI_HEADING = re.compile(r"^(?:=\s?){1,6}([^=].*?)\s*(?:=\s?){1,6}$")
_WIKI_RULES = _compiled(
    *[(r"(?i)<ref[^<>]*/>|<ref[^<>]*>[^<]*</ref>|<!--.*?-->|\{\{[^{}]*\}\}", "", "reference or template")] * 2,
    (r"(?i)<ref[^<>/]*>\s*\{\{[^{}]*$|^\}\}[^<]*</ref>", "", "reference or template"),
    (r"\[\[(?:File|Image|Category):[^\[\]]*\]\]", "", "wiki link"),
    (r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", "wiki link"),
    (r"\[https?://[^\s\[\]]++\s*+([^\[\]]*+)\]", r"\1", "wiki link"),
    (r"\s?\[(?:\d{1,3}|citation needed|edit)\]", "", "mark of a footnote"),
    (r"'{2,5}", "", "wiki bold or italics"),
    (r"^[*#:;]+\s*(?=\S)|^\u2022\s*", "", "bullet"),
    (r"\s@([-,.])@\s", r"\1", "mark between spaces"),
    (r"\s?\((?:[\s,;:/]|or|also|pronounced)*\)", "", "empty brackets"),
    (r"\(\s*[;,]\s*", "(", "empty brackets"),
    (r"(?<=\()\s+(?=\S)|(?<=\S)\s+(?=\))", "", "space inside brackets"),
)
_WIKI_SIGNS = re.compile(r"[\[<{(@&*#:;\u2022]|''")


def wiki(draft: Draft) -> None:
    """Clean Wikipedia and Simple English Wikipedia: remove the markup that the extraction left."""
    undo_entities(draft)
    draft.drop(_WIKI_LINE, "line of a table, file or category")
    draft.replace(_WIKI_HEADING, r"\1", "marks of a heading")
    if _WIKI_SIGNS.search(draft.text):
        draft.apply(_WIKI_RULES)
        replace_tags(draft)
    _join_punctuation(draft)


BABYLM: dict[str, Source] = {
    "aochildes": Source(rules=aochildes),
    "bnc_spoken": Source(rules=_join_punctuation, has_blanks=True),
    "cbt": Source(rules=cbt, has_headers=True),
    "childes": Source(rules=childes, has_headers=True, has_speakers=True, has_tiers=True),
    "children_stories": Source(rules=gutenberg, is_prose=True, has_notes=True),
    "gutenberg": Source(rules=gutenberg, has_headers=True, is_prose=True, may_be_wrapped=True, has_notes=True),
    "open_subtitles": Source(rules=open_subtitles, has_blanks=True, is_prose=True, is_subtitles=True),
    "qed": Source(rules=qed, is_prose=True, is_subtitles=True),
    "simple_wiki": Source(rules=wiki, has_headers=True, has_blanks=True, is_prose=True),
    "simple_wikipedia": Source(rules=wiki, has_headers=True, has_blanks=True, is_prose=True),
    "switchboard": Source(rules=switchboard, has_speakers=True),
    "wikipedia": Source(rules=wiki, has_headers=True, is_prose=True),
}
"""The sources of both releases of BabyLM, by the names of their files."""

SOURCES: dict[str, Source] = {
    **BABYLM,
    "plain": Source(rules=_as_it_is, has_blanks=True, is_prose=True),
    "sentences": Source(rules=_as_it_is, has_blanks=True),
}
"""All sources. ``plain`` has one paragraph per line, and ``sentences`` has one sentence per line."""
