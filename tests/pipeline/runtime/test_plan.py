"""Test that measuring the speed of a place leaves nothing there."""

import fsspec
import pytest

from pipeline.runtime.plan import spread, write_rate
from pipeline.runtime.plan_config import PlanConfig
from storage.errors import ConfigError, StoreError


@pytest.mark.parametrize("name", ["", "not/yet/there"])
def test_the_speed_of_a_disk_is_measured_without_a_trace(tmp_path, name):
    assert write_rate(tmp_path / name) > 0
    assert not list(tmp_path.iterdir())


def test_the_speed_of_an_object_store_is_measured_without_a_trace():
    assert write_rate("memory://planned/store") > 0
    assert not fsspec.filesystem("memory").find("/planned")


def test_a_disk_that_cannot_be_written_gives_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        write_rate(tmp_path)


def test_places_are_spread_evenly():
    assert spread(100, 4) == [12, 37, 62, 87]
    assert spread(2, 8) == [0, 1]
    assert spread(0, 8) == []


@pytest.mark.parametrize("processes", [(), (2, 0), (-1,)])
def test_numbers_of_processes_below_one_are_refused(processes):
    with pytest.raises(ConfigError, match="expected numbers of at least 1"):
        PlanConfig(plan_processes=processes)
