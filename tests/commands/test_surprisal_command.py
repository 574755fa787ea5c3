"""Test ``evaluate surprisal``: the table has the student's own probabilities, and the sums are a result of the run."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import cli
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.trees.bracket_scores import score_parses
from pipeline.evaluation.results import PARSES, SURPRISAL, load_results, record
from pipeline.report.page import write_report
from pipeline.runtime import options
from pipeline.runtime.run_directory import RunDescription, describe_run, open_run, save_weights
from pipeline.training.model_files import ModelFiles
from student.model import Student
from student.student_config import StudentConfig, StudentTrainConfig
from student.student_run import load_student

TEXT = ["the cat sleeps.", 'a dog "barks"', "the dog don't"]


def make_run(folder: Path, kind: str) -> Path:
    """Make a run with initial weights, without training."""
    tokenizer = Tokenizer.train(TEXT * 3, 290)
    tokenizer.save(folder / "tokenizer.json")
    sizes = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2, "max_length": 12}
    config = options.build(StudentConfig, sizes, vocab_size=tokenizer.vocab_size)
    description = RunDescription(
        kind=kind,  # type: ignore[arg-type]
        configuration=options.to_json(config, StudentTrainConfig()),
        model={"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id},
        fingerprints={"tokenizer": tokenizer.sha256},
        tokenizer=folder / "tokenizer.json",
    )
    (folder / kind).mkdir()
    describe_run(folder / kind, description)
    run = open_run(folder / kind)
    save_weights(run.checkpoint(), Student(config, bos_id=tokenizer.bos_id, seed=3))
    return run.path


def surprisal(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["evaluate", "surprisal", *map(str, arguments), "--device", "cpu"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs"), "student")


def test_the_table_has_the_models_own_probabilities(run: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(TEXT) + "\n")
    result = surprisal(run, tmp_path / "text.txt", "--out", tmp_path / "out.tsv", "--json")
    assert result.exit_code == 0, result.output
    with (tmp_path / "out.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    sizes = json.loads((run / "run.json").read_text())["configuration"]
    student = Student(options.build(StudentConfig, sizes), bos_id=tokenizer.bos_id, seed=3).double().eval()
    total = 0.0
    for number, text in enumerate(TEXT, start=1):
        ids = tokenizer.encode(text)
        with torch.no_grad():
            logits = student.logits(student.hidden(torch.tensor([[tokenizer.bos_id, *ids]])))[0]
        bits = -logits.log_softmax(-1)[range(len(ids) + 1), [*ids, tokenizer.eos_id]].numpy() / np.log(2)
        mine = [row for row in rows if row["sentence_number"] == str(number)]
        assert [row["word"] for row in mine] == [*text.split(), "<eos>"]
        ends = np.cumsum([int(row["num_tokens"]) for row in mine])
        for row, start, stop in zip(mine, [0, *ends], ends, strict=False):
            # the table is computed in float32, the expected values in float64
            assert float(row["surprisal_bits"]) == pytest.approx(bits[start:stop].sum(), abs=1e-4)
        total += bits.sum()
    assert json.loads(result.stdout)["bits"] == pytest.approx(total, abs=1e-3)


def test_the_sums_are_a_result_of_the_run_and_the_report_accepts_it(run: Path, tmp_path: Path) -> None:
    (tmp_path / "my text.txt").write_text(TEXT[0] + "\n\n")
    result = surprisal(run, tmp_path / "my text.txt", "--out", tmp_path / "out.tsv", "--on-error", "skip")
    assert result.exit_code == 0, result.output
    tree = [(0, 0, 2), (1, 0, 2)]
    figure = score_parses([tree], [tree])
    files, settings = ModelFiles.of_run(load_student(run, torch.device("cpu"))[1]), {"beam": 10, "word_beam": 5}
    record(files, PARSES, "dev", figure.to_json(), settings=settings, fingerprints={"trees": "1" * 64})
    results = load_results(run)
    (parses,), (found,) = results.parses, (one for one in results.surprisals if "my-text" in one.path.name)
    assert (parses.kind, parses.subject, found.kind, found.subject) == (PARSES, "dev", SURPRISAL, "my text.txt")
    assert parses.path.name == "parses-dev-11111111-beam10-5.json"
    assert parses.figures == json.loads(json.dumps(figure.to_json()))
    assert found.figures.num_words == 3
    assert json.loads(found.path.read_bytes())["figures"]["dropped"] == {"empty": 1}
    assert set(found.fingerprints) == {"weights", "tokenizer", "text"}
    write_report([run], tmp_path / "report.html")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"the cat\n\n", "text.txt:2: an empty line"),
        (b"the cat\n\xff\xfe\n", "text.txt:2: not UTF-8"),
        (b"the cat\n" + b"the " * 12 + b"\n", "text.txt:2: 12 tokens, expected at most 11"),
    ],
)
def test_a_faulty_line_is_named_in_a_one_line_error(run: Path, tmp_path: Path, text: bytes, expected: str) -> None:
    (tmp_path / "text.txt").write_bytes(text)
    result = surprisal(run, tmp_path / "text.txt", "--out", tmp_path / "out.tsv")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert expected in result.stderr
    assert "--on-error skip" in result.stderr
    assert not (tmp_path / "out.tsv").exists()


def test_a_sentence_as_long_as_the_student_can_read_is_scored(run: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the " * 11 + "\n")
    assert surprisal(run, tmp_path / "text.txt", "--out", tmp_path / "out.tsv").exit_code == 0
