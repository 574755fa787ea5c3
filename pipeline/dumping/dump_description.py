"""Describe a dump for people: its origin, content, state, size and statistics.

A dump that is still being written can be described, too. This module reads the dump's ``manifest.json`` and the dump's
history. The history is a file next to the dump, with one line for each start and each end of writing. Shards are read
only to verify them.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from pipeline.corpus.text.word_budget import TrainingText, from_json, not_known
from pipeline.runtime.display import size
from pipeline.runtime.progress import Progress
from storage.dump.manifest import Manifest
from storage.dump.reader import inspect_dump, verify_dump
from storage.dump.schema import cross_fitted
from storage.errors import InputError, StoreError
from storage.folder import Folder
from storage.json_files import decode
from storage.locations import Location, Place, as_folder

_DISTRIBUTIONS = {
    "tree": "given the tree", "beam": "marginal by beam search", "none": "unconditional", "exact": "of the grammar",
}  # fmt: skip
"""The name of a dump's distributions, by condition."""


def describe_dump(location: Location) -> dict[str, Any]:
    """Return what the files of a dump say about it, as JSON values.

    The result is that of ``inspect_dump`` with two more keys: ``stored_bytes``, the size of all files, and
    ``history``, the list of logged events, oldest first.

    Raises:
        StoreError: If there is no dump.
        CorruptStoreError: If its manifest is damaged.
    """
    folder = as_folder(location)
    about = inspect_dump(folder)
    return {**about, "stored_bytes": sum(folder.sizes().values()), "history": history_events(folder.history())}


def verify_dump_files(place: Place) -> dict[str, Any]:
    """Check every byte of a dump against its manifest, with a progress line; return its statistics.

    Raises:
        CorruptStoreError: If a file is damaged.
    """
    statistics = Manifest.read(as_folder(place)).statistics
    with Progress("verify", total=statistics.size_bytes if statistics else None, unit="B") as progress:
        summary = verify_dump(place, progress.update)
    return {"kind": "dump", "verified": True, **summary.to_json()}


def trained_on_of_dump(folder: Folder) -> list[TrainingText]:
    """Return the texts that the teachers of a dump were trained on, from the history next to the dump."""
    note = "no record in the history next to the dump"
    try:
        recorded = [event["trained_on"] for event in history_events(folder.history()) if "trained_on" in event]
    except StoreError as error:  # the dump may be shared without its history
        recorded, note = [], str(error)
    if not recorded:
        return [not_known("teacher", "of the dump", note=note)]
    return from_json(recorded[-1], of="teacher", name="of the dump", where=f"{folder}.history.jsonl")


def history_events(history: bytes) -> list[dict[str, Any]]:
    """Return the events of a history. Lines that are not JSON objects are skipped: a killed writer may leave one."""
    events = []
    for line in history.splitlines():
        with suppress(InputError):
            events.append(decode(line, dict[str, Any], where="history", remedy=""))
    return events


def dump_for_people(about: dict[str, Any]) -> dict[str, Any]:
    """Return the values of `describe_dump` in groups with full names, for about one screen of text."""
    schema, statistics = about["schema"], about["statistics"]
    finished = f"{about['num_finished_shards']:,} of {about['num_shards']:,} shards of {schema['shard_positions']:,}"
    groups = {
        "dump": about["path"],
        "state": f"{about['state']}, {finished} positions",
        "size": f"{size(about['stored_bytes'])}{_bytes_per_position(about)}",
        "made by": _makers(about["history"]),
        "made from": {
            "trees": _plain(schema["tree_source"]),
            **{name: f"sha256 {digest[:12]}" for name, digest in schema["fingerprints"].items()},
            "split": f"{schema['split']}, sha256 {schema['fingerprints']['split'][:12]}",
        },
        "holds": {
            "positions": f"{schema['num_positions']:,} in {schema['num_sentences']:,} sentences",
            "selection": _selection(schema),
            "temperatures": ", ".join(f"{temperature:g}" for temperature in schema["temperatures"]),
            "vocabulary": f"{schema['vocab_size']:,} tokens",
            "profile": f"{schema['profile']}: {', '.join(about['arrays'])}",
        },
    }
    if statistics is not None:
        distribution = distribution_of(schema["condition"], schema["fingerprints"])
        groups["distributions at temperature 1"] = _figures(statistics, distribution)
    return {**groups, "computed with": _computation(schema["computation"])}


def distribution_of(condition: str, fingerprints: Iterable[str]) -> str:
    """Return the name of a dump's distributions, such as "given the tree".

    Args:
        condition: The condition of the dump.
        fingerprints: The names of its fingerprints. They show whether the dump is cross-fitted, that is, made by
            several teachers, each for the sentences that it was not trained on.
    """
    return _DISTRIBUTIONS[condition] + cross_fitted(fingerprints)


def _makers(history: list[dict[str, Any]]) -> dict[str, str]:
    """Return when and where the dump was begun, last resumed and completed, and the command."""
    begun = [event for event in history if event.get("event") == "begin"]
    completed = [event for event in history if event.get("event") == "complete"]
    if not begun:
        return {"history": "none next to the dump"}
    lines = {"begun": _who(begun[0])}
    if len(begun) > 1:
        lines["last resumed"] = f"{_who(begun[-1])}, start {len(begun):,}"
    if completed:
        lines["completed"] = _who(completed[-1])
    return {**lines, "command": _plain(begun[-1].get("command", "unknown"))}


def _plain(value: object) -> str:
    """Return text without control characters, which could steer the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def _who(event: dict[str, Any]) -> str:
    number = event.get("world_size", "?")
    processes = "1 process" if number == 1 else f"{number} processes"
    return _plain(f"{event.get('time', 'unknown')} on {event.get('host', 'unknown')}, {processes}")


def _bytes_per_position(about: dict[str, Any]) -> str:
    num_positions = about["schema"]["num_positions"]
    if about["state"] != "complete" or not num_positions:
        return " so far"
    return f", {about['stored_bytes'] / num_positions:,.0f} bytes per position"


def _selection(schema: dict[str, Any]) -> str:
    k, num_top, seed = schema["k"], schema["num_top"], schema["draw_seed"]
    if schema["selection"] == "topk":
        return f"topk, the k = {k:,} most probable tokens"
    if schema["selection"] == "sampled":
        return f"sampled, k = {k:,} draws, seed {seed}"
    return f"stratified, k = {k:,}: the {num_top:,} most probable tokens and {k - num_top:,} draws, seed {seed}"


def _computation(computation: dict[str, Any]) -> dict[str, str]:
    """Return one line of settings and one line of versions.

    A value is a version if it begins with digits and a dot, such as ``2.7.1``.
    """
    versions = {name: value for name, value in computation.items() if re.match(r"\d+\.", str(value))}
    settings = {name: value for name, value in computation.items() if name not in versions}
    groups = {"settings": settings, "versions": versions}
    return {
        title: _plain(", ".join(f"{name} {value}" for name, value in group.items())) for title, group in groups.items()
    }


def _figures(statistics: dict[str, Any], distribution: str) -> dict[str, str]:
    quantiles = statistics["entropy_nats_quantiles"]
    kept = ", ".join(f"{k}: {mass:.3f}" for k, mass in statistics["kept_mass_by_k"].items())
    effective = statistics.get("mean_num_effective")
    entropy = ", ".join(f"{percent} %: {nats:.2f}" for percent, nats in quantiles.items()) if quantiles else "-"
    return {
        f"perplexity, {distribution}": f"{_figure(statistics['perplexity'])} with <eos>, "
        f"{_figure(statistics['perplexity_without_eos'])} without",
        "mass of top tokens": f"{_figure(statistics['mean_kept_mass'], 4)} with <eos>, "
        f"{_figure(statistics['mean_kept_mass_without_eos'], 4)} without",
        "mass of the first k": kept or "-",
        "entropy, mean": _figure(statistics["mean_entropy_nats"])
        + " nats per position, with all tokens outside the top tokens counted as one outcome",
        "entropy, quantiles": entropy,
        **({"effective hypotheses, mean": f"{_figure(effective)} per position"} if effective is not None else {}),
    }


def _figure(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
