"""Check a ``tokenizer.json`` made elsewhere, and convert it into the form that every command reads.

Decoding the tokens of any text must restore the text. So the tokenizer must be byte-level, must not lowercase or strip
anything, must add no token to a text, and must have entries for ``<bos>`` and ``<eos>``. The converted file records
these two entries in its template for pairs of texts, so nothing is added to a single text.

The ids of a text do not change, with one exception. The tokenizers library searches a text for "added tokens" before
anything else, so a text with the string ``<|endoftext|>`` would end at this string. The conversion makes added tokens
plain entries with the same ids. No text produces these entries any more: ``<|endoftext|>`` is encoded by its
characters.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import pre_tokenizers

from pipeline.corpus.dataset.tokenizer import (
    SPECIAL_TOKENS,
    Tokenizer,
    json_bytes,
    read_tokenizer_file,
    special_template,
)
from storage.errors import InputError
from storage.fingerprints import Json

PROBES: Final = (
    "the dog",
    "The Dog DIDN'T bark (or did it?), e.g. at $5.00.",
    "na\u00efve caf\u00e9 \u201cquoted\u201d \u2014 and \u4f60\u597d \U0001f600",
    "a , b . c n't ' s - - 1 000",
    "x",
)
"""Normalised texts that some tokenizers change."""


def adopt_tokenizer(source: Path, out: Path, *, bos: str, eos: str) -> dict[str, Json]:
    """Convert a tokenizer of Hugging Face's format and write it; return what ``adopt-tokenizer`` prints.

    Args:
        source: The ``tokenizer.json`` to convert.
        out: The ``tokenizer.json`` to write.
        bos: The entry that begins every sentence. It may be the same as ``eos``, because models read ``bos`` but never
            predict it, and predict ``eos`` but never read it.
        eos: The entry that ends every sentence.

    Raises:
        InputError: If the tokenizer cannot be used. The message names every reason.
    """
    content = _content(source)
    adopted = _adopted(source, content, bos=bos, eos=eos)
    adopted.save(out)
    return {
        "tokenizer": str(out),
        "vocab_size": adopted.vocab_size,
        "bos": f"{bos} ({adopted.bos_id})",
        "eos": f"{eos} ({adopted.eos_id})",
        "num_added_tokens_made_plain": len(_added(content)),
        "sha256": adopted.sha256,
    }


def adopted_tokenizer(source: Path, *, bos: int, eos: int) -> Tokenizer:
    """Return the tokenizer of a model's folder, converted. If it adds tokens before or after a text, they are ignored.

    For a folder that ``export`` wrote, the result equals the tokenizer of the run, byte for byte.

    Args:
        source: The ``tokenizer.json`` of the model.
        bos: Id of the entry that begins every sentence, from the model's configuration.
        eos: Id of the entry that ends every sentence.

    Raises:
        InputError: As ``adopt_tokenizer``.
    """
    content = _content(source) | {"post_processor": None}
    names = {i: token for token, i in (_vocab(content) | _added(content)).items()}
    for name, i in (("bos_token_id", bos), ("eos_token_id", eos)):
        if i not in names:
            raise InputError(
                f"{source}: no entry has the id {i}, which is {name} in config.json. Download both files again"
            )
    if tuple(names.get(i) for i in range(len(SPECIAL_TOKENS))) == SPECIAL_TOKENS and (bos, eos) == (0, 1):
        plain: dict[str, Any] = {"added_tokens": [], "truncation": None, "padding": None}
        return Tokenizer(json_bytes(content | plain), where=str(source))
    return _adopted(source, content, bos=names[bos], eos=names[eos])


def _content(source: Path) -> dict[str, Any]:
    data = read_tokenizer_file(source)
    try:
        tokenizers.Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises nothing narrower
        raise InputError(
            f"{source}: not a tokenizer.json ({error}), expected a file of the tokenizers library. Check the path"
        ) from error
    content: dict[str, Any] = json.loads(data)
    return content


def _adopted(source: Path, content: Mapping[str, Any], *, bos: str, eos: str) -> Tokenizer:
    inner: Any = tokenizers.Tokenizer.from_str(json.dumps(content))
    added, vocab = _added(content), inner.get_vocab()
    problems = [*_problems(inner, content), *_problems_of_entries(vocab, added, bos=bos, eos=eos)]
    changed = b""
    if not problems:
        changed = json_bytes(
            {
                **content,
                "added_tokens": [],
                "truncation": None,
                "padding": None,
                "post_processor": special_template({token: vocab[token] for token in (bos, eos)}, bos=bos, eos=eos),
                "model": {**content["model"], "vocab": {**content["model"]["vocab"], **added}},
            }
        )
        problems = list(_problems_of_text(tokenizers.Tokenizer.from_str(changed.decode()), added))
    if problems:
        raise InputError(f"{source}: cannot be adopted: {'; '.join(problems)}. Train a tokenizer with train-tokenizer")
    return Tokenizer(changed, where=str(source))


def _added(content: Mapping[str, Any]) -> dict[str, int]:
    return {str(token["content"]): int(token["id"]) for token in content.get("added_tokens") or ()}


def _vocab(content: Mapping[str, Any]) -> dict[str, int]:
    vocab = content["model"].get("vocab")
    return vocab if isinstance(vocab, dict) else {}  # some models that are not byte-level BPE have a list here


def _problems(inner: Any, content: Mapping[str, Any]) -> Iterator[str]:  # noqa: ANN401
    """Yield the problems of the steps that turn text into tokens: normalizer, pre-tokenizer, model and decoder."""
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
    if inner.normalizer is not None:
        for probe in PROBES:
            normalised = inner.normalizer.normalize_str(probe)
            if normalised.strip() != probe:
                change = "lowercases" if normalised.strip() == probe.lower() else "changes"
                kind = " and ".join(kinds["normalizer"])
                yield f"its normalizer ({kind}) {change} the text: {probe!r} becomes {normalised!r}"
                break
    plain, extended = (inner.encode(PROBES[0], add_special_tokens=special) for special in (False, True))
    if plain.ids != extended.ids:
        extra = [token for token in extended.tokens if token not in plain.tokens]
        yield f"its post_processor adds {', '.join(extra)} to every text; remove post_processor from the file"


def _problems_of_entries(vocab: Mapping[str, int], added: Mapping[str, int], *, bos: str, eos: str) -> Iterator[str]:
    for name, token in (("bos", bos), ("eos", eos)):
        if token not in vocab:
            yield f"it has no entry {token!r} for --{name}; its added tokens are {', '.join(added) or 'none'}"
    if sorted(vocab.values()) != list(range(len(vocab))):
        yield f"its {len(vocab)} entries have ids up to {max(vocab.values(), default=0)}, expected ids without gaps"


def _problems_of_text(adopted: Any, added: Mapping[str, int]) -> Iterator[str]:  # noqa: ANN401
    for probe in (*PROBES, *(f"the {token} dog" for token in added if token.strip() and token.isprintable())):
        text = " ".join(probe.split())
        encoding = adopted.encode(text)
        found, spans = adopted.decode(encoding.ids), encoding.offsets
        if found != text:
            change = (
                "changes spaces" if "".join(found.split()) == "".join(text.split()) else "does not give back the text"
            )
            yield f"it {change}: {text!r} comes back as {found!r}"
            return
        covered = {at for start, stop in spans for at in range(start, stop)}
        if len(covered) < len(text) - text.count(" ") or not all(start < stop for start, stop in spans):
            yield f"its tokens do not record all characters that they cover, in {text!r}"
            return


def _kinds(part: Mapping[str, Any] | None, inside: str) -> list[str]:
    """Return the type of a step such as the normalizer, or the types of its members if the step is a sequence."""
    if part is None:
        return []
    return [each["type"] for each in part.get(inside, [part])]
