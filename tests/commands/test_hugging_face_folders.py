"""Test evaluate on Hugging Face folders: an export scores like its run, another GPT-2 as in transformers."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HfTokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pipeline.evaluation.evaluation_config import SurprisalConfig
from pipeline.evaluation.sentence_models import evaluate_surprisal
from storage.errors import ConfigError, InputError, RnngDistillError, RunError, StoreError
from storage.fingerprints import sha256_file
from student.export import export
from student.hugging_face import open_student_or_folder
from student.student_commands import open_scorer
from student.student_config import StudentTrainConfig
from student.train_student import train_student
from tests.processes import refused, run_cli

CPU = torch.device("cpu")
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def run(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("student") / "run"
    training = StudentTrainConfig(max_steps=5, batch_tokens=500, threads=1, device="cpu", lr=0.02, warmup_steps=0)
    train_student(small_world / "dataset", None, run, {"embed_dim": 16, "num_blocks": 1, "num_heads": 2}, training)
    return run


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    export(run, out)
    return out


@pytest.fixture(scope="module")
def foreign(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a GPT-2 with transformers. Like GPT-2's own tokenizer, its tokenizer puts no space before the text."""
    folder = tmp_path_factory.mktemp("foreign") / "gpt2"
    inner = HfTokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator((small_world / "corpus/train.txt").read_text().splitlines(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=END, eos_token=END)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def evaluated(kind: str, model: Path, *arguments: object) -> dict:
    return json.loads(run_cli("evaluate", kind, model, *arguments, "--device", "cpu", "--json").stdout)


def test_exporting_keeps_the_tokenizer_byte_for_byte(run: Path, exported: Path) -> None:
    opened = open_student_or_folder(exported, CPU)
    assert opened.tokenizer.data == (run / "tokenizer.json").read_bytes()
    assert opened.files.tokenizer_sha256 == sha256_file(run / "tokenizer.json")


def test_an_export_has_the_results_of_its_run(small_world: Path, run: Path, exported: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("The dog sees the cat.\n")
    of: dict[Path, list[object]] = {}
    for model in (run, exported):
        pairs = evaluated("minimal-pairs", model, small_world / "corpus/minimal_pairs", "--prefix", "space", "--eos")
        perplexity = evaluated("perplexity", model, "--data", small_world / "dataset")
        run_cli("evaluate", "surprisal", model, text, "--out", tmp_path / "table", "--device", "cpu")
        of[model] = [
            Path(pairs["pairs"]).read_bytes(),
            Path(perplexity["sentences"]).read_bytes(),
            perplexity["unconditional"],
            (tmp_path / "table").read_bytes(),
        ]
        settings = json.loads(Path(pairs["written"]).read_bytes())["settings"]
        assert settings["checkpoint"] == ("best" if model == run else "exported")
        # An exported folder is sent to the hub, so its results are next to it.
        folder = model / "results" if model == run else model.with_name(f"{model.name}-results")
        assert Path(pairs["written"]).parent == folder
        assert Path(pairs["written"]).stem.endswith("-space-eos")
    assert of[run] == of[exported]


def test_a_gpt2_made_elsewhere_is_scored_as_transformers_scores_it(foreign: Path, tmp_path: Path) -> None:
    sentences = ["The dog sees the cat.", "A cat near the dogs sleeps.", "Dogs sleep <|endoftext|> here."]
    (tmp_path / "text").write_text("".join(f"{sentence}\n" for sentence in sentences))
    table = tmp_path / "table"
    run_cli("evaluate", "surprisal", foreign, tmp_path / "text", "--out", table, "--by", "token", "--device", "cpu")
    written = [float(line.split("\t")[4]) for line in table.read_text().splitlines()[1:]]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(foreign).eval(), AutoTokenizer.from_pretrained(foreign)
    found = []
    for sentence in sentences:
        ids = tokenizer(sentence, split_special_tokens=True, add_special_tokens=False)["input_ids"]
        gold = torch.tensor([*ids, 0])
        with torch.no_grad():
            log_probs = model(torch.tensor([[0, *ids]])).logits[0].log_softmax(-1)
        found += (log_probs.gather(1, gold[:, None])[:, 0] / -np.log(2)).tolist()
    np.testing.assert_allclose(written, found, atol=1e-5)


def with_added_tokens(folder: Path, out: Path, tokens: Sequence[str | AddedToken]) -> tuple[Path, object, object]:
    """Add ordinary tokens to a folder's tokenizer and model with transformers. Return the new folder and both."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer.add_tokens(list(tokens))
    torch.manual_seed(2)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    shutil.copytree(folder, out)
    tokenizer.save_pretrained(out)
    model.save_pretrained(out)
    return out, tokenizer, model


ADDED_TOKENS = [
    ["dog sees", "\n", "  "],
    [AddedToken("dog", lstrip=True), AddedToken("cat", rstrip=True), AddedToken(" on", normalized=False)],
    [AddedToken("og", single_word=True), "s", "\u00e9", "\u201c", AddedToken("THE", normalized=True)],
]
TEXTS_WITH_TOKENS = [
    "The dog sees the cat.",
    "dog sees the dogs , on and on",
    "THE caf\u00e9 og\u00e9s \u201con\u201d it .",
    "cats and dog",
]


@pytest.mark.parametrize("tokens", ADDED_TOKENS)
@pytest.mark.parametrize("of", ["foreign", "exported"])
def test_ordinary_added_tokens_are_read_as_transformers_reads_them(
    of: str, tokens: list[str | AddedToken], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder, theirs, _ = with_added_tokens(request.getfixturevalue(of), tmp_path / "added", tokens)
    ours = open_student_or_folder(folder, CPU).tokenizer
    expected = [theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS_WITH_TOKENS]
    assert ours.encode_batch(TEXTS_WITH_TOKENS) == expected
    assert any(not ours.added_ids.isdisjoint(ids) for ids in expected)


def test_an_added_token_over_two_words_makes_one_word_of_them(foreign: Path, tmp_path: Path) -> None:
    tokens = ["dog sees", AddedToken("The", rstrip=True)]
    folder, theirs, model = with_added_tokens(foreign, tmp_path / "added", tokens)
    (tmp_path / "text").write_text("The dog sees the cat.\n")
    figures = evaluated("surprisal", folder, tmp_path / "text", "--out", tmp_path / "table")
    ids = [0, *theirs("The dog sees the cat.", add_special_tokens=False)["input_ids"], 0]
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = -log_probs[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum().item() / np.log(2)
    assert figures["bits"] == pytest.approx(expected, abs=1e-4)
    words = [line.split("\t")[2] for line in (tmp_path / "table").read_text().splitlines()[1:]]
    assert words == ["The", "dog sees", "the", "cat.", "<eos>"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("added_tokens.json", {"dog sees": 400}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"400": {"content": "dog sees", "special": False}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"0": {"content": END, "special": False}}}),
    ],
)
def test_tokens_that_only_another_file_adds_are_refused(
    foreign: Path, tmp_path: Path, file: str, content: object
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(foreign, folder)
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"{file}: adds the token .* but tokenizer\.json does not have it"):
        open_student_or_folder(folder, CPU)


@pytest.mark.parametrize("value", ["in tokenizer.json", "in tokenizer_config.json"])
def test_files_that_disagree_about_the_space_before_a_text_are_refused(
    foreign: Path, tmp_path: Path, value: str
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(foreign, folder)
    content, config = (json.loads((folder / name).read_text()) for name in ("tokenizer.json", "tokenizer_config.json"))
    content["pre_tokenizer"]["add_prefix_space"] = value == "in tokenizer.json"
    config["add_prefix_space"] = value == "in tokenizer_config.json"
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"tokenizer\.json: add_prefix_space is .*Set both to the value that was used in training"
    ):
        open_student_or_folder(folder, CPU)


@pytest.mark.parametrize("content", [" ", "\t", "\u00a0"])
def test_an_added_token_of_which_the_normalizer_leaves_nothing_is_refused(
    foreign: Path, tmp_path: Path, content: str
) -> None:
    folder, *_ = with_added_tokens(foreign, tmp_path / "added", [AddedToken(content, normalized=True)])
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=r"its normalizer leaves nothing of the added token .*Remove the token"):
        open_student_or_folder(folder, CPU)


def test_weights_without_the_transformer_prefix_can_be_loaded(foreign: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(foreign, bare)
    weights = safetensors.torch.load_file(bare / "model.safetensors")
    renamed = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    renamed["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    safetensors.torch.save_file(renamed, bare / "model.safetensors")
    first, second = (open_student_or_folder(folder, CPU).student.state_dict() for folder in (foreign, bare))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_output_matrix_must_equal_the_embeddings(foreign: Path, tmp_path: Path) -> None:
    shutil.copytree(foreign, folder := tmp_path / "folder")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    head = weights["transformer.wte.weight"].clone()
    safetensors.torch.save_file({**weights, "lm_head.weight": head}, folder / "model.safetensors")
    assert torch.equal(open_student_or_folder(folder, CPU).student.state_dict()["transformer.wte.weight"], head)
    safetensors.torch.save_file({**weights, "lm_head.weight": head + 1}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"lm_head\.weight differs from transformer\.wte\.weight, expected the same"):
        open_student_or_folder(folder, CPU)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("model.safetensors", None, "no model.safetensors next to config.json"),
        ("tokenizer.json", None, "no tokenizer.json next to config.json"),
        ("model.safetensors", b"x", "not a safetensors file"),
        ("tokenizer.json", b"{}", "not a tokenizer.json"),
        ("config.json", b"{", "not JSON"),
        ("config.json", {"model_type": "llama"}, "model_type is 'llama', expected 'gpt2'"),
        ("config.json", {"activation_function": "relu"}, "activation_function is 'relu'"),
        ("config.json", {"n_positions": None}, "n_positions is None, expected a number"),
        ("config.json", {"n_layer": 3}, r"transformer\.h\.2\.\S+ is missing, expected \["),
        ("config.json", {"n_embd": 18}, r"is \[\d+\], expected \[\d+\]|is \[\d+, \d+\], expected"),
        ("tokenizer_config.json", {"bos_token": "<s>"}, "no entry '<s>', which is bos_token in tokenizer_config.json"),
        ("config.json", {"n_layer": 10**9, "n_head": 1}, "describes a model of .* weights, but"),
        ("config.json", {"n_positions": 10**11}, "describes a model of .* weights, but"),
        ("config.json", {"vocab_size": 20}, "the tokenizer has 400 entries, but the model 20"),
    ],
)
def test_an_incomplete_or_unsupported_folder_gives_one_line(
    foreign: Path, tmp_path: Path, file: str, change: object, message: str
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(foreign, folder)
    if change is None:
        (folder / file).unlink()
    elif isinstance(change, bytes):
        (folder / file).write_bytes(change)
    else:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_bytes()) | change))
    with pytest.raises(InputError, match=message) as raised:
        open_student_or_folder(folder, CPU)
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize(
    ("named", "ids", "expected"),
    [
        ({"tokenizer_config.json": {"bos_token": "a", "eos_token": "b"}}, {"bos_token_id": 50256}, "ab"),
        ({"tokenizer_config.json": {"bos_token": {"content": "a"}, "model_max_length": 10**30}}, {}, f"a{END}"),
        ({"special_tokens_map.json": {"bos_token": "a", "eos_token": {"content": "b"}}}, {"eos_token_id": None}, "ab"),
        ({"tokenizer_config.json": {"bos_token": None}, "special_tokens_map.json": {"eos_token": "b"}}, {}, f"{END}b"),
        ({}, {"bos_token_id": 50256}, "no entry 50256, which is bos_token .* set bos_token to the token"),
        ({}, {"eos_token_id": None}, "eos_token_id is None, expected the id of a token"),
    ],
)
def test_the_tokenizers_own_names_of_bos_and_eos_come_before_the_ids_in_config(
    foreign: Path, tmp_path: Path, named: dict, ids: dict, expected: str
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(foreign, folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_text(json.dumps(named.get(name, {})))
    config = json.loads((folder / "config.json").read_bytes()) | ids
    (folder / "config.json").write_text(json.dumps(config))
    if expected.startswith(("no", "eos")):
        with pytest.raises(InputError, match=expected):
            open_student_or_folder(folder, CPU)
        return
    opened = open_student_or_folder(folder, CPU)
    tokenizer = opened.tokenizer
    assert tokenizer.token(tokenizer.bos_id) + tokenizer.token(tokenizer.eos_id) == expected
    assert opened.student.bos_id == tokenizer.bos_id


def test_saved_padding_and_truncation_of_a_tokenizer_are_ignored(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(exported, folder)
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["padding"] = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 2, "pad_type_id": 0,
        "pad_token": "<pad>",
    }  # fmt: skip
    content["truncation"] = {"direction": "Right", "max_length": 30, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    texts = ["The dog sees the cat.", "The dog " * 40]
    expected, found = (open_student_or_folder(each, CPU).tokenizer for each in (exported, folder))
    assert found.encode_batch(texts) == expected.encode_batch(texts)
    assert found.sha256 == expected.sha256


def test_an_export_records_its_training_and_longer_sentences_give_a_warning(
    run: Path, exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of_run, of_folder = (open_student_or_folder(each, CPU) for each in (run, exported))
    assert of_folder.num_trained_positions == of_run.num_trained_positions
    assert of_folder.trained_context == of_run.trained_context == "sentence"
    assert 10 < of_run.num_trained_positions < 100
    with open_scorer(exported, device="cpu", checkpoint="best", beam={}) as model:
        model.scorer.log_probs([np.zeros(of_run.num_trained_positions - 1, np.int64)])
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        model.scorer.log_probs([np.zeros(of_run.num_trained_positions, np.int64), np.zeros(3, np.int64)])
    assert f"1 of 2 sentences has more than the {of_run.num_trained_positions} positions" in caplog.text
    path = tmp_path / "document"
    shutil.copytree(exported, path)
    described = json.loads((path / "config.json").read_bytes())
    for recorded, expected in ((described["rnng_distill"] | {"context": "document"}, "document"), ([1], "sentence")):
        (path / "config.json").write_text(json.dumps(described | {"rnng_distill": recorded}))
        assert open_student_or_folder(path, CPU).context == expected


def test_an_unwritable_results_folder_is_refused_before_scoring(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(exported, folder)
    folder.with_name(f"{folder.name}-results").write_text("")
    with (
        pytest.raises(StoreError, match="results: cannot be written"),
        open_scorer(folder, device="cpu", checkpoint="best", beam={}),
    ):
        pass


def test_a_table_is_not_written_over_a_models_files(run: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("The dog sees the cat.\n")
    with (
        open_scorer(run, device="cpu", checkpoint="best", beam={}) as model,
        pytest.raises(ConfigError, match="which holds the model's files"),
    ):
        evaluate_surprisal(model, tmp_path / "text", run / "run.json", SurprisalConfig())


def test_a_dataset_of_other_tokens_and_a_checkpoint_of_a_folder_are_refused(small_world: Path, foreign: Path) -> None:
    with pytest.raises(RunError, match="an exported folder has only one checkpoint"):
        open_student_or_folder(foreign, CPU, "words_1M")
    line = refused("evaluate", "perplexity", foreign, "--data", small_world / "dataset", "--device", "cpu")
    assert "tokenizer is" in line
    assert "with adopt-tokenizer" in line


def test_a_path_that_is_neither_run_nor_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RnngDistillError, match=r"no run\.json here"):
        open_student_or_folder(tmp_path, CPU)
