"""Test that an adopted tokenizer keeps its ids and restores every text, or is refused with all reasons."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pipeline.corpus.dataset.adopt_tokenizer import adopt_tokenizer
from pipeline.corpus.dataset.build import build_dataset
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.dataset_store import load_dataset
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.text_files import normalise_text
from pipeline.report.inspection import inspect_path
from storage.errors import InputError

END = "<|endoftext|>"
UNKNOWN = "[UNK]"
TEXTS = ["the dog didn't chase the other dogs", "It cost $5.00, i.e. 20% more", "caf\u00e9"] * 4


def gpt2_like() -> Any:
    """Return a byte-level BPE like GPT-2's. Its one special token is the last entry and an added token."""
    inner: Any = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(TEXTS, trainer)
    inner.add_special_tokens([END])
    return inner


def adopt(inner: Any, folder: Path, *, bos: str = END, eos: str = END) -> Tokenizer:
    inner.save(str(folder / "source.json"))
    adopt_tokenizer(folder / "source.json", folder / "tokenizer.json", bos=bos, eos=eos)
    return Tokenizer.load(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def source() -> Any:
    return gpt2_like()


@pytest.fixture(scope="module")
def adopted(source: Any, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return adopt(source, tmp_path_factory.mktemp("adopted"))


texts = st.text(st.characters(codec="utf-8"), max_size=30).map(normalise_text)


@given(texts)
@example("the dog didn't")
def test_adopting_keeps_the_ids_and_decoding_restores_the_text(source: Any, adopted: Tokenizer, text: str) -> None:
    ids, spans = adopted.encode_batch_with_spans([text])[0]
    assert ids == source.encode(text).ids
    assert adopted.decode(ids) == text
    assert {at for start, stop in spans for at in range(start, stop)} == set(range(len(text)))


def test_a_special_token_keeps_its_id_and_its_name_in_a_text_is_encoded_as_text(
    source: Any, adopted: Tokenizer
) -> None:
    end = source.token_to_id(END)
    assert (adopted.bos_id, adopted.eos_id, adopted.pad_id) == (end, end, end)
    assert adopted.vocab_size == source.get_vocab_size() == end + 1
    assert end in source.encode(f"a{END}b").ids
    ids = adopted.encode(f"a{END}b")
    assert end not in ids
    assert adopted.decode(ids) == f"a{END}b"
    assert adopted.decode([end, *adopted.encode("the dog"), end]) == "the dog"


def test_an_adopted_tokenizer_adds_nothing_when_the_library_uses_it(adopted: Tokenizer) -> None:
    plain = tokenizers.Tokenizer.from_str(adopted.data.decode())
    assert plain.encode("the dog").ids == adopted.encode("the dog")


def test_bos_and_eos_may_differ(tmp_path: Path) -> None:
    inner = gpt2_like()
    inner.add_special_tokens(["<s>", "</s>"])
    tokenizer = adopt(inner, tmp_path, bos="<s>", eos="</s>")
    assert tokenizer.bos_id == inner.token_to_id("<s>")
    assert tokenizer.eos_id == tokenizer.pad_id == inner.token_to_id("</s>")
    about = inspect_path(tmp_path / "tokenizer.json")
    assert (about["bos"], about["eos"]) == ("<s>", "</s>")


def test_a_dataset_can_be_built_with_an_adopted_tokenizer(source: Any, tmp_path: Path) -> None:
    adopt(source, tmp_path)
    (tmp_path / "x.mrg").write_text(f"(TOP (NP (X the) (X dog)))\n(TOP (X {END}))\n")
    (tmp_path / "x.txt").write_text(f"the dog\n{END}\n")
    stem, file = tmp_path / "x", tmp_path / "tokenizer.json"
    build_dataset(BuildConfig(train=(stem,), dev=(stem,), tokenizer=file, out=tmp_path / "data"))
    dataset = load_dataset(tmp_path / "data")
    assert [dataset.tokenizer.decode(row.tolist()) for row in dataset.split("train").tokens] == ["the dog", END]
    assert dataset.tokenizer.eos_id not in dataset.split("train").tokens.values


def test_the_error_for_an_unadopted_tokenizer_names_adopt_tokenizer(source: Any, tmp_path: Path) -> None:
    source.save(str(tmp_path / "t.json"))
    with pytest.raises(InputError, match=r"t\.json: its first entries are .*adopt-tokenizer"):
        Tokenizer.load(tmp_path / "t.json")


def _lowercase(inner: Any) -> None:
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])


def _strip_accents(inner: Any) -> None:
    inner.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])


def _replaced(pattern: str | Regex, by: str) -> Callable[[Any], None]:
    def spoil(inner: Any) -> None:
        inner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(pattern, by)])

    return spoil


def _normalised(normalizer: Any) -> Callable[[Any], None]:
    def spoil(inner: Any) -> None:
        inner.normalizer = normalizer

    return spoil


def _no_spaces(inner: Any) -> None:
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)])


def _dropout(inner: Any) -> None:
    inner.model.dropout = 0.1


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_lowercase, r"its normalizer \(NFC and Lowercase\) lowercases the text: .*becomes .the dog didn't"),
        (_strip_accents, r"its normalizer \(NFD and StripAccents\) changes the text"),
        (_no_spaces, r"it changes spaces: 'the dog' comes back as 'thedog'"),
        (_dropout, r"it encodes at random \(model\.dropout is 0\.1\)"),
    ],
)
def test_the_error_names_each_reason_that_prevents_adoption(
    spoil: Callable[[Any], None], expected: str, tmp_path: Path
) -> None:
    inner = gpt2_like()
    spoil(inner)
    with pytest.raises(InputError, match=rf"source\.json: cannot be adopted: {expected}"):
        adopt(inner, tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("spoil", "example"),
    [
        (_normalised(normalizers.NFKC()), "(NFKC) changes the text: '\u2026' becomes '...'"),
        (_normalised(normalizers.NFD()), "(NFD) changes the text: 'na\u00efve' becomes 'nai\u0308ve'"),
        (_normalised(normalizers.Nmt()), "(Nmt) changes the text: "),
        (_normalised(normalizers.BertNormalizer(lowercase=False)), "'\u4f60\u597d' becomes"),
        (_replaced("``", '"'), "changes the text: \"``So,''\" becomes '\"So,"),
        (_replaced(Regex("[\u201c\u201d]"), '"'), "'\u201cquoted\u201d' becomes '\"quoted\"'"),
        (_replaced(Regex(r"(?<=\d),(?=\d)"), ""), "'1,000,000' becomes '1000000'"),
        (_replaced(Regex(r"\d"), "0"), "'$5.00.' becomes '$0.00.'"),
        (_replaced(Regex(r"(\w)\1{3,}"), "a"), "'000000' becomes 'a'"),
        (_replaced(" ,", ","), "becomes \"a, b . c n't"),
        (_replaced(Regex("\U0001d7d8"), "0"), "'x\U0001d7d8y' becomes 'x0y'"),
        (_replaced("wombat", "animal"), "'wombat' becomes 'animal'"),
        (_replaced(Regex("[|]~"), ""), "'x|~y' becomes 'xy'"),
        (_replaced(Regex(r"\bcolour\b"), "color"), "'colour' becomes 'color'"),
        (_replaced(Regex("(?i:mauve|ochre)"), ""), "'mauve' becomes ''"),
        (_replaced(Regex("[0-9]{9,}"), "0"), "becomes '0'"),
        (_replaced(Regex(r"^[*]?[A-Z]{3}:"), ""), "'MOT:' becomes ''"),
        (_replaced(Regex("[\U00020000-\U0002ffff]"), ""), "'x\U00020000y' becomes 'xy'"),
    ],
)
def test_a_normalizer_that_loses_text_is_refused_with_an_example(
    spoil: Callable[[Any], None], example: str, tmp_path: Path
) -> None:
    inner = gpt2_like()
    spoil(inner)
    with pytest.raises(InputError, match=r"cannot be adopted: its normalizer \(") as raised:
        adopt(inner, tmp_path)
    assert example in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "tokenizer.json").exists()


def _split_first(pattern: str | Regex, behavior: str) -> Callable[[Any], None]:
    def spoil(inner: Any) -> None:
        steps = [pre_tokenizers.Split(pattern, behavior), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        inner.pre_tokenizer = pre_tokenizers.Sequence(steps)

    return spoil


def _decoded_by(step: Any) -> Callable[[Any], None]:
    def spoil(inner: Any) -> None:
        inner.decoder = decoders.Sequence([decoders.ByteLevel(), step])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "example"),
    [
        (_split_first("~", "removed"), "'~' comes back as ''"),
        (_split_first("wombat", "removed"), "'wombat' comes back as ''"),
        (_split_first(Regex("[\u3040-\u309f]"), "removed"), "'x\u3041y' comes back as 'xy'"),
        (_decoded_by(decoders.Replace("\u3042", "a")), "'\u3042' comes back as 'a'"),
    ],
)
def test_a_pre_tokenizer_or_decoder_that_loses_text_is_refused_with_an_example(
    spoil: Callable[[Any], None], example: str, tmp_path: Path
) -> None:
    inner = gpt2_like()
    spoil(inner)
    with pytest.raises(InputError, match=r"cannot be adopted: it does not give back the text: ") as raised:
        adopt(inner, tmp_path)
    assert example in str(raised.value)


@pytest.mark.parametrize("spoil", [_split_first(Regex(r"\d"), "merged_with_previous"), _split_first("x", "isolated")])
def test_a_pre_tokenizer_that_only_divides_text_is_accepted(spoil: Callable[[Any], None], tmp_path: Path) -> None:
    inner = gpt2_like()
    spoil(inner)
    assert adopt(inner, tmp_path).encode("x 1 ox") == inner.encode("x 1 ox").ids


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.NFC(),
        normalizers.Prepend(" "),
        normalizers.Replace(Regex(" {2,}"), " "),
        normalizers.Sequence([normalizers.Strip(), normalizers.Prepend(" ")]),
    ],
)
def test_a_normalizer_that_loses_no_normalised_text_is_accepted(normalizer: Any, tmp_path: Path) -> None:
    inner = gpt2_like()
    inner.normalizer = normalizer
    tokenizer = adopt(inner, tmp_path)
    text = "The na\u00efve dog, \u00bd \ufb01ne: 1,000!"
    assert tokenizer.encode(text) == inner.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "post_processor",
    [
        processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 330)]),
        processors.RobertaProcessing(sep=("b", 66), cls=("a", 65)),
        processors.Sequence([processors.ByteLevel(), processors.BertProcessing(sep=("b", 66), cls=("a", 65))]),
    ],
)
def test_tokens_that_a_post_processor_adds_are_left_out(
    source: Any, adopted: Tokenizer, tmp_path: Path, post_processor: Any
) -> None:
    inner = tokenizers.Tokenizer.from_str(source.to_str())
    inner.post_processor = post_processor
    assert len(inner.encode("the dog").ids) > len(source.encode("the dog").ids)
    assert adopt(inner, tmp_path).data == adopted.data


@pytest.fixture(scope="module")
def roberta_like(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    inner = gpt2_like()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return adopt(inner, tmp_path_factory.mktemp("roberta"))


@given(texts)
@example("the dog")
@example("")
def test_a_tokenizer_that_adds_a_space_before_a_text_restores_it(roberta_like: Tokenizer, text: str) -> None:
    ((ids, spans),) = roberta_like.encode_batch_with_spans([text])
    assert ids == roberta_like.encode(f" {text}" if text else text)
    assert roberta_like.decode(ids) == text
    assert roberta_like.decode_with_spans(ids) == (text, spans)
    assert {at for start, stop in spans for at in range(start, stop)} == set(range(len(text)))


def test_tokenizers_that_are_not_byte_level_are_refused(tmp_path: Path) -> None:
    inner: Any = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.train_from_iterator(TEXTS, trainers.WordPieceTrainer(special_tokens=[UNKNOWN, "[CLS]"], show_progress=False))
    expected = (
        r"not byte-level \(model WordPiece, pre_tokenizer BertPreTokenizer, decoder WordPiece; .*"
        r"BertNormalizer\) .* the text.*no entry '<s>' for --bos; its added tokens are \[UNK\], \[CLS\]"
    )
    with pytest.raises(InputError, match=expected):
        adopt(inner, tmp_path, bos="<s>", eos="[CLS]")
    unigram: Any = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    with pytest.raises(InputError, match=r"not byte-level \(model Unigram, pre_tokenizer none, decoder none"):
        adopt(unigram, tmp_path, bos="<unk>", eos="<unk>")


def test_the_error_names_missing_bytes_missing_entries_and_gaps(tmp_path: Path) -> None:
    content = json.loads(gpt2_like().to_str())
    with pytest.raises(InputError, match=r"no entry '<s>' for --bos; .*no entry '</s>' for --eos; .*<\|endoftext"):
        adopt(gpt2_like(), tmp_path, bos="<s>", eos="</s>")
    for change, expected in (
        (lambda vocab: vocab.pop("Z"), "1 of the 256 bytes have no entry"),
        (lambda vocab: vocab.update(more=999), "entries have ids up to 999, expected ids without gaps"),
    ):
        changed = json.loads(json.dumps(content))
        change(changed["model"]["vocab"])
        (tmp_path / "x.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=expected):
            adopt_tokenizer(tmp_path / "x.json", tmp_path / "out.json", bos=END, eos=END)


def test_files_that_are_not_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.json: cannot be read"):
        adopt_tokenizer(tmp_path / "x.json", tmp_path / "out.json", bos=END, eos=END)
    for content in (b"", b"{}", b"\xff", b"[1]", gpt2_like().to_str().encode("utf-16")):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(InputError, match=r"x\.json: not a tokenizer\.json"):
            adopt_tokenizer(tmp_path / "x.json", tmp_path / "out.json", bos=END, eos=END)


@pytest.mark.parametrize("content", [{"a": 0, "b": 1}, {"class_name": "Tokenizer", "config": {}}, {"stoi": {"a": 0}}])
def test_a_vocabulary_or_a_file_of_another_program_is_not_called_damaged(tmp_path: Path, content: object) -> None:
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"not a tokenizer\.json \(it has no part 'model'.* load the tokenizer with"):
        adopt_tokenizer(tmp_path / "x.json", tmp_path / "out.json", bos=END, eos=END)


def test_a_byte_order_mark_before_a_tokenizer_is_no_fault(source: Any, adopted: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + source.to_str().encode())
    adopt_tokenizer(tmp_path / "x.json", tmp_path / "out.json", bos=END, eos=END)
    (tmp_path / "again.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "out.json").read_bytes())
    assert Tokenizer.load(tmp_path / "again.json").encode("a dog") == adopted.encode("a dog")


@pytest.mark.parametrize(
    "token",
    [
        AddedToken("dogs", lstrip=True),
        AddedToken(" dogs", rstrip=True, single_word=True),
        AddedToken("dogs ", lstrip=True, single_word=True),
        AddedToken(" dogs", rstrip=True),
    ],
)
def test_added_tokens_that_lose_the_text_around_them_become_text(token: AddedToken, tmp_path: Path) -> None:
    inner = gpt2_like()
    inner.add_tokens([token, "\u00e9"])
    tokenizer = adopt(inner, tmp_path)
    assert tokenizer.decode(tokenizer.encode("a: dogs , dogs")) == "a: dogs , dogs"
    assert tokenizer.decode(tokenizer.encode("the dogs' caf\u00e9")) == "the dogs' caf\u00e9"
    assert inner.token_to_id(token.content) == tokenizer.vocab_size - 1
    assert not tokenizer.added_ids


def test_an_added_token_stays_beside_one_that_becomes_text(tmp_path: Path) -> None:
    inner = gpt2_like()
    inner.add_tokens([AddedToken("dog", lstrip=True), "dog barked", "  "])
    tokenizer = adopt(inner, tmp_path)
    assert tokenizer.added_ids == {inner.token_to_id("dog barked"), inner.token_to_id("  ")}


def test_a_large_tokenizer_is_not_loaded_once_per_added_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = gpt2_like()
    inner.add_tokens([f"<extra_{i}>" for i in range(30)])
    inner.save(str(tmp_path / "source.json"))
    load = Mock(wraps=tokenizers.Tokenizer.from_str)
    monkeypatch.setattr(f"{adopt_tokenizer.__module__}.tokenizers", Mock(**{"Tokenizer.from_str": load}))
    summary = adopt_tokenizer(tmp_path / "source.json", tmp_path / "tokenizer.json", bos=END, eos=END)
    assert summary["num_added_tokens_kept"] == 30
    assert load.call_count < 10


def test_other_ordinary_added_tokens_stay(tmp_path: Path) -> None:
    inner = gpt2_like()
    inner.add_tokens(["dog barked", AddedToken("other", single_word=True), AddedToken(" cost", normalized=False)])
    tokenizer = adopt(inner, tmp_path)
    for text in ("the dog barked", "others cost another", "no other cost"):
        assert tokenizer.encode(text) == inner.encode(text).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("dog barked") == [inner.token_to_id("dog barked")]
    summary = adopt_tokenizer(tmp_path / "source.json", tmp_path / "again.json", bos=END, eos=END)
    assert (summary["num_added_tokens_made_plain"], summary["num_added_tokens_kept"]) == (1, 3)
