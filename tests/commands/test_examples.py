"""Test that the scripts in examples/ start the right commands with options that exist. Shell scripts replace Slurm.

In most tests a program that only notes its arguments replaces Python. One test runs a real training.
"""

import json
import os
import re
import shutil
import signal
import string
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

import cli
from student.student_config import StudentTrainConfig
from student.train_student import train_student
from tests.processes import ROOT, metrics
from tests.test_documentation import parse

EXAMPLES = ROOT / "examples"
SIZES = ["--embed-dim", "16", "--num-blocks", "1", "--num-heads", "2"]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


def noting(folder: Path, then: str = "") -> Path:
    """Write a program that appends its arguments to FOLDER/calls, one line per call. $number is the number of calls."""
    calls = folder / "calls"
    return program(folder / "python", f'echo "$*" >>"{calls}"\nnumber=$(wc -l <"{calls}")\n{then}')


def calls(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "calls").read_text().splitlines()]


def slurm(folder: Path) -> dict[str, str]:
    """Return an environment in which srun runs its command here, and scontrol and scancel note their arguments."""
    notes = folder / "notes"
    program(folder / "bin/srun", 'while [[ $1 == --* ]]; do shift; done\nexec "$@"')
    program(folder / "bin/scontrol", f'if [[ $1 == show ]]; then echo node7; else echo "$*" >>"{notes}"; fi')
    program(folder / "bin/scancel", f'echo "$*" >>"{notes}"\nkill -TERM "$(cat "{folder}/pid")"')
    return {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "77",
        "SLURM_CPUS_PER_TASK": "1", "SLURM_ARRAY_TASK_MAX": "3", "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
    }  # fmt: skip


def started(script: str, *arguments: str, **environment: object) -> subprocess.Popen[str]:
    sweeping = {"DATA": "data", "DUMP": "a dump", "OUT": "out", "OMP_NUM_THREADS": "1"}
    here = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return subprocess.Popen(
        ["bash", str(EXAMPLES / script), *arguments],
        env={**here, **sweeping, **{name: str(value) for name, value in environment.items()}},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(script: str, *arguments: str, status: int = 0, **environment: object) -> tuple[str, str]:
    process = started(script, *arguments, **environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    return out, err


@pytest.mark.parametrize("script", ["study.sh", "sweep.sh", "sweep.sbatch", "multi_node.sbatch"])
def test_the_scripts_are_valid_shell(script: str) -> None:
    done = subprocess.run(["bash", "-n", str(EXAMPLES / script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_sweep_trains_every_combination_and_a_baseline_per_seed(tmp_path: Path) -> None:
    lists = {"ALPHAS": "0.1 0.9", "TEMPERATURES": "1 2 4", "SEEDS": "3 5", "DUMP": "dump", "OUT": tmp_path / "runs"}
    ended("sweep.sh", *SIZES, PYTHON=noting(tmp_path), **lists)
    *trainings, report = calls(tmp_path)
    found: Counter[tuple[object, ...]] = Counter()
    for entry, command, *arguments in trainings:
        assert (entry, command) == (str(ROOT / "cli.py"), "train-student")
        given = cli.train_student.make_context("train-student", arguments).params
        assert (given["embed_dim"], given["data"]) == (16, Path("data"))
        assert given["dumps"] == (() if given["alpha"] is None else (Path("dump"),))
        found[given["seed"], given["alpha"], given["temperature"]] += 1
        assert given["out"].name.endswith(f"-seed{given['seed']}")
    combinations = {(seed, alpha, t) for seed in (3, 5) for alpha in (0.1, 0.9) for t in (1.0, 2.0, 4.0)}
    assert found == Counter({(3, None, None), (5, None, None)} | combinations)
    folders = [arguments[arguments.index("--out") + 1] for arguments in trainings]
    assert len(set(folders)) == len(trainings) == 14
    assert report[1:] == ["report", *folders, "--out", str(tmp_path / "runs/report.html")]
    listed, _ = ended("sweep.sh", LIST="1", **lists)
    assert [Path(folder).name for folder in folders] == listed.splitlines()


def test_a_run_that_fails_ends_the_sweep_with_its_status(tmp_path: Path) -> None:
    ended("sweep.sh", status=3, PYTHON=noting(tmp_path, "((number < 2)) || exit 3"))
    assert len(calls(tmp_path)) == 2


def test_an_index_without_a_run_is_refused() -> None:
    for index in ("2", "-1", "x"):
        _, err = ended("sweep.sh", status=1, ONLY=index, ALPHAS="0.5", TEMPERATURES="1", SEEDS="1", PYTHON="false")
        assert f"ONLY is {index}, expected 0 to 1" in err


@pytest.mark.parametrize(("status", "noted"), [(0, None), (1, None), (143, "requeue 77\n")])
def test_an_array_task_is_one_run_and_is_requeued_if_it_was_stopped(
    tmp_path: Path, status: int, noted: str | None
) -> None:
    lists = {"ALPHAS": "0.5", "TEMPERATURES": "1 2", "SEEDS": "1 2", "SLURM_ARRAY_TASK_ID": "4"}
    python = noting(tmp_path, f"exit {status}")
    _, err = ended("sweep.sbatch", *SIZES, status=status, PYTHON=python, **slurm(tmp_path) | lists)
    [call] = calls(tmp_path)
    assert "out/alpha0p5-temperature1-seed2" in call
    assert "this array ends at 3" in err
    notes = tmp_path / "notes"
    assert (notes.read_text() if notes.exists() else None) == noted


def test_an_array_task_trains(small_world: Path, tmp_path: Path) -> None:
    data, options = small_world / "dataset", ["--max-steps", "2", "--batch-tokens", "600", "--threads", "1"]
    lists = {"SEEDS": "6 7", "ALPHAS": "0.5", "TEMPERATURES": "1", "SLURM_ARRAY_TASK_ID": "2", "DATA": data}
    places = {"OUT": tmp_path / "runs", "PYTHON": sys.executable}
    ended("sweep.sbatch", *SIZES, *options, **slurm(tmp_path) | lists | places)
    described = json.loads((tmp_path / "runs/baseline-seed7/run.json").read_text())
    assert described["configuration"]["seed"] == 7
    sizes = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2}
    training = StudentTrainConfig(max_steps=2, batch_tokens=600, threads=1, seed=7)
    loss = train_student(data, None, tmp_path / "same", sizes, training)
    assert metrics(tmp_path / "runs/baseline-seed7")[-1]["loss"] == loss


def test_nodes_meet_at_the_first_node_under_an_id_of_the_job_and_restart(tmp_path: Path) -> None:
    training = ["train-student", "--data", "data", "--out", "run"]
    there = slurm(tmp_path) | {"PYTHON": str(noting(tmp_path)), "PROCESSES": "3", "SLURM_RESTART_COUNT": "2"}
    ended("multi_node.sbatch", *training, **there)
    [call] = calls(tmp_path)
    assert call == [
        "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=3", "--rdzv-backend=c10d",
        "--rdzv-endpoint=node7:20077", "--rdzv-id=77-2", "cli.py", *training,
    ]  # fmt: skip
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args(call[2:])
    assert (parsed.training_script, parsed.training_script_args) == ("cli.py", training)
    ended("multi_node.sbatch", *training, status=5, **there | {"PYTHON": str(noting(tmp_path, "exit 5"))})
    assert not (tmp_path / "notes").exists()


def test_a_stopped_job_on_several_nodes_is_requeued_after_it_has_ended(tmp_path: Path) -> None:
    until_stopped = f'trap "sleep 0.3; touch {tmp_path}/saved; exit 1" TERM\necho $$ >"{tmp_path}/pid"\n'
    until_stopped += "while :; do sleep 0.02; done"
    python = noting(tmp_path, until_stopped)
    process = started("multi_node.sbatch", "train-student", PYTHON=python, **slurm(tmp_path))
    while not (tmp_path / "pid").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1, err
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "notes").read_text() == "--signal=TERM 77.0\nrequeue 77\n"


PRETENDED = {
    "gain_nats": 0.25, "conclusion": "The mixture gains.", "bytes_per_position": 1e8,
    "accuracy_macro": 0.5, "unconditional": {"per_token": 2.0},
    "splits": {"train": {"num_positions": 60, "num_words": 40}}, "num_sentences": 8, "num_words": 90,
    "sentences_per_s": 50.0, "positions_per_s": {"1": 10.0, "one_process": 10.0},
}  # fmt: skip
"""Figures of all commands with --json."""


def pretending(folder: Path) -> Path:
    """Write a program that notes each command as ``noting`` does, and writes the files that later commands need.

    It fails at the command that STOP_AT names.
    """
    return noting(
        folder,
        f"""
[[ $1 != -c ]] || exec {sys.executable} "$@"
[[ -z ${{STOP_AT:-}} || " $* " != *" $STOP_AT "* ]] || exit 7
if [[ "$*" == *benchmarks.distillation* ]]; then
  echo '{{"distilled": "alpha 0.7"}}' >"{folder}/study/results.json"
  mkdir -p "{folder}"/study/students/{{alpha0.7-seed1,born-again-dump-seed1}}
  touch "{folder}/study/students/alpha0.7-seed1/run.json" "{folder}/study/students/born-again-dump-seed1.history.jsonl"
fi
while [[ $# -gt 0 && $1 != cli.py ]]; do shift; done
if [[ $* == *"evaluate perplexity"* && $* != *--json* ]]; then
  printf 'by none\\n  no  1\\nx, by source: y\\n  books  12\\nz\\n  no  2\\n'
fi
input=${{3:-}} text= out= gain=0.25
[[ $* != *teachers/silver* ]] || gain=${{SILVER_GAIN:-0.25}}
while (($#)); do
  case $1 in
    --text) text=$2 ;;
    --out) out=$2 ;;
    --json) echo '{json.dumps(PRETENDED)}' | sed "s/\\"gain_nats\\": 0.25/\\"gain_nats\\": $gain/" ;;
  esac
  shift
done
case $out in
  */text/*) cp "$input" "$out.txt" ;;
  */trees/*) cp "$input" "$out.mrg"; cp "${{text:-$input}}" "$out.txt" ;;
  *.tsv) printf 'word\\tsurprisal_bits\\na\\t%d\\nb\\t2\\nc\\t4\\n' "${{#out}}" >"$out" ;;
  */tokenizer.json) cp "{folder}/characters.json" "$out" ;;
  */students | */students/dump | */report.html | */data/* | */plan/trees | */plan/nothing) ;;
  */parser.pt) echo "train-parser: 3/3, 2,000.5 sentences/s, took 0:00:01" >&2 ;;
  ?*) mkdir -p "$out/checkpoints/words_5"
    echo '{{"split": "train", "positions_per_s": 10.0, "data_wait_s": 0.1}}' >"$out/metrics.jsonl"
    touch "$out/run.json" ;;
esac""",
    )


def study_of(tmp_path: Path) -> dict[str, object]:
    """Write texts and trees; return the variables of a study of them in which programs only pretend."""
    for name in ("books", "plays"):
        (tmp_path / f"{name}.txt").write_text("".join(f"A line of {name} {n}.\n\n" for n in range(30)))
    vocabulary = {letter: number for number, letter in enumerate(string.printable)}
    Tokenizer(BPE(vocabulary, [])).save(str(tmp_path / "characters.json"))
    (tmp_path / "trees").mkdir()
    for stem, suffix in ((stem, suffix) for stem in ("bank-train", "bank-dev") for suffix in ("mrg", "txt", "docs")):
        (tmp_path / "trees" / f"{stem}.{suffix}").write_text(f"{suffix}\n" * 20)
    return {
        "TEXTS": tmp_path, "TREES": tmp_path / "trees", "PAIRS": "pairs", "SUITES": "suites", "OUT": tmp_path / "study",
        "SHARE": "0.2", "FOLDS": "2", "BEAM": "10,5", "ALPHAS": "0.3,0.7", "PYTHON": pretending(tmp_path),
    }  # fmt: skip


def test_the_study_starts_commands_that_exist_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    plan, _ = ended("study.sh", PLAN="1", **study)
    # Two seeds of: baseline, distilled, shuffled, born-again, right-branching. One of: the other alpha, mixture, folds,
    # given the tree.
    assert "14 students" in plan
    # Dumps: by beam search, given the trees, right-branching, folds, and one of each baseline; of 352 positions each.
    assert re.search(r"dump by beam search +352 positions", plan)
    assert re.search(r"size of the dumps +211\.2 GB", plan)
    _, err = ended("study.sh", status=1, STOP_AT="evaluate", **study)
    assert err.endswith("study: perplexity-gold failed; run the same command again to go on\n")
    out, _ = ended("study.sh", **study | {"JOBS": "3"})
    assert "; processes at a time: 3" in out
    assert "teacher gold: The mixture gains." in out
    assert "the teacher to dump is gold" in out
    assert "surprisal of 3 words and sentence ends: correlation with the teacher 1.000, students/baseline-seed1" in out
    assert "5 words, baseline, seed 1: perplexity 2.00, minimal pairs 0.5000" in out
    made = calls(tmp_path)
    commands = [call[call.index("cli.py") + 1 :] for call in made if "cli.py" in call]
    for command in commands:
        parse(command)
    assert {command[0] for command in commands} >= {"clean-text", "parse", "build-dataset", "train-teacher", "compare"}
    (distillation,) = (call for call in made if "benchmarks.distillation" in call)
    assert distillation[distillation.index("--folds") + 1].count("teachers/fold") == 2
    assert distillation[distillation.index("--pairs") + 1] == str(Path.cwd() / "pairs"), (
        "relative to where it was started"
    )
    assert distillation[distillation.index("--first-seed-only") + 1] == "mixture,given-the-tree,folds"
    assert any(command[2].endswith("students/alpha0.7-seed1") for command in commands if command[1] == "surprisal")
    assert "baseline, seed 1: perplexity on dev\nx, by source: y\n  books  12\n5 words, baseline, seed 1" in out
    (right,) = (
        " ".join(call) for call in made if "train-teacher" in call and f"{tmp_path}/study/teachers/right" in call
    )
    assert "/data/right-gold --out" in right
    assert "--num-epochs 6 " in right
    (compared,) = (command[1:] for command in commands if command[0] == "compare")
    assert [Path(run).name for run in compared] == ["alpha0.7-seed1", "baseline-seed1"]
    evaluations = Counter(" ".join(command) for command in commands if command[0] not in ("inspect", "evaluate"))
    assert set(evaluations.values()) == {1}, "only the command that failed ran twice"
    assert (tmp_path / "study/surprisal.txt").read_text() == "A line of books 1.\n", "of 2 dev sentences"
    ended("study.sh", **study)
    assert not any("cli.py" in call or "-m" in call for call in calls(tmp_path)[len(made) :])


def test_a_study_of_the_silver_teacher_without_beam_search_and_folds(tmp_path: Path) -> None:
    out = f"{os.path.relpath(tmp_path)}/study"
    printed, _ = ended("study.sh", **study_of(tmp_path) | {"SILVER_GAIN": "0.5", "BEAM": "", "FOLDS": "0", "OUT": out})
    assert "the teacher to dump is silver" in printed
    made = [" ".join(call) for call in calls(tmp_path)]
    assert not any("--condition beam" in call for call in made)
    (right,) = (call for call in made if "train-teacher" in call and "/teachers/right" in call)
    assert "/data/right --out" in right
    assert "--num-epochs 1 " in right
    (distillation,) = (call for call in made if "benchmarks.distillation" in call)
    assert f"--teacher {Path.cwd()}/{out}/teachers/silver" in distillation
    assert "--folds" not in distillation


def test_a_study_with_other_options_is_refused(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    ended("study.sh", PLAN="1", **study)
    changes = {"SHARE": "cut-train-books", "DEV_WORDS": "cut-train-books", "TREE_SHARE": "thin-train-bank"}
    for variable, step in changes.items():
        _, err = ended("study.sh", status=1, **study | {variable: "0.1"})
        assert f"{step} was made with other options" in err
    _, err = ended("study.sh", status=1, **study | {"PYTHON": program(tmp_path / "bare/python", "exit 1")})
    assert err.endswith("cannot import the packages of this project; run make env, then set PYTHON=.venv/bin/python\n")
    _, err = ended("study.sh", status=1, **study | {"BEAM": "10"})
    assert err == "study: BEAM is 10, expected beam and word beam, such as 10,5, or nothing\n"
    _, err = ended("study.sh", status=1, **study | {"GOLD_EPOCHS": "0"})
    assert err == "study: GOLD_EPOCHS is 0 and SILVER_EPOCHS is 1, expected numbers above 0, for the plan\n"


@pytest.mark.parametrize(("command", "step"), [("train-teacher", "plan-teacher"), ("train-parser", "plan-parser")])
def test_a_plan_without_all_rates_fails(tmp_path: Path, command: str, step: str) -> None:
    study = study_of(tmp_path)
    out, err = ended("study.sh", status=1, PLAN="1", STOP_AT=command, **study)
    assert (out, err.splitlines()[-1]) == ("", f"study: {step} failed; run the same command again to go on")
    ended("study.sh", PLAN="1", **study)
    (tmp_path / "study/logs/plan-teacher.log").write_text('{"positions_per_s": {"1": 0}}')
    _, err = ended("study.sh", status=1, PLAN="1", **study)
    assert "study: teachers: 1424 positions, rate 0, expected numbers above 0" in err
