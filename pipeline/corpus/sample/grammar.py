r"""Define the built-in English grammar: its rules with features, and the domains of the features.

A line of ``RULES`` is ``weight LHS -> RHS``. A variable ``$name`` in it takes each value of ``DOMAINS[name]``, and has
the same value everywhere in the line. The variables ``$name1`` and ``$name2`` have the same domain, but may have
different values. If a variable occurs only on the right, its values share the weight of the line in proportion to their
weights in the domain. The weights of the rules of one symbol are normalised.

A symbol is ``label/variant[features]``. The tree has only the label. In place of the label ``V``, it has the first
feature (VBZ, VBD, ...). A symbol that begins with ``_`` is not in the tree, and its children become children of its
parent. There are no empty rules and no cycles of unary rules. No phrase of a tree has as its only child a phrase with
the same label.

The most important feature is the agreement class. A class is named after a typical member. The classes ``i``, ``you``
and ``we`` are for speaker and hearer, ``he``, ``she`` and ``they`` for other humans, ``dog`` and ``dogs`` for animals,
and ``cup`` and ``cups`` for things. The class of a noun phrase determines the form of the verb, the pronoun, the
reflexive and the predicates that make sense. So agreement is exact at any distance, and a sentence that violates
agreement has probability 0.
"""

from functools import cache

from pipeline.corpus.sample.lexicon import lexical_entries
from pipeline.corpus.sample.pcfg import Grammar, parse_rules

DOMAINS: dict[str, dict[str, float]] = {
    # Sets of agreement classes. The weights follow their frequencies among subjects and objects in text.
    "agr": {"i": 4, "you": 3, "we": 4, "he": 20, "she": 20, "they": 22, "dog": 8, "dogs": 6, "cup": 7, "cups": 6},
    "noun": {"he": 20, "she": 20, "they": 22, "dog": 8, "dogs": 6, "cup": 7, "cups": 6},
    "sg": {"he": 20, "she": 20, "dog": 8, "cup": 7},
    "pl": {"i": 4, "you": 3, "we": 4, "they": 22, "dogs": 6, "cups": 6},
    "are": {"you": 3, "we": 4, "they": 22, "dogs": 6, "cups": 6},
    "npl": {"they": 22, "dogs": 6, "cups": 6},
    "spk": {"i": 4, "you": 3, "we": 4},
    "hum": {"i": 4, "you": 3, "we": 4, "he": 20, "she": 20, "they": 22},
    "nhum": {"he": 20, "she": 20, "they": 22},
    "hsg": {"he": 1, "she": 1},
    "nonhum": {"dog": 8, "dogs": 6, "cup": 12, "cups": 10},
    "liv": {"i": 4, "you": 3, "we": 4, "he": 20, "she": 20, "they": 22, "dog": 8, "dogs": 6},
    "nliv": {"he": 20, "she": 20, "they": 22, "dog": 8, "dogs": 6},
    "livsg": {"he": 20, "she": 20, "dog": 8},
    "livpl": {"they": 22, "dogs": 6},
    "thg": {"cup": 12, "cups": 10},
    # The first sound of a word: c for a consonant, v for a vowel.
    "snd": {"c": 85, "v": 15},
    # Penn tags of all verb forms, and of the forms that have no tense.
    "form": {"VBZ": 1, "VBP": 1, "VBD": 1, "VB": 1, "VBN": 1, "VBG": 1},
    "bare": {"VB": 1, "VBN": 1, "VBG": 1},
    # The kind of noun that a gap replaces: a living being or a thing.
    "gap": {"liv": 1, "thg": 1},
}

RULES = """
84 TOP -> S/top
10 TOP -> SQ/top
6  TOP -> SBARQ/top

76 S/top -> _CLAUSE ./end
6  S/top -> S/e , CC/but S/e ./end
6  S/top -> SBAR/adv , _CLAUSE ./end
6  S/top -> PP/time , _CLAUSE ./end
6  S/top -> ADVP/frame , _CLAUSE ./end
1  S/e -> _CLAUSE
93 _CLAUSE -> NP/s[$agr] VP/fin[$agr]
3  _CLAUSE -> NP/no[$noun] VP/npi[$noun]
4  _CLAUSE -> NP/ex VP/ex[$noun]

35 SQ/top -> _DO[$agr] NP/s[$agr] VP[VB,$agr] ./ask
18 SQ/top -> _BE[$liv] NP/s[$liv] ADJP/liv ./ask
6  SQ/top -> _BE[$thg] NP/s[$thg] ADJP/thg ./ask
14 SQ/top -> _BE[$agr] NP/s[$agr] VP[VBG,$agr] ./ask
14 SQ/top -> MD NP/s[$agr] VP[VB,$agr] ./ask
13 SQ/top -> _HAVE[$agr] NP/s[$agr] VP[VBN,$agr] ./ask
40 SBARQ/top -> WHNP/who SQ/sub ./ask
30 SBARQ/top -> WHNP/who SQ/g[liv] ./ask
30 SBARQ/top -> WHNP/what SQ/g[thg] ./ask
1  SQ/sub -> VP/fin[$hsg]
1  SQ/g[$gap] -> _DO[$agr] NP/s[$agr] VP/gb[VB,$agr,$gap]

1  NP/s[$spk] -> PRP/s[$spk]
13 NP/s[$noun] -> PRP/s[$noun]
37 NP/s[$noun] -> _PLAIN[$noun]
44 NP/s[$noun] -> _MODIFIED[$noun]
3  NP/s[$noun] -> NP/b[$noun] , SBAR/nr[$noun] ,
3  NP/s[$noun] -> _NO[$noun]
1  NP/rs[$spk] -> PRP/s[$spk]
22 NP/rs[$noun] -> PRP/s[$noun]
66 NP/rs[$noun] -> _CORE[$noun]
6  NP/rs[$noun] -> NP/b[$noun] PP
6  NP/rs[$hsg] -> NNP[$hsg]
3  NP/rs[$noun] -> _NO[$noun]
1  NP/o[$spk] -> PRP/o[$spk]
12 NP/o[$noun] -> PRP/o[$noun]
70 NP/o[$noun] -> _PLAIN[$noun]
18 NP/o[$noun] -> _MODIFIED[$noun]
1  NP/r[$liv] -> PRP/r[$liv]
56 _MODIFIED[$noun] -> NP/b[$noun] PP
38 _MODIFIED[$noun] -> NP/b[$noun] SBAR/rel[$noun]
6  _MODIFIED[$noun] -> NP/b[$noun] PP SBAR/rel[$noun]
60 _PLAIN[$noun] -> _CORE[$noun]
12 _PLAIN[$hsg] -> NNP[$hsg]
8  _PLAIN[they] -> NP/b[$nhum1] CC/and NP/b[$nhum2]
6  _PLAIN[they] -> NP/p CC/and NP/p
8  _PLAIN[dogs] -> NP/b[dog] CC/and NP/b[dog]
8  _PLAIN[cups] -> NP/b[$thg1] CC/and NP/b[$thg2]
1  NP/p -> NNP[$hsg]
1  NP/b[$noun] -> _CORE[$noun]

36 _CORE[$sg] -> DT/sg _NB[$sg]
26 _CORE[$sg] -> DT/a[$snd] _NBS[$sg,$snd]
44 _CORE[$npl] -> DT/pl _NB[$npl]
10 _CORE[$npl] -> JJ/q _NB[$npl]
8  _CORE[$npl] -> CD _NB[$npl]
10 _CORE[$noun] -> PRP$ _NB[$noun]
5  _CORE[$noun] -> NP/pos _NB[$noun]
60 NP/pos -> DT/sg _NB[$livsg] POS
40 NP/pos -> NNP[$hsg] POS
1  NP/no[$noun] -> _NO[$noun]
70 _NO[$noun] -> DT/no _NB[$noun]
15 _NO[$noun] -> NP/nb[$noun] PP
15 _NO[$noun] -> NP/nb[$noun] SBAR/rel[$noun]
1  NP/nb[$noun] -> DT/no _NB[$noun]

1  _NB[$sg] -> _NBS[$sg,$snd]
76 _NBS[$sg,$snd] -> NN[$sg,$snd]
16 _NBS[$livsg,$snd] -> JJ/liv[$snd] _NM[$livsg]
8  _NBS[$livsg,$snd] -> JJ/age[$snd] _N[$livsg]
16 _NBS[cup,$snd] -> JJ/thg[$snd] _NM[cup]
8  _NBS[cup,$snd] -> JJ/hue[$snd] _N[cup]
76 _NB[$npl] -> NNS[$npl]
16 _NB[$livpl] -> JJ/liv[$snd] _NM[$livpl]
8  _NB[$livpl] -> JJ/age[$snd] _N[$livpl]
16 _NB[cups] -> JJ/thg[$snd] _NM[cups]
8  _NB[cups] -> JJ/hue[$snd] _N[cups]
75 _NM[$noun] -> _N[$noun]
25 _NM[$nliv] -> JJ/age[$snd] _N[$nliv]
25 _NM[$thg] -> JJ/hue[$snd] _N[$thg]
1  _N[$sg] -> NN[$sg,$snd]
1  _N[$npl] -> NNS[$npl]

38 SBAR/rel[$nhum] -> WHNP/who S/sub[$nhum]
12 SBAR/rel[$nhum] -> WHNP/that S/sub[$nhum]
32 SBAR/rel[$nhum] -> WHNP/that S/g[liv]
18 SBAR/rel[$nhum] -> S/g[liv]
50 SBAR/rel[$nonhum] -> WHNP/which S/sub[$nonhum]
32 SBAR/rel[$thg] -> WHNP/which S/g[thg]
18 SBAR/rel[$thg] -> S/g[thg]
32 SBAR/rel[dog] -> WHNP/which S/g[liv]
32 SBAR/rel[dogs] -> WHNP/which S/g[liv]
1  SBAR/nr[$nhum] -> WHNP/who S/sub[$nhum]
1  SBAR/nr[$nonhum] -> WHNP/which S/sub[$nonhum]
1  WHNP/who -> WP/who
1  WHNP/what -> WP/what
1  WHNP/that -> WDT/that
1  WHNP/which -> WDT/which
1  S/sub[$noun] -> VP/fin[$noun]
1  S/g[$gap] -> NP/rs[$agr] VP/g[$agr,$gap]

92 VP/fin[$agr] -> _FIN[$agr]
8  VP/fin[$agr] -> VP/c[$agr] CC/or VP/c[$agr]
1  VP/c[$agr] -> _FIN[$agr]
42 _FIN[$sg] -> _V[VBZ,$sg]
42 _FIN[$pl] -> _V[VBP,$pl]
20 _FIN[$agr] -> _V[VBD,$agr]
6  _FIN[$agr] -> MD VP[VB,$agr]
2  _FIN[$agr] -> MD RB/not VP[VB,$agr]
3  _FIN[$agr] -> _DO[$agr] RB/not VP[VB,$agr]
6  _FIN[$agr] -> _HAVE[$agr] VP[VBN,$agr]
5  _FIN[$agr] -> _BEN[$agr] VP[VBG,$agr]
4  _FIN[$liv] -> _BEN[$liv] VP/pass[liv]
8  _FIN[$liv] -> _BEN[$liv] ADJP/liv
3  _FIN[$agr] -> _BEN[$agr] PP
10 _FIN[$thg] -> _BEN[$thg] VP/pass[thg]
20 _FIN[$thg] -> _BEN[$thg] ADJP/thg
3  _FIN[$hsg] -> _BEN[$hsg] NP/pred[$hsg]
1  _FIN[they] -> _BEN[they] NP/pred[they]
1  VP[$bare,$agr] -> _V[$bare,$agr]

20 _V[$form,$liv] -> V[$form,iv]
11 _V[$form,$liv] -> V[$form,iv] ADVP/manner
10 _V[$form,$liv] -> V[$form,iv] PP
3  _V[$form,$liv] -> V[$form,iv] PP/time
2  _V[$form,$liv] -> V[$form,iv] SBAR/adv
20 _V[$form,$liv] -> V[$form,tl] NP/o[$liv1]
14 _V[$form,$liv] -> V[$form,tt] NP/o[$thg1]
4  _V[$form,$liv] -> V[$form,tl] NP/o[$liv1] PP
4  _V[$form,$liv] -> V[$form,tt] NP/o[$thg1] PP
7  _V[$form,$liv] -> V[$form,tl] NP/r[$liv]
4  _V[$form,$liv] -> ADVP/often V[$form,iv]
4  _V[$form,$liv] -> ADVP/often V[$form,tl] NP/o[$liv1]
4  _V[$form,$hum] -> V[$form,dv] NP/o[$hum1] NP/o[$thg1]
3  _V[$form,$hum] -> V[$form,dv] NP/o[$thg1] PP/to
10 _V[$form,$hum] -> V[$form,sv] SBAR/c
6  _V[$form,$hum] -> V[$form,cv] S/inf[$hum]
30 _V[$form,$thg] -> V[$form,ti]
12 _V[$form,$thg] -> V[$form,ti] PP
8  _V[$form,$thg] -> V[$form,ti] ADVP/manner
25 _V[$form,$thg] -> V[$form,psy] NP/o[$liv1]
15 _V[$form,$thg] -> V[$form,cov] NP/o[$thg1]

50 VP/g[$sg,$gap] -> _G[VBZ,$sg,$gap]
50 VP/g[$pl,$gap] -> _G[VBP,$pl,$gap]
30 VP/g[$agr,$gap] -> _G[VBD,$agr,$gap]
10 VP/g[$agr,$gap] -> MD VP/gb[VB,$agr,$gap]
10 VP/g[$agr,$gap] -> _HAVE[$agr] VP/gb[VBN,$agr,$gap]
1  VP/gb[$bare,$agr,$gap] -> _G[$bare,$agr,$gap]
80 _G[$form,$liv,liv] -> V[$form,tl]
80 _G[$form,$liv,thg] -> V[$form,tt]
80 _G[$form,$thg,liv] -> V[$form,psy]
80 _G[$form,$thg,thg] -> V[$form,cov]
6  _G[$form,$liv,liv] -> V[$form,tl] ADVP/manner
6  _G[$form,$liv,thg] -> V[$form,tt] PP
10 _G[$form,$hum,$gap] -> V[$form,sv] SBAR/g[$gap]
1  SBAR/g[$gap] -> S/g[$gap]

65 _BE[$sg] -> V[VBZ,be]
35 _BE[$sg] -> V[VBD,was]
65 _BE[i] -> V[VBP,am]
35 _BE[i] -> V[VBD,was]
65 _BE[$are] -> V[VBP,be]
35 _BE[$are] -> V[VBD,were]
88 _BEN[$agr] -> _BE[$agr]
12 _BEN[$agr] -> _BE[$agr] RB/not
65 _DO[$sg] -> V[VBZ,do]
65 _DO[$pl] -> V[VBP,do]
35 _DO[$agr] -> V[VBD,do]
75 _HAVE[$sg] -> V[VBZ,have]
75 _HAVE[$pl] -> V[VBP,have]
25 _HAVE[$agr] -> V[VBD,have]

70 VP/npi[$noun] -> _HAVE[$noun] ADVP/ever VP[VBN,$noun]
30 VP/npi[$noun] -> MD/npi ADVP/ever VP[VB,$noun]
1  NP/ex -> EX
1  VP/ex[$noun] -> _BE[$noun] NP/ind[$noun] PP
1  NP/ind[$sg] -> DT/a[$snd] _NBS[$sg,$snd]
1  NP/ind[$npl] -> JJ/q _NB[$npl]
1  NP/ind[$npl] -> CD _NB[$npl]
1  NP/ind[$npl] -> DT/some _NB[$npl]
1  NP/pred[$hsg] -> DT/a[$snd] _NBS[$hsg,$snd]
1  NP/pred[they] -> _NB[they]
55 VP/pass[liv] -> V[VBN,tl]
45 VP/pass[liv] -> V[VBN,tl] PP/by
55 VP/pass[thg] -> V[VBN,tt]
45 VP/pass[thg] -> V[VBN,tt] PP/by

70 PP -> IN/any NP/o[$nliv]
30 PP -> IN/thg NP/o[$thg]
1  PP/by -> IN/by NP/o[$nliv]
1  PP/to -> IN/to NP/o[$hum]
1  PP/time -> IN/time NP/time
1  NP/time -> DT/the NN/time
60 SBAR/c -> IN/that S/e
40 SBAR/c -> S/e
1  SBAR/adv -> IN/adv S/e
1  S/inf[$hum] -> VP/to[$hum]
1  VP/to[$hum] -> TO VP[VB,$hum]
1  ADVP/manner -> RB/manner
1  ADVP/often -> RB/often
1  ADVP/frame -> RB/frame
1  ADVP/ever -> RB/ever
55 ADJP/liv -> JJ/liv[$snd]
20 ADJP/liv -> JJ/age[$snd]
25 ADJP/liv -> RB/very JJ/liv[$snd]
75 ADJP/thg -> JJ/thg[$snd]
25 ADJP/thg -> RB/very JJ/thg[$snd]
"""


@cache
def english_grammar() -> Grammar:
    """Return the built-in grammar. Every call returns the same object."""
    return Grammar(parse_rules(RULES, DOMAINS, lexical_entries()), start="TOP")
