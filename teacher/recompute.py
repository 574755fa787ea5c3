"""Verify a dump against the teacher that it was made with."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.dump_source import verify_run
from storage.errors import StoreError
from storage.locations import Location, Place, as_folder
from storage.manifest import Manifest
from teacher.beam_config import BeamConfig
from teacher.dump import TeacherSource


def verify_recomputing(
    dump: Place, data: Place, teacher: Path, *, num_shards: int, seed: int, device: str
) -> dict[str, Any]:
    """Check every byte of a dump, then recompute some shards; see `pipeline.dump_source.verify_run`."""
    source = TeacherSource(teacher, _searched_with(dump))
    return verify_run(dump, data, source, num_shards=num_shards, seed=seed, device=device)


def _searched_with(dump: Location) -> BeamConfig | None:
    """Return the sizes of the search that a dump was made by, if one was."""
    schema = Manifest.read(as_folder(dump)).schema
    if schema.condition != "beam":
        return None
    sizes = {field.name: schema.computation.get(field.name) for field in fields(BeamConfig)}
    if not all(type(size) is int for size in sizes.values()):
        raise StoreError(
            f"{dump}: computation says {', '.join(f'{name} {size!r}' for name, size in sizes.items())}, expected whole "
            "numbers. It was not written by dump-teacher: it cannot be recomputed"
        )
    return BeamConfig(**sizes)  # type: ignore[arg-type]
