"""Parse single sentences with spaCy and benepar, and give a reason for each sentence without a parse.

All sentences of a benepar batch must be in one spaCy Doc. Therefore several sentences, a *pack*, are joined into one
Doc. If benepar fails on a pack, its two halves are parsed separately. If it fails on a half, that half is divided too,
and so on. In the end, only the sentences that benepar cannot read have no parse. The padding of a sentence depends on
its pack, but its tree does not, except for rounding errors.

Trees are built from the spans that benepar finds. Its parse string is not used, because it escapes brackets inside
words in a way that cannot be undone.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import spacy
import torch
import torch_struct
import transformers
from benepar.integrations.downloader import locate_model
from benepar.integrations.spacy_plugin import SentenceWrapper
from spacy.language import Language
from spacy.tokens import Doc

from pipeline.corpus.dataset.token_trees import LEAF_TAG
from pipeline.corpus.text.text_files import escape_brackets
from pipeline.corpus.trees.detokenisation import spell
from pipeline.corpus.trees.trees import ROOT, ROOT_NAMES, Phrase, Tree
from pipeline.parsing.parse_config import ParseConfig
from storage.errors import ConfigError, InputError
from storage.files import list_files
from storage.fingerprints import sha256_bytes, sha256_file
from storage.json_files import names_code

# torch warns about a distribution without ``arg_constraints``. Here it would warn for every chart.
torch_struct.TreeCRF.arg_constraints = {}

_FAILURES = (ValueError, AssertionError, StopIteration, IndexError, RuntimeError, FloatingPointError)
"""The errors that benepar raises for a sentence that it cannot read: too many subwords, no subword, too little memory,
or scores that are NaN or infinite."""
_SPELLINGS: Final[dict[str, str]] = SentenceWrapper.TEXT_NORMALIZATION_MAPPING


@dataclass(frozen=True, slots=True)
class Outcome:
    """The tree of a sentence, and the reason if the sentence has no parse."""

    tree: Tree
    """Its words have all characters of the text except spaces. Brackets are escaped. Without a parse, all words are
    directly under TOP."""
    reason: str | None = None
    """Why there is no parse, as a category to count. None if there is a parse, or with ``--flat``."""
    detail: str = ""
    """The parser's error message, if the parser failed."""


class SentenceParser:
    """A spaCy tokenizer and a benepar model. With ``flat`` there is no model."""

    def __init__(self, config: ParseConfig, device: torch.device) -> None:
        """Load the model.

        Raises:
            InputError: If there is no such model, or it cannot be loaded.
            ConfigError: If spaCy does not know the language.
        """
        self._config = config
        try:
            self._nlp: Language = spacy.blank(config.language)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"--language {config.language}: {str(error).splitlines()[0]}") from error
        if not config.flat:
            path = find_model(config.model)
            refuse_code(Path(path))
            # With a time-out of 0, transformers refuses a model's code, instead of asking the user whether to run it.
            transformers.dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
            try:
                # benepar loads the model onto the first GPU if there is one, so move it to ``device``.
                with _restricted_unpickler():
                    component: Any = self._nlp.add_pipe("benepar", config={"model": path})
                parser: Any = component._parser.to(device)  # noqa: SLF001
            except Exception as error:  # torch, transformers and benepar raise errors of many classes
                message = f"{type(error).__name__}: {str(error).partition('. ')[0].partition(chr(10))[0]}"
                raise InputError(
                    f"{config.model}: not a benepar model that can be loaded here ({message}); expected the --out of "
                    "train-parser, or a model of benepar.download"
                ) from error
            if not all(bool(weights.isfinite().all()) for weights in parser.parameters()):
                raise InputError(
                    f"{config.model}: some weights are NaN or infinite, expected numbers; train the parser again with "
                    "a lower --lr, or fetch the model again"
                )
            parser.forward = check_scores(parser.forward)

    def parse(self, texts: Sequence[str]) -> list[Outcome]:
        """Return the outcome of each normalised sentence, in order."""
        config = self._config
        with self._nlp.memory_zone():  # otherwise spaCy keeps every word it ever saw
            docs = [self._nlp.make_doc(text) for text in texts]
            outcomes: dict[int, Outcome] = {}
            waiting: list[int] = []
            for number, doc in enumerate(docs):
                if config.flat or len(doc) > config.max_words:
                    reason = None if config.flat else f"more than {config.max_words} words"
                    outcomes[number] = Outcome(_flat(doc), reason)
                else:
                    waiting.append(number)
            for start in range(0, len(waiting), config.doc_sentences):
                self._parse_pack(docs, waiting[start : start + config.doc_sentences], outcomes)
            return [outcomes[number] for number in range(len(texts))]

    def _parse_pack(self, docs: Sequence[Doc], pack: Sequence[int], outcomes: dict[int, Outcome]) -> None:
        """Parse sentences together. If that fails, parse each half."""
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
                detail = next(iter(str(error).splitlines()), "") or type(error).__name__
                outcomes[pack[0]] = Outcome(_flat(docs[pack[0]]), f"the parser failed: {type(error).__name__}", detail)
                return
            middle = len(pack) // 2
            self._parse_pack(docs, pack[:middle], outcomes)
            self._parse_pack(docs, pack[middle:], outcomes)
            return
        data = parsed._._constituent_data  # noqa: SLF001  private, but the public string escapes brackets
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


def check_scores(forward: Callable[..., tuple[torch.Tensor, torch.Tensor | None]]) -> Callable[..., Any]:
    """Return benepar's ``forward`` with a check that raises ``FloatingPointError`` if scores are NaN or infinite.

    Without the check, benepar would return some tree for such scores.
    """

    def checked(batch: Any) -> tuple[torch.Tensor, torch.Tensor | None]:  # noqa: ANN401  the type is benepar's own
        spans, tags = forward(batch)
        if not all(bool(scores.isfinite().all()) for scores in (spans, tags) if scores is not None):
            raise FloatingPointError("the scores are NaN or infinite")
        return spans, tags

    return checked


def refuse_code(path: Path) -> None:
    """Refuse the folder of a model that needs Python code of its own.

    Raises:
        InputError: If one of its configurations names such code (``auto_map``), or cannot be read.
    """
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        file = path / name
        if file.is_file() and names_code(file, remedy="fetch the model again"):
            raise InputError(
                f"{file}: the model needs Python code of its own (auto_map), expected none, because code of a model is "
                "never run. Use the --out of train-parser, or a model of benepar.download"
            )


@contextmanager
def _restricted_unpickler() -> Iterator[None]:
    """Make benepar load weights by torch's restricted unpickler, whatever environment variables say."""
    load = torch.load
    torch.load = functools.partial(load, weights_only=True)
    try:
        yield
    finally:
        torch.load = load


def find_model(model: str) -> str:
    """Return the path of a model. ``model`` is a path, or the name of a model that ``benepar.download`` installed.

    Raises:
        InputError: If there is no such model.
    """
    try:
        return str(locate_model(model))
    except LookupError:
        name = model if "/" not in model and "." not in model else "benepar_en3"
        raise InputError(
            f"{model}: no such file, and no installed benepar model of this name; install a trained one with: python "
            f"-c \"import benepar; benepar.download('{name}')\", or train one with: python cli.py train-parser "
            "trees/train.mrg --dev trees/dev.mrg --out parser.pt, and then give --model parser.pt"
        ) from None


def fingerprint(config: ParseConfig) -> str:
    """Return the sha256 of the model's file, or of all files of its folder; "flat" for flat trees.

    Raises:
        InputError: If there is no such model.
    """
    if config.flat:
        return "flat"
    path = Path(find_model(config.model))
    if path.is_file():
        return sha256_file(path)
    return sha256_bytes("\n".join(f"{name} {sha256_file(path / name)}" for name in list_files(path)).encode())


def versions() -> dict[str, str]:
    """Return the versions of the libraries that the trees depend on."""
    return {name: version(name) for name in ("benepar", "spacy", "torch", "transformers")}


def read_words(words: Iterable[str]) -> list[str]:
    """Return words of a treebank in the spelling that the parser meets when it reads text.

    A treebank writes ``-LRB-`` where text has a bracket. In text, benepar replaces typographic quotes and dashes by
    ASCII.
    """
    return [_SPELLINGS.get(word, word) for word in map(spell, words)]


def to_phrases(spans: Iterable[tuple[int, int, Sequence[str]]], num_words: int) -> tuple[Phrase, ...]:
    """Return the phrases of a normalised tree: TOP, and one phrase for each label.

    Labels that only name the root, and the repetition of a label in a unary chain, give no phrase.

    Args:
        spans: For each constituent, in the order in which they open: its first word, one past its last word, and its
            labels. Several labels form a unary chain, with the highest label first. There can be no label if the
            constituent is a single word or the whole sentence.
        num_words: Number of words of the sentence.
    """
    found: list[Phrase] = [(ROOT, 0, num_words)]
    for start, stop, labels in spans:
        for label in labels:
            phrase = (label, int(start), int(stop))
            if label not in ROOT_NAMES and phrase != found[-1]:
                found.append(phrase)
    return tuple(found)


def _words(doc: Doc) -> tuple[str, ...]:
    return tuple(escape_brackets(token.text) for token in doc)


def _flat(doc: Doc) -> Tree:
    return Tree(_words(doc), (LEAF_TAG,) * len(doc), ((ROOT, 0, len(doc)),))
