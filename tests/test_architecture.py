"""Check the rules of the code base: imports go down, storage never imports torch, ``--help`` is quick, and others."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "storage": {"storage"},
    "pipeline": {"pipeline", "storage"},
    "teacher": {"teacher", "pipeline", "storage"},
    "student": {"student", "pipeline", "storage"},
}
OURS = {*ALLOWED, "cli", "tests", "benchmarks"}


def imported_packages(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_go_down(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        upwards = (imported_packages(file) & OURS) - ALLOWED[package]
        assert not upwards, f"{file.relative_to(ROOT)} imports {upwards}"


FLOORS = (
    ("pipeline/report",),
    ("pipeline/evaluation/compare",),
    ("pipeline/evaluation",),
    ("pipeline/dumping",),
    ("pipeline/training",),
    ("pipeline/parsing",),
    ("pipeline/corpus/dataset",),
    ("pipeline/corpus/trees",),
    ("pipeline/corpus/text", "pipeline/corpus/sample"),
    ("pipeline/runtime",),
)
"""The folders of ``pipeline`` on each floor, top floor first. A module may import from its own folder and from lower
floors."""


def room_of(path: Path) -> tuple[int, str]:
    """Return the floor and the folder of FLOORS that contain a file."""
    inside = path.relative_to(ROOT).as_posix()
    for floor, rooms in enumerate(FLOORS):
        for room in rooms:
            if inside.startswith(f"{room}/"):
                return floor, room
    raise AssertionError(f"{inside}: in no room of FLOORS")


def imported_modules(file: Path) -> set[Path]:
    """Return the files of this repository that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {path for name in names if (path := ROOT / (name.replace(".", "/") + ".py")).is_file()}
    return found


def test_imports_inside_pipeline_go_down() -> None:
    for file in sorted((ROOT / "pipeline").rglob("*.py")):
        if file.name == "__init__.py":
            continue
        floor, room = room_of(file)
        for imported in imported_modules(file):
            if imported.is_relative_to(ROOT / "pipeline"):
                other_floor, other_room = room_of(imported)
                is_below = other_floor > floor or other_room == room
                assert is_below, f"{file.relative_to(ROOT)} imports {imported.relative_to(ROOT)}"


def test_no_two_modules_have_the_same_name() -> None:
    files = [file for package in ALLOWED for file in (ROOT / package).rglob("*.py") if file.name != "__init__.py"]
    names = [file.name for file in files]
    assert not {name for name in names if names.count(name) > 1}


def test_storage_never_imports_torch() -> None:
    for file in (ROOT / "storage").rglob("*.py"):
        assert "torch" not in imported_packages(file), file


def test_nothing_imports_pickle_or_calls_eval() -> None:
    for package in ALLOWED:
        for file in (ROOT / package).rglob("*.py"):
            assert not imported_packages(file) & {"pickle", "dill", "joblib"}, file
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in {"eval", "exec"}, f"{file}:{node.lineno}"


def test_only_the_distributed_module_mentions_torchrun_variables_and_cuda() -> None:
    for package in ALLOWED:
        for file in (ROOT / package).rglob("*.py"):
            if file == ROOT / "pipeline" / "runtime" / "distributed.py":
                continue
            text = file.read_text()
            assert "RANK" not in text, file
            assert "WORLD_SIZE" not in text, file
            assert ".cuda" not in text, file


@pytest.mark.parametrize("arguments", [["--help"], ["train-teacher", "--help"], ["evaluate", "perplexity", "--help"]])
def test_help_loads_neither_torch_nor_numpy_nor_zarr(arguments: list[str]) -> None:
    script = (
        "import sys, cli\n"
        "try:\n"
        f"    cli.main({arguments!r})\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "loaded = {'torch', 'numpy', 'zarr', 'tokenizers', 'transformers'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


IMPORTS_AN_EXTRA = {
    *(f"pipeline/dumping/{name}.py" for name in ("causal_lm_source", "dump_export", "dump_import")),
    "pipeline/evaluation/age_of_acquisition.py",
}
"""Modules outside ``pipeline/parsing`` that import what the core does not install, but only inside functions."""


def test_only_some_modules_import_what_the_core_does_not_install() -> None:
    from pipeline.runtime.click_options import EXTRAS

    # student/export.py imports push inside the functions that need it.
    allowed = {ROOT / "student/push.py": {"huggingface_hub"}}
    for package in ALLOWED:
        for file in (ROOT / package).rglob("*.py"):
            found = imported_packages(file) & {*EXTRAS, "transformers", "torch_struct"}
            if file.relative_to(ROOT).as_posix() in IMPORTS_AN_EXTRA:
                tops = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import)]
                found &= {alias.name for node in tops for alias in node.names}
            found -= allowed.get(file, set())
            assert not found or file.is_relative_to(ROOT / "pipeline" / "parsing"), f"{file} imports {found}"


def test_the_citation_names_the_version_of_the_package() -> None:
    from pipeline import __version__

    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_command_has_an_example() -> None:
    import cli

    def commands(group, path):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, [*path, name])
            else:
                yield " ".join([*path, name]), command

    found = dict(commands(cli.main, []))
    assert len(found) >= 12
    for name, command in found.items():
        _, _, example = inspect.cleandoc(command.help or "").partition("\b\nExample: ")
        assert f"cli.py {name} " in example, f"{name} has no example of itself"


def test_training_a_student_loads_nothing_of_evaluation() -> None:
    script = (
        "import sys, student.train_student\n"
        "loaded = [name for name in sys.modules if name.startswith('pipeline.evaluation')]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["open_scorer", "score_split"])
def test_teacher_and_student_have_the_same_entry_points(name: str) -> None:
    from student import student_commands
    from teacher import teacher_commands

    expected, found = (inspect.signature(getattr(module, name)) for module in (teacher_commands, student_commands))
    assert list(found.parameters.values()) == list(expected.parameters.values())
