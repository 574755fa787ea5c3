"""Test the rules of each source of BabyLM, with one example per rule: invented text in the layout of the source."""

import pytest

from pipeline.corpus.text.babylm import SOURCES, title_of
from pipeline.corpus.text.draft import Draft
from pipeline.corpus.text.text_files import normalise_text

SPACE, CONTRACTION = "space before punctuation", "space inside a contraction"
SOUND, TURNS = "sound description inside a line", "turns of a line put on separate lines"
SOUNDS = {
    "[ Ann ] It is late.": "It is late.",
    "No. [ Coughs ]": "No.",
    "What? [ Laughs ] Oh. [ Sighs ] Fine.": "What? Oh. Fine.",
    "(SIGHS) All right.": "All right.",
    "(sighs) All right.": "All right.",
    "Well (a door slams) then.": "Well then.",
    "(ON TV) This is it.": "This is it.",
    "[MAN]: Hello.": "Hello.",
    "Hello. [ a bell rings": "Hello.",
    "I wonder where - - (singing).": "I wonder where - -.",
    "The agency (CIA) went (COUGHS) home.": "The agency (CIA) went home.",
    "in the distance ] Hello.": "Hello.",
    "( Grunts loudly ) Hello.": "Hello.",
    "(sigh) Hello (all laugh) there.": "Hello there.",
    "(in Spanish) Hello. (quietly) Yes.": "Hello. Yes.",
    "{laughs} Hello.": "Hello.",
    "[...] He said (laughs): yes.": "He said: yes.",
    "*sighs* Hello.": "Hello.",
    '"[Ann] Yes," he said.': '"Yes," he said.',
    "Ann Fox (on radio): Hello.": "Hello.",
    "(V.O.) [O.S.] Hello.": "Hello.",
}
NAMES = {
    "TOM: We go now.": "We go now.",
    "MAN #1: Who is it?": "Who is it?",
    "DR. FOX: It is me.": "It is me.",
    "WOMAN ON RADIO: Go now.": "Go now.",
    "Narrator: Once there was a cat.": "Once there was a cat.",
    "Old woman on TV: Go now.": "Go now.",
    "All: Go now.": "Go now.",
    "ANN (to Tom): Go now.": "Go now.",
    "TOM, ON RADIO:Go now.": "Go now.",
    "TOM/ANN & \u00c9LODIE: Go now.": "Go now.",
    "2ND MAN : Go now.": "Go now.",
    "Mrs. McFOX: Go now.": "Go now.",
    "\u266a ANN: Go now.": "Go now.",
}
LIKE_NAMES_AND_SOUNDS = (
    "Listen: we go. (In London) it is (open).",
    "All in all: we lost. P.S.: I ran.",
    "NO, NO: never do it (don't laugh).",
    "THANKS A LOT :) BYE",
    "The truth is this, man: (only) we lost.",
    "I like [a] and {b}.",
)
CLITICS = {
    "I don 't see 'em": "I don't see 'em",
    "then 't was gon na go, they wan na": "then 'twas gonna go, they wanna",
    "I got ta lem me go, he got me": "I gotta lemme go, he got me",
    "c' mon ma' am, o 'clock": "c'mon ma'am, o'clock",
    "it ' s mine, don ' t pick ' em": "it's mine, don't pick 'em",
}
REMARKS = {
    "I grow beans, *why no dash? and they keep well.": "I grow beans, and they keep well.",
    "We went to Lake Tavel. * Travel Lake in Utah?": "We went to Lake Tavel.",
    "Yes. *Should be they. We went.": "Yes. We went.",
    "I have see it. see=seen Just once.": "I have see it. Just once.",
    "I see it. see=seen He brung=brought one.": "I see it. He brung one.",
    "We watch=watched it.": "We watch it.",
    "We watch it, watch=watched. And we liked it.": "We watch it, And we liked it.",
    "Well, **typo and we went.": "Well, and we went.",
    "*[[slash error]] Yes.": "Yes.",
    "No, *the=them they went.": "No, they went.",
    "We *sic* went.": "We went.",
    "It's a, *listen; is it the U.S. or them? Yes.": "It's a, Yes.",
    "Yes. [[drawn out]] We went.": "Yes. We went.",
    "Yes. *(listen) We went. *{typo} So.": "Yes. We went. So.",
    'Yes. *"beans" We went.': "Yes. We went.",
    "Yes. *diff. speaker, see p. 12. We went.": "Yes. We went.",
    "Yes. *Mr. Fox talks here. We went.": "Yes. We went.",
    "Yes. *should be 2 utts. We went.": "Yes. We went.",
    "We went. *": "We went.",
    "Yes. *? We went. *typo for want. So.": "Yes. We went. So.",
}
MARKS = {
    "Yes. [laughter] We [laughter-went].": "Yes. We went.",
    "[I, + I] know #yes,# the #1.": "I, I know yes, the #1.",
    "Yes. [Vocalized-noise] We went.": "Yes. We went.",
}
KEPT = [  # source, line, text, speaker, what was repaired
    ("childes", "*MOT:\tyou see , a cup ?", "you see, a cup?", "MOT", {"space before punctuation"}),
    ("childes", "*FAT1:\tit's here.", "it's here.", "FAT1", set()),
    ("childes", "*CHI:\twant xxx ball.", "want ball.", "CHI", {"unintelligible word"}),
    ("childes", "*CHI:\tmy ball [points] .", "my ball.", "CHI", {"bracketed comment", "space before punctuation"}),
    ("childes", "*MOT:\t<the the> [/] the cup.", "the cup.", "MOT", {"CHAT retracing"}),
    ("childes", "*MOT:\tthe [//] a cup.", "a cup.", "MOT", {"CHAT retracing"}),
    ("childes", "*CHI:\tdis [: this] cup.", "this cup.", "CHI", {"CHAT replacement"}),
    ("childes", "*CHI:\t&=laughs a cup.", "a cup.", "CHI", {"CHAT event"}),
    ("childes", "*CHI:\t&+cu cup.", "cup.", "CHI", {"CHAT fragment"}),
    ("childes", "*MOT:\t&-um a cup & a pen.", "um a cup & a pen.", "MOT", {"CHAT filler mark"}),
    ("childes", "*MOT:\ta (..) cup.", "a cup.", "MOT", {"CHAT pause"}),
    ("childes", "*CHI:\twoofwoof@o says.", "woofwoof says.", "CHI", {"CHAT form marker"}),
    ("childes", "*CHI:\the 0is here, 10 cups.", "he here, 10 cups.", "CHI", {"CHAT omitted word"}),
    ("childes", "*CHI:\t(be)cause goin(g).", "because going.", "CHI", {"CHAT shortened word"}),
    ("childes", "*MOT:\tand then +...", "and then...", "MOT", {"CHAT terminator", "space before punctuation"}),
    ("childes", "*MOT:\t+< a cup.", "a cup.", "MOT", {"CHAT linker"}),
    ("childes", "*MOT:\tchoo+choo ice_cream.", "choo choo ice cream.", "MOT", {"CHAT compound"}),
    ("childes", "*MOT:\tno:: \u2191cup.", "no cup.", "MOT", {"CHAT prosody"}),
    ("childes", "*MOT:\ta cup. 1234_5678", "a cup.", "MOT", {"CHAT time stamp"}),
    ("childes", "*MOT:\ta well-known xylophone at 5.", "a well-known xylophone at 5.", "MOT", set()),
    (
        "aochildes",
        "what 's that xxx ?",
        "what's that?",
        "",
        {"unintelligible word", "space before punctuation", "space inside a contraction"},
    ),
    ("switchboard", "A:\tIs, is fairly .", "Is, is fairly.", "A", {"space before punctuation"}),
    ("switchboard", "B:\tNo. Huh-uh. *two utts", "No. Huh-uh.", "B", {"annotator's remark"}),
    ("switchboard", "B:\t{F Uh, } [ I, + I ] know. <laughter>", "Uh, I, I know.", "B", {"noise or disfluency mark"}),
    ("switchboard", "It said: no -- well,", "It said: no -- well,", "", set()),
    (
        "bnc_spoken",
        "Well I 'm , erm , gonna .",
        "Well I'm, erm, gonna.",
        "",
        {"space before punctuation", "space inside a contraction"},
    ),
    ("open_subtitles", "<i>A cup.</i>", "A cup.", "", {"tag"}),
    ("open_subtitles", "{\\an8}A cup.", "A cup.", "", {"subtitle style code"}),
    ("open_subtitles", "\u266a A tune \u266a", "A tune", "", {"music mark"}),
    ("open_subtitles", "[laughs] A cup.", "A cup.", "", {SOUND}),
    ("open_subtitles", "- Yes. - No.", "Yes. No.", "", {"leading dash", TURNS}),
    ("open_subtitles", "A cup - No.", "A cup - No.", "", set()),
    ("open_subtitles", "l'm here, and l know Al.", "I'm here, and I know Al.", "", {"l read for I"}),
    ("open_subtitles", "(I know. Really.)", "(I know. Really.)", "", set()),
    ("open_subtitles", "Read the subtitles!", "Read the subtitles!", "", set()),
    ("cbt", "`` Come in ! '' he cried .", '"Come in!" he cried.', "", {"PTB quote", "space before punctuation"}),
    ("cbt", "` Come , ' said he .", "'Come,' said he.", "", {"PTB quote", "space before punctuation"}),
    ("cbt", "it -LRB- a cup -RRB- is", "it (a cup) is", "", {"PTB bracket"}),
    (
        "cbt",
        "the fox 's cup , I do n't ca n't",
        "the fox's cup, I don't can't",
        "",
        {"space before punctuation", "space inside a contraction"},
    ),
    (
        "cbt",
        "we 're gon na go , 't was",
        "we're gonna go, 'twas",
        "",
        {"space before punctuation", "space inside a contraction"},
    ),
    ("cbt", "$ 5 or 10 %", "$5 or 10%", "", {"PTB spacing"}),
    (
        "gutenberg",
        "It was _very_ old, snake_case_too.",
        "It was very old, snake_case_too.",
        "",
        {"italics between underscores"},
    ),
    ("gutenberg", "A cup [12] and {13} a pen.[A] [Pg 4]", "A cup and a pen.", "", {"mark of a page or footnote"}),
    ("gutenberg", "=Bold= 1 = 1", "Bold 1 = 1", "", {"bold between equals signs"}),
    ("gutenberg", "A cup. [Illustration: A cup]", "A cup.", "", {"illustration"}),
    ("gutenberg", "CHAPTER XII", "CHAPTER XII", "", set()),
    ("children_stories", "The _end_.", "The end.", "", {"italics between underscores"}),
    ("qed", "&amp;amp;quot;A cup&amp;quot; &amp; pen", '"A cup" & pen', "", {"HTML entity"}),
    ("qed", "THlS lS A CUP , Al", "THIS IS A CUP, Al", "", {"l read for I", "space before punctuation"}),
    ("qed", "&lt;i&gt;A cup&lt;/i&gt;", "A cup", "", {"HTML entity", "tag"}),
    ("qed", "&gt;&gt; Yes.", "Yes.", "", {"HTML entity", "leading dash"}),
    ("qed", "if x < 5 or AT&T", "if x < 5 or AT&T", "", set()),
    (
        "simple_wiki",
        "A cup.[1] It is &lt;b&gt;old&lt;/b&gt;.",
        "A cup. It is old.",
        "",
        {"mark of a footnote", "HTML entity", "tag"},
    ),
    ("simple_wikipedia", "A cup ( ; born 1900) is ().", "A cup (born 1900) is.", "", {"empty brackets"}),
    ("wikipedia", "= = History = =", "History", "", {"marks of a heading"}),
    ("wikipedia", "A [[cup|big cup]] and a [[pen]].", "A big cup and a pen.", "", {"wiki link"}),
    ("wikipedia", "A '''cup''' of 1 @,@ 000", "A cup of 1,000", "", {"wiki bold or italics", "mark between spaces"}),
    ("wikipedia", "* A cup<ref name=a>b</ref> {{cite}}", "A cup", "", {"bullet", "reference or template"}),
    ("open_subtitles", "She knew the titles by heart.", "She knew the titles by heart.", "", set()),
    ("open_subtitles", "The captions by the door.", "The captions by the door.", "", set()),
    ("childes", "*MOT:\tpick 'em up.", "pick 'em up.", "MOT", set()),
    ("bnc_spoken", "Put 'em in , or 'im , 'cause 'tis late .", "Put 'em in, or 'im, 'cause 'tis late.", "", {SPACE}),
    ("bnc_spoken", "Say the letter 's' or \u2019d\u2019 .", "Say the letter 's' or \u2019d\u2019.", "", {SPACE}),
    ("bnc_spoken", "Well 'm going , I 'd 've gone .", "Well 'm going, I'd've gone.", "", {SPACE, CONTRACTION}),
    (
        "bnc_spoken",
        "D' you , y' know , 't was six o' clock",
        "D'you, y'know, 'twas six o'clock",
        "",
        {SPACE, CONTRACTION},
    ),
    ("bnc_spoken", "Yes yes ,a lot ?No .Well ,I", "Yes yes, a lot? No. Well, I", "", {SPACE}),
    ("simple_wiki", "It is ,or was , a .NET thing ;D", "It is, or was, a .NET thing ;D", "", {SPACE}),
    ("cbt", "give 'em here", "give 'em here", "", set()),
    *[("open_subtitles", line, text, "", {SOUND}) for line, text in SOUNDS.items()],
    *[
        ("open_subtitles", line, text, "", {"speaker's name"} | ({"music mark"} if "\u266a" in line else set()))
        for line, text in NAMES.items()
    ],
    *[("open_subtitles", line, line, "", set()) for line in LIKE_NAMES_AND_SOUNDS],
    *[("switchboard", f"A:\t{line}", text, "A", {"noise or disfluency mark"}) for line, text in MARKS.items()],
    ("qed", ">> COL. FOX: Yes. >> No.", "Yes. No.", "", {"leading dash", TURNS, "speaker's name"}),
    ("open_subtitles", "Man: Yes. Woman: No.", "Yes. No.", "", {TURNS, "speaker's name"}),
    *[("bnc_spoken", line, text, "", {CONTRACTION}) for line, text in CLITICS.items()],
    ("cbt", "he got me the boys ' 2 cups", "he got me the boys ' 2 cups", "", set()),
    ("cbt", "the boys ' cups", "the boys' cups", "", {CONTRACTION}),
    ("cbt", "` The boys ' said he", "'The boys ' said he", "", {"PTB quote"}),
    ("gutenberg", "[pill] [He has no map.] [Pg xii]", "[pill] [He has no map.]", "", {"mark of a page or footnote"}),
    ("gutenberg", "[Transcriber's note: x.] She ran.", "She ran.", "", {"Project Gutenberg notice"}),
    ("open_subtitles", "- [ Sighs ] - Oh. - [ Laughs ]", "Oh.", "", {SOUND, "leading dash"}),
    ("open_subtitles", "- TOM: Yes. - ANN: No.", "Yes. No.", "", {"leading dash", TURNS, "speaker's name"}),
    ("open_subtitles", "TOM (V.O.): We go now.", "We go now.", "", {SOUND, "speaker's name"}),
    ("open_subtitles", "DR. FOX: Yes. MR. HEN: No.", "Yes. No.", "", {TURNS, "speaker's name"}),
    ("open_subtitles", "#La la la#", "La la la", "", {"music mark"}),
    ("open_subtitles", "# La la \u00b6", "La la", "", {"music mark"}),
    ("open_subtitles", "C# is the #1 key", "C# is the #1 key", "", set()),
    ("open_subtitles", "I TOLD HIM: GO AWAY!", "I TOLD HIM: GO AWAY!", "", set()),
    ("open_subtitles", "At 10: the show (in fact) ends :]", "At 10: the show (in fact) ends :]", "", set()),
    *[("switchboard", f"A:\t{line}", text, "A", {"annotator's remark"}) for line, text in REMARKS.items()],
    ("switchboard", "A:\t2 * 3 is six, n = a x b.", "2 * 3 is six, n = a x b.", "A", set()),
    ("switchboard", "A:\tSince 1835.* We go.", "Since 1835.* We go.", "A", set()),
    ("gutenberg", "A cup [Illustration: a [big] cup] here.", "A cup here.", "", {"illustration"}),
    ("gutenberg", "A cup.[Footnote 1: Or a mug.]", "A cup.", "", {"note in brackets"}),
    ("gutenberg", "[Picture this!] he said.", "[Picture this!] he said.", "", set()),
    ("qed", "the set [a, b] [laughter] is", "the set [a, b] is", "", {SOUND}),
    ("plain", "= = = [1] _a_ &amp; <i>", "= = = [1] _a_ &amp; <i>", "", set()),
]
CAPTIONS = (
    "[ Illustration: A CAT ]",
    "[*Illustration: A CAT.*]",
    "{Illustration: A CAT}",
    "(Illustration)",
    "[Image unavailable.]",
    "[Full-page illustration: A CAT]",
    "[Tail-piece]",
)
DROPPED = [  # source, line, reason
    ("childes", "[sits on the floor]", "bracket-only comment"),
    ("childes", "*CHI:\t[laughs] .", "bracket-only comment"),
    ("childes", "*CHI:\txxx yyy .", "unintelligible"),
    ("childes", "*CHI:\twww .", "unintelligible"),
    ("childes", "@Situation:\tat home", "CHAT metadata"),
    ("childes", "%mor:\tpro|you", "CHAT metadata"),
    ("aochildes", "xxx .", "unintelligible"),
    ("open_subtitles", "Subtitles by Nobody", "subtitle credit"),
    ("open_subtitles", "[Captions by Nobody]", "subtitle credit"),
    ("open_subtitles", "Downloaded from www.OpenSubtitles.org", "subtitle credit"),
    ("open_subtitles", "00:01:02,003 --> 00:01:04,005", "subtitle time"),
    ("open_subtitles", "[door slams]", "sound description"),
    ("open_subtitles", "- (SIGHS)", "sound description"),
    ("qed", "[Music]", "sound description"),
    ("open_subtitles", "[ Bells Ringing ] - [ Dogs Bark ]", "sound description"),
    ("open_subtitles", "\u266a (MUSIC PLAYS) \u266a", "sound description"),
    ("open_subtitles", "(MR. FOX LAUGHS)", "sound description"),
    ("open_subtitles", "TOM:", "speaker's name"),
    ("open_subtitles", "- MAN ON TV:", "speaker's name"),
    ("switchboard", "A:\t*two utts", "annotator's remark"),
    ("gutenberg", "[Illustration: A CAT ON A WALL.]", "illustration"),
    ("gutenberg", "[Illustration]", "illustration"),
    *[("gutenberg", line, "illustration") for line in CAPTIONS],
    ("gutenberg", "[Editor's note: See the map.]", "note in brackets"),
    ("gutenberg", "[Transcriber's note: See the map.]", "Project Gutenberg notice"),
    ("gutenberg", "[A]", "mark of a page or footnote"),
    ("gutenberg", "- 12 -", "page number"),
    ("open_subtitles", "{\\an8}", "subtitle style code"),
    ("open_subtitles", "(INDISTINCT", "sound description"),
    ("open_subtitles", "CHATTER)", "sound description"),
    ("qed", "&nbsp;", "HTML entity"),
    ("qed", "<br>", "tag"),
    ("switchboard", "A:\t<laughter>", "noise or disfluency mark"),
    ("childes", "*CHI:\t&+cu .", "CHAT fragment"),
    ("simple_wiki", "{{stub}}", "reference or template"),
    ("gutenberg", "[_Illustration_]", "illustration"),
    ("children_stories", "[Plate IV.]", "illustration"),
    ("gutenberg", "[Sidenote: A cat]", "note in brackets"),
    ("gutenberg", "[Pg 12]", "page number"),
    ("gutenberg", "Page 12", "page number"),
    ("gutenberg", "A Cup . . . . . 12", "line of a table of contents"),
    ("gutenberg", "*** END OF THE PROJECT GUTENBERG EBOOK A CUP ***", "Project Gutenberg notice"),
    ("gutenberg", "Produced by Nobody and others", "Project Gutenberg notice"),
    ("wikipedia", "[[Category:Cups]]", "line of a table, file or category"),
    ("wikipedia", "| align = left", "line of a table, file or category"),
]


def draft(source: str, line: str) -> Draft:
    found = Draft(normalise_text(line))
    SOURCES[source].rules(found)
    return found


@pytest.mark.parametrize(("source", "line", "text", "speaker", "repaired"), KEPT)
def test_rules_keep_the_language_of_a_line(source: str, line: str, text: str, speaker: str, repaired: set[str]) -> None:
    found = draft(source, line)
    assert (found.dropped, normalise_text(found.text), found.speaker) == ("", text, speaker)
    assert set(found.repaired) == repaired


@pytest.mark.parametrize(("source", "line", "reason"), DROPPED)
def test_a_line_that_is_not_language_is_dropped(source: str, line: str, reason: str) -> None:
    assert draft(source, line).dropped == reason


def test_titles_are_read_from_headers_only() -> None:
    assert title_of("= = = A cup = = =") == "A cup"
    assert title_of("_BOOK_TITLE_ : Nobody___A_Cup.txt.out") == "Nobody___A_Cup.txt.out"
    assert not title_of("= = History = =")
    assert not title_of("A cup = = = B")
