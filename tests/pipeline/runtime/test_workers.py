"""The number of usable cores is known on every system, and every caller asks the same function."""

import os
from pathlib import Path

import pytest

from pipeline.runtime.workers import usable_cores

ROOT = Path(__file__).resolve().parents[3]


def test_the_cores_that_the_process_may_use_are_counted(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert usable_cores() == 3


@pytest.mark.parametrize(("total", "expected"), [(6, 6), (None, 1)])
def test_a_system_without_affinity_such_as_macos_reports_all_cores(monkeypatch, total, expected):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: total)
    assert usable_cores() == expected


def test_only_workers_calls_sched_getaffinity():
    packages = ("benchmarks", "pipeline", "storage", "student", "teacher")
    files = [file for package in packages for file in (ROOT / package).rglob("*.py")]
    callers = [file.name for file in files if "sched_getaffinity(" in file.read_text()]
    assert callers == ["workers.py"]
