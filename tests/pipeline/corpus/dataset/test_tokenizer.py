"""Test that decoding restores every text, and that other programs can use the file as it is."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.corpus.dataset.tokenizer import MIN_VOCAB_SIZE, SPECIAL_TOKENS, Tokenizer, train_tokenizer
from pipeline.corpus.text.text_files import normalise_text
from storage.errors import ConfigError, InputError
from storage.fingerprints import sha256_bytes
from tests.old_tokenizers import old_form

TEXTS = [
    "The old dog didn't chase the other dogs (or the cats), did it?",
    "\u201cDogs chase cats,\u201d she said; the dogs barked \u2014 and the cats' tails twitched!",
    "It cost $5.00, i.e. 20% more than in 1999.",
    "the the the dog dog dog",
] * 4


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, vocab_size=400)


@pytest.fixture(scope="module")
def plain(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(path)
    return tokenizers.Tokenizer.from_file(str(path))


anything = st.text(st.characters(codec="utf-8"), max_size=40)
texts = st.one_of(
    anything,
    st.lists(st.sampled_from(["dog", "'s", "<eos>", "<bos>", "(", "\u00e9", "e\u0301", "\u4f60", " ", "7", "--"])).map(
        "".join
    ),
)


@given(texts.map(normalise_text))
@example("<eos> a <pad>")
@example("")
def test_decoding_restores_every_normalised_sentence(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id} & set(ids)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@given(anything)
@example(" dog")
@example("  dog")
@example("a\n  b")
def test_decoding_restores_any_text_up_to_one_leading_space(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text.removeprefix(" ")


@given(anything.filter(lambda text: bool(text) and text[0] != " "))
@example("dog")
@example("\n  dog")
def test_a_leading_space_that_is_written_changes_nothing(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(" " + text) == tokenizer.encode(text)


@given(texts.map(normalise_text))
def test_the_tokenizers_library_gives_the_same_ids_and_text_from_the_file(
    tokenizer: Tokenizer, plain: tokenizers.Tokenizer, text: str
) -> None:
    ids = tokenizer.encode(text)
    assert plain.encode(text).ids == ids
    assert plain.decode(ids) == (f" {text}" if text else "")
    if text.isascii():  # a piece of another text may have only a part of a character
        assert "".join(plain.decode([i]) for i in ids) == plain.decode(ids)


@given(st.lists(texts.map(normalise_text), max_size=5))
def test_a_batch_gives_the_same_results_as_single_sentences(tokenizer: Tokenizer, batch: list[str]) -> None:
    assert tokenizer.encode_batch(batch) == [tokenizer.encode(text) for text in batch]
    assert tokenizer.encode_batch_with_spans(batch) == [tokenizer.encode_batch_with_spans([text])[0] for text in batch]
    assert tokenizer.decode_batch(tokenizer.encode_batch(batch)) == batch


@pytest.fixture(scope="module")
def old(tokenizer: Tokenizer) -> Tokenizer:
    return Tokenizer(old_form(tokenizer.data))


@given(texts.map(normalise_text))
@example("<eos> a <pad>")
@example("")
def test_a_file_of_an_older_version_gives_the_same_ids_spans_and_texts(
    tokenizer: Tokenizer, old: Tokenizer, text: str
) -> None:
    ((ids, spans),) = old.encode_batch_with_spans([text])
    assert tokenizer.encode_batch_with_spans([text]) == [(ids, spans)]
    assert old.decode(ids) == text
    assert old.decode_with_spans(ids) == tokenizer.decode_with_spans(ids) == (text, spans)


def test_a_file_of_an_older_version_keeps_its_fingerprint_and_its_ids_of_a_written_space(
    tokenizer: Tokenizer, old: Tokenizer
) -> None:
    assert old.sha256 == sha256_bytes(old.data) != tokenizer.sha256
    assert old.encode(" dog") == [*tokenizer.encode(" "), *tokenizer.encode("dog")]
    assert old.decode(old.encode(" dog")) == " dog"


@given(texts.map(normalise_text).filter(bool))
def test_spans_rise_and_cover_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids, spans = tokenizer.encode_batch_with_spans([text])[0]
    assert ids == tokenizer.encode(text)
    assert len(ids) == len(spans)
    assert all(0 <= start < stop <= len(text) for start, stop in spans)
    assert spans == sorted(spans)
    assert {i for start, stop in spans for i in range(start, stop)} == set(range(len(text)))


@given(st.text(max_size=40).map(normalise_text))
@example("na\u00efve \U0001f600 dog")
def test_the_ids_of_a_text_decode_to_its_spans(tokenizer: Tokenizer, text: str) -> None:
    ids, spans = tokenizer.encode_batch_with_spans([text])[0]
    assert tokenizer.decode_with_spans(ids) == (text, spans)


@given(st.lists(st.integers(0, 399), max_size=12))
def test_any_ids_have_the_text_of_their_bytes_or_none(tokenizer: Tokenizer, ids: list[int]) -> None:
    ids = [i for i in ids if i < tokenizer.vocab_size]
    decoded = tokenizer.decode_with_spans(ids)
    is_special = any(i < len(SPECIAL_TOKENS) for i in ids)
    assert (decoded is None) == (is_special or "\ufffd" in tokenizer.decode(ids))
    if decoded is not None:
        text, spans = decoded
        assert text == tokenizer.decode(ids)
        assert len(spans) == len(ids)
        assert all(0 <= start < stop for start, stop in spans)
        assert not text or (spans[0][0], spans[-1][1]) == (0, len(text))


def test_a_word_is_the_same_token_at_the_start_of_a_sentence_and_inside_it(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("the dog the dog")[:2] == tokenizer.encode("the dog the dog")[2:]
    assert tokenizer.token(tokenizer.encode("the")[0]) == "\u0120the"


def test_each_punctuation_mark_is_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.token(i) for i in tokenizer.encode("the dog, (the dog's $5).")]
    assert [piece for piece in pieces if set(piece) & set(",().$'")] == [",", "\u0120(", "'", "\u0120$", ")", "."]


def test_no_token_mixes_letters_digits_and_marks(tokenizer: Tokenizer) -> None:
    for i in range(MIN_VOCAB_SIZE, tokenizer.vocab_size):
        piece = tokenizer.decode([i]).strip()
        assert piece.isalpha() or piece.isdigit() or len(piece) <= 1, piece


def test_training_is_deterministic_and_bounded(tokenizer: Tokenizer) -> None:
    again = Tokenizer.train(iter(TEXTS), vocab_size=400)
    assert again.sha256 == tokenizer.sha256
    assert MIN_VOCAB_SIZE < tokenizer.vocab_size <= 400
    assert Tokenizer.train(["ab"], vocab_size=400).vocab_size == MIN_VOCAB_SIZE
    with pytest.raises(ConfigError, match="vocab_size is 258, expected at least 259"):
        Tokenizer.train(TEXTS, vocab_size=258)


def test_special_tokens_come_first_and_have_no_text(tokenizer: Tokenizer, plain: tokenizers.Tokenizer) -> None:
    assert [plain.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 2)
    assert tokenizer.decode([0, *tokenizer.encode("the dog"), 1, 2]) == "the dog"


def test_saving_and_loading_keeps_every_byte(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "new" / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "new" / "tokenizer.json")
    assert (loaded.sha256, loaded.vocab_size) == (tokenizer.sha256, tokenizer.vocab_size)
    assert loaded.encode("the dogs") == tokenizer.encode("the dogs")


def test_other_files_and_other_tokenizers_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match=r"tokenizer\.json: cannot be read"):
        Tokenizer.load(path)
    for content in (b"", b"{}", b"\xff", b"[1]"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer\.json"):
            Tokenizer.load(path)
    tokenizer.save(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"normalizer": {"type": "Lowercase"}}))
    with pytest.raises(InputError, match="does not give back"):
        Tokenizer.load(path)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    end = {"id": 1, "content": "<eos>", **flags, "special": True}
    path.write_text(json.dumps(content | {"added_tokens": [end]}))
    with pytest.raises(InputError, match=r"would turn <eos> in a text into special tokens\. Use adopt-tok"):
        Tokenizer.load(path)
    vocab = {token: i for i, token in enumerate(t for t in content["model"]["vocab"] if t not in SPECIAL_TOKENS)}
    path.write_text(json.dumps(content | {"model": content["model"] | {"vocab": vocab}}))
    with pytest.raises(InputError, match="its first entries are"):
        Tokenizer.load(path)


def test_training_reads_plain_and_gzipped_files_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS))
    seen: list[int] = []
    summary = train_tokenizer([tmp_path / "a.txt"], tmp_path / "t.json", vocab_size=400, progress=seen.append)
    assert summary["num_lines"] == len(TEXTS)
    assert sum(seen) == 2 * len(TEXTS) - 1
    assert summary["sha256"] == Tokenizer.train(TEXTS, 400).sha256 == Tokenizer.load(tmp_path / "t.json").sha256
    (tmp_path / "b.txt").write_bytes(b"good\nb\xffd\n")
    with pytest.raises(InputError, match=r"b\.txt:2: not UTF-8"):
        train_tokenizer([tmp_path / "b.txt"], tmp_path / "u.json")
    (tmp_path / "c.txt").write_text("\n \n")
    with pytest.raises(InputError, match=r"c\.txt: no text"):
        train_tokenizer([tmp_path / "c.txt"], tmp_path / "u.json")
    assert not (tmp_path / "u.json").exists()
