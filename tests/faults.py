"""Damage files in the ways that disks, users and strangers do. ``FAULTS`` names each way.

A fault gets the path of a file, the same file of another world, and a generator of random numbers. It returns False if
it does not apply, for example the exchange of a value in a file that holds no values.
"""

import io
import json
import math
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

HUGE = ("1e999", "9" * 400, str(2**70), "-" + str(2**70), "1e300", "0.5", "-1", "0")
"""Numbers that do not fit: as a float, as any number, as an int64; and some that may be out of range."""
DEPTH = 100_000
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
_MARK = "\ue000MARK\ue001"
"""Stands for text that ``json.dumps`` would not write."""

Change = Callable[[Any, random.Random], Any]
"""Returns what takes the place of a value, or ``NotImplemented`` if the value is not of the kind that it replaces."""


def _missing(path: Path, _other: Path, _rng: random.Random) -> bool:
    path.unlink()
    return True


def _folder(path: Path, _other: Path, _rng: random.Random) -> bool:
    path.unlink()
    path.mkdir()
    return True


def _unreadable(path: Path, _other: Path, _rng: random.Random) -> bool:
    path.chmod(0)
    return True


def _truncated(path: Path, _other: Path, rng: random.Random) -> bool:
    if (size := path.stat().st_size) < 2:
        return False
    os.truncate(path, rng.choice([size // 2, size - 1, size * 3 // 4]))
    return True


def _empty(path: Path, _other: Path, _rng: random.Random) -> bool:
    os.truncate(path, 0)
    return True


def _bit(path: Path, _other: Path, rng: random.Random) -> bool:
    data = bytearray(path.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    return bool(data)


def _zeroed(path: Path, _other: Path, rng: random.Random) -> bool:
    """Replace the end by zeros, as some file systems do after a power cut."""
    data = path.read_bytes()
    keep = rng.randrange(len(data)) if data else 0
    path.write_bytes(data[:keep] + bytes(len(data) - keep))
    return bool(data)


def _appended(path: Path, _other: Path, rng: random.Random) -> bool:
    path.write_bytes(path.read_bytes() + rng.choice([b"\n", b"}", b"x y\n", bytes(8), rng.randbytes(40)]))
    return True


def _twice(path: Path, _other: Path, _rng: random.Random) -> bool:
    path.write_bytes(path.read_bytes() * 2)
    return True


def _sparse(path: Path, _other: Path, _rng: random.Random) -> bool:
    """Let the file end in 2.25 GiB of zeros. They take no room on the disk."""
    os.truncate(path, 9 << 28)
    return True


def _dangling(path: Path, _other: Path, _rng: random.Random) -> bool:
    path.unlink()
    path.symlink_to(_root(path).parent / "nowhere")
    return True


def _loop(path: Path, _other: Path, _rng: random.Random) -> bool:
    path.unlink()
    path.symlink_to(path.name)
    return True


def _outside(path: Path, _other: Path, _rng: random.Random) -> bool:
    """Move the file out of its folder and leave a link to it."""
    target = _root(path).parent / f"outside-{path.name}"
    shutil.move(path, target)
    path.symlink_to(target)
    return True


def _root(path: Path) -> Path:
    """Return the folder ``cell`` that the path is in."""
    return next(folder for folder in path.parents if folder.name == "cell")


def _pipe(path: Path, _other: Path, _rng: random.Random) -> bool:
    path.unlink()
    os.mkfifo(path)
    return True


def _foreign(path: Path, other: Path, _rng: random.Random) -> bool:
    if not other.is_file() or other.read_bytes() == path.read_bytes():
        return False
    shutil.copyfile(other, path)
    return True


def _sibling(path: Path, _other: Path, rng: random.Random) -> bool:
    """Put another file of the same suffix in its place."""
    beside = [file for file in sorted(path.parent.rglob(f"*{path.suffix}")) if file.is_file() and file != path]
    beside += [file for file in sorted(path.parent.parent.glob(f"*/{path.name}")) if file.is_file() and file != path]
    beside = [file for file in beside if file.read_bytes() != path.read_bytes()]
    if beside:
        shutil.copyfile(rng.choice(beside), path)
    return bool(beside)


def _utf16(path: Path, _other: Path, _rng: random.Random) -> bool:
    text = _text(path.read_bytes())
    if not text:
        return False
    path.write_bytes(text.encode("utf-16"))
    return True


def _byte_order_mark(path: Path, _other: Path, _rng: random.Random) -> bool:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return True


OTHERS = (None, True, 7, 0.5, "word", "", [], [1], ["a", None], [[[]]], {}, {"a": 1})


def _other_type(path: Path, _other: Path, rng: random.Random) -> bool:
    def changed(value: Any, rng: random.Random) -> Any:
        return rng.choice([other for other in OTHERS if type(other) is not type(value)])

    if _change_value(path, changed, rng):
        return True
    path.write_bytes(b"hello\n" if _text(path.read_bytes()) is None else rng.randbytes(300) + b"\0\xff\xfe\n")
    return True


def _key_missing(path: Path, _other: Path, rng: random.Random) -> bool:
    def changed(value: Any, rng: random.Random) -> Any:
        if not isinstance(value, dict | list) or not value:
            return NotImplemented
        if isinstance(value, list):
            return value[:-1]
        left_out = rng.choice(sorted(value, key=str))
        return {key: entry for key, entry in value.items() if key != left_out}

    return _change_value(path, changed, rng)


STRINGS = (
    "\ud800",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "a\0b",
    "\u202eabc",
    "x\ny\rz",
    "../../etc/passwd",
    "é" * 5000,
)


def _string(path: Path, _other: Path, rng: random.Random) -> bool:
    def changed(value: Any, rng: random.Random) -> Any:
        return rng.choice(STRINGS) if isinstance(value, str) else NotImplemented

    return path.suffix != ".toml" and _change_value(path, changed, rng)


def _deep(path: Path, _other: Path, rng: random.Random) -> bool:
    num, suffix, data = DEPTH, path.suffix, path.read_bytes()
    if suffix == ".toml":
        path.write_bytes(data + b"x = " + b"[" * num + b"]" * num + b"\n")
    elif suffix == ".safetensors":
        path.write_bytes(num.to_bytes(8, "little") + b"[" * num)
    elif suffix == ".mrg":
        path.write_text(rng.choice(["(S " * num + "(X a)" + ")" * num, "(" * num, "(" * num + ")" * num]) + "\n")
    elif _values(path) is not None:
        brackets = rng.choice(["[" * num + "]" * num, "[" * num, '{"a":' * num + "1" + "}" * num])
        if rng.random() < 0.5 or not _change_value(path, lambda *_: _MARK, rng, raw=brackets):
            path.write_text(brackets)
    else:
        path.write_bytes(b"[" * num + b"\n" + (data if _text(data) is not None else b""))
    return True


def _number(path: Path, rng: random.Random, numbers: tuple[str, ...]) -> bool:
    def changed(value: Any, _rng: random.Random) -> Any:
        return _MARK if type(value) in {int, float} else NotImplemented

    number = rng.choice(numbers)
    if _change_value(path, changed, rng, raw=number):
        return True
    text = _text(path.read_bytes()) or ""
    if not (found := list(re.finditer(r"(?<![\w.])\d+(\.\d+)?(?![\w.])", text))):
        return False
    at = rng.choice(found)
    path.write_text(text[: at.start()] + number + text[at.end() :])
    return True


def _huge(path: Path, _other: Path, rng: random.Random) -> bool:
    return _number(path, rng, HUGE)


def _not_finite(path: Path, _other: Path, rng: random.Random) -> bool:
    return _number(path, rng, NOT_FINITE)


FAULTS: dict[str, Callable[[Path, Path, random.Random], bool]] = {
    "missing": _missing,
    "truncated": _truncated,
    "empty": _empty,
    "bit": _bit,
    "type": _other_type,
    "deep": _deep,
    "huge": _huge,
    "not-finite": _not_finite,
    "dangling": _dangling,
    "outside": _outside,
    "foreign": _foreign,
    "unreadable": _unreadable,
    "folder": _folder,
    "key": _key_missing,
    "string": _string,
    "sibling": _sibling,
    "zeroed": _zeroed,
    "appended": _appended,
    "twice": _twice,
    "sparse": _sparse,
    "loop": _loop,
    "pipe": _pipe,
    "utf16": _utf16,
    "bom": _byte_order_mark,
}
"""The ways to damage a file, by name."""


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _header(data: bytes) -> tuple[bytes, bytes]:
    """Return the JSON at the start of a safetensors file, and the tensors."""
    stop = 8 + int.from_bytes(data[:8], "little")
    return data[8:stop], data[stop:]


def _values(path: Path) -> tuple[str, Any] | None:
    """Return how a file stores values, and the values; None if it stores none that we can read."""
    data, suffix = path.read_bytes(), path.suffix
    if suffix == ".pt":
        return suffix, torch.load(io.BytesIO(data), weights_only=True)
    if suffix == ".safetensors":
        return suffix, json.loads(_header(data)[0])
    text = _text(data)
    if text is None or suffix in {".txt", ".mrg", ".md", ".docs"}:
        return None
    if suffix == ".toml":
        return suffix, dict(re.findall(r"^(\S+) = (.*)$", text, re.MULTILINE))
    for kind, parts in ((".json", [text]), (".jsonl", text.splitlines())):
        try:
            values = [json.loads(part) for part in parts]
        except ValueError:
            continue
        return (kind, values if kind == ".jsonl" else values[0]) if values else None
    return None


def _write_values(path: Path, kind: str, values: Any, raw: str) -> None:
    """Write changed values. ``raw`` is the text that takes the place of ``_MARK``."""

    def dumped(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, indent=indent).replace(json.dumps(_MARK), raw)

    if kind == ".pt":
        numbers = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf, "1e999": math.inf}
        whole = 2**70 if raw.lstrip("-").isdigit() else 0.5
        torch.save(_replaced(values, numbers.get(raw, whole)), path)
    elif kind == ".toml":
        path.write_text("".join(f"{name} = {raw if value == _MARK else value}\n" for name, value in values.items()))
    elif kind == ".jsonl":
        path.write_text("".join(dumped(line) + "\n" for line in values))
    elif kind == ".safetensors":
        header, tensors = dumped(values).encode(), _header(path.read_bytes())[1]
        path.write_bytes(len(header).to_bytes(8, "little") + header + tensors)
    else:
        path.write_text(dumped(values, indent=2) + "\n")


def _replaced(value: Any, number: float) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(entry, number) for key, entry in value.items()}
    if isinstance(value, list):
        return [_replaced(entry, number) for entry in value]
    return number if isinstance(value, str) and value == _MARK else value


Place = tuple[Any, ...]
"""The keys and indices that lead to a value."""


def _nodes(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    yield place, value
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value[:200]):
            yield from _nodes(entry, (*place, key))


def _put(value: Any, place: Place, new: Any) -> Any:
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = _put(copy[place[0]], place[1:], new)
    return copy


def _change_value(path: Path, change: Change, rng: random.Random, raw: str = "") -> bool:
    """Change one value of a file. ``raw`` is the text that takes the place of a value that becomes ``_MARK``."""
    if (found := _values(path)) is None:
        return False
    kind, values = found
    at_depth: dict[int, list[tuple[Place, Any]]] = {}
    for place, value in _nodes(values):
        if (place or kind not in {".jsonl", ".toml"}) and (new := change(value, rng)) is not NotImplemented:
            at_depth.setdefault(len(place), []).append((place, new))
    if not at_depth:
        return False
    # A depth first, so that the few values near the root are chosen as often as the many at the leaves.
    place, new = rng.choice(at_depth[rng.choice(sorted(at_depth))])
    if kind == ".toml" and new != _MARK:
        new = json.dumps(new).replace("null", "[]")
    _write_values(path, kind, _put(values, place, new), raw)
    return True
