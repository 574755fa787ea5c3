"""Test that a dataset holds the tokens of the text and the actions of the trees, and counts every sentence."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.dataset import oracle
from pipeline.corpus.dataset.blocks import token_dtype
from pipeline.corpus.dataset.build import build_dataset, permutation_within_lengths
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.dataset_store import Dataset, describe_dataset, load_dataset, write_dataset
from pipeline.corpus.dataset.oracle import actions_to_tree, right_branching
from pipeline.corpus.dataset.tokenizer import Tokenizer
from storage.errors import ConfigError, CorruptStoreError, FingerprintMismatchError, InputError, StoreError
from tests.pipeline.corpus.corpora import flat_pair, write_stem
from tests.processes import store_digest

PAIRS = [
    ("(ROOT (S (NP (DT the) (NN dog)) (VP (VBZ barks)) (. .)))", "the dog barks."),
    ("(ROOT (S (NP (DT the) (NN cat)) (VP (VBZ sleeps)) (. .)))", "the cat sleeps."),
    ("(ROOT (S (NP (NP (DT the) (NN dog)) (PP (IN of) (NP (NN cat)))) (VP (VBZ sleeps))))", "the dog of cat sleeps"),
    ("(ROOT (VB Go))", "Go"),
    ("(ROOT (S (VP (VBP do) (RB n't) (VP (VB bark))) (. !)))", "don't bark!"),
    ("(ROOT (NP (DT the) (NN dog) (CC and) (NN cat)))", "the dog and cat"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for name, pairs in (
        ("train", PAIRS * 2),
        ("dev", PAIRS[1:4]),
        ("other", [*PAIRS[:2], ("(ROOT (FRAG (NN cat)))", "cat")]),
    ):
        write_stem(folder / name, pairs)
    Tokenizer.train([text for _, text in PAIRS] * 3, 275).save(folder / "tokenizer.json")
    return folder


def build(
    corpus: Path, out: Path | str, progress: Callable[[int], None] | None = None, **changes: Any
) -> dict[str, Any]:
    given = {"train": (corpus / "train",), "dev": (corpus / "dev",), "tokenizer": corpus / "tokenizer.json", "out": out}
    return build_dataset(BuildConfig(**(given | changes)), progress)


@pytest.fixture(scope="module")
def dataset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("dataset") / "data"
    build(corpus, out, test=(corpus / "other",))
    return load_dataset(out)


def test_the_dataset_holds_the_tokens_of_the_text(dataset: Dataset) -> None:
    texts = [text for _, text in PAIRS * 2]
    split, tokenizer = dataset.split("train"), dataset.tokenizer
    assert [row.tolist() for row in split.tokens] == [tokenizer.encode(text) for text in texts]
    assert tokenizer.decode_batch([row.tolist() for row in split.tokens]) == texts
    assert split.num_words.tolist() == [len(text.split()) for text in texts]
    assert split.num_bytes.tolist() == [len(text.encode()) for text in texts]
    assert split.tokens.values.dtype == np.uint16
    assert split.num_positions == len(split.tokens.values) + len(texts) == split.position_offsets[-1]


def test_the_actions_build_the_trees(dataset: Dataset) -> None:
    split = dataset.split("train")
    trees = []
    for tokens, actions in zip(split.tokens, split.actions, strict=True):
        phrases, n = actions_to_tree(actions.tolist())
        assert n == len(tokens)
        pieces = [dataset.tokenizer.decode([i]) for i in tokens.tolist()]
        trees.append([(dataset.labels[label], "".join(pieces[start:stop])) for label, start, stop in phrases])
    assert dataset.labels == ("TOP", "NP", "PP", "S", "VP")
    # Decoding removes the space before each piece.
    assert trees[0] == [("TOP", "thedogbarks."), ("S", "thedogbarks."), ("NP", "thedog"), ("VP", "barks")]
    assert trees[3] == [("TOP", "Go")]
    assert trees[4] == [("TOP", "don'tbark!"), ("S", "don'tbark!"), ("VP", "don'tbark"), ("VP", "bark")]


def test_a_label_unseen_in_training_is_dropped_and_counted(dataset: Dataset) -> None:
    assert dataset.split("test").num_sentences == 2
    assert dataset.counts["test"]["dropped"] == {"label unseen in training": 1}
    assert dataset.counts["test"]["num_trees"] == 3
    assert dataset.counts["test"]["num_kept"] == 2
    assert dataset.counts["train"]["num_kept"] == dataset.split("train").num_sentences


def test_map_replaces_unseen_labels_by_the_most_frequent_label_of_train(corpus: Path, tmp_path: Path) -> None:
    # FRAG is over NP and INTJ is under FRAG. If mapping gives NP over a single NP, they become one NP.
    trees = ["(ROOT (FRAG (NP (NN cat))))", "(ROOT (FRAG (NN cat) (INTJ (NN cat)) (FRAG (NN cat))))"]
    new = write_stem(tmp_path / "new", zip(trees, ["cat", "cat cat cat"], strict=True))
    build(corpus, tmp_path / "data", test=(new,), unseen_labels="map")
    mapped = load_dataset(tmp_path / "data")
    assert mapped.labels == ("TOP", "NP", "PP", "S", "VP")
    cat = len(mapped.tokenizer.encode("cat"))
    phrases = [actions_to_tree(actions.tolist())[0] for actions in mapped.split("test").actions]
    assert phrases[0] == [(0, 0, cat), (1, 0, cat)]
    whole = 3 * cat
    assert phrases[1] == [(0, 0, whole), (1, 0, whole), (1, cat, 2 * cat), (1, 2 * cat, whole)]
    assert mapped.counts["test"]["num_kept"] == 2
    assert mapped.counts["test"]["dropped"] == {}
    assert mapped.counts["test"]["repaired"] == {
        "label unseen in training, read as NP: FRAG": 2,
        "label unseen in training, read as NP: INTJ": 1,
    }
    assert mapped.counts["train"]["repaired"] == {}


@pytest.mark.parametrize(
    ("train", "expected"), [("(A (B #))", "A"), ("(B (A #))", "A"), ("(A (B (D (B #))))", "B"), ("#", None)]
)
def test_unseen_labels_become_the_most_frequent_label_or_are_dropped_if_train_has_none(
    corpus: Path, tmp_path: Path, train: str, expected: str | None
) -> None:
    stems = {
        name: (write_stem(tmp_path / name, [(f"(TOP {tree})".replace("#", "(NN c)"), "c") for tree in trees]),)
        for name, trees in (("train", [train]), ("dev", ["#", "(FRAG #)"]))
    }
    summary = build(corpus, tmp_path / "data", **stems, unseen_labels="map")
    mapped = {} if expected is None else {f"label unseen in training, read as {expected}: FRAG": 1}
    assert summary["dev"]["repaired"] == mapped
    assert summary["dev"]["dropped"] == ({"label unseen in training": 1} if expected is None else {})


def test_refuse_names_all_labels_unseen_in_training(corpus: Path, tmp_path: Path) -> None:
    unseen = ("(ROOT (FRAG (INTJ (NN cat)) (NN cat)))", "cat cat")
    new = write_stem(tmp_path / "new", [("(ROOT (S (NN cat)))", "cat"), unseen, unseen])
    expected = r"new\.mrg: .*FRAG \(2 sentences\), INTJ \(2 sentences\).*--unseen-labels.* as NP$"
    with pytest.raises(InputError, match=expected):
        build(corpus, tmp_path / "data", dev=(new,), unseen_labels="refuse")
    assert not (tmp_path / "data").exists()
    build(corpus, tmp_path / "data", unseen_labels="refuse")


def test_building_twice_gives_the_same_bytes(corpus: Path, dataset: Dataset, tmp_path: Path) -> None:
    seen: list[int] = []
    summary = build(corpus, tmp_path / "again", seen.append, test=(corpus / "other",))
    assert summary["sha256"] == dataset.sha256 == load_dataset(tmp_path / "again").sha256
    assert sum(seen) == 12 + 3 + 3
    assert dataset.fingerprints == {"dataset": dataset.sha256, "tokenizer": dataset.tokenizer.sha256}
    assert store_digest(dataset.path) == store_digest(tmp_path / "again")


def test_a_dataset_at_a_url_equals_the_dataset_on_disk(
    corpus: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNNG_DISTILL_CACHE", str(tmp_path / "cache"))
    url = f"memory://{tmp_path.name}/data"
    build(corpus, url, test=(corpus / "other",))
    assert load_dataset(url).sha256 == dataset.sha256
    with pytest.raises(StoreError, match=r"data: already exists"):
        build(corpus, url)


def test_plain_zarr_opens_a_dataset(dataset: Dataset) -> None:
    group = zarr.open_group(dataset.path / "dataset.zarr", mode="r")
    assert sorted(group.group_keys()) == ["dev", "test", "train"]
    assert group.attrs["labels"] == list(dataset.labels)
    assert np.array_equal(group["train/tokens"][...], dataset.split("train").tokens.values)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=30), st.integers(0, 1000))
def test_shuffling_gives_each_sentence_the_tree_of_another_sentence_of_its_length(
    lengths: list[int], seed: int
) -> None:
    source = permutation_within_lengths(np.array(lengths), np.random.default_rng(seed))
    assert sorted(source) == list(range(len(lengths)))
    for i, j in enumerate(source):
        assert lengths[i] == lengths[j]
        assert (i == j) == (lengths.count(lengths[i]) == 1)


def test_controls_have_the_same_sentences_and_other_trees(corpus: Path, dataset: Dataset, tmp_path: Path) -> None:
    built = {}
    for name, changes in {
        "right": {"trees": "right"},
        "shuffled": {"trees": "shuffled"},
        "same": {"trees": "shuffled"},
        "other": {"trees": "shuffled", "seed": 2},
    }.items():
        build(corpus, tmp_path / name, test=(corpus / "other",), **changes)
        built[name] = load_dataset(tmp_path / name)
    for split in ("train", "dev", "test"):
        given = dataset.split(split)
        for control in built.values():
            assert np.array_equal(control.split(split).tokens.values, given.tokens.values)
            assert control.counts[split]["dropped"] == dataset.counts[split]["dropped"]
        shuffled = built["shuffled"].split(split).actions
        assert sorted(map(tuple, shuffled)) == sorted(map(tuple, given.actions))
        for tokens, actions in zip(given.tokens, built["right"].split(split).actions, strict=True):
            assert actions_to_tree(actions.tolist()) == (right_branching(len(tokens)), len(tokens))
    assert built["right"].labels == ("TOP", "X")
    assert built["right"].tree_source == "right-branching"
    assert built["shuffled"].sha256 == built["same"].sha256 != built["other"].sha256
    kept_own = built["shuffled"].counts["dev"]["repaired"]["own tree kept: no other sentence of that length"]
    lengths = dataset.split("dev").tokens.lengths.tolist()
    assert kept_own == sum(lengths.count(n) == 1 for n in lengths)


def test_duplicates_of_held_out_sentences_are_counted_and_dropped_on_request(corpus: Path, tmp_path: Path) -> None:
    # dev and "other" share four distinct sentences with train. Each occurs twice in the 12 sentences of train.
    found = {}
    for drop in ("none", "exact", "near"):
        found[drop] = build(corpus, tmp_path / drop, test=(corpus / "other",), drop_duplicates=drop)
        dataset = load_dataset(tmp_path / drop)
        assert found[drop]["train"]["num_exact_duplicates"] == 8
        assert found[drop]["train"]["num_near_duplicates"] == 0
        assert dataset.counts["train"]["num_kept"] == dataset.split("train").num_sentences
        assert found[drop]["dev"]["num_in_train"] == (3 if drop == "none" else 0)
    assert found["none"]["test"]["num_in_train"] == 2
    assert found["none"]["train"]["dropped"] == {}
    assert found["exact"]["train"]["dropped"] == {"exact duplicate of a sentence of dev or test": 8}
    kept = ["don't bark!", "the dog and cat"] * 2
    split = load_dataset(tmp_path / "exact").split("train")
    tokenizer = Tokenizer.load(corpus / "tokenizer.json")
    assert tokenizer.decode_batch([row.tolist() for row in split.tokens]) == kept
    assert split.text_sha256 == hashlib.sha256("".join(text + "\n" for text in kept).encode()).hexdigest()


def test_near_duplicates_are_dropped_only_with_the_option_near(corpus: Path, tmp_path: Path) -> None:
    words = "the dog barks the cat sleeps the dog sleeps go"
    for name, ends in (("a", ("dog", "cat")), ("b", ("barks",))):
        write_stem(tmp_path / name, map(flat_pair, [*(f"{words} {end}" for end in ends), "go"]))
    stems = {"train": (tmp_path / "a",), "dev": (tmp_path / "b",)}
    near = {"num_exact_duplicates": 1, "num_near_duplicates": 2}
    for drop, dropped in (("none", 0), ("exact", 1)):
        found = build(corpus, tmp_path / drop, **stems, drop_duplicates=drop)
        assert {name: found["train"][name] for name in near} == near
        assert sum(found["train"]["dropped"].values()) == dropped
    with pytest.raises(InputError, match=r"no sentence left of 3 trees: .*near duplicate of sentences of dev or test"):
        build(corpus, tmp_path / "near", **stems, drop_duplicates="near")


def test_text_digest_and_phrase_count_exclude_sentences_dropped_for_unseen_labels(dataset: Dataset) -> None:
    # Each of the two sentences has TOP, S, NP and VP.
    assert dataset.counts["test"]["num_phrases"] == 8
    kept = [text for _, text in PAIRS[:2]]
    digest = hashlib.sha256("".join(text + "\n" for text in kept).encode()).hexdigest()
    assert dataset.split("test").text_sha256 == digest


def test_several_stems_are_read_one_after_the_other(corpus: Path, dataset: Dataset, tmp_path: Path) -> None:
    build(corpus, tmp_path / "two", train=(corpus / "train", corpus / "dev"), dev=(corpus / "dev", corpus / "dev"))
    two = load_dataset(tmp_path / "two")
    expected = [*dataset.split("train").actions, *dataset.split("dev").actions]
    assert [row.tolist() for row in two.split("train").actions] == [row.tolist() for row in expected]
    assert two.counts["dev"]["num_trees"] == 6


def test_sentences_dropped_by_length_are_counted(corpus: Path, tmp_path: Path) -> None:
    found = build(corpus, tmp_path / "data", min_words=2, max_words=4)
    assert found["train"]["dropped"] == {"fewer than 2 words": 2, "more than 4 words": 2}
    assert found["dev"]["dropped"] == {"fewer than 2 words": 1, "more than 4 words": 1}
    assert load_dataset(tmp_path / "data").split("train").num_words.max() == 4


def test_a_dataset_without_statistics_and_documents_can_be_read(dataset: Dataset, tmp_path: Path) -> None:
    split = dataset.split("dev")
    arrays = {
        "tokens": split.tokens.values,
        "offsets": split.tokens.offsets,
        "actions": split.actions.values,
        "action_offsets": split.actions.offsets,
        **{name: getattr(split, name) for name in ("document_ids", "num_words", "num_bytes")},
    }
    write_dataset(
        tmp_path / "old",
        {"dev": arrays},
        counts={"dev": {"text_sha256": "1" * 64}},
        tokenizer=dataset.tokenizer,
        labels=dataset.labels,
        trees="given",
        tree_source="a test",
    )
    old = load_dataset(tmp_path / "old")
    assert old.statistics == {"dev": {}}
    assert old.split("dev").documents == ()
    assert old.split("dev").source_ids[0].tolist() == [0, 0, 0]
    assert describe_dataset(tmp_path / "old")["splits"]["dev"]["num_sentences"] == 3


def test_a_description_has_the_sizes_of_each_split(dataset: Dataset) -> None:
    found = describe_dataset(dataset.path)
    train = found["splits"]["train"]
    assert found["num_labels"] == 5
    assert train["num_sentences"] == 12
    assert train["num_positions"] == train["num_tokens"] + 12
    assert train["max_depth"] == 5
    assert train["actions_per_token"] == train["num_actions"] / train["num_tokens"]
    assert found["splits"]["test"]["dropped"] == {"label unseen in training": 1}


def test_the_error_for_an_unknown_split_names_the_splits_that_exist(dataset: Dataset) -> None:
    with pytest.raises(InputError, match=r"no split 'valid', expected one of train, dev, test"):
        dataset.split("valid")


def test_any_flipped_byte_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    files = [path for path in sorted(dataset.path.rglob("*")) if path.is_file() and path.stat().st_size]
    for i, path in enumerate(files):
        copy = tmp_path / str(i)
        shutil.copytree(dataset.path, copy)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        (copy / path.relative_to(dataset.path)).write_bytes(data)
        with pytest.raises((StoreError, InputError)):
            load_dataset(copy)


def test_a_missing_chunk_another_tokenizer_or_another_split_is_refused(
    dataset: Dataset, corpus: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(dataset.path, copy)
    Tokenizer.train(["other text"], 260).save(copy / "tokenizer.json")
    with pytest.raises(FingerprintMismatchError, match=r"tokenizer\.json: sha256 is"):
        load_dataset(copy)
    shutil.copy(dataset.tokenizer_path, copy / "tokenizer.json")
    build(corpus, tmp_path / "right", trees="right")
    shutil.rmtree(copy / "dataset.zarr" / "train")
    shutil.copytree(tmp_path / "right" / "dataset.zarr" / "train", copy / "dataset.zarr" / "train")
    with pytest.raises(FingerprintMismatchError, match="split train"):
        load_dataset(copy)
    shutil.rmtree(copy / "dataset.zarr" / "train")
    with pytest.raises(StoreError, match="train"):
        load_dataset(copy)
    with pytest.raises(StoreError):
        load_dataset(tmp_path / "none")


def test_ids_that_are_out_of_bounds_for_a_model_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    good = {"tokens": [5, 6], "offsets": [0, 2], "actions": [2, 3, 0, 0, 1, 0, 1], "action_offsets": [0, 7]}
    bad = [
        {"tokens": [5, 9999]},
        {"actions": [2, 9, 0, 0, 1, 0, 1]},
        {"actions": [2, 3, 0, 1, 1, 0, 1]},
        {"offsets": [0, 1]},
        {"actions": [], "action_offsets": [0, 0]},
    ]
    for i, changes in enumerate([{}, *bad]):
        values = good | changes
        types = {"tokens": np.uint16, "actions": np.int16}
        arrays = {name: np.array(value, types.get(name, np.int64)) for name, value in values.items()}
        arrays |= {name: np.zeros(1, np.int32) for name in ("document_ids", "num_words", "num_bytes")}
        write_dataset(
            tmp_path / str(i),
            {"train": arrays},
            counts={"train": {"text_sha256": "1" * 64}},
            tokenizer=dataset.tokenizer,
            labels=("TOP", "X"),
            trees="given",
            tree_source="a test",
        )
        if changes:
            with pytest.raises(CorruptStoreError, match="do not fit together"):
                load_dataset(tmp_path / str(i))
        else:
            assert load_dataset(tmp_path / str(i)).split("train").num_positions == 3


def test_a_build_overwrites_nothing_and_leaves_nothing_if_it_fails(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(StoreError, match=r"data: already exists"):
        build(corpus, tmp_path / "data")
    write_stem(tmp_path / "bad", [PAIRS[0], (PAIRS[1][0][:-1], PAIRS[1][1])])
    with pytest.raises(InputError, match=r"bad\.mrg:2: unbalanced"):
        build(corpus, tmp_path / "new", dev=(tmp_path / "bad",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mrg", "bad.txt", "data"]
    summary = build(corpus, tmp_path / "new", dev=(tmp_path / "bad",), on_error="skip")
    assert summary["dev"]["dropped"] == {"unbalanced brackets": 1}


def test_a_split_without_a_sentence_is_refused(corpus: Path, tmp_path: Path) -> None:
    write_stem(tmp_path / "bad", [(PAIRS[0][0], "other words")])
    with pytest.raises(InputError, match="no sentence left of 1 trees"):
        build(corpus, tmp_path / "new", dev=(tmp_path / "bad",))


def test_the_error_names_all_invalid_options_at_once(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"--seed is -1.*--trees is 'left'.*--on-error is 'go'.*-labels is 'x'"):
        build(corpus, corpus / "x", trees="left", on_error="go", unseen_labels="x", seed=-1)


def test_ids_are_stored_in_16_bits_if_the_vocabulary_allows_it() -> None:
    assert token_dtype(65_535) == np.uint16
    assert token_dtype(65_536) == np.uint32


def test_more_labels_than_a_dataset_can_store_are_one_error(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is lowered, so that few labels are too many. The labels are spread over blocks."""
    monkeypatch.setattr(oracle, "MAX_LABELS", 600)
    trees = "".join(f"(TOP (L{i} (NN a)))\n" for i in range(700))
    (tmp_path / "many.mrg").write_text(trees)
    (tmp_path / "many.txt").write_text("a\n" * 700)
    with pytest.raises(InputError, match=r"many.*: more than 600 different labels"):
        build(corpus, tmp_path / "dataset", train=(tmp_path / "many",), dev=(tmp_path / "many",), workers=1)
    assert not (tmp_path / "dataset").exists()
