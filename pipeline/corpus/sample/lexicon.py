"""List and inflect the words of the built-in grammar.

Every list is ordered from frequent to rare. The word at rank r (from 0) has weight 1 / (r + 2): Zipf's law with
Mandelbrot's shift. Words are spelt as in the middle of a sentence, and have no spaces. The lists spell out irregular
forms. There are homographs on purpose. For example, ``her`` is an object or a possessive, ``sheep`` is singular or
plural, and ``helped`` is a past form or a participle.

The words obey two constraints. First, no two words differ only in the case of their first letter (there is no name
``Rose`` and no month ``May``), so no information is lost when the first word of a sentence is capitalised. ``Grammar``
checks this. Second, the first letter of a word decides between *a* and *an* (there is no *hour* and no *uniform*).
"""

from collections.abc import Mapping

AGREEMENT_NOUNS: Mapping[str, tuple[str, str]] = {
    "he": (
        "boy man/men king father brother uncle son actor prince waiter nephew",
        "teacher doctor student child/children friend neighbour lawyer artist singer baker",
    ),
    "she": (
        "girl woman/women queen mother sister aunt daughter actress princess waitress niece",
        "teacher doctor student child/children friend neighbour lawyer artist singer baker",
    ),
    "dog": ("dog cat horse bird cow elephant sheep/sheep owl mouse/mice", ""),
    "cup": (
        (
            "book letter picture car house box door apple table story cup key umbrella coat lamp envelope bicycle "
            "knife/knives orange basket"
        ),
        "",
    ),
}
"""Nouns by the agreement class of their singular (see ``grammar``). The first string has the nouns of this class only.
The second string has the nouns that belong to both ``he`` and ``she``. A noun with an irregular plural is written as
``singular/plural``."""

PLURAL_OF = {"he": "they", "she": "they", "dog": "dogs", "cup": "cups"}
"""The agreement class of the plurals, for each agreement class of singular nouns."""

NAMES = {
    "he": "Tom Peter David Daniel Martin Oscar Simon",
    "she": "Anna Mary Emma Julia Alice Sarah Laura",
}

VERBS: Mapping[str, str] = {
    # Intransitive, with a living subject.
    "iv": "smile sleep/slept/slept laugh wait run/ran/run/running sing/sang/sung arrive dance cry "
    "swim/swam/swum/swimming work sneeze",
    # Transitive, with a living object.
    "tl": "~see/saw/seen help ~like ~love follow find/found/found watch visit greet ~admire chase ~hate describe",
    # Transitive, with a thing as object.
    "tt": "~see/saw/seen find/found/found carry ~like open paint buy/bought/bought describe hide/hid/hidden "
    "draw/drew/drawn repair",
    # With two objects.
    "dv": "give/gave/given show/showed/shown send/sent/sent offer lend/lent/lent",
    # With a clause as complement.
    "sv": "say/said/said ~think/thought/thought ~know/knew/known ~believe hope claim doubt",
    # With an infinitive whose subject is the subject of the verb.
    "cv": "~want try hope plan refuse",
    # With a thing as subject: "ti" is intransitive, "psy" has a living object, "cov" has a thing as object.
    "ti": "fall/fell/fallen vanish shine/shone/shone move break/broke/broken",
    "psy": "please surprise frighten annoy amuse",
    "cov": "cover touch hide/hid/hidden damage",
}
"""Verbs of each subcategory, as ``base[/past/participle[/ing]]``. A verb after ``~`` is stative: it has no ing form."""

AUXILIARIES: Mapping[str, str] = {
    "V[VBZ,be]": "is",
    "V[VBP,am]": "am",
    "V[VBP,be]": "are",
    "V[VBD,was]": "was",
    "V[VBD,were]": "were",
    "V[VBZ,do]": "does",
    "V[VBP,do]": "do",
    "V[VBD,do]": "did",
    "V[VBZ,have]": "has",
    "V[VBP,have]": "have",
    "V[VBD,have]": "had",
    "MD": "will can may should must might could",
    "MD/npi": "will could would",
}

ADJECTIVES: Mapping[str, str] = {
    "liv": "happy clever quiet angry tired brave kind anxious hungry polite friendly",
    "age": "old young little tall elderly",
    "thg": "new big old small heavy broken expensive beautiful empty dusty",
    "hue": "red green blue wooden ivory",
}
"""Adjectives of each kind. The kinds ``liv`` and ``age`` are for living beings, ``thg`` and ``hue`` for things. An
adjective of the kind ``age`` or ``hue`` may follow another adjective, as in *a happy old man* and *a big red box*."""

FUNCTION_WORDS: Mapping[str, str] = {
    "DT/sg": "the the the this every that each",
    "DT/pl": "the the the these some those all",
    "DT/no": "no",
    "DT/the": "the",
    "DT/some": "some",
    "DT/a[c]": "a",
    "DT/a[v]": "an",
    "JJ/q": "many several few",
    "CD": "two three four five ten",
    "PRP$": "his her their my our your its",
    "POS": "'s",
    "IN/any": "near with behind beside",
    "IN/thg": "in on under near behind",
    "IN/by": "by",
    "IN/that": "that",
    "IN/adv": "because when while although before after",
    "IN/time": "in during before after",
    "TO": "to",
    "IN/to": "to",
    "RB/not": "not",
    "RB/ever": "ever",
    "RB/often": "often always never sometimes usually",
    "RB/manner": "quietly slowly again today happily carefully outside",
    "RB/frame": "today yesterday sometimes suddenly however",
    "RB/very": "very quite rather too extremely",
    "CC/and": "and",
    "CC/or": "and and or",
    "CC/but": "and but so",
    "WP/who": "who",
    "WP/what": "what",
    "WDT/that": "that",
    "WDT/which": "that which",
    "EX": "there",
    "NN/time": "morning evening afternoon night winter summer",
    ",": ",",
    "./end": ". . . . . . . . . . . . . . . . . !",
    "./ask": "?",
}
"""Words of each preterminal. A repeated word gets the sum of the weights of its ranks."""

PRONOUNS: Mapping[str, tuple[str, str, str]] = {
    "i": ("I", "me", "myself"),
    "you": ("you", "you", "yourself"),
    "we": ("we", "us", "ourselves"),
    "he": ("he", "him", "himself"),
    "she": ("she", "her", "herself"),
    "they": ("they", "them", "themselves"),
    "dog": ("it", "it", "itself"),
    "dogs": ("they", "them", "themselves"),
    "cup": ("it", "it", "itself"),
    "cups": ("they", "them", "themselves"),
}
"""Pronouns of each agreement class: subject, object and reflexive."""

VOWELS = "aeiou"


def third_singular(base: str) -> str:
    """Return the third person singular of a verb or the regular plural of a noun, such as *carries* or *boxes*."""
    if base.endswith(("s", "x", "ch", "sh", "o")):
        return base + "es"
    if base.endswith("y") and base[-2] not in VOWELS:
        return base[:-1] + "ies"
    return base + "s"


def _past(base: str) -> str:
    if base.endswith("e"):
        return base + "d"
    if base.endswith("y") and base[-2] not in VOWELS:
        return base[:-1] + "ied"
    return base + "ed"


def _progressive(base: str) -> str:
    return (base[:-1] if base.endswith("e") and not base.endswith("ee") else base) + "ing"


def verb_forms(entry: str) -> dict[str, str]:
    """Return the form of a verb for each Penn tag, from an entry of ``VERBS``. A stative verb has no ``VBG``."""
    base, *irregular = entry.lstrip("~").split("/")
    past, participle = irregular[:2] if irregular else (_past(base), _past(base))
    forms = {"VB": base, "VBP": base, "VBZ": third_singular(base), "VBD": past, "VBN": participle}
    if not entry.startswith("~"):
        forms["VBG"] = irregular[2] if len(irregular) > 2 else _progressive(base)
    return forms


def zipf(words: list[str]) -> dict[str, float]:
    """Return the weight of each word of a list that is ordered from frequent to rare."""
    weights: dict[str, float] = {}
    for rank, word in enumerate(words):
        weights[word] = weights.get(word, 0.0) + 1.0 / (rank + 2)
    return weights


def _nouns() -> dict[str, dict[str, float]]:
    entries: dict[str, dict[str, float]] = {}
    for agreement, (own, shared) in AGREEMENT_NOUNS.items():
        for rank, noun in enumerate((own + " " + shared).split()):
            singular, _, plural = noun.partition("/")
            sound = "v" if singular[0] in VOWELS else "c"
            weight = 1.0 / (rank + 2)
            plurals = entries.setdefault(f"NNS[{PLURAL_OF[agreement]}]", {})
            plural = plural or third_singular(singular)
            plurals[plural] = plurals.get(plural, 0.0) + weight
            entries.setdefault(f"NN[{agreement},{sound}]", {})[singular] = weight
    return entries


def lexical_entries() -> dict[str, dict[str, float]]:
    """Return for each preterminal the weight of each word. Weights are positive and not normalised."""
    entries = _nouns()
    for symbol, words in {**AUXILIARIES, **FUNCTION_WORDS}.items():
        entries[symbol] = zipf(words.split())
    for agreement, names in NAMES.items():
        entries[f"NNP[{agreement}]"] = zipf(names.split())
    for subcategory, verbs in VERBS.items():
        for rank, verb in enumerate(verbs.split()):
            for tag, form in verb_forms(verb).items():
                entries.setdefault(f"V[{tag},{subcategory}]", {})[form] = 1.0 / (rank + 2)
    for kind, adjectives in ADJECTIVES.items():
        for word, weight in zipf(adjectives.split()).items():
            sound = "v" if word[0] in VOWELS else "c"
            entries.setdefault(f"JJ/{kind}[{sound}]", {})[word] = weight
    for agreement, (subject, object_, reflexive) in PRONOUNS.items():
        entries[f"PRP/s[{agreement}]"] = {subject: 1.0}
        entries[f"PRP/o[{agreement}]"] = {object_: 1.0}
        entries[f"PRP/r[{agreement}]"] = {reflexive: 1.0}
    return entries


def other_number() -> dict[str, str]:
    """Return the plural form of each singular verb form, and the singular form of each plural verb form.

    For example, ``smiles`` gives ``smile``, and ``are`` gives ``is``.
    """
    swaps = {"is": "are", "was": "were", "does": "do", "has": "have"}
    for verbs in VERBS.values():
        for forms in map(verb_forms, verbs.split()):
            swaps[forms["VBZ"]] = forms["VBP"]
    return swaps | {plural: singular for singular, plural in swaps.items()}
