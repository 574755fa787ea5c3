"""Trees of single sentences by spaCy and benepar, many in one Doc, and a reason for each that has none.

benepar computes batches only across the sentences of one spaCy Doc, so sentences are packed; and one sentence that it
cannot read loses it the whole Doc, so a pack that fails is taken apart. A sentence's tree does not depend on which
others it is packed with, but for the rounding of sums over other paddings.

Trees are read from benepar's spans, and words are characters of the text: the parse string that benepar offers escapes
brackets inside words and cannot be taken back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import spacy
import torch
from benepar.integrations.downloader import locate_model
from spacy.language import Language
from spacy.tokens import Doc

from pipeline.corpus.dataset.token_trees import LEAF_TAG
from pipeline.corpus.text.text_files import escape_brackets
from pipeline.corpus.trees.trees import ROOT, Tree
from pipeline.parsing.benepar_trees import to_phrases
from storage.errors import ConfigError, InputError
from storage.files import list_files
from storage.fingerprints import sha256_bytes, sha256_file

_FAILURES = (ValueError, AssertionError, StopIteration, IndexError, RuntimeError)
"""What benepar raises of sentences it cannot read: too many subwords, none at all, too little memory."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a sentence."""

    tree: Tree
    """Over words that are characters of the text, in its order; flat where there is a reason."""
    reason: str | None = None
    """Why there is no parse, in words to count by; None where there is one, or was to be none."""
    detail: str = ""
    """What the parser said."""


class SentenceParser:
    """A spaCy tokenizer and a benepar model; without a model every tree is flat."""

    def __init__(
        self, model: str | None, *, language: str, max_words: int, doc_sentences: int, device: torch.device
    ) -> None:
        """Load the model.

        Raises:
            InputError: If there is no such model, or it cannot be loaded.
            ConfigError: If spaCy does not know the language.
        """
        self._max_words, self._doc_sentences = max_words, doc_sentences
        try:
            self._nlp: Language = spacy.blank(language)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"--language {language}: {str(error).splitlines()[0]}") from error
        self._has_model = model is not None
        if model is not None:
            path = find_model(model)
            try:
                # benepar takes the first GPU there is, if there is one.
                component: Any = self._nlp.add_pipe("benepar", config={"model": path})
                component._parser.to(device)  # noqa: SLF001
            except Exception as error:  # torch, transformers and benepar raise nothing narrower
                said = f"{type(error).__name__}: {str(error).partition('. ')[0].partition(chr(10))[0]}"
                raise InputError(
                    f"{model}: not a benepar model that can be loaded here ({said}); expected the --out of "
                    "train-parser, or a model of benepar.download"
                ) from error

    def parse(self, texts: Sequence[str]) -> list[Outcome]:
        """Return the outcome of each normalised sentence, in order."""
        with self._nlp.memory_zone():  # spaCy would keep every word it ever saw
            docs = [self._nlp.make_doc(text) for text in texts]
            outcomes: dict[int, Outcome] = {}
            waiting: list[int] = []
            for number, doc in enumerate(docs):
                if self._has_model and len(doc) <= self._max_words:
                    waiting.append(number)
                else:
                    reason = f"more than {self._max_words} words" if self._has_model else None
                    outcomes[number] = Outcome(_flat(doc), reason)
            for start in range(0, len(waiting), self._doc_sentences):
                pack = waiting[start : start + self._doc_sentences]
                self._parse_pack(docs, pack, outcomes)
            return [outcomes[number] for number in range(len(texts))]

    def _parse_pack(self, docs: Sequence[Doc], pack: Sequence[int], outcomes: dict[int, Outcome]) -> None:
        """Parse sentences together; where that fails, halves of them, down to the one that is to blame."""
        together = Doc(
            self._nlp.vocab,
            words=[token.text for number in pack for token in docs[number]],
            spaces=[bool(token.whitespace_) for number in pack for token in docs[number]],
            sent_starts=[token.i == 0 for number in pack for token in docs[number]],
        )
        try:
            parsed = self._nlp(together)
        except _FAILURES as error:
            if len(pack) == 1:
                said = next(iter(str(error).splitlines()), "") or type(error).__name__
                outcomes[pack[0]] = Outcome(_flat(docs[pack[0]]), f"the parser failed: {type(error).__name__}", said)
                return
            middle = len(pack) // 2
            self._parse_pack(docs, pack[:middle], outcomes)
            self._parse_pack(docs, pack[middle:], outcomes)
            return
        data = parsed._._constituent_data  # noqa: SLF001  the spans themselves; the public string loses brackets
        labels = data.label_vocab
        spans = list(
            zip(data.starts.tolist(), data.ends.tolist(), (labels[i] for i in data.labels.tolist()), strict=True)
        )
        tags = [token.tag_ or LEAF_TAG for token in parsed]
        at = first = 0
        for number in pack:
            doc = docs[number]
            stop = first + len(doc)
            end = at
            while end < len(spans) and spans[end][0] < stop:
                end += 1
            own = ((start - first, last - first, names) for start, last, names in spans[at:end])
            tree = Tree(_words(doc), tuple(map(escape_brackets, tags[first:stop])), to_phrases(own, len(doc)))
            outcomes[number] = Outcome(tree)
            at, first = end, stop


def find_model(model: str) -> str:
    """Return where a model is: a path, or the folder of one that ``benepar.download`` installed.

    Raises:
        InputError: With the commands that install or make it.
    """
    try:
        return str(locate_model(model))
    except LookupError:
        name = model if "/" not in model and "." not in model else "benepar_en3"
        raise InputError(
            f"{model}: no such file, and no installed benepar model of this name; install a trained one with: python "
            f"-c \"import benepar; benepar.download('{name}')\", or train one with: python cli.py train-parser "
            "trees/train.mrg --dev trees/dev.mrg --out parser.pt, then --model parser.pt"
        ) from None


def fingerprint(model: str | None) -> str:
    """Return the sha256 of a model's file, or of all files of its folder; "flat" for none.

    Raises:
        InputError: If there is no such model.
    """
    if model is None:
        return "flat"
    path = Path(find_model(model))
    if path.is_file():
        return sha256_file(path)
    return sha256_bytes("\n".join(f"{name} {sha256_file(path / name)}" for name in list_files(path)).encode())


def versions() -> dict[str, str]:
    """Return those of the libraries that decide which trees come out."""
    return {name: version(name) for name in ("benepar", "spacy", "torch", "transformers")}


def _words(doc: Doc) -> tuple[str, ...]:
    return tuple(escape_brackets(token.text) for token in doc)


def _flat(doc: Doc) -> Tree:
    return Tree(_words(doc), (LEAF_TAG,) * len(doc), ((ROOT, 0, len(doc)),))
