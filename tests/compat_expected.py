"""Write the values that this project computes with an exported student: python -m tests.compat_expected.

``tests/compat_check.py`` compares transformers with these values. The project's own classes load the model and the
tokenizer from the exported files; transformers is not imported. Without --export, the program first trains and exports
a small student.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from pipeline.corpus.dataset.tokenizer import Tokenizer, special_template
from pipeline.evaluation.scorer import NextTokenScorer
from student.model import Student
from student.student_config import StudentConfig

TEXTS = (
    "the dog sees the cat",
    "The authors that the guard likes laugh.",
    "She said: “I don't know”, didn't she?",
    "a",
    "",
    "naïve café — 3.14 % of 你好 \U0001f600\U0001f469‍\U0001f680",
    "the text <eos> holds <bos> names <pad> of <|endoftext|> tokens<eos>",
    "<eos>",
    " two  spaces, and one at the end ",
)
PROMPT = 0
"""Index of the text from which the model generates."""


def load_export(folder: Path) -> tuple[Student, Tokenizer]:
    """Load the student and the tokenizer of an exported folder with the project's own classes."""
    config = json.loads((folder / "config.json").read_bytes())
    sizes = StudentConfig(
        vocab_size=config["vocab_size"], embed_dim=config["n_embd"], num_blocks=config["n_layer"],
        num_heads=config["n_head"], ff_dim=config["n_inner"], max_length=config["n_positions"],
    )  # fmt: skip
    student = Student(sizes, bos_id=config["bos_token_id"], seed=0)
    student.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    content = json.loads((folder / "tokenizer.json").read_bytes())
    names = {token["id"]: token["content"] for token in content["added_tokens"]}
    bos, eos = (names[config[f"{which}_token_id"]] for which in ("bos", "eos"))
    ids = {names[i]: i for i in (config["bos_token_id"], config["eos_token_id"])}
    content |= {"added_tokens": [], "post_processor": special_template(ids, bos=bos, eos=eos)}
    return student.eval(), Tokenizer(json.dumps(content).encode())


@torch.no_grad()
def expected_of(folder: Path) -> dict[str, object]:
    """Return ids, logits and surprisals of ``TEXTS``. Surprisals include the ``<eos>`` after the tokens."""
    student, tokenizer = load_export(folder)
    ids = [tokenizer.encode(text) for text in TEXTS]
    surprisals = NextTokenScorer(student, eos_id=tokenizer.eos_id).log_probs([np.array(each, np.int64) for each in ids])
    rows = [[tokenizer.bos_id, *each] for each in ids]
    last = [student.logits(student.hidden(torch.tensor([row])))[0, -1].tolist() for row in rows]
    return {
        "texts": TEXTS,
        "input_ids": rows,
        "last_logits": last,
        "surprisals_nats": [(-each.astype(np.float64)).tolist() for each in surprisals],
        "special_ids": {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id},
        "one_leading_space": tokenizer.encode(" x") == tokenizer.encode("x"),
        "prompt": PROMPT,
    }


def _trained_and_exported(out: Path) -> None:
    from tests.processes import run_cli

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_cli("sample-corpus", folder / "corpus", "--num-sentences", 1000)
        tokenizer = folder / "tokenizer.json"
        run_cli("train-tokenizer", folder / "corpus/train.txt", "--out", tokenizer, "--vocab-size", 700)
        splits = [part for s in ("train", "dev") for part in (f"--{s}", folder / "corpus" / s)]
        run_cli("build-dataset", *splits, "--tokenizer", tokenizer, "--out", folder / "dataset")
        sizes = ["--embed-dim", 64, "--num-blocks", 3, "--num-heads", 4, "--lr", 0.01, "--warmup-steps", 0]
        run_cli("train-student", "--data", folder / "dataset", "--out", folder / "run", "--max-steps", 100, *sizes)
        run_cli("export", folder / "run", out)


def main() -> None:
    """Write WORK/expected.json for the folder --export. Without --export, make WORK/export again and use it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--export", type=Path)
    given = parser.parse_args()
    folder = given.export or given.work / "export"
    given.work.mkdir(parents=True, exist_ok=True)
    if given.export is None:
        shutil.rmtree(folder, ignore_errors=True)
        _trained_and_exported(folder)
    (given.work / "expected.json").write_text(json.dumps({"export": str(folder.resolve()), **expected_of(folder)}))
    print(f"expected: ids, logits and surprisals of {len(TEXTS)} texts under {folder}")


if __name__ == "__main__":
    main()
