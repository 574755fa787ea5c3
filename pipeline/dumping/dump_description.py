"""A dump told to people: who made it, from what, what it holds, how sure its teacher is, whether it is finished.

Works on dumps that are still being written. Shards are not read; the history beside the store is, if it is there.
"""

import json
import re
from typing import Any

from pipeline.runtime.display import size
from pipeline.runtime.progress import Progress
from storage.dump.manifest import Manifest
from storage.dump.reader import inspect_dump, verify_dump
from storage.locations import Location, Place, as_folder

_GIVEN = {"tree": "given the tree", "beam": "marginal by beam search", "none": "unconditional"}
"""Of what a perplexity is, by the dump's condition."""


def describe_dump(location: Location) -> dict[str, Any]:
    """Return all that is known about a dump as JSON values.

    Beside what ``inspect_dump`` returns, ``stored_bytes`` of all files there are now, and ``history``, the events
    that the writers logged, oldest first.

    Raises:
        StoreError: If there is no dump.
        CorruptStoreError: If its manifest is damaged.
    """
    folder = as_folder(location)
    about = inspect_dump(folder)
    return {**about, "stored_bytes": sum(folder.sizes().values()), "history": history_events(folder.history())}


def verify_dump_files(place: Place) -> dict[str, Any]:
    """Check every byte of a dump against its manifest, with a progress line; return what the dump is.

    Raises:
        CorruptStoreError: Naming what is damaged and what to do.
    """
    with Progress("verify", total=_size_bytes(place), unit="B") as progress:
        summary = verify_dump(place, progress.update)
    return {"kind": "dump", "verified": True, **summary.to_json()}


def _size_bytes(location: Location) -> int | None:
    """Return the bytes of all files but the manifest, as the manifest of a complete dump says; None of another."""
    statistics = Manifest.read(as_folder(location)).statistics
    return statistics.size_bytes if statistics else None


def history_events(history: bytes) -> list[dict[str, Any]]:
    """Return the JSON objects of a history; what a killed writer left of a line is skipped."""
    events = []
    for line in history.splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def dump_for_people(about: dict[str, Any]) -> dict[str, Any]:
    """Return what `describe_dump` returned, grouped, with names that say what figures are: about one screen."""
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
        groups["distributions at temperature 1"] = _figures(statistics, schema["condition"])
    return {**groups, "computed with": _computation(schema["computation"])}


def _makers(history: list[dict[str, Any]]) -> dict[str, str]:
    """Return who began, went on and completed it; only the last of those who went on are named."""
    begun = [event for event in history if event.get("event") == "begin"]
    completed = [event for event in history if event.get("event") == "complete"]
    if not begun:
        return {"history": "none beside the dump"}
    lines = {"begun": _who(begun[0])}
    if len(begun) > 1:
        lines["last resumed"] = f"{_who(begun[-1])}, start {len(begun):,}"
    if completed:
        lines["completed"] = _who(completed[-1])
    return {**lines, "command": _plain(begun[-1].get("command", "unknown"))}


def _plain(value: object) -> str:
    """Return text of a file that anyone may have written, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def _who(event: dict[str, Any]) -> str:
    number = event.get("world_size", "?")
    processes = "1 process" if number == 1 else f"{number} processes"
    return _plain(f"{event.get('time', 'unknown')} on {event.get('host', 'unknown')}, {processes}")


def _bytes_per_position(about: dict[str, Any]) -> str:
    num_positions = about["schema"]["num_positions"]
    if about["state"] != "complete" or not num_positions:
        return " so far"
    return f", {about['stored_bytes'] / num_positions:,.0f} bytes a position"


def _selection(schema: dict[str, Any]) -> str:
    k, num_top, seed = schema["k"], schema["num_top"], schema["draw_seed"]
    if schema["selection"] == "topk":
        return f"topk, the k = {k:,} most probable tokens"
    if schema["selection"] == "sampled":
        return f"sampled, k = {k:,} draws, seed {seed}"
    return f"stratified, k = {k:,}: the {num_top:,} most probable tokens and {k - num_top:,} draws, seed {seed}"


def _computation(computation: dict[str, Any]) -> dict[str, str]:
    """Return the settings in a line and the versions, which start with a digit and hold a dot, in another."""
    versions = {name: value for name, value in computation.items() if re.match(r"\d+\.", str(value))}
    settings = {name: value for name, value in computation.items() if name not in versions}
    lines = {"settings": settings, "versions": versions}
    return {what: _plain(", ".join(f"{name} {value}" for name, value in of.items())) for what, of in lines.items()}


def _figures(statistics: dict[str, Any], condition: str) -> dict[str, str]:
    quantiles = statistics["entropy_nats_quantiles"]
    kept = ", ".join(f"{k}: {mass:.3f}" for k, mass in statistics["kept_mass_by_k"].items())
    effective = statistics.get("mean_num_effective")
    entropy = ", ".join(f"{percent} %: {nats:.2f}" for percent, nats in quantiles.items()) if quantiles else "-"
    return {
        f"perplexity, {_GIVEN[condition]}": f"{_figure(statistics['perplexity'])} with <eos>, "
        f"{_figure(statistics['perplexity_without_eos'])} without",
        "mass of exact ids": f"{_figure(statistics['mean_kept_mass'], 4)} with <eos>, "
        f"{_figure(statistics['mean_kept_mass_without_eos'], 4)} without",
        "mass of the first k": kept or "-",
        "entropy, mean": _figure(statistics["mean_entropy_nats"])
        + " nats a position: exact ids, and a bucket for the others",
        "entropy, quantiles": entropy,
        **({"effective hypotheses, mean": f"{_figure(effective)} a position"} if effective is not None else {}),
    }


def _figure(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
