"""Language models of transformers as teachers: their dumps hold what transformers computes, and others are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import zarr
from click.testing import CliRunner
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import cli
from pipeline.corpus.dataset.adopt_tokenizer import adopt_tokenizer
from pipeline.corpus.dataset.dataset_store import load_dataset
from pipeline.dumping.causal_lm_source import CausalLm, CausalLmSource
from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_source import dump_run
from storage.dump.reader import DumpReader
from student.export import export
from student.student_commands import StudentSource
from student.student_config import StudentTrainConfig
from student.train_student import train_student

END = "<|endoftext|>"
VOCAB_SIZE = 400
CONFIG = DumpConfig(
    split="dev", condition="none", k=12, temperatures=(1.0, 2.0), shard_positions=512, batch_tokens=400, device="cpu"
)
OPTIONS = ["--split", "dev", "--k", "12", "--device", "cpu", "--shard-positions", "512"]


def run(*given: object) -> str:
    done = CliRunner().invoke(cli.main, [*map(str, given)])
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*given: object) -> str:
    done = CliRunner().invoke(cli.main, [*map(str, given)])
    assert done.exit_code == 1, done.output
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def foreign(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a GPT-2 of transformers with a tokenizer of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train([str(small_world / "corpus/train.txt")], trainer)
    folder = tmp_path_factory.mktemp("foreign")
    gpt2(VOCAB_SIZE).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def adopted(small_world: Path, foreign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a small dataset with this tokenizer."""
    out, corpus = tmp_path_factory.mktemp("adopted"), small_world / "corpus"
    adopt_tokenizer(foreign / "tokenizer.json", out / "tokenizer.json", bos=END, eos=END)
    parts = ["--train", corpus / "dev", "--dev", corpus / "test", "--tokenizer", out / "tokenizer.json"]
    run("build-dataset", *parts, "--out", out / "dataset")
    return out / "dataset"


def folder_with(model: transformers.PreTrainedModel, foreign: Path, out: Path) -> Path:
    model.save_pretrained(out)
    shutil.copy(foreign / "tokenizer.json", out)
    return out


def llama(vocab_size: int, **changes: object) -> LlamaForCausalLM:
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, max_position_embeddings=128, **sizes, **changes))


def gpt2(vocab_size: int, **changes: object) -> GPT2LMHeadModel:
    torch.manual_seed(1)
    sizes = {"n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, **sizes, **changes))


def assert_holds(dump: Path, dataset: Path, model: transformers.PreTrainedModel) -> None:
    """Compare a dump with what transformers computes sentence by sentence, over the tokenizer's entries."""
    group, data = zarr.open_group(dump, mode="r"), load_dataset(dataset)
    split, vocab_size, at = data.split("dev"), data.tokenizer.vocab_size, 0
    for sentence in range(20):
        tokens = split.tokens[sentence].tolist()
        with torch.no_grad():
            logits = model.eval()(torch.tensor([[data.tokenizer.bos_id, *tokens]])).logits[0, :, :vocab_size]
        log_probs, gold = logits.double().log_softmax(1), torch.tensor([*tokens, data.tokenizer.eos_id])
        rows = slice(at, at + len(gold))
        expected = log_probs.gather(1, gold[:, None])[:, 0].numpy()
        np.testing.assert_allclose(group["gold_logp"][rows], expected, atol=2e-5)
        ids = torch.from_numpy(group["ids"][rows].astype(np.int64))
        assert (ids < vocab_size).all()
        np.testing.assert_allclose(group["logp"][rows], log_probs.gather(1, ids).numpy(), rtol=2**-10)
        tail = 1 - log_probs.exp().gather(1, ids).sum(1).numpy()
        np.testing.assert_allclose(np.exp(group["tail"][rows, 0]), tail, atol=1e-5)
        at = rows.stop


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("extra", [0, 48])
def test_a_dump_holds_what_transformers_computes_over_the_tokenizers_entries(
    adopted: Path,
    foreign: Path,
    tmp_path: Path,
    make,
    extra: int,
) -> None:
    folder = folder_with(make(VOCAB_SIZE + extra), foreign, tmp_path / "model")
    run("dump-teacher", "--data", adopted, "--teacher", folder, "--out", tmp_path / "dump", *OPTIONS)
    assert_holds(tmp_path / "dump", adopted, make(VOCAB_SIZE + extra))
    schema = DumpReader(tmp_path / "dump").schema
    assert (schema.condition, schema.computation["transformers"]) == ("none", transformers.__version__)
    where = ["--teacher", folder, "--data", adopted]
    found = run("verify", tmp_path / "dump", "--recompute", 2, *where, "--device", "cpu", "--json")
    assert json.loads(found)["recomputed"]["is_identical"]


def test_a_model_that_scales_its_logits_is_dumped_from_its_logits(adopted: Path) -> None:
    class Scaled(GPT2LMHeadModel):
        def forward(self, **inputs):
            found = super().forward(**inputs)
            found.logits = 30 * torch.tanh(found.logits / 30)
            return found

    model = Scaled(gpt2(VOCAB_SIZE).config).eval()
    scaled, plain = (
        CausalLm(each, vocab_size=VOCAB_SIZE, bos_id=0, path=Path("x")) for each in (model, gpt2(VOCAB_SIZE).eval())
    )
    tokens = load_dataset(adopted).split("dev").tokens.take(np.arange(3))
    with torch.no_grad():
        assert scaled.states(scaled.prepare(tokens, None)).shape[1] == VOCAB_SIZE
        assert plain.states(plain.prepare(tokens, None)).shape[1] == 16
        first = scaled.logits(scaled.states(scaled.prepare(tokens, None)))[: len(tokens[0]) + 1]
        expected = model(input_ids=torch.tensor([[0, *tokens[0].tolist()]])).logits[0]
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-5)


def test_an_exported_student_gives_the_dump_of_its_run(small_world: Path, tmp_path: Path) -> None:
    training = StudentTrainConfig(max_steps=5, batch_tokens=500, threads=1, device="cpu", lr=0.02, warmup_steps=0)
    sizes = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2}
    train_student(small_world / "dataset", None, tmp_path / "run", sizes, training)
    export(tmp_path / "run", tmp_path / "exported")
    sources = {"own": StudentSource(tmp_path / "run"), "foreign": CausalLmSource(tmp_path / "exported")}
    rows = {}
    for name, source in sources.items():
        dump_run(small_world / "dataset", [source], tmp_path / name, CONFIG)
        reader = DumpReader(tmp_path / name)
        rows[name] = reader.read_range(0, reader.schema.num_positions)
    for name in ("gold_logp", "tail", "logz", "logp"):
        mine, theirs = getattr(rows["own"], name), getattr(rows["foreign"], name)
        # float32 logits differ by about 1e-6, which can change the last bit of a float16.
        np.testing.assert_allclose(mine.astype(float), theirs.astype(float), atol=2e-5, rtol=2**-10)
    assert np.array_equal(rows["own"].tokens, rows["foreign"].tokens)
    assert (rows["own"].ids == rows["foreign"].ids).mean() > 0.99


def damaged(folder: Path, kind: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    if kind == "code":
        config["auto_map"] = {"AutoModelForCausalLM": "modelling.Evil"}
    elif kind == "short":
        config["n_positions"] = 8
    elif kind == "small vocabulary":
        config["vocab_size"] = 300
    elif kind == "another model":
        config["n_layer"] = 3
    elif kind == "unknown":
        config["model_type"] = "nothing-like-it"
    elif kind == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif kind == "truncated":
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    elif kind == "adapter":
        (folder / "adapter_config.json").write_text("{}")
    elif kind == "another tokenizer":
        content = json.loads((folder / "tokenizer.json").read_text())
        content["model"]["merges"].reverse()
        (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("code", "has auto_map, so the model needs code of its own"),
        ("short", "positions, but "),
        ("small vocabulary", "the model's vocabulary has 300 entries, but its tokenizer has 400"),
        ("another model", "(12 such weights). The weights belong to another config.json"),
        ("unknown", "transformers cannot load it as a causal language model"),
        ("pickle", "no *.safetensors, expected a folder as save_pretrained writes it"),
        ("truncated", "transformers cannot load it as a causal language model"),
        ("adapter", "holds an adapter"),
        ("another tokenizer", "in model. Convert"),
    ],
)
def test_a_folder_that_cannot_be_a_teacher_is_refused_in_one_line(
    adopted: Path,
    foreign: Path,
    tmp_path: Path,
    kind: str,
    expected: str,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(foreign, folder)
    damaged(folder, kind)
    message = refused("dump-teacher", "--data", adopted, "--teacher", folder, "--out", tmp_path / "dump", *OPTIONS)
    assert expected in message
    assert not (tmp_path / "dump").exists()


def test_a_dataset_with_a_larger_tokenizer_is_refused_in_one_line(
    small_world: Path, foreign: Path, tmp_path: Path
) -> None:
    content = json.loads((small_world / "dataset/tokenizer.json").read_text())
    content["model"]["vocab"] |= {"<last>": 600}
    (tmp_path / "large.json").write_text(json.dumps(content))
    adopt_tokenizer(tmp_path / "large.json", tmp_path / "t.json", bos="<bos>", eos="<last>")
    parts = ["--train", small_world / "corpus/dev", "--dev", small_world / "corpus/dev"]
    run("build-dataset", *parts, "--tokenizer", tmp_path / "t.json", "--out", tmp_path / "dataset")
    for dataset, expected in (
        (tmp_path / "dataset", "cannot be that of"),
        (small_world / "dataset", "with adopt-tokenizer"),
    ):
        teacher = ["--data", dataset, "--teacher", foreign]
        message = refused("dump-teacher", *teacher, "--out", tmp_path / "dump", *OPTIONS)
        assert "its tokenizer" in message
        assert expected in message


def test_a_model_that_sees_later_words_and_the_options_of_an_rnng_are_refused(
    adopted: Path,
    foreign: Path,
    tmp_path: Path,
) -> None:
    config = BertConfig(
        vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=128, initializer_range=0.5,
    )  # fmt: skip
    folder = folder_with(BertLMHeadModel(config), foreign, tmp_path / "bert")
    dumping = ["dump-teacher", "--data", adopted, "--out", tmp_path / "dump", *OPTIONS, "--teacher"]
    assert "depend on later words" in refused(*dumping, folder)
    assert "expected only with an RNNG teacher" in refused(*dumping, foreign, "--beam", 4)
    assert "expected none because this is a folder in Hugging Face's format" in refused(
        *dumping, foreign, "--condition", "tree"
    )
