r"""Train, read and apply the tokenizer: a reversible byte-level BPE, stored whole in a ``tokenizer.json``.

The text is first cut into pre-tokens, and no token crosses their edges. A pre-token is a punctuation mark or symbol, a
sequence of letters, or a sequence of digits, each with the space before it. So tokens hardly ever cross the edges of
constituents. The tokenizer itself puts a space before the text, unless the text already begins with one. So a word has
the same tokens at the start of a sentence and in the middle of one. ``Tokenizer.decode`` removes the space before the
text; other programs that read the file keep it. The file gives the same ids in any program (docs/decisions/0015).

The special tokens are entries of the vocabulary, but they are not listed as "added tokens". The tokenizers library
searches each text for added tokens, so the string ``<eos>`` in a text would otherwise become the special token. Only
``export`` lists the special tokens as added tokens, because other programs write them into their input on purpose.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.corpus.text.file_forms import read_running_text
from pipeline.corpus.text.text_files import normalise_text, not_utf8
from pipeline.corpus.text.word_budget import TOKENIZER, TrainingText, write_record
from pipeline.corpus.trees.matching import Span
from storage.errors import ConfigError, InputError
from storage.files import make_directory, write_atomically
from storage.fingerprints import Json, sha256_bytes, sha256_file
from storage.json_files import encoding_problem, read_bytes

SPECIAL_TOKENS: Final = ("<bos>", "<eos>", "<pad>")
"""The entries with the ids 0, 1 and 2 in a file of ``train-tokenizer``. The next 256 entries are single bytes."""
MIN_VOCAB_SIZE: Final = len(SPECIAL_TOKENS) + 256
SPLIT_PATTERN: Final = r" ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]|\s"
TWO_LEADING_SPACES: Final = r"(?<![\s\S])  "
"""Matches only at the start of a text. ``^`` would also match after a line end, and backslash A is not valid in
JavaScript, where transformers.js reads the same file."""

_LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
_BYTE_OF_LETTER = {letter: ord(letter) for letter in _LETTERS if ord(letter) < 256}
_OTHERS = sorted({*range(256)} - {*_BYTE_OF_LETTER.values()})
_BYTE_OF_LETTER |= dict(zip(_LETTERS[len(_BYTE_OF_LETTER) :], _OTHERS, strict=True))
"""The byte that each letter in the entries of a byte-level vocabulary represents."""
_PROBE = "Don't (ever) pay $5.00, naïve “friend” \U0001f600 <eos>!"


class Tokenizer:
    """A byte-level BPE that adds neither ``<bos>`` nor ``<eos>``.

    ``decode(encode(text)) == text`` for any text that does not begin with a space. The only exceptions are texts that
    contain an added token (``added_ids``). A tokenizer of ``train-tokenizer`` has no added tokens. An *adopted*
    tokenizer, which ``adopt-tokenizer`` has converted, may have some.
    """

    def __init__(self, data: bytes, *, where: str = "tokenizer") -> None:
        """Read a ``tokenizer.json``.

        Args:
            data: The bytes of the file.
            where: The name of the file, for errors.

        Raises:
            InputError: If the file is not a tokenizer, does not say which entries are special, or is not reversible.
        """
        try:
            self._inner: Any = tokenizers.Tokenizer.from_str(data.decode("utf-8-sig"))
        except Exception as error:  # the library raises nothing narrower
            reason = why_not_a_tokenizer(data, error)
            raise InputError(f"{where}: not a tokenizer.json ({reason}). Create one with train-tokenizer") from error
        self._inner.no_truncation()  # a file can contain settings of an earlier use
        self._inner.no_padding()
        self.data = data
        """The bytes of the file."""
        if (problem := problem_with_ids(self._inner.get_vocab())) is not None:
            raise InputError(f"{where}: {problem}. Create a tokenizer with train-tokenizer")
        content = json.loads(data)
        if _prepends_nothing(content.get("normalizer")):  # the library panics at such a normalizer
            raise InputError(f"{where}: its normalizer prepends an empty text. Create a tokenizer with train-tokenizer")
        added = content.get("added_tokens") or ()
        if lost := [token["content"] for token in added if normalised_to_nothing(self._inner, token)]:
            raise InputError(
                f"{where}: its normalizer leaves nothing of the added token {lost[0]!r}, and the tokenizers library "
                "fails with such a token. Remove the token from added_tokens"
            )
        self.bos_id, self.eos_id, self.pad_id = self._find_special_ids(content, where)
        plain = self._inner
        if added:
            if special := [token["content"] for token in added if token["special"]]:
                raise InputError(
                    f"{where}: would turn {', '.join(special)} in a text into special tokens. Use adopt-tokenizer first"
                )
            plain = tokenizers.Tokenizer.from_str(json.dumps({**content, "added_tokens": []}))
        self._added_space = added_space(plain)
        if plain.decode(plain.encode(_PROBE).ids).removeprefix(self._added_space) != _PROBE:
            raise InputError(
                f"{where}: does not give back the text it encodes. Create a byte-level tokenizer with train-tokenizer"
            )
        self._special_ids = frozenset((self.bos_id, self.eos_id, self.pad_id))
        self.added_ids: frozenset[int] = frozenset(self._inner.get_added_tokens_decoder())
        """The ids of the added tokens. Only an adopted tokenizer may have some."""
        self.vocab_size: int = self._inner.get_vocab_size()
        """V: the number of entries, including special tokens."""
        self.sha256: str = sha256_bytes(data)
        """sha256 of the bytes of the file."""

    def _find_special_ids(self, content: Mapping[str, Any], where: str) -> tuple[int, int, int]:
        """Return the ids of ``<bos>``, ``<eos>`` and ``<pad>``. An adopted tokenizer uses ``<eos>`` as ``<pad>``."""
        template = content.get("post_processor")
        if template is not None:
            ids = _ids_of_template(template)
            if ids is not None and max(ids) < self._inner.get_vocab_size():
                return (*ids, ids[1])
        found = tuple(self._inner.id_to_token(i) for i in range(len(SPECIAL_TOKENS)))
        if found != SPECIAL_TOKENS or template is not None:
            raise InputError(
                f"{where}: its first entries are {', '.join(map(str, found))}, expected {', '.join(SPECIAL_TOKENS)}. "
                "Create a tokenizer with train-tokenizer, or convert this one with adopt-tokenizer"
            )
        return (0, 1, 2)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Return a tokenizer trained on ``texts``. The same texts in the same order give the same bytes.

        Args:
            texts: Normalised sentences or paragraphs.
            vocab_size: Maximum number of entries. Training stops earlier if no pair of pieces occurs twice.

        Raises:
            ConfigError: If ``vocab_size`` is less than the number of special tokens and bytes.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise ConfigError(
                f"vocab_size is {vocab_size}, expected at least {MIN_VOCAB_SIZE}: 256 bytes and 3 special tokens"
            )
        inner: Any = tokenizers.Tokenizer(models.BPE())
        inner.normalizer = normalizers.Sequence(
            [normalizers.Prepend(" "), normalizers.Replace(Regex(TWO_LEADING_SPACES), " ")]
        )
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=_LETTERS,
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        content = json.loads(inner.to_str())
        content["added_tokens"] = []
        return cls(json_bytes(content))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Return the tokenizer of a ``tokenizer.json``.

        Raises:
            InputError: If the file cannot be read, or for the reasons of ``__init__``.
        """
        return cls(read_tokenizer_file(path), where=str(path))

    def save(self, path: Path) -> None:
        """Write ``data`` to a file."""
        make_directory(path.absolute().parent)
        write_atomically(path, self.data)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return [encoding.ids for encoding in self._inner.encode_batch(list(texts))]

    def encode_batch_with_spans(self, texts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
        """Return the ids of each text, and the characters that each token covers, including a space before a word.

        If several tokens share the bytes of a character, each of them covers the whole character.
        """
        return [(encoding.ids, encoding.offsets) for encoding in self._inner.encode_batch(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids. Special tokens are skipped, and bytes that are not UTF-8 become U+FFFD."""
        return self.decode_batch([ids])[0]

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each sequence of ids, as ``decode`` does."""
        special = self._special_ids
        texts: list[str] = self._inner.decode_batch(
            [
                ids if isinstance(ids, list) and special.isdisjoint(ids) else [int(i) for i in ids if i not in special]
                for ids in batch
            ]
        )
        return [text.removeprefix(self._added_space) for text in texts]

    def decode_with_spans(self, ids: Sequence[int]) -> tuple[str, list[Span]] | None:
        """Return the text of ids, and the characters that each token covers, including a space before a word.

        The ids need not be those that ``encode`` returns for the text.

        Returns:
            None if the ids have no text: one of them is special, or their bytes are not UTF-8.
        """
        if not self._special_ids.isdisjoint(ids):
            return None
        pieces = [_bytes_of(self.token(i)) for i in ids]
        try:
            whole = b"".join(pieces).decode()
        except UnicodeDecodeError:
            return None
        text = self.decode(ids)
        num_stripped = len(whole) - len(text)  # decoding may remove the space before the text
        character_at = [i - num_stripped for i, letter in enumerate(whole) for _ in letter.encode()]
        ends = [0, *accumulate(map(len, pieces))]
        spans = [(character_at[start], character_at[stop - 1] + 1) for start, stop in pairwise(ends)]
        return text, [(max(start, 0), max(stop, 1)) for start, stop in spans]

    def decode_piece(self, token_id: int) -> str:
        """Return the text of one token as other programs decode it, with the space before a word."""
        piece: str = self._inner.decode([token_id])
        return piece

    def token(self, token_id: int) -> str:
        """Return an entry of the vocabulary as it is spelt in the file, where for example ``Ġ`` stands for a space."""
        token: str = self._inner.id_to_token(token_id)
        return token


def why_not_a_tokenizer(data: bytes, error: Exception) -> str:
    """Return why the tokenizers library cannot read a file.

    If a part of the file is missing, the library's own error message is misleading.
    """
    missing = "" if b'"model"' in data else "it has no part 'model'; it may be only a vocabulary"
    return encoding_problem(data) or missing or str(error)


def problem_with_ids(vocab: Mapping[str, int]) -> str | None:
    """Return a message if the ids of a vocabulary have gaps, else None."""
    if sorted(vocab.values()) == list(range(len(vocab))):
        return None
    return f"its {len(vocab)} entries have ids up to {max(vocab.values(), default=0)}, expected ids without gaps"


def _prepends_nothing(normalizer: Any) -> bool:  # noqa: ANN401 - parsed JSON that the library has checked
    if not isinstance(normalizer, dict):
        return False
    return normalizer.get("prepend") == "" or any(map(_prepends_nothing, normalizer.get("normalizers") or ()))


def normalised_to_nothing(inner: Any, token: Mapping[str, Any]) -> bool:  # noqa: ANN401 - a tokenizer of the library
    """Return whether the normalizer of a tokenizer leaves nothing of an added token.

    Such a token makes the library panic at texts that are not ASCII.
    """
    return token["normalized"] and inner.normalizer is not None and not inner.normalizer.normalize_str(token["content"])


def added_space(inner: Any) -> str:  # noqa: ANN401 - a tokenizer of the library
    """Return the space that a tokenizer puts before a text and that its decoder leaves there; "" if there is none."""
    return " " if inner.decode(inner.encode("x", add_special_tokens=False).ids) == " x" else ""


def _bytes_of(entry: str) -> bytes:
    """Return the bytes that an entry decodes to. An entry with a letter that stands for no byte is encoded in UTF-8."""
    if all(letter in _BYTE_OF_LETTER for letter in entry):
        return bytes(_BYTE_OF_LETTER[letter] for letter in entry)
    return entry.encode()


def read_tokenizer_file(path: Path) -> bytes:
    """Return the bytes of a ``tokenizer.json``.

    Raises:
        InputError: If the file cannot be read, or is too large.
    """
    return read_bytes(path, remedy="give a tokenizer.json that can be read")


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Return the bytes of a ``tokenizer.json`` with this content."""
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"


def special_template(ids: Mapping[str, int], *, bos: str, eos: str) -> dict[str, Any]:
    """Return a ``post_processor`` that adds nothing to a text, but records which entries begin and end a text.

    The entries are recorded in the template for pairs of texts. This changes nothing, because no command encodes pairs.
    """
    before, after = ({"SpecialToken": {"id": token, "type_id": 0}} for token in (bos, eos))
    first, second = ({"Sequence": {"id": letter, "type_id": 0}} for letter in ("A", "B"))
    return {
        "type": "TemplateProcessing",
        "single": [first],
        "pair": [before, first, after, before, second, after],
        "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in ids.items()},
    }


def _ids_of_template(template: Any) -> tuple[int, int] | None:  # noqa: ANN401 - parsed JSON
    """Return the ids of ``<bos>`` and ``<eos>`` in a ``special_template``, or None for any other template."""
    try:
        bos, eos = (template["pair"][i]["SpecialToken"]["id"] for i in (0, 2))
        ids = {token: template["special_tokens"][token]["ids"][0] for token in (bos, eos)}
    except (KeyError, TypeError, IndexError):
        return None
    return (ids[bos], ids[eos]) if template == special_template(ids, bos=bos, eos=eos) else None


def train_tokenizer(
    texts: Sequence[Path],
    out: Path,
    *,
    vocab_size: int = 12_000,
    column: str = "",
    progress: Callable[[int], None] | None = None,
) -> dict[str, Json]:
    """Train a tokenizer on text files; return what ``train-tokenizer`` prints.

    ``OUT.words.json`` records the files and the numbers of words that the tokenizer was trained on.

    Args:
        texts: UTF-8 files, plain or .gz. A file has one sentence or paragraph per line, or it consists of JSON lines or
            a table. Blank lines are ignored.
        out: The ``tokenizer.json`` to write.
        vocab_size: Maximum number of entries.
        column: The field of JSON lines or the column of a table that holds the text, as for ``read_running_text``.
        progress: Called with the number of lines read since the last call.

    Raises:
        InputError: If a line is not UTF-8, if there is no text, or if ``read_running_text`` raises it.
        ConfigError: If ``vocab_size`` is too small, or if ``column`` is given for a file with one sentence or
            paragraph per line.
    """
    num_lines = 0
    num_words = dict.fromkeys(texts, 0)

    def lines() -> Iterator[str]:
        nonlocal num_lines
        for path in texts:
            for line in read_running_text(path, column=column):
                if not line.is_utf8:
                    raise not_utf8(path, line.number)
                if progress is not None:
                    progress(1)
                if text := normalise_text(line.text):
                    num_lines += 1
                    num_words[path] += len(text.split())
                    yield text

    tokenizer = Tokenizer.train(lines(), vocab_size)
    if not num_lines:
        raise InputError(f"{', '.join(map(str, texts))}: no text, expected one sentence per line. Check the files")
    tokenizer.save(out)
    digests = {path: sha256_file(path) for path in num_words}
    read = [
        TrainingText(of=TOKENIZER, name=path.name, num_words=count, part=digests[path], files={digests[path]: count})
        for path, count in num_words.items()
    ]
    write_record(out, read, sha256=tokenizer.sha256)
    return {
        "tokenizer": str(out),
        "vocab_size": tokenizer.vocab_size,
        "num_lines": num_lines,
        "num_words": sum(num_words.values()),
        "sha256": tokenizer.sha256,
    }
