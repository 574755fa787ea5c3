"""Clean subtitles: remove credits, tags, marks of music, descriptions of sounds, and speakers' names.

A dash can mark the beginning of a speaker's turn, as in "- Who is it? - Me." These dashes are removed too.

Text in square brackets or braces is removed if it has two letters in a row. Round brackets can also hold speech. So
text in round brackets is removed only if it is in capitals, names a sound or a way of speaking, or is the whole line.
A speaker's name comes before a colon. The name is in capitals, or is a role such as Narrator.
"""

import re
from collections.abc import Sequence
from typing import Final

from pipeline.corpus.text.draft import Draft, undo_entities
from pipeline.corpus.text.sentences import has_word

TAG = re.compile(
    r"</?(?:i|b|u|s|em|strong|font|span|(br|p|div|center)|sub|sup|small|big|ref|nowiki|poem|blockquote|code|tt|pre|cite|"
    r"abbr|references|noinclude|includeonly|onlyinclude)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
"""A tag of HTML, as in subtitles and in wikis. Group 1 matches only the names of tags that stand for a line
break, such as ``br``."""
_LEADING_DASH = re.compile(r"^\s*(?:(?:>>+|[-\u2013\u2014]+)\s*)++(?=\S)")
_WIDE = {"\uff08": "(", "\uff09": ")", "\uff3b": "[", "\uff3d": "]", "\u3010": "[", "\u3011": "]", "\uff1a": ":"}
_WIDE_SIGN = re.compile(f"[{''.join(_WIDE)}]")
_DOUBLED = re.compile(r"\((\([^()]*\))\)|\[(\[[^\[\]]*\])\]")
_L_FOR_I = re.compile(
    r"(?:^|(?<=[.!?\"-] ))l(?=[fnst]\s(?:[a-z]|I\b))|"
    r"(?<![\w'.\u2019-])l(?=(?:['\u2019](?:m|d|ll|ve)\b)|\s+[a-z])|(?<=[A-Z])l(?=[A-Z])|(?<!\w)l(?=[A-Z]+\b)"
)
_CREDIT = re.compile(
    r"(?:\bsubtitles? by\b|\bsubtit(?:les|ling|led)\b.{0,60}(?:\bby\b|\bsync|www\.|download|correct|:)|"
    r"opensubtitles|\b(?:re-?)?sync(?:ed|s|hro\w*)?(?:(?:,| and| &) correct\w*)? by\b|^\W*(?:re-?)?sync\w*\s?:|"
    r"^\W*caption(?:s|ed|ing)? by\b|\bwww\.\S|"
    # Speech may begin like these credits, as in "Ripped by the wind, it fell.", so a name must follow.
    r"^\W*(?:translated|transcri(?:bed|pt|ption)|ripped) by\s?:?\s+(?-i:\w*[A-Z\d_]))",
    re.IGNORECASE,
)
_TIME = re.compile(r"^\d{1,2}:\d\d:\d\d[,.]\d+\s*-->.*$")
WORD_TIME: Final = re.compile(r"<\d+:[\d:.]+>")
"""The time of a word, as in captions that a speech recogniser made."""
_STYLE = re.compile(
    r"\{(?=[^{}]*\})[^{}]*\\p[1-9][^{}]*\}[^{}]*|"  # an ASS code that begins a drawing, and the drawing's coordinates
    r"\{\\[^{}]*\}|\{[YyCcSsFf]:[^{}]*\}|^(?:\{\d+\}){2}|\[/?[ibu]\]|</?(?:v|c|lang|ruby|rt)(?:[.\s][^<>]*)?>|"
    rf"{WORD_TIME.pattern}"
)
_CLOCK = r"(?:\d+:)?\d{1,2}:\d\d[.,]\d{1,3}"
CUE: Final = re.compile(
    rf"\s*(?:{_CLOCK}\s*(?:-->|,)\s*{_CLOCK}(?!\d).*|\[{_CLOCK}\s*-->\s*{_CLOCK}\]\s*|(?:\[{_CLOCK}\]\s*)+|"
    rf"Dialogue:[^,]*,\s*{_CLOCK},\s*{_CLOCK},(?:[^,]*,){{6}})"
)
"""The time of a subtitle: a line of SRT, WebVTT or SBV, or the beginning of a line of Whisper, LRC, ASS or SSA."""
_CUE_SHARE: Final = 0.1
_LINE_END = re.compile(r"\s*\\[Nh]\s*")
_MUSIC = re.compile(
    r"[\u2669-\u266c\u00b6]+|(?:^|(?<=\s))[#~]+(?=\s|$)|^[-\s]*#+(?=[A-Za-z'\"][^#]*#+$)|(?<=[a-z.,?!'\"]{2})#+(?=\s|$)|"
    r"(?<![\w.])[*]{1,2}(?=\s|$)"
)
_SOUND_VERBS = (
    "sigh|laugh|chuckl|giggl|gasp|cough|groan|grunt|moan|pant|sob|scream|shout|yell|whisper|whimper|cri|cry|sniff|"
    "sniffl|snor|clear|mutter|mumbl|murmur|sing|hum|whistl|applaud|cheer|clap|knock|ring|beep|buzz|bark|speak|exhal|"
    "inhal|breath|growl|roar|scoff|snicker|squeal|shriek|wail|weep|yawn|hiss|click|creak|crash|clatter|chatter|continu|"
    "slam|open|clos|toll|chim|rumbl|honk|explod|stammer|gulp|howl|chirp|meow|neigh|thud|echo"
)
_SOUND_NOUNS = (
    r"applause|laughter|music|thunder|gunshots?|bells?|footsteps|indistinct|inaudible|"
    r"(?:on|over) (?:the )?(?:tv|radio|phone|telephone|recording|tape|pa|speaker|intercom)"
)
_NO_MANNER = (
    "only|early|family|july|italy|daily|weekly|monthly|yearly|finally|hopefully|actually|really|probably|possibly|obviously|"
    "clearly|usually|normally|generally|basically|literally|luckily|fortunately|unfortunately|sadly|apparently|certainly|"
    "definitely|surely|especially|particularly|previously|originally|initially|eventually|recently|formerly|reportedly|"
    "allegedly|supposedly|presumably|mostly|mainly|partly|nearly|hardly|exactly|technically|ideally|honestly|frankly|"
    "secondly|thirdly|lastly|additionally|consequently|reply|apply"
)
"""Words that end like adverbs of manner, but do not say how somebody speaks."""
# A phrase that says how somebody speaks, such as (quietly) or (in Spanish). It is removed only at the beginning of a
# line or sentence.
_MANNER = (
    r"(?i:(?:in|speaking|speaks) (?:\w+ish|\w+ese|\w+[rstl]ian|french|german|greek|latin|dutch|arabic|hindi)|"
    r"in an? (?:[\w-]+ ){0,2}(?:voice|tone|accent|whisper)|under (?:his|her|their) breath|"
    rf"to (?:him|her|them)sel(?:f|ves)|(?!(?:{_NO_MANNER})\b)\w{{3,}}ly)"
)
# A description, such as [door opens], (LAUGHTER AND MUSIC), (sighs heavily), (people laugh) or *coughs*. One of the two
# square brackets may be on another line. A single word in capitals inside round brackets can be an abbreviation, as in
# "member of (UNESCO)", or a stressed word, as in "a big (SOMETHING) thing". So if the word before the bracket ends in a
# small letter, the word in capitals matches only if it names a sound, as in "he said (LAUGHING) no".
_SOUND = re.compile(
    r"\[[^\w\[\]]*\]|\[(?=[^\[\]]*(?:[^\W\d_]{2}|V\.O|O\.S))(?:[^\[\]]*\]|[^\[\]]{1,60}$)|^(?:[^\s\[\]]+\s+){0,7}[^\s\[\]]*[^\W\d_]\s?\]|"
    rf"(?:^[-\u2013\s]*|(?<=\s))\((?!(?<=[a-z]\s\()(?!(?i:{_SOUND_VERBS}|{_SOUND_NOUNS}))[A-Z]{{5,}}\))"
    r"(?=[^()a-z]*(?:[A-Z]{5}|[A-Z]{2}[^()a-z]* |V\.O|O\.S))[^()a-z]*\)|"
    r"(?:^[-\u2013\s]*|(?<=\s[-\u2013])\s?)\([^()a-z]*[A-Z]{2}[^()a-z]*\)|"
    r"\{(?=[^{}\\]*\})(?=[^{}\\]*[^\W\d_]{2})[^{}\\]*\}|"
    r"(?<![:;=-])\((?=[^()a-z]*$)(?=[^()a-z]*[A-Z]{5})[^()a-z]*$|^(?=[^()a-z:;=]*\))[^()a-z:;=]*[A-Z]{5}[^()a-z:;=]*\)|"
    rf"\((?=[^()]*\b(?i:(?:{_SOUND_VERBS})(?:e?s|\w?ing)\b|(?:{_SOUND_NOUNS})\b))\s?"
    r"(?:[^\s()?!]+\s){0,4}[^\s()?!]+\s?\)|"
    r"\(\s?(?i:(?:(?:all|both|they|people|children|men|women|\w+s) )?(?!open|clos|clear|continu)"
    rf"(?:{_SOUND_VERBS})e?)\s?\)|"
    rf"(?:^[-\u2013\s]*|(?<=[.!?:]\s))\(\s?{_MANNER}\s?\)|"
    rf"\*(?i:{_SOUND_VERBS})(?:e?s|ing)(?: \w+)?\*"
)
_PARENTHESES_ONLY = re.compile(r"^[-\u2013\s]*\([^().?!]*\)(?:\s*\([^().?!]*\))*$")
_ROLES = (
    "(?=[A-Z])(?:(?:Old|Young|Male|Female|Little|Other|First|Second|Third) )?"
    "(?i:Man|Woman|Boy|Girl|Narrator|Announcer|Reporter|Newscaster|Host|Operator|Speaker|Voice|Both|All|Crowd|Singer)"
    "(?:['\u2019]s voice)?"
    r"(?: (?:on|over) (?:the )?(?:TV|radio|phone|telephone|tape|PA|speaker|intercom))?(?: ?#?\d+)?"
)
_UPPER = "A-Z\u00c0-\u00d6\u00d8-\u00de"
_CAPITALS = (
    rf"(?!P\.?S\b)(?:\d+(?:ST|ND|RD|TH) )?(?:(?:Mrs?|Ms|Dr)\.? )?(?:Ma?c)?[{_UPPER}][{_UPPER}.'\u2019-]+"
    rf"(?:(?: |/|, (?=(?:ON|OVER|OFF|V\.O)\b))(?:[{_UPPER}.'\u2019&-]+|#?\d+)){{0,4}}"
)
# A speaker's name before a colon. The name is in capitals, or is a role. A name in capitals stays if the text after the
# colon is in capitals too.
_NAME = re.compile(
    rf"(?m)^ *(?:{_ROLES}|(?=[^:\n]*:(?:\s*$|.*[a-z])){_CAPITALS}(?: ?\([^()\n]*\))?)\s*:(?:\s+|$|(?=[A-Z\"\u201c]))"
)
_TURN = re.compile(r"(?<=[.!?\u2026\"\u201d])\s+(?:[-\u2013\u2014]+|>>+)\s*(?=[A-Z\"\u201c'\u2018\u00bf\d.])")
# Each description is first replaced by the character NUL. The next three patterns find text next to NUL that is
# removed with it. In these examples, 0 stands for NUL:
#
#     _EMPTY_TURN    the dash of a turn that has no other text: "- 0" in "- 0 - Hello"
#     _COLON         a colon after the description, and a name before it: "John 0:" in "John 0: Hello"
#     _SPACE         spaces before a punctuation mark, as " 0" in "Wait 0!", or spaces after a quotation mark that
#                    begins the line
_EMPTY_TURN = re.compile(r"(?:^|(?<=\s))[-\u2013]+\s*\0(?:\s*\0)*\s*(?=[-\u2013]\s|$)")
_COLON = re.compile(r"^([-\u2013\s]*)(?:[A-Z][a-z][\w.'\u2019-]*(?: [A-Z][\w.'\u2019-]*){0,3}\s*)?\0\s*:")
_SPACE = re.compile(r"\s*\0\s*(?=[.,:!?;])|(?<=^[\"\u201c])\0\s*")
_TURN_OF_NAME = re.compile(
    r"(?<=[.!?\u2026\"\u201d])(?<!\b[A-Z]\.)(?<!\b[A-Z]{2}\.)(?<!\b(?:MRS|SGT|REV|GEN|COL|Mrs)\.)"
    rf"(?<!\b(?:CAPT|PROF)\.)(?<!\b(?:Mr|Ms|Dr)\.)\s+[-\u2013\u2014]*\s*(?=(?:{_CAPITALS}|{_ROLES}) ?:\s.*[a-z])"
)


def has_cues(texts: Sequence[str]) -> bool:
    """Return whether a tenth or more of the lines that are not blank have the time of a subtitle."""
    num_cues = sum(CUE.match(text) is not None for text in texts)
    return num_cues >= max(1, _CUE_SHARE * sum(bool(text.strip()) for text in texts))


def without_codes(text: str) -> str:
    """Return a line of a subtitle without the codes and tags that set its style."""
    return TAG.sub(_space_at_line_end, _STYLE.sub("", text)).strip()


def replace_tags(draft: Draft) -> None:
    """Remove tags. A tag that stands for a line break becomes a space."""
    draft.replace(TAG, _space_at_line_end, "tag")


def open_subtitles(draft: Draft) -> None:
    """Clean OpenSubtitles: one subtitle per line. A dash marks a change of speaker, and each turn becomes a line."""
    undo_entities(draft)
    draft.replace(_STYLE, "", "subtitle style code")
    draft.replace(_LINE_END, " ", "subtitle style code")
    clean_subtitle(draft)


def clean_subtitle(draft: Draft) -> None:
    """Clean a subtitle from which the style codes were removed."""
    draft.drop(_TIME, "subtitle time")
    draft.replace(_WIDE_SIGN, lambda sign: _WIDE[sign[0]], "full-width bracket or colon")
    replace_tags(draft)
    draft.drop(_CREDIT, "subtitle credit")
    draft.replace(_MUSIC, "", "music mark")
    draft.drop(_PARENTHESES_ONLY, "sound description")
    _cut_sounds(draft)
    if _LEADING_DASH.match(draft.text):
        draft.replace(_LEADING_DASH, "", "leading dash")
        draft.replace(_TURN, "\n", "line divided into a line per turn")
    draft.replace(_TURN_OF_NAME, "\n", "line divided into a line per turn")
    draft.replace(_NAME, " ", "speaker's name")
    draft.replace(_L_FOR_I, "I", "small L in place of I")


def _cut_sounds(draft: Draft) -> None:
    single = _DOUBLED.sub(r"\1\2", draft.text)
    text = _SOUND.sub("\0", single)
    if text == single:
        return
    text = _SPACE.sub("", _COLON.sub("\\1\0", _EMPTY_TURN.sub("", text))).replace("\0", " ")
    if has_word(text):
        draft.text = text
        draft.repaired.append("sound description inside a line")
    elif not draft.dropped:
        draft.dropped = "sound description"


def _space_at_line_end(tag: re.Match[str]) -> str:
    return " " if tag[1] else ""
