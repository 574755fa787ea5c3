"""Group runs that differ only in their seed, and describe how the groups differ.

Two runs are in one **seed group** if they are of one kind (student or teacher) and agree in everything that could
change what is learned: the fingerprints of dataset, tokenizer, dump and initial weights, and every option except those
in ``_LEARNS_NOTHING``. Without a dump, the options of distillation (alpha, temperature and so on) may differ.

There is one exception: runs that learned from different dumps are in one group if the dumps are replicates. An example
is born-again distillation with one baseline per seed. Dumps count as replicates if

- there is one dump and one run per seed,
- the dumps differ only in the model that wrote them, and
- the names of the runs differ only in the seed.

The files do not show whether two teachers are replicates or models to compare, so the names of the runs decide.
``SeedGroup.note`` reports the decision.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.evaluation.compare.run_records import RunRecord
from pipeline.runtime.run_directory import dump_summaries
from storage.dump.schema import num_folds
from storage.errors import ConfigError

_LEARNS_NOTHING: Final = {
    "seed": "what varies within a group",
    "out": "where the run is",
    "data": "its fingerprint is compared instead",
    "dump": "its manifest is compared instead",
    "init": "the fingerprint of its weights is compared instead",
    "device": "rounding",
    "threads": "rounding",
    "deterministic": "rounding",
    "compile": "draws other dropout, as another seed does",
    "peak_tflops": "only shown",
    "log_every": "only shown",
    "log_to": "only shown",
    "log_project": "only shown",
    "checkpoint_every": "what is kept, not what is learned",
    "word_checkpoints": "what is kept, not what is learned",
}
"""Options that never separate two runs, and why. ``dtype`` does separate runs. So does ``eval_every``, because it
decides from how many checkpoints the best one is chosen."""
_OF_A_DUMP: Final = ("alpha", "temperature", "divergence", "targets", "tail")
_SEED_SUFFIX: Final = re.compile(r"[-_.]?seed[-_.]?(\d+)$|[-_.]s(\d+)$", re.IGNORECASE)

_Key = dict[str, str]
"""The options and fingerprints of a run that decide its seed group, as text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedGroup:
    """Runs that differ only in their seed."""

    name: str
    """The name that the runs' directories share apart from the seed. If these names do not tell all groups of the kind
    apart, the name of each group is its ``settings``."""
    kind: str
    """``student`` or ``teacher``."""
    settings: str
    """The settings in which the group differs from other groups of its kind; empty if there is no other group."""
    runs: Mapping[int, RunRecord]
    """By seed, ascending."""

    @property
    def note(self) -> str | None:
        """A message if the runs learned from several dumps, else None.

        It names the dumps, and says how to put the runs into separate groups.
        """
        dumps = {seed: run for seed, run in self.runs.items() if run.has_dump}
        if len({run.fingerprints.get("manifest") for run in dumps.values()}) < 2:
            return None
        paths = {seed: [str(dump.get("path")) for dump in dump_summaries(run.dump)] for seed, run in dumps.items()}
        named = ", ".join(f"seed {seed}: {' and '.join(path)}" for seed, path in paths.items())
        return (
            f"{self.name}: each seed has a dump of its own ({named}); differences between these dumps count as "
            "differences between seeds. To compare their teachers, give the runs names that differ in more than the "
            "seed"
        )


def seed_groups(records: Sequence[RunRecord]) -> list[SeedGroup]:
    """Return the seed groups of runs, students before teachers, in the order of their first runs.

    Raises:
        ConfigError: If a run records no seed, or two runs of one group have the same seed.
    """
    found = []
    for kind in ("student", "teacher"):
        groups = _with_replicated_dumps(_grouped([run for run in records if run.kind == kind]))
        settings = _settings([key for key, _ in groups])
        names = _stems([runs for _, runs in groups]) or [text or kind for text in settings]
        found += [
            SeedGroup(name=name, kind=kind, settings=differs, runs=_by_seed(runs))
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
    without = {*_LEARNS_NOTHING, *(() if run.has_dump else _OF_A_DUMP)}
    options = {
        name.replace("_", "-"): _written(value) for name, value in run.configuration.items() if name not in without
    }
    fingerprints = {name: str(sha256) for name, sha256 in run.fingerprints.items() if name != "manifest"}
    return options | fingerprints | ({"dump": str(run.fingerprints.get("manifest"))} if run.has_dump else {})


def _with_replicated_dumps(groups: list[tuple[_Key, list[RunRecord]]]) -> list[tuple[_Key, list[RunRecord]]]:
    """Merge the groups whose dumps are replicates (see the top of this file)."""
    alike: dict[str, list[int]] = {}
    for i, (key, runs) in enumerate(groups):
        if "dump" in key and len(runs) == 1:
            about = json.dumps([key | {"dump": ""}, _schemas_but_teacher(runs[0]), _stem(runs[0])], sort_keys=True)
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


def _schemas_but_teacher(run: RunRecord) -> list[dict[str, Any]]:
    """Return the schemas of a run's dumps without the entries on the teacher and on the machine."""
    found = []
    for dump in dump_summaries(run.dump):
        schema = dump.get("schema")
        if not isinstance(schema, dict) or not isinstance(fingerprints := schema.get("fingerprints"), dict):
            # The schema is unknown. The manifest's fingerprint stands for it, so that no other dump has an equal one.
            return [{"manifest": run.fingerprints.get("manifest")}]
        about = {name: value for name, value in schema.items() if name not in {"fingerprints", "computation"}}
        about["fingerprints"] = {name: of for name, of in fingerprints.items() if not name.startswith("teacher")}
        found.append(about | {"num_folds": num_folds(fingerprints)})
    return found


def _settings(keys: Sequence[_Key]) -> list[str]:
    """Return for each group a text with the settings in which the groups differ.

    Examples are ``dump 5bd6448f, alpha 0.7`` and ``no dump``.
    """
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
    """Return the common name of each group's runs without the seed; None if the names do not separate the groups."""
    stems = [stem for runs in groups for stem in {_stem(run) for run in runs}]
    return stems if all(stems) and len(set(stems)) == len(stems) == len(groups) else None


def _stem(run: RunRecord) -> str:
    found = _SEED_SUFFIX.search(run.name)
    return run.name[: found.start()] if found and int(found[1] or found[2]) == _seed(run) else run.name


def _by_seed(runs: Sequence[RunRecord]) -> dict[int, RunRecord]:
    by_seed: dict[int, RunRecord] = {}
    for run in runs:
        if (other := by_seed.setdefault(_seed(run), run)) is not run:
            raise ConfigError(
                f"{run.path} and {other.path}: both have seed {_seed(run)} and no setting differs, expected one run "
                "per seed; leave one of them out"
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
    """Return the first digits of a sha256, and any other text as it is."""
    return value[:8] if re.fullmatch(r"[0-9a-f]{64}", value) else value
