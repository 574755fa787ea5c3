"""Test that an exported student computes the same in transformers as here, and that a failed export writes nothing."""

import gzip
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.corpus.dataset.adopt_tokenizer import adopt_tokenizer, adopted_tokenizer
from pipeline.corpus.dataset.dataset_store import load_dataset
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.evaluation.evaluation_config import SurprisalConfig
from pipeline.evaluation.minimal_pairs import read_minimal_pairs
from pipeline.evaluation.results import read_results
from pipeline.evaluation.sentence_models import evaluate_minimal_pairs, evaluate_split, evaluate_surprisal
from pipeline.runtime.run_directory import checkpoint_names, open_run
from pipeline.runtime.run_history import add_end, hold
from storage.errors import FingerprintMismatchError, RunError, StoreError
from storage.fingerprints import sha256_file
from student.export import export, tokenizer_files
from student.model import Student
from student.student_commands import open_scorer, score_split
from student.student_config import StudentTrainConfig
from student.student_run import load_student, num_trained_positions
from student.train_student import train_student
from tests.compat_check import DifferenceError, check
from tests.compat_expected import expected_of
from tests.old_tokenizers import old_form
from tests.processes import ROOT, edit_run, refused, run_cli

SIZES = {"embed_dim": 16, "num_blocks": 2, "num_heads": 2}
TRAINING = {
    "max_steps": 14, "batch_tokens": 500, "threads": 1, "device": "cpu", "lr": 0.02, "warmup_steps": 0,
    "word_checkpoints": ("1k", "2k"), "seed": 5,
}  # fmt: skip
FILES = {
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "README.md",
}  # fmt: skip
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def run(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("student") / "run"
    train_student(small_world / "dataset", None, run, SIZES, StudentTrainConfig(**TRAINING))
    return run


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    export(run, out)
    return out


@pytest.fixture(scope="module")
def adopted(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a run and its export. The tokenizer is made elsewhere: like GPT-2's, it has one special token, the last."""
    folder = tmp_path_factory.mktemp("adopted")
    content = json.loads((small_world / "tokenizer.json").read_bytes())
    vocab = {token: i for token, i in content["model"]["vocab"].items() if i > 2}
    vocab = {token: i for i, token in enumerate(sorted(vocab, key=vocab.__getitem__))}
    content["model"]["vocab"] = vocab
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] = [{"id": len(vocab), "content": END, **flags}]
    (folder / "source.json").write_text(json.dumps(content))
    adopt_tokenizer(folder / "source.json", folder / "tokenizer.json", bos=END, eos=END)
    splits = [part for s in ("train", "dev") for part in (f"--{s}", small_world / "corpus" / s)]
    run_cli("build-dataset", *splits, "--tokenizer", folder / "tokenizer.json", "--out", folder / "dataset")
    train_student(folder / "dataset", None, folder / "run", SIZES, StudentTrainConfig(**TRAINING))
    export(folder / "run", folder / "out")
    return folder / "run", folder / "out"


def test_transformers_gives_the_same_ids_logits_surprisals_and_texts(exported: Path) -> None:
    assert {file.name for file in exported.iterdir()} == FILES
    check(str(exported), expected_of(exported))


def test_the_check_itself_detects_another_model(exported: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(exported, other)
    weights = safetensors.torch.load_file(other / "model.safetensors")
    weights["transformer.ln_f.bias"][0] += 1e-3
    safetensors.torch.save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DifferenceError, match="logits differ"):
        check(str(other), expected_of(exported))


def test_every_logit_equals_the_logit_of_the_run(run: Path, exported: Path) -> None:
    student, info = load_student(run, torch.device("cpu"))
    ids = Tokenizer.load(info.tokenizer_path).encode("The authors that the guard likes laugh.")
    row = torch.tensor([[info.model["bos_id"], *ids]])
    model = AutoModelForCausalLM.from_pretrained(exported)
    with torch.no_grad():
        expected = student.logits(student.hidden(row))
        torch.testing.assert_close(model(row).logits, expected, rtol=0, atol=1e-5)


def test_surprisals_equal_those_that_evaluate_writes(run: Path, exported: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("The dog sees the cat.\nThe text <eos> holds a name, didn't it?\n")
    with open_scorer(run, device="cpu", checkpoint="best", beam={}) as model:
        evaluate_surprisal(model, text, tmp_path / "table", SurprisalConfig(by="token"))
    written = [line.split("\t") for line in (tmp_path / "table").read_text().splitlines()[1:]]
    tokenizer = AutoTokenizer.from_pretrained(exported, split_special_tokens=True)
    theirs = AutoModelForCausalLM.from_pretrained(exported)
    found = []
    for line in text.read_text().splitlines():
        ids = tokenizer(line, return_tensors="pt")["input_ids"]
        gold = torch.cat([ids[0, 1:], torch.tensor([tokenizer.eos_token_id])])
        with torch.no_grad():
            log_probs = theirs(ids).logits[0].log_softmax(1).gather(1, gold[:, None])[:, 0]
        found += (-log_probs / math.log(2)).tolist()
    np.testing.assert_allclose(found, [float(row[4]) for row in written], atol=1e-5)


@pytest.fixture(scope="module")
def tokenizers(run: Path, exported: Path, adopted: tuple[Path, Path]) -> list[tuple[Tokenizer, AutoTokenizer]]:
    """Return our tokenizer and transformers' tokenizer, for both exports."""
    return [
        (Tokenizer.load(ours / "tokenizer.json"), AutoTokenizer.from_pretrained(theirs, split_special_tokens=True))
        for ours, theirs in ((run, exported), adopted)
    ]


PIECES = ["<eos>", "<bos>", " <pad>", END, " a", "\U0001f600", "\u201c", " n't", "  ", "\n"]
texts = st.text(st.characters(codec="utf-8"), max_size=30) | st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@given(texts)
@example("the text<eos>")
@example("")
def test_ids_of_any_text_are_bos_and_our_ids(tokenizers: list[tuple[Tokenizer, AutoTokenizer]], text: str) -> None:
    for ours, theirs in tokenizers:
        assert theirs(text)["input_ids"] == theirs.encode(text) == [ours.bos_id, *ours.encode(text)]
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
        decoded = theirs.decode(ours.encode(text), skip_special_tokens=True)
        assert decoded.removeprefix(" ") == text.removeprefix(" ") == ours.decode(ours.encode(text))


@pytest.fixture(scope="module")
def run_and_export(run: Path, exported: Path) -> tuple[Tokenizer, AutoTokenizer]:
    """Return the tokenizer of a run, and that of its export as other programs load it."""
    return Tokenizer.load(run / "tokenizer.json"), AutoTokenizer.from_pretrained(exported)


@given(texts.filter(lambda text: not any(name.strip() in text for name in PIECES[:4])))
@example("the dog barked, didn't it?")
def test_a_leading_space_is_one_and_written_special_tokens_are_special(
    run_and_export: tuple[Tokenizer, AutoTokenizer], text: str
) -> None:
    ours, theirs = run_and_export
    ids = ours.encode(text)
    assert theirs(theirs.bos_token + text + theirs.eos_token, add_special_tokens=False)["input_ids"] == [0, *ids, 1]
    if text and not text.startswith(" "):
        assert theirs(" " + text)["input_ids"] == theirs(text)["input_ids"] == [0, *ids]
    if text.isascii():  # a piece of another text may have only a part of a character
        assert "".join(theirs.decode([i]) for i in ids) == theirs.decode(ids)


def test_a_text_of_a_corpus_may_hold_the_names_of_special_tokens(run: Path) -> None:
    ours = Tokenizer.load(run / "tokenizer.json")
    assert {0, 1, 2}.isdisjoint(ours.encode("<bos> the <eos> dog <pad>"))


@pytest.mark.parametrize("kind", ["adds a space", "ordinary added tokens"])
def test_an_adopted_tokenizer_is_the_same_in_transformers_and_back_again(
    adopted: tuple[Path, Path], tmp_path: Path, kind: str
) -> None:
    content = json.loads((adopted[0] / "tokenizer.json").read_bytes()) | {"normalizer": None, "post_processor": None}
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": kind == "adds a space", "trim_offsets": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    if kind == "ordinary added tokens":
        content["added_tokens"] = [{"id": len(content["model"]["vocab"]), "content": "dog sees", **flags}]
    (tmp_path / "source.json").write_text(json.dumps(content))
    adopt_tokenizer(tmp_path / "source.json", tmp_path / "own.json", bos=END, eos=END)
    ours = Tokenizer.load(tmp_path / "own.json")
    for name, data in tokenizer_files(ours, num_positions=64).items():
        (tmp_path / name).write_bytes(data)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the dog sees the cat", "dog sees", "a  b", ""):
        assert theirs(text)["input_ids"] == [ours.bos_id, *ours.encode(text)]
    assert adopted_tokenizer(tmp_path / "tokenizer.json", bos=ours.bos_id, eos=ours.eos_id).data == ours.data
    assert (ours.encode("the dog") == ours.encode(" the dog")) == (kind == "adds a space")


def test_an_adopted_tokenizer_is_exported(adopted: tuple[Path, Path]) -> None:
    run, out = adopted
    check(str(out), expected_of(out))
    theirs, ours = AutoTokenizer.from_pretrained(out), Tokenizer.load(run / "tokenizer.json")
    assert theirs.bos_token == theirs.eos_token == theirs.pad_token == END
    assert theirs.bos_token_id == theirs.pad_token_id == ours.bos_id == ours.eos_id == ours.vocab_size - 1
    assert json.loads((out / "config.json").read_text())["pad_token_id"] == ours.pad_id
    assert "both begins and ends a text" in (out / "README.md").read_text()


def test_a_dataset_and_a_run_of_an_older_tokenizer_stay_usable(small_world: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(old_form((small_world / "tokenizer.json").read_bytes()))
    splits = [part for s in ("train", "dev") for part in (f"--{s}", small_world / "corpus" / s)]
    run_cli("build-dataset", *splits, "--tokenizer", tmp_path / "tokenizer.json", "--out", tmp_path / "dataset")
    old, new = load_dataset(tmp_path / "dataset"), load_dataset(small_world / "dataset")
    assert old.tokenizer.sha256 == sha256_file(tmp_path / "tokenizer.json") != new.tokenizer.sha256
    for split in ("train", "dev"):
        np.testing.assert_array_equal(old.split(split).tokens.values, new.split(split).tokens.values)
        np.testing.assert_array_equal(old.split(split).actions.values, new.split(split).actions.values)
    train_student(tmp_path / "dataset", None, tmp_path / "run", SIZES, StudentTrainConfig(**TRAINING))
    export(tmp_path / "run", tmp_path / "out")
    check(str(tmp_path / "out"), expected_of(tmp_path / "out"))
    of: list[object] = []
    for model in (tmp_path / "run", tmp_path / "out"):
        with open_scorer(model, device="cpu", checkpoint="best", beam={}) as opened:
            assert opened.tokenizer.sha256 == old.tokenizer.sha256
            pairs = read_minimal_pairs(small_world / "corpus/minimal_pairs")
            figures = [
                evaluate_minimal_pairs(opened, pairs, "pairs", prefix=prefix, eos=False) for prefix in ("none", "space")
            ]
        of.append([each["overall"] for each in figures])
        assert figures[0]["overall"] != figures[1]["overall"]  # in an old tokenizer, a written space is a token
    assert of[0] == of[1]


def test_a_written_space_does_not_change_minimal_pairs(small_world: Path, run: Path) -> None:
    with open_scorer(run, device="cpu", checkpoint="best", beam={}) as opened:
        pairs = read_minimal_pairs(small_world / "corpus/minimal_pairs")
        plain, spaced = (
            evaluate_minimal_pairs(opened, pairs, "pairs", prefix=each, eos=False) for each in ("none", "space")
        )
    assert Path(plain["pairs"]).read_bytes() == Path(spaced["pairs"]).read_bytes()


def last_position_that_moved(run: Path, which: str) -> int:
    """Return the number of position embeddings up to the last one that differs from its initial value."""
    student, info = load_student(run, torch.device("cpu"), which)
    initial = Student(student.config, bos_id=student.bos_id, seed=info.configuration["seed"])
    moved = (student.transformer.wpe.weight != initial.transformer.wpe.weight).any(dim=1)
    return int(moved.nonzero().max()) + 1


def test_each_checkpoint_records_which_positions_were_trained(small_world: Path, run: Path, exported: Path) -> None:
    longest = int(load_dataset(small_world / "dataset").split("train").tokens.lengths.max()) + 1
    found = {which: num_trained_positions(open_run(run), which) for which in checkpoint_names(run)}
    assert found == {which: last_position_that_moved(run, which) for which in found}
    # 14 steps need not have read the longest sentence.
    assert 20 < found["words_1k"] <= found["best"] <= longest
    assert f"Training used the first {found['best']};" in (exported / "README.md").read_text()
    assert json.loads((exported / "config.json").read_text())["n_positions"] == 512


def test_a_run_that_starts_from_other_weights_counts_their_trained_positions_too(
    small_world: Path, run: Path, tmp_path: Path
) -> None:
    before = num_trained_positions(open_run(run), "best")
    training = StudentTrainConfig(max_steps=1, batch_tokens=30, batch_sentences=1, threads=1, device="cpu")
    train_student(small_world / "dataset", None, tmp_path / "first", SIZES, training)
    train_student(small_world / "dataset", None, tmp_path / "second", SIZES, training, init=run)
    first, second = (num_trained_positions(open_run(tmp_path / name), "best") for name in ("first", "second"))
    assert first < second == before


def test_an_old_checkpoint_without_the_number_is_exported_and_stays_as_it_is(
    small_world: Path, run: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(run, tmp_path / "old")
    for file in (old / "checkpoints").glob("*/model.safetensors"):
        file.write_bytes(safetensors.torch.save(safetensors.torch.load_file(file)))
    weights = {file: file.read_bytes() for file in (old / "checkpoints").glob("*/model.safetensors")}
    assert num_trained_positions(open_run(old), "best") is None
    # Training is finished, so the same command changes nothing: results and dumps record the sha256 of these files.
    train_student(small_world / "dataset", None, old, SIZES, StudentTrainConfig(**TRAINING))
    assert {file: file.read_bytes() for file in weights} == weights
    shown = export(old, tmp_path / "out")
    assert shown["num_trained_positions"] == "not known: the checkpoint does not record it"
    assert "does not record how many of them were trained" in (tmp_path / "out/README.md").read_text()


def test_an_export_names_the_document_context_and_warns_of_few_positions(small_world: Path, tmp_path: Path) -> None:
    for split in ("train", "dev"):
        for suffix in (".mrg", ".txt"):
            shutil.copy(small_world / "corpus" / f"{split}{suffix}", tmp_path)
        num = len((tmp_path / f"{split}.txt").read_text().splitlines())
        (tmp_path / f"{split}.docs").write_text("".join(f"{line // 9}\n" for line in range(num)))
    splits = [part for s in ("train", "dev") for part in (f"--{s}", tmp_path / s)]
    run_cli("build-dataset", *splits, "--tokenizer", small_world / "tokenizer.json", "--out", tmp_path / "data")
    training = StudentTrainConfig(**TRAINING, context="document")
    train_student(tmp_path / "data", None, tmp_path / "run", {**SIZES, "max_length": 120}, training)
    shown = export(tmp_path / "run", tmp_path / "out")
    assert shown["note"] == "programs that pad to 512 positions fail: --max-length was 120"
    card = (tmp_path / "out/README.md").read_text()
    assert "Context: documents." in card
    assert "Positions: 120, `<bos>` included. Training used all of them." in card
    assert json.loads((tmp_path / "out/config.json").read_text())["n_positions"] == 120
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 120
    check(str(tmp_path / "out"), expected_of(tmp_path / "out"))


def test_word_checkpoints_have_babylms_names(run: Path, tmp_path: Path) -> None:
    run_cli("export", run, tmp_path / "out", "--all-checkpoints", "--checkpoint", "last")
    assert {folder.name for folder in (tmp_path / "out").iterdir()} == {"main", "chck_1k", "chck_2k"}
    for name, which in (("main", "last"), ("chck_1k", "words_1k"), ("chck_2k", "words_2k")):
        folder = tmp_path / "out" / name
        found = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        expected = safetensors.torch.load_file(run / "checkpoints" / which / "model.safetensors")
        assert all(torch.equal(found[key], value) for key, value in expected.items())
        card = (folder / "README.md").read_text()
        assert f"Checkpoint: {which}." in card
        assert sha256_file(run / "checkpoints" / which / "model.safetensors") in card
        assert sha256_file(folder / "model.safetensors") in card


def test_the_model_card_shows_only_results_of_these_weights(small_world: Path, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    truth = small_world / "corpus"
    for which in ("best", "words_1k"):
        options = {"truth": truth, "device": "cpu", "checkpoint": which, "marginal": False, "beam": {}}
        with score_split(copy, small_world / "dataset", split="dev", **options) as scored:
            evaluate_split(scored)
    pairs = read_minimal_pairs(small_world / "corpus/minimal_pairs")
    with open_scorer(copy, device="cpu", checkpoint="best", beam={}) as model:
        evaluate_minimal_pairs(model, pairs, "minimal_pairs", prefix="none", eos=False)
    export(copy, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    results = read_results(copy)
    (of_best,) = (result for name, result in results.items() if result.kind == "perplexity" and "words" not in name)
    perplexity = of_best.figures[0]["per_token"]["value"]
    accuracy = next(result.figures["accuracy_macro"] for result in results.values() if result.kind == "minimal_pairs")
    assert f"| perplexity: dev | per token, unconditional | {perplexity:.4f} |" in card
    assert f"| {accuracy:.4f} |" in card
    assert "floor" not in card
    assert "The run has 1 more result, for other checkpoints." in card
    fingerprints = json.loads((run / "run.json").read_text())["fingerprints"]
    assert all(f"`{digest}`" in card for digest in fingerprints.values())
    assert "alpha" not in card  # a baseline has no teacher
    assert "## Teacher" not in card


def test_a_distilled_students_model_card_describes_its_teacher(small_world: Path, tmp_path: Path) -> None:
    data, dump = small_world / "dataset", tmp_path / "dump"
    run_cli("dump-teacher", "--data", data, "--teacher", small_world / "teacher", "--out", dump, "--k", 16)
    train_student(data, dump, tmp_path / "run", SIZES, StudentTrainConfig(**TRAINING))
    export(tmp_path / "run", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    about = json.loads((tmp_path / "run/run.json").read_text())
    assert "distilled from a teacher" in card
    assert "| alpha | 0.7 |" in card
    assert "| its distributions are conditioned on | the tree so far |" in card
    assert about["dump"]["schema"]["fingerprints"]["teacher"] in card
    assert f"| {about['dump']['statistics']['mean_kept_mass']:g} |" in card
    assert about["fingerprints"]["manifest"] in card


def test_text_from_a_run_is_escaped_in_the_model_card(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a`|<script>b"
    shutil.copytree(run, copy)
    edit_run(copy, lambda described: described.update(command="x\n\n# Heading\n"))
    export(copy, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "<script>" not in card
    assert "\n# Heading" not in card
    assert "\n# a script b\n" in card


def test_a_teacher_and_an_unfinished_run_are_refused_in_one_line(small_world: Path, run: Path, tmp_path: Path) -> None:
    line = refused("export", small_world / "teacher", tmp_path / "out")
    assert "this run is a teacher's, expected a student's" in line
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    add_end(copy, "stopped", reason="SIGTERM", step=9)
    with pytest.raises(RunError, match=r"not finished \(stopped, step 9\); run the same train-student command again"):
        export(copy, tmp_path / "out")
    with hold(copy), pytest.raises(RunError, match=r"not finished \(training"):
        export(copy, tmp_path / "out")
    with pytest.raises(RunError, match=r"no run\.json here"):
        export(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_refused_and_not_changed(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(StoreError, match="already exists"):
        export(run, out)
    assert list(out.iterdir()) == []
    out.rmdir()
    out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="already exists"):
        export(run, out)


def test_a_wrong_checkpoint_or_tokenizer_leaves_no_output(run: Path, tmp_path: Path) -> None:
    out, copy = tmp_path / "made/out", tmp_path / "run"
    with pytest.raises(RunError, match="no checkpoint here; the run has best, last, words_1k, words_2k"):
        export(run, out, which="words_1M")
    with pytest.raises(RunError, match="expected best, last or a number of words"):
        export(run, out, which="../best")
    shutil.copytree(run, copy)
    (copy / "checkpoints/words_2k/model.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match="not a checkpoint of this model"):
        export(copy, out, all_checkpoints=True)
    for name in ("words_1k", "words_2k"):
        shutil.rmtree(copy / "checkpoints" / name)
    with pytest.raises(RunError, match="no word checkpoint"):
        export(copy, out, all_checkpoints=True)
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(FingerprintMismatchError):
        export(copy, out)
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


def test_a_full_disk_leaves_no_output(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_transformers_refuses_an_export_with_a_missing_file(exported: Path, tmp_path: Path) -> None:
    for name, load in (("model.safetensors", AutoModelForCausalLM), ("config.json", AutoModelForCausalLM)):
        part = tmp_path / name
        shutil.copytree(exported, part)
        (part / name).unlink()
        with pytest.raises((OSError, ValueError)):
            load.from_pretrained(part)


def test_the_script_in_the_docs_gives_the_accuracies_of_evaluate(
    small_world: Path, exported: Path, tmp_path: Path
) -> None:
    blocks = (ROOT / "docs/export.md").read_text().split("```python\n")[1:]
    (script,) = (block.split("```")[0] for block in blocks if "sentence_good" in block)
    (tmp_path / "score.py").write_text(script)
    for file in sorted((small_world / "corpus/minimal_pairs").glob("*.jsonl"))[:2]:
        with gzip.open(tmp_path / f"{file.name}.gz", "wt") as pairs:
            pairs.writelines(file.read_text().splitlines(keepends=True)[:40])
    command = [sys.executable, str(tmp_path / "score.py"), str(exported), str(tmp_path)]
    with open_scorer(exported, device="cpu", checkpoint="best", beam={}) as model:
        for eos, option in ((False, []), (True, ["--eos"])):
            done = subprocess.run([*command, *option], capture_output=True, text=True, check=True)
            found = {name: float(accuracy) for name, accuracy, *_ in map(str.split, done.stdout.splitlines())}
            figures = evaluate_minimal_pairs(model, read_minimal_pairs(tmp_path), "pairs", prefix="none", eos=eos)
            assert sorted(found.values()) == sorted(each["accuracy"] for each in figures["by_paradigm"].values())
            assert len(found) == 2
