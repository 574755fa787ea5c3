"""``adopt-tokenizer``: a ``tokenizer.json`` made elsewhere, checked and put into the form that every command reads.

Teacher and student read the tokens of the text itself, so a tokenizer must give every text back: byte-level, nothing
lowercased or stripped, no token added by itself, ``<bos>`` and ``<eos>`` among its entries. Which entries these are is
written into the file itself, as the template of pairs of texts; a single text gets nothing added.

Ids of text do not change, with one exception. "Added tokens" are looked for in a text before anything else, so a corpus
that holds the string ``<|endoftext|>`` would end there; here they become plain entries, at the same ids, which no text
makes: such a string is encoded as the characters that it is.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import pre_tokenizers

from pipeline.corpus.dataset.tokenizer import SPECIAL_TOKENS, Tokenizer, special_template
from storage.errors import InputError
from storage.fingerprints import Json

PROBES: Final = (
    "the dog",
    "The Dog DIDN'T bark (or did it?), e.g. at $5.00.",
    "na\u00efve caf\u00e9 \u201cquoted\u201d \u2014 and \u4f60\u597d \U0001f600",
    "a , b . c n't ' s - - 1 000",
    "x",
)
"""Texts as ``normalise_text`` leaves them, that tokenizers are known to change."""


def adopt_tokenizer(source: Path, out: Path, *, bos: str, eos: str) -> dict[str, Json]:
    """Write a tokenizer of the Hugging Face format as one of ours; return what ``adopt-tokenizer`` prints.

    Args:
        source: A ``tokenizer.json``.
        out: The one to write.
        bos: The entry that stands before every sentence. It may be the same as ``eos``: the one is only ever read, the
            other only ever predicted.
        eos: The entry that ends every sentence.

    Raises:
        InputError: Naming everything for which it cannot be used.
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
    """Return the tokenizer of a model's folder as one of ours, whatever it puts before and after a text by itself.

    Of one that ``export`` wrote, that is the run's, byte for byte.

    Args:
        source: A ``tokenizer.json``.
        bos: Id of the entry that stands before every sentence, as the model's configuration says.
        eos: Id of the one that ends it.

    Raises:
        InputError: As ``adopt_tokenizer``.
    """
    content = _content(source) | {"post_processor": None}
    names = {i: token for token, i in (_vocab(content) | _added(content)).items()}
    for name, i in (("bos_token_id", bos), ("eos_token_id", eos)):
        if i not in names:
            raise InputError(f"{source}: no entry has the id {i}, which is {name} in config.json; fetch both again")
    if tuple(names.get(i) for i in range(len(SPECIAL_TOKENS))) == SPECIAL_TOKENS and (bos, eos) == (0, 1):
        plain: dict[str, Any] = {"added_tokens": [], "truncation": None, "padding": None}
        return Tokenizer(_bytes(content | plain), where=str(source))
    return _adopted(source, content, bos=names[bos], eos=names[eos])


def _content(source: Path) -> dict[str, Any]:
    try:
        data = source.read_bytes()
        tokenizers.Tokenizer.from_str(data.decode())
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); name a tokenizer.json") from error
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"{source}: not a tokenizer.json ({error}); expected one of the tokenizers library") from error
    content: dict[str, Any] = json.loads(data)
    return content


def _adopted(source: Path, content: Mapping[str, Any], *, bos: str, eos: str) -> Tokenizer:
    inner: Any = tokenizers.Tokenizer.from_str(json.dumps(content))
    added, vocab = _added(content), inner.get_vocab()
    problems = [*_problems(inner, content), *_problems_of_entries(vocab, added, bos=bos, eos=eos)]
    changed = b""
    if not problems:
        changed = _bytes(
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
        raise InputError(f"{source}: cannot be adopted: {'; '.join(problems)}. Make one with train-tokenizer")
    return Tokenizer(changed, where=str(source))


def _added(content: Mapping[str, Any]) -> dict[str, int]:
    return {str(token["content"]): int(token["id"]) for token in content.get("added_tokens") or ()}


def _vocab(content: Mapping[str, Any]) -> dict[str, int]:
    vocab = content["model"].get("vocab")
    return vocab if isinstance(vocab, dict) else {}  # a list in some models, which are no byte-level BPE


def _bytes(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"


def _problems(inner: Any, content: Mapping[str, Any]) -> Iterator[str]:  # noqa: ANN401
    """Yield what is wrong with how it makes tokens."""
    model = content["model"]
    kinds = {
        name: _kinds(content[name], inside)
        for name, inside in (("pre_tokenizer", "pretokenizers"), ("decoder", "decoders"), ("normalizer", "normalizers"))
    }
    lacking = [name for name in ("pre_tokenizer", "decoder") if "ByteLevel" not in kinds[name]]
    letters = [letter for letter in pre_tokenizers.ByteLevel.alphabet() if inner.token_to_id(letter) is None]
    if lacking or not isinstance(model.get("vocab"), dict):
        found = ", ".join(f"{name} {' and '.join(kinds[name]) or 'none'}" for name in ("pre_tokenizer", "decoder"))
        yield f"it is not byte-level (model {model.get('type')}, {found}; expected BPE and ByteLevel)"
    elif letters:
        yield f"{len(letters)} of the 256 bytes are no entries, so not every text can be encoded"
    if model.get("dropout"):
        yield f"it encodes at random (model.dropout is {model['dropout']})"
    if inner.normalizer is not None:
        for probe in PROBES:
            normalised = inner.normalizer.normalize_str(probe)
            if normalised.strip() != probe:
                does = "lowercases" if normalised.strip() == probe.lower() else "changes"
                kind = " and ".join(kinds["normalizer"])
                yield f"its normalizer ({kind}) {does} the text: {probe!r} becomes {normalised!r}"
                break
    plain, helped = (inner.encode(PROBES[0], add_special_tokens=special) for special in (False, True))
    if plain.ids != helped.ids:
        extra = [token for token in helped.tokens if token not in plain.tokens]
        yield f"its post_processor adds {', '.join(extra)} to every text itself; remove post_processor from the file"


def _problems_of_entries(vocab: Mapping[str, int], added: Mapping[str, int], *, bos: str, eos: str) -> Iterator[str]:
    for name, token in (("bos", bos), ("eos", eos)):
        if token not in vocab:
            yield f"no entry {token!r} for --{name}; its added tokens are {', '.join(added) or 'none'}"
    if sorted(vocab.values()) != list(range(len(vocab))):
        yield f"its {len(vocab)} entries have ids up to {max(vocab.values(), default=0)}, expected ids without gaps"


def _problems_of_text(adopted: Any, added: Mapping[str, int]) -> Iterator[str]:  # noqa: ANN401
    for probe in (*PROBES, *(f"the {token} dog" for token in added if token.strip() and token.isprintable())):
        text = " ".join(probe.split())
        encoding = adopted.encode(text)
        found, spans = adopted.decode(encoding.ids), encoding.offsets
        if found != text:
            does = (
                "changes spaces" if "".join(found.split()) == "".join(text.split()) else "does not give back the text"
            )
            yield f"it {does}: {text!r} comes back as {found!r}"
            return
        covered = {at for start, stop in spans for at in range(start, stop)}
        if len(covered) < len(text) - text.count(" ") or not all(start < stop for start, stop in spans):
            yield f"its tokens do not say which characters they cover, in {text!r}"
            return


def _kinds(part: Mapping[str, Any] | None, inside: str) -> list[str]:
    """Return the types of a part of the pipeline, those inside a sequence one by one."""
    if part is None:
        return []
    return [each["type"] for each in part.get(inside, [part])]
