"""Configurations: runs that differ in nothing but their seed, and what differs between the configurations.

Two runs are of one configuration if they are of one kind and everything that could change what is learned is the same:
every option but those of ``_LEARNS_NOTHING``, and the fingerprints of dataset, tokenizer, dump and initial weights. An
option that this module does not know counts, so that runs are rather set apart than put together. Without a dump its
options (alpha, temperature and the like) decide nothing and do not count.

Dumps are the same if their manifests are. One exception: where each seed has a dump of its own, written by another
model and otherwise alike, and the runs' names differ in the seed alone, as in born-again distillation from one baseline
a seed, the dumps are replicates as the seeds are. Files can't tell replicates from two teachers that are to be
compared; names are what people tell them apart by, and ``Configuration.note`` says what was done. A seed that learned
from two such dumps keeps them apart.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.evaluation.compare.run_records import RunRecord
from storage.errors import ConfigError

_LEARNS_NOTHING: Final = {
    "seed": "what varies within a configuration",
    "out": "where the run is",
    "data": "its fingerprint counts",
    "dump": "its manifest counts",
    "init": "the fingerprint of its weights counts",
    "device": "rounding",
    "threads": "rounding",
    "deterministic": "rounding",
    "compile": "draws other dropout, as another seed does",
    "peak_tflops": "only shown",
    "log_every": "only shown",
    "checkpoint_every": "what is kept, not what is learned",
    "word_checkpoints": "what is kept, not what is learned",
}
"""Options that set no two configurations apart, and why. The precision (``dtype``) and how often dev is evaluated
(``eval_every``, which decides among how many checkpoints the best is chosen) are none of them."""
_OF_A_DUMP: Final = ("alpha", "temperature", "divergence", "targets", "tail")
_SEED_SUFFIX: Final = re.compile(r"[-_.]?seed[-_.]?(\d+)$|[-_.]s(\d+)$", re.IGNORECASE)

_Key = dict[str, str]
"""What a run was made by, as text, by the name of the option or of what is fingerprinted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """Runs that differ in nothing but their seed."""

    name: str
    """Of all runs' directories what is before the seed, if that tells configurations apart; else ``settings``."""
    kind: str
    """``student`` or ``teacher``."""
    settings: str
    """What differs from the other configurations of this kind; empty where there is no other."""
    runs: Mapping[int, RunRecord]
    """By seed, ascending."""

    @property
    def note(self) -> str | None:
        """Return which dumps count as one, and how to set them apart; None where all runs share one or have none."""
        dumps = {seed: run for seed, run in self.runs.items() if _has_dump(run)}
        if len({run.fingerprints.get("manifest") for run in dumps.values()}) < 2:
            return None
        named = ", ".join(f"{(run.dump or {}).get('path')} of seed {seed}" for seed, run in dumps.items())
        return (
            f"{self.name}: a dump for each seed, and what differs between these counts as what differs between seeds: "
            f"{named}; if their teachers are to be compared, give their runs names that differ in more than the seed"
        )


def configurations_of(records: Sequence[RunRecord]) -> list[Configuration]:
    """Return the configurations of runs, students before teachers, in the order of their first runs.

    Raises:
        ConfigError: If a run records no seed, or two runs are of one configuration and one seed.
    """
    found = []
    for kind in ("student", "teacher"):
        groups = _with_replicated_dumps(_grouped([run for run in records if run.kind == kind]))
        settings = _settings([key for key, _ in groups])
        names = _stems([runs for _, runs in groups]) or [text or kind for text in settings]
        found += [
            Configuration(name=name, kind=kind, settings=differs, runs=_by_seed(runs))
            for name, differs, (_, runs) in zip(names, settings, groups, strict=True)
        ]
    return found


def _grouped(runs: Iterable[RunRecord]) -> list[tuple[_Key, list[RunRecord]]]:
    groups: dict[str, tuple[_Key, list[RunRecord]]] = {}
    for run in runs:
        key = _key(run)
        groups.setdefault(json.dumps(key, sort_keys=True), (key, []))[1].append(run)
    return list(groups.values())


def _key(run: RunRecord) -> _Key:
    without = {*_LEARNS_NOTHING, *(() if _has_dump(run) else _OF_A_DUMP)}
    options = {
        name.replace("_", "-"): _written(value) for name, value in run.configuration.items() if name not in without
    }
    fingerprints = {name: str(sha256) for name, sha256 in run.fingerprints.items() if name != "manifest"}
    return options | fingerprints | ({"dump": str(run.fingerprints.get("manifest"))} if _has_dump(run) else {})


def _has_dump(run: RunRecord) -> bool:
    return run.dump is not None and run.configuration.get("targets") != "none"


def _with_replicated_dumps(groups: list[tuple[_Key, list[RunRecord]]]) -> list[tuple[_Key, list[RunRecord]]]:
    """Put groups together that are, by their names too, one configuration with a dump of its own for each seed."""
    alike: dict[str, list[int]] = {}
    for i, (key, runs) in enumerate(groups):
        if "dump" in key and len(runs) == 1:
            about = json.dumps([key | {"dump": ""}, _schema_but_teacher(runs[0]), _stem(runs[0])], sort_keys=True)
            alike.setdefault(about, []).append(i)
    merged = dict(enumerate(groups))
    for places in alike.values():
        runs = [groups[i][1][0] for i in places]
        if len(places) > 1 and len({_seed(run) for run in runs}) == len(runs):
            first, *others = places
            merged[first] = ({**groups[first][0], "dump": "one for each seed"}, runs)
            for i in others:
                del merged[i]
    return list(merged.values())


def _schema_but_teacher(run: RunRecord) -> dict[str, Any]:
    """Return what a dump is, but which model wrote it and on what machine."""
    schema = (run.dump or {}).get("schema")
    if not isinstance(schema, dict) or not isinstance(fingerprints := schema.get("fingerprints"), dict):
        return {"manifest": run.fingerprints.get("manifest")}  # not known to be like any other
    return {name: value for name, value in schema.items() if name not in {"fingerprints", "computation"}} | {
        "fingerprints": {name: value for name, value in fingerprints.items() if name != "teacher"}
    }


def _settings(keys: Sequence[_Key]) -> list[str]:
    """Return what differs between configurations, for each: ``dump 5bd6448f, alpha 0.7`` or ``no dump``."""
    names = dict.fromkeys(["dump", *(name for key in keys for name in key)])
    differing = [name for name in names if len({key.get(name) for key in keys if _applies(name, key)}) > 1]
    return [
        ", ".join(
            f"{name} {_short(key[name])}" if name in key else f"no {name}" for name in differing if _applies(name, key)
        )
        for key in keys
    ]


def _applies(name: str, key: _Key) -> bool:
    return name not in _OF_A_DUMP or "dump" in key


def _stems(groups: Sequence[Sequence[RunRecord]]) -> list[str] | None:
    """Return what the names of each configuration's runs share before the seed; None where that tells none apart."""
    stems = []
    for runs in groups:
        found = {_stem(run) for run in runs}
        stems.append(found.pop() if len(found) == 1 else "")
    return stems if all(stems) and len(set(stems)) == len(stems) else None


def _stem(run: RunRecord) -> str:
    found = _SEED_SUFFIX.search(run.name)
    return run.name[: found.start()] if found and int(found[1] or found[2]) == _seed(run) else run.name


def _by_seed(runs: Sequence[RunRecord]) -> dict[int, RunRecord]:
    by_seed: dict[int, RunRecord] = {}
    for run in runs:
        if (other := by_seed.setdefault(_seed(run), run)) is not run:
            raise ConfigError(
                f"{run.path} and {other.path}: one configuration and both seed {_seed(run)}, expected a run a seed; "
                "leave one of them out"
            )
    return dict(sorted(by_seed.items()))


def _seed(run: RunRecord) -> int:
    seed = run.configuration.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ConfigError(f"{run.path}/run.json: seed is {seed!r}, expected a whole number; leave this run out")
    return seed


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _short(value: str) -> str:
    """Return a sha256 by its first digits, anything else as it is."""
    return value[:8] if re.fullmatch(r"[0-9a-f]{64}", value) else value
