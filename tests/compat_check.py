"""Check that transformers computes the same as this project. Run as a program: python compat_check.py EXPECTED.json.

The program imports transformers and torch, and no module of the project. It therefore runs in an environment that has
only these two (``make compat``). ``tests/compat_expected.py`` writes EXPECTED.json.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-5
"""Largest allowed difference of a logit, and of nats per token. These values are of order 1 to 10.

The two programs add float32 values in different orders."""


class DifferenceError(AssertionError):
    """A value differs from the expected value."""


def expect(what: str, found: Any, expected: Any) -> None:
    """Raise a ``DifferenceError`` that names ``what`` if ``found`` differs from ``expected``."""
    if found != expected:
        raise DifferenceError(f"{what}: {found!r}, expected {expected!r}")


def check(folder: str, expected: dict[str, Any]) -> list[str]:
    """Compare an exported folder with the expected values. Return one line per thing that was compared."""
    with torch.no_grad():
        return [*check_tokenizer(folder, expected), *check_model(folder, expected)]


def check_tokenizer(folder: str, expected: dict[str, Any]) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    characters = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    special = set(tokenizer.all_special_tokens)
    texts, rows = list(expected["texts"]), expected["input_ids"]
    expect("is_fast", tokenizer.is_fast, True)
    for text, row in zip(texts, rows, strict=True):
        readers = [characters] if any(name in text for name in special) else [characters, tokenizer]
        for reader in readers:
            encoding = reader(text)
            expect("keys", sorted(encoding), ["attention_mask", "input_ids"])
            expect(f"ids of {text!r}", encoding["input_ids"], row)
            expect(f"encode({text!r})", reader.encode(text), row)
            expect(f"ids of {text!r} alone", reader(text, add_special_tokens=False)["input_ids"], row[1:])
        decoded = tokenizer.decode(row, skip_special_tokens=True)
        expect(f"decode of {text!r}", decoded.removeprefix(" "), text.removeprefix(" "))
        if tokenizer in readers:
            check_idioms(tokenizer, text, row, one_leading_space=expected["one_leading_space"])
    expect("ids of all texts at once", characters(texts)["input_ids"], rows)
    ids = expected["special_ids"]
    expect("bos", tokenizer.bos_token_id, ids["bos"])
    expect("eos", tokenizer.eos_token_id, ids["eos"])
    ended = [*rows[0], ids["eos"]]
    whole = tokenizer.bos_token + " " + texts[0] + tokenizer.eos_token
    expect("decode with special tokens", tokenizer.decode(ended), whole)
    if expected["one_leading_space"]:
        expect("ids of a text with special tokens", tokenizer(whole, add_special_tokens=False)["input_ids"], ended)
    return [f"tokenizer: {type(tokenizer).__name__}, ids and texts of {len(texts)} texts are equal"]


def check_idioms(tokenizer: Any, text: str, row: list[int], *, one_leading_space: bool) -> None:
    """Check what programs do with GPT-2's tokenizer: write special tokens and spaces, and decode token by token."""
    for name, i in ((tokenizer.bos_token, row[0]), (tokenizer.eos_token, tokenizer.eos_token_id)):
        expect(f"ids of {name + text!r}", tokenizer(name + text, add_special_tokens=False)["input_ids"], [i, *row[1:]])
    if one_leading_space:
        if text:
            expect(f"ids of {' ' + text!r}", tokenizer(" " + text.removeprefix(" "))["input_ids"], row)
        pieces = "".join(tokenizer.decode([i]) for i in row[1:])
        if text.isascii():  # a piece of another text may have only a part of a character
            expect(f"pieces of {text!r}", pieces, tokenizer.decode(row[1:]))


def check_model(folder: str, expected: dict[str, Any]) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model.eval()
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        expect(kind, list(info[kind]), [])
    expect("class", type(model).__name__, "GPT2LMHeadModel")
    expect("dtype", model.dtype, torch.float32)
    texts, eos_id = list(expected["texts"]), expected["special_ids"]["eos"]
    far_logits = far_nats = 0.0
    batch = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    for i, text in enumerate(texts):
        inputs = tokenizer(text, return_tensors="pt")
        logits = model(**inputs).logits[0]
        row = inputs["input_ids"][0]
        gold = torch.cat([row[1:], torch.tensor([eos_id])])
        reference = torch.tensor(expected["last_logits"][i])
        nats = torch.tensor(expected["surprisals_nats"][i], dtype=torch.float64)
        for found in (logits, batch[i, : len(row)]):
            far_logits = max(far_logits, float((found[-1] - reference).abs().max()))
            surprisals = -found.log_softmax(1).gather(1, gold[:, None])[:, 0].double()
            far_nats = max(far_nats, float((surprisals - nats).abs().max()))
    if max(far_logits, far_nats) > TOLERANCE:
        raise DifferenceError(
            f"logits differ by {far_logits:g}, surprisals by {far_nats:g} nats; at most {TOLERANCE:g}"
        )
    prompt = tokenizer(texts[expected["prompt"]], return_tensors="pt")
    generated = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0].tolist()
    expect("start of what is generated", generated[: prompt["input_ids"].shape[1]], prompt["input_ids"][0].tolist())
    within = f"logits within {far_logits:.1e}, surprisals within {far_nats:.1e} nats, alone and in a padded batch"
    return [
        f"model: {type(model).__name__}, {within}",
        f"generated: {tokenizer.decode(generated)!r}",
    ]


def main() -> None:
    """Check the export that EXPECTED.json names. If it differs, print one line and exit with status 1."""
    expected = json.loads(Path(sys.argv[1]).read_bytes())
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: {expected['export']}")
    try:
        lines = check(expected["export"], expected)
    except DifferenceError as error:
        sys.exit(f"DIFFERENT: {error}")
    print("\n".join(f"  {line}" for line in lines))


if __name__ == "__main__":
    main()
