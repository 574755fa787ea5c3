"""Test ``evaluate surprisal``: the table has the student's own probabilities, and the sums are a result of the run."""

import csv
import json
from pathlib import Path
from typing import Any

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
from student.hugging_face import open_student_or_folder
from student.model import Student
from student.student_config import StudentConfig, StudentTrainConfig
from student.student_run import TRAINED_POSITIONS, load_student

TEXT = ["the cat sleeps.", 'a dog "barks"', "the dog don't"]


def make_run(folder: Path, kind: str, *, max_length: int = 12, trained: int = 12, **training: Any) -> Path:
    """Make a run with initial weights, without training."""
    tokenizer = Tokenizer.train(TEXT * 3, 290)
    tokenizer.save(folder / "tokenizer.json")
    sizes = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2, "max_length": max_length}
    config = options.build(StudentConfig, sizes, vocab_size=tokenizer.vocab_size)
    description = RunDescription(
        kind=kind,  # type: ignore[arg-type]
        configuration=options.to_json(config, StudentTrainConfig(**training)),
        model={"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id},
        fingerprints={"tokenizer": tokenizer.sha256},
        tokenizer=folder / "tokenizer.json",
    )
    (folder / kind).mkdir()
    describe_run(folder / kind, description)
    run = open_run(folder / kind)
    save_weights(run.checkpoint(), Student(config, bos_id=tokenizer.bos_id, seed=3), {TRAINED_POSITIONS: str(trained)})
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


@pytest.fixture(scope="module")
def document_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs"), "student", max_length=40, trained=24, context="document")


def column(table: Path, name: str) -> list[float]:
    with table.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def test_a_student_of_documents_reads_the_text_before_a_sentence_as_in_training(
    document_run: Path, tmp_path: Path
) -> None:
    text, table = tmp_path / "text.txt", tmp_path / "out.tsv"
    text.write_text("the cat sleeps.\na dog\na dog\n")
    (tmp_path / "before.txt").write_text("\nthe cat sleeps.\nthe cat sleeps. a dog\n")
    result = surprisal(document_run, text, "--out", table, "--by", "token", "--context-sentences", 2, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["num_with_context"], found["num_with_less_context"]) == (2, 0)
    assert "-context2" in found["written"]
    settings = json.loads(Path(found["written"]).read_bytes())["settings"]
    assert settings["distribution"] == "given the document before it"
    values = column(table, "surprisal_bits")
    run = open_run(document_run)
    tokenizer = Tokenizer.load(run.tokenizer_path)
    model = open_student_or_folder(document_run, torch.device("cpu")).student.double()
    row, expected = list[int](), list[float]()
    for line in text.read_text().splitlines():
        ids, first = tokenizer.encode(line), len(row)
        row += [tokenizer.bos_id, *ids]
        with torch.no_grad():
            log_probs = model.logits(model.hidden(torch.tensor([row])))[0, first:].log_softmax(-1)
        expected += (-log_probs[range(len(ids) + 1), [*ids, tokenizer.eos_id]] / np.log(2)).tolist()
    np.testing.assert_allclose(values, expected, atol=1e-4)
    again = surprisal(document_run, text, "--out", table, "--by", "token", "--context", tmp_path / "before.txt")
    assert again.exit_code == 0, again.output
    # The second file says "sleeps. a dog", which is one sentence by the rules of clean-text, so the last line differs.
    second = len(tokenizer.encode("the cat sleeps.")) + len(tokenizer.encode("a dog")) + 2
    assert column(table, "surprisal_bits")[:second] == values[:second]


def test_text_that_does_not_fit_is_counted_and_changes_nothing(document_run: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("the the the the the the\n" * 5 + "a dog\n")
    (tmp_path / "short.txt").write_text("the the the the the the\n" * 3 + "a dog\n")
    tables = []
    for name, num_sentences in (("long.txt", 3), ("short.txt", 0)):
        out = tmp_path / f"{name}.tsv"
        result = surprisal(document_run, tmp_path / name, "--out", out, "--context-sentences", 9, "--json")
        found = json.loads(result.stdout)
        assert found["num_with_less_context"] == num_sentences
        tables.append(column(out, "surprisal_bits")[-3:])
    assert tables[0] == tables[1]


def test_a_table_of_regions_gives_rows_that_can_be_joined(run: Path, tmp_path: Path) -> None:
    rows = ["story,condition,position,word,rt"]
    rows += [
        f"1,{c},{i},{w},300" for c, text in (("x", TEXT[0]), ("y", TEXT[2])) for i, w in enumerate(text.split(), 1)
    ]
    (tmp_path / "spr.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "text.txt").write_text(f"{TEXT[0]}\n{TEXT[2]}\n")
    options = ["--column", "word", "--item", "story,condition", "--region", "position"]
    result = surprisal(run, tmp_path / "spr.csv", "--out", tmp_path / "out.tsv", *options)
    assert result.exit_code == 0, result.output
    plain = surprisal(run, tmp_path / "text.txt", "--out", tmp_path / "plain.tsv")
    assert plain.exit_code == 0, plain.output
    with (tmp_path / "out.tsv").open(newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    words = [row for row in found if row["position"]]
    assert [",".join((row["story"], row["condition"], row["position"], row["word"], "300")) for row in words] == rows[
        1:
    ]
    for name in ("surprisal_bits", "corrected_surprisal_bits", "token_entropy_nats"):
        assert column(tmp_path / "out.tsv", name) == column(tmp_path / "plain.tsv", name)


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("word,item\na,1\ndog,2\n", ["--frequencies", "zz"], "looks like a table"),
        ("a dog\n", ["--frequencies", "zz"], "zz: cannot be read"),
        ("a dog\n", ["--spans", "zz"], "zz: cannot be read"),
        ("a dog\n", ["--context", "zz"], "zz: cannot be read"),
        ('{"s": "a"}\n', ["--column", "t"], "no column t, expected one of s"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_opened(
    tmp_path: Path, content: str, arguments: list[object], message: str
) -> None:
    (tmp_path / "text").write_text(content)
    result = surprisal(tmp_path / "no model", tmp_path / "text", "--out", tmp_path / "out.tsv", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("a dog\n", ["--context-sentences", 1], "trained with --context sentence, so it read each sentence alone"),
        ("story,word,rt\n1,a,301\n1,dog,299\n", [], "looks like a table"),
        ("word\tzone\na\t1\ndog\t2\n", ["--column", "text"], "no column text, expected one of word, zone"),
        ("story,word,rt\n1,a,301\n1,dog,299\n", ["--column", "word", "--item", "story"], "a second row of story 1"),
        ("word,item\na,1\ndog,2\n", ["--column", "word", "--item", "word"], "two columns with the name word; rename"),
        ("a dog\n", ["--item", "story"], "--item or --region without --column"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(
    run: Path, tmp_path: Path, content: str, arguments: list[object], message: str
) -> None:
    (tmp_path / "text").write_text(content)
    result = surprisal(run, tmp_path / "text", "--out", tmp_path / "out.tsv", *arguments)
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert message in result.stderr
    assert not (tmp_path / "out.tsv").exists()
