"""Check a ``tokenizer.json`` made elsewhere, and convert it into the form that every command reads.

The tokenizer must be byte-level, must restore every text from its tokens, and must have entries for ``<bos>`` and
``<eos>``. It may put a space before a text (``add_prefix_space``).

The check tries the tokenizer on probes. Some of them are difficult texts (``PROBES``). Together the others contain all
pairs of ASCII characters and every character of the first four planes of Unicode that occurs in normalised text. They
also contain the words in the patterns of the normalizer, pre-tokenizer and decoder. For example, a step that replaces
"foo" is tried on texts that contain "foo". The normalizer must leave all probes unchanged. Encoding and decoding must
restore ``PROBES``, and also the other probes if the pre-tokenizer or the decoder can lose text. The check does not
notice a tokenizer that changes only other texts. In that case ``build-dataset`` drops and counts the sentences that
decoding does not restore.

The converted tokenizer gives a text the same ids as the original, with three exceptions:

- It adds no tokens before or after a text, because every command puts ``<bos>`` and ``<eos>`` around a sentence itself.
- Special tokens become plain entries. They keep their ids, but are no longer in the list of added tokens. The
  tokenizers library searches every text for added tokens, so the string ``<|endoftext|>`` inside a text would otherwise
  become the token that ends a text.
- Ordinary added tokens (``"special": false``) become plain entries too if decoding does not restore the text around
  them. The function ``adopted_tokenizer``, which converts the tokenizer of a model's folder, is different: it keeps all
  ordinary added tokens, so that a text has the ids that transformers gives.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import pre_tokenizers

from pipeline.corpus.dataset.tokenizer import (
    SPECIAL_TOKENS,
    Tokenizer,
    added_space,
    json_bytes,
    normalised_to_nothing,
    problem_with_ids,
    read_tokenizer_file,
    special_template,
    why_not_a_tokenizer,
)
from pipeline.corpus.text.text_files import normalise_text
from storage.errors import InputError
from storage.files import is_there, read_file
from storage.fingerprints import Json

PROBES: Final = (
    "the dog",
    "The Dog DIDN'T bark (or did it?), e.g. at $5.00.",
    "na\u00efve caf\u00e9 \u201cquoted\u201d \u2014 and \u4f60\u597d \U0001f600",
    "a , b . c n't ' s - - 1 000",
    "x",
    "It cost 1,000,000 or 1.000,50 at 10:30 on 2026-11-29, and 3/4 of No. 007; call +41 79 555.",
    "``So,'' he said, 'it''s \"here\"'... well -- no --- yes \u2013 \u2018maybe\u2019 \u2026",
    "She can't, won't, gonna, could've; they're sooo goood, hahaha!!! ??? the the the",
    "see https://example.org/a?b=c&d#e or www.example.org, mail me@example.org, @name #tag :-) <3",
    "<b>bold</b> &amp; [UNK] <unk> <mask> -LRB- \u2581x \u0120y _z_ __init__ a_b \\n",
    "20% of \u20ac5; 5 kg, 3 m\u00b2, x\u2082, 20\u00b0C, \u00bd, \u2460, \uff21\uff22, \ufb01ne, \u2122, \u2116 5",
    "\u00c5ngstr\u00f6m \u00df \u1e9e \u0131 \u0130 \u017f \u00e6 \u00f8 \u0111",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u0928\u092e\u0938\u094d\u0924\u0947",
    "\ud55c\uad6d\uc5b4 \u30ab\u30bf\u30ab\u30ca",
    '- the 1st, 2nd, 3rd and 4th of July; the U.S. and J. K. Rowling, Ph.D., call 555-1234 "now"',
    "MOT: Mr. and Mrs. Smith's well-known o'clock, 'tis, rock 'n' roll; AT&T, A/C, C++, I'm, II, xiv \"",
    "*CHI: a Pneumonoultramicroscopicsilicovolcanoconiosis (sic) [laughs] {x} ~ ^ \u00b4 \u2032 --",
)
"""Normalised texts that are difficult for some tokenizers."""
_WORDS_OF_A_PROBE: Final = 64
_ESCAPE: Final = re.compile(r"\\[pP]\{[^}]*\}|\\[A-Za-z]|\(\?[a-z]*[:=!<]?")
_WORD: Final = re.compile(r"[^\W\d_]{2,}")
"""A word of two or more letters."""
_LOSSLESS: Final = frozenset({"ByteLevel", "Digits", "Fuse"})
"""Steps of pre-tokenizers and decoders that neither remove nor replace text."""
_NOT_IN_TEXTS: Final = frozenset({"Cn", "Cs", "Co", "Cc", "Cf", "Zs"})
"""Unicode categories that are not tried: unassigned, private, control and format characters, surrogates and spaces."""


def adopt_tokenizer(source: Path, out: Path, *, bos: str, eos: str) -> dict[str, Json]:
    """Convert a tokenizer of Hugging Face's format and write it; return what ``adopt-tokenizer`` prints.

    Args:
        source: The ``tokenizer.json`` to convert.
        out: The ``tokenizer.json`` to write.
        bos: The entry that begins every sentence. It may be the same as ``eos``, because models never predict ``bos``
            and never read ``eos``.
        eos: The entry that ends every sentence.

    Raises:
        InputError: If the tokenizer cannot be used. The message names every reason.
    """
    content = _content(source)
    adopted = _adopted(source, content, bos=bos, eos=eos)
    adopted.save(out)
    num_kept = len(json.loads(adopted.data)["added_tokens"])
    return {
        "tokenizer": str(out),
        "vocab_size": adopted.vocab_size,
        "bos": f"{bos} ({adopted.bos_id})",
        "eos": f"{eos} ({adopted.eos_id})",
        "num_added_tokens_made_plain": len(_added(content)) - num_kept,
        "num_added_tokens_kept": num_kept,
        "sha256": adopted.sha256,
    }


def adopted_tokenizer(source: Path, *, bos: int | str, eos: int | str) -> Tokenizer:
    """Return the converted tokenizer of a model's folder.

    For a folder that ``export`` wrote, the result is byte-identical to the tokenizer that the model was trained with.

    Args:
        source: The ``tokenizer.json`` of the model.
        bos: Id or name of the entry that begins every sentence, from the model's configuration.
        eos: Id or name of the entry that ends every sentence.

    Raises:
        InputError: As ``adopt_tokenizer``, and if another file of the folder contradicts ``source``.
    """
    content = _content(source)
    _check_other_files(source, content)
    ids = _vocab(content) | _added(content)
    names = {i: token for token, i in ids.items()}
    bos, eos = (names.get(given, given) if isinstance(given, int) else given for given in (bos, eos))
    for role, token in (("bos_token", bos), ("eos_token", eos)):
        if token not in ids:
            raise InputError(
                f"{source}: no entry {token!r}, which is {role} in tokenizer_config.json, special_tokens_map.json or "
                f"config.json. In tokenizer_config.json, set {role} to the token that was used in training"
            )
    if tuple(names.get(i) for i in range(len(SPECIAL_TOKENS))) == SPECIAL_TOKENS == (bos, eos, SPECIAL_TOKENS[2]):
        plain: dict[str, Any] = {"added_tokens": _ordinary(content), "truncation": None, "padding": None}
        return Tokenizer(json_bytes(content | plain), where=str(source))
    return _adopted(source, content, bos=str(bos), eos=str(eos), keep_all=True)


def _content(source: Path) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` without its post-processor, which may add tokens to a text."""
    data = read_tokenizer_file(source)
    try:
        tokenizers.Tokenizer.from_str(data.decode("utf-8-sig"))
    except Exception as error:  # the library raises nothing narrower
        raise InputError(
            f"{source}: not a tokenizer.json ({why_not_a_tokenizer(data, error)}), expected a file of the tokenizers "
            "library. Check the path, or load the tokenizer with transformers and save it"
        ) from error
    content: dict[str, Any] = json.loads(data)
    return content | {"post_processor": None}


def _adopted(source: Path, content: Mapping[str, Any], *, bos: str, eos: str, keep_all: bool = False) -> Tokenizer:
    """Return the converted tokenizer. If ``keep_all`` is true, every ordinary added token stays."""
    inner: Any = tokenizers.Tokenizer.from_str(json.dumps(content))
    added, vocab = _added(content), inner.get_vocab()
    problems = [*_problems(inner, content), *_problems_of_entries(vocab, added, bos=bos, eos=eos)]
    changed: dict[str, Any] = {}
    if not problems:
        changed = {
            **content,
            "added_tokens": [],
            "truncation": None,
            "padding": None,
            "post_processor": special_template({token: vocab[token] for token in (bos, eos)}, bos=bos, eos=eos),
            "model": {**content["model"], "vocab": {**content["model"]["vocab"], **added}},
        }
        problems = list(_problems_of_text(changed, added))
    if problems:
        raise InputError(f"{source}: cannot be adopted: {'; '.join(problems)}. Train a tokenizer with train-tokenizer")
    ordinary = [token for token in _ordinary(content) if token["content"] not in (bos, eos)]
    changed["added_tokens"] = ordinary if keep_all or not ordinary else _restored(changed, ordinary)
    return Tokenizer(json_bytes(changed), where=str(source))


def _ordinary(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the added tokens that are not special, in order of their ids."""
    return sorted((token for token in content.get("added_tokens") or () if not token["special"]), key=lambda t: t["id"])


def _check_other_files(source: Path, content: Mapping[str, Any]) -> None:
    """Check that the other files in the folder of ``tokenizer.json`` do not change the ids that transformers gives.

    Raises:
        InputError: If ``tokenizer_config.json`` or ``added_tokens.json`` adds an ordinary token or is damaged, or if
            ``tokenizer_config.json`` disagrees with ``tokenizer.json`` about the space before a text.
    """
    pre_tokenizer = content.get("pre_tokenizer") or {}
    in_tokenizer, in_config = pre_tokenizer.get("add_prefix_space", False), False
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    in_source = {token["id"]: flags | token for token in content.get("added_tokens") or ()}
    for name in ("tokenizer_config.json", "added_tokens.json"):
        path = source.with_name(name)
        try:
            found = json.loads(read_file(path)) if is_there(path) else {}
            if name == "added_tokens.json":
                listed = {int(i): {"content": token} for token, i in found.items()}
            else:
                listed = {int(i): flags | token for i, token in found.get("added_tokens_decoder", {}).items()}
                in_config = bool(found.get("add_prefix_space"))
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{path}: cannot be read ({error}), expected a JSON object. Fetch the file again"
            ) from error
        for i, token in listed.items():
            if not token.get("special") and not token.items() <= in_source.get(i, {}).items():
                raise InputError(
                    f"{path}: adds the token {token['content']!r} with the id {i}, but tokenizer.json does not have it "
                    "in this form. Load the tokenizer with transformers and save it again"
                )
    if in_tokenizer != in_config and "add_prefix_space" in pre_tokenizer:
        # transformers 4 follows tokenizer_config.json, transformers 5 may follow tokenizer.json.
        raise InputError(
            f"{source}: add_prefix_space is {json.dumps(in_tokenizer)}, but {json.dumps(in_config)} in "
            "tokenizer_config.json (false if missing), expected the same value, because some versions of transformers "
            "read it from one file and some from the other. Set both to the value that was used in training"
        )


def _restored(content: Mapping[str, Any], ordinary: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the ordinary added tokens for which decoding restores the texts that contain them."""

    def restores(inner: Any, token: Mapping[str, Any]) -> bool:  # noqa: ANN401 - a tokenizer of the library
        name = normalise_text(token["content"])
        texts = [name, f"the {name} dog", f"the{name}dog", f"({name})", f"a , {name} , b", f"a, {name}, b"]
        return all(inner.decode(inner.encode(text).ids).removeprefix(space) == text for text in texts)

    def with_tokens(tokens: Sequence[Mapping[str, Any]]) -> Any:  # noqa: ANN401 - as above
        return tokenizers.Tokenizer.from_str(json.dumps({**content, "added_tokens": tokens}))

    plain = with_tokens([])
    space = added_space(plain)
    kept = [token for token in ordinary if not normalised_to_nothing(plain, token)]
    together = with_tokens(kept)  # loading a large tokenizer takes seconds, so first try all tokens at once
    if all(restores(together, token) for token in kept):
        return kept
    return [token for token in kept if restores(with_tokens([token]), token)]


def _added(content: Mapping[str, Any]) -> dict[str, int]:
    return {str(token["content"]): int(token["id"]) for token in content.get("added_tokens") or ()}


def _vocab(content: Mapping[str, Any]) -> dict[str, int]:
    vocab = content["model"].get("vocab")
    return vocab if isinstance(vocab, dict) else {}  # some models that are not byte-level BPE have a list here


def _problems(inner: Any, content: Mapping[str, Any]) -> Iterator[str]:  # noqa: ANN401
    """Yield the problems of the normalizer, pre-tokenizer, model and decoder."""
    model = content["model"]
    kinds = {
        name: _kinds(content[name], inside)
        for name, inside in (("pre_tokenizer", "pretokenizers"), ("decoder", "decoders"), ("normalizer", "normalizers"))
    }
    not_byte_level = [name for name in ("pre_tokenizer", "decoder") if "ByteLevel" not in kinds[name]]
    letters = [letter for letter in pre_tokenizers.ByteLevel.alphabet() if inner.token_to_id(letter) is None]
    if not_byte_level or not isinstance(model.get("vocab"), dict):
        found = ", ".join(f"{name} {' and '.join(kinds[name]) or 'none'}" for name in ("pre_tokenizer", "decoder"))
        yield f"it is not byte-level (model {model.get('type')}, {found}; expected BPE and ByteLevel)"
    elif letters:
        yield f"{len(letters)} of the 256 bytes have no entry, so some texts cannot be encoded"
    if model.get("dropout"):
        yield f"it encodes at random (model.dropout is {model['dropout']})"
    if inner.normalizer is not None and (changed := _change_by(inner.normalizer)):
        before, after = changed
        change = "lowercases" if after == before.lower() else "changes"
        yield f"its normalizer ({' and '.join(kinds['normalizer'])}) {change} the text: {before!r} becomes {after!r}"


def _problems_of_entries(vocab: Mapping[str, int], added: Mapping[str, int], *, bos: str, eos: str) -> Iterator[str]:
    for name, token in (("bos", bos), ("eos", eos)):
        if token not in vocab:
            yield f"it has no entry {token!r} for --{name}; its added tokens are {', '.join(added) or 'none'}"
    if (problem := problem_with_ids(vocab)) is not None:
        yield problem


def _change_by(normalizer: Any) -> tuple[str, str] | None:  # noqa: ANN401
    """Return a text that a normalizer changes, and the changed text. Return None if the normalizer changes no probe.

    The text is the first probe that changes, or a single word of this probe. A space that the normalizer puts before a
    text is not counted as a change.
    """
    own = _probes_of_patterns(_steps(json.loads(normalizer.__getstate__()), "normalizers"))
    for probe in (*PROBES, *own, *_systematic_probes()):
        normalised = normalizer.normalize_str(probe).removeprefix(" ")
        if normalised == probe:
            continue
        if normalised != probe.lower():
            for word in probe.split(" "):
                if (after := normalizer.normalize_str(word).removeprefix(" ")) != word:
                    return word, after
        return probe, normalised
    return None


def _probes_of_patterns(steps: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return texts with the strings and words in the patterns of a normalizer, pre-tokenizer or decoder."""
    patterns = [pattern for step in steps if isinstance(pattern := step.get("pattern"), dict)]
    found = [pattern["String"] for pattern in patterns if "String" in pattern]
    for pattern in patterns:
        found += _WORD.findall(_ESCAPE.sub(" ", pattern.get("Regex", "")))
    return [normalise_text(text) for word in found for text in (f"x {word} y", f"{word} y", f"x {word}")]


@cache
def _systematic_probes() -> Sequence[str]:
    """Return texts with every character, every pair of ASCII characters, and repetitions of each ASCII character."""
    ascii_letters = [chr(code) for code in range(0x21, 0x7F)]
    characters = map(chr, range(0x80, 0x40000))
    words = [f"x{letter}y" for letter in characters if unicodedata.category(letter) not in _NOT_IN_TEXTS]
    words += [f"x{first}{second}y" for first in ascii_letters for second in ascii_letters]
    words += [letter * length for letter in ascii_letters for length in (1, 2, 3, 6, 40)]
    words = [word for word in words if normalise_text(word) == word]
    return [" ".join(words[at : at + _WORDS_OF_A_PROBE]) for at in range(0, len(words), _WORDS_OF_A_PROBE)]


def _problems_of_text(content: Mapping[str, Any], added: Mapping[str, int]) -> Iterator[str]:
    adopted: Any = tokenizers.Tokenizer.from_str(json.dumps(content))
    space = added_space(adopted)
    names = [token for token in added if token.strip() and token.isprintable()]
    texts = [*PROBES, *(text for name in names for text in (f"the {name} dog", f"{name} dog"))]
    steps = [*_steps(content["pre_tokenizer"], "pretokenizers"), *_steps(content["decoder"], "decoders")]
    may_lose = any(step["type"] not in _LOSSLESS and step.get("behavior", "Removed") == "Removed" for step in steps)
    more = (*_probes_of_patterns(steps), *_systematic_probes()) if may_lose else ()
    for text in map(normalise_text, (*texts, *more)):
        encoding = adopted.encode(text)
        found, spans = adopted.decode(encoding.ids).removeprefix(space), encoding.offsets
        if found != text:
            change = (
                "changes spaces" if "".join(found.split()) == "".join(text.split()) else "does not give back the text"
            )
            words = ((word, adopted.decode(adopted.encode(word).ids).removeprefix(space)) for word in text.split(" "))
            # Name the first word that changes when it is alone. If there is none, name the whole text.
            before, after = next((pair for pair in words if pair[0] != pair[1]), (text, found))
            yield f"it {change}: {before!r} comes back as {after!r}"
            return
        covered = {at for start, stop in spans for at in range(start, stop)}
        if len(covered) < len(text) - text.count(" ") or not all(start < stop for start, stop in spans):
            yield f"its token offsets are wrong: a character is in no token, or a token has no character, in {text!r}"
            return


def _kinds(part: Mapping[str, Any] | None, inside: str) -> list[str]:
    """Return the types of the steps of a normalizer, pre-tokenizer or decoder."""
    return [] if part is None else [each["type"] for each in _steps(part, inside)]


def _steps(part: Mapping[str, Any], inside: str) -> list[Mapping[str, Any]]:
    """Return the steps of a normalizer, pre-tokenizer or decoder, with the sequences inside it flattened."""
    return [step for each in part[inside] for step in _steps(each, inside)] if inside in part else [part]
