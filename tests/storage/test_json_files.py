import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from storage.errors import InputError, RunError
from storage.json_files import (
    MAX_LINE_BYTES,
    Count,
    Number,
    convert,
    decode,
    names_code,
    read_json,
    read_json_lines,
    read_toml,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    count: Count
    mean: Number = 0.0


def decoded(text: bytes, kind: Any = object) -> Any:
    return decode(text, kind, where="FILE", remedy="write it again")


def test_numbers_keep_their_value_and_unknown_fields_are_ignored():
    assert decoded(b'{"count": 9223372036854775807, "mean": 0.1, "more": [1e3]}', Figures) == Figures(
        count=2**63 - 1, mean=0.1
    )
    found = decoded(b"[1, 1.0, 0.1, -0.0, 5e-324, 0.00012345678901234567890, 12345678901234567890e-3]")
    assert repr(found) == "[1, 1.0, 0.1, -0.0, 5e-324, 0.00012345678901234567, 1.2345678901234568e+16]"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (b"", object, "not JSON"),
        (b'{"count": 1', Figures, "not JSON"),
        (b'{"count": NaN}', Figures, "not JSON"),
        (b"[Infinity]", object, "not JSON"),
        (b'"\\ud800"', str, "not JSON"),
        (b'"\xff"', str, "not UTF-8 (byte 1), expected UTF-8: convert it"),
        ('{"count": 1}'.encode("utf-16"), Figures, "text in UTF-16 or UTF-32, expected UTF-8: convert it"),
        ('{"count": 1}'.encode("utf-16-le"), Figures, "text in UTF-16 or UTF-32"),
        (gzip.compress(b'{"count": 1}', mtime=0), Figures, "compressed by gzip, expected plain text: decompress it"),
        (b"[" * 100_000, object, "nested too deeply"),
        (b'{"count": 1, "more": ' + b"[" * 100_000, Figures, "nested too deeply"),
        (b"1e400", float, "out of range"),
        (b"1" * 400, float, "out of range"),
        (b"1" * 400, object, "an integer of 1326 bits, expected 63"),
        (b'{"a": [9223372036854775808]}', object, "an integer of 64 bits"),
        (b'{"count": 9223372036854775808}', Figures, "an integer of 64 bits"),
        (b"1" * 5000, int, "out of range"),
        (b'{"count": true}', Figures, "count: expected int, found bool"),
        (b'{"count": 1.0}', Figures, "count: expected int, found float"),
        (b'{"count": -1}', Figures, "count: expected int >= 0"),
        (b'{"count": 1, "mean": 1e300}', Figures, "mean: expected float < "),
        (b'{"mean": 1}', Figures, "object missing required field count"),
        (b"[]", Figures, "expected object, found array"),
        (b'{"a": {"count": "x"}}', dict[str, Figures], "[...].count: expected int, found str"),
    ],
)
def test_an_error_is_one_short_line(text, kind, message):
    with pytest.raises(InputError) as caught:
        decoded(text, kind)
    shown = str(caught.value)
    assert message in shown.removeprefix("FILE: ").removesuffix("; write it again")
    assert not {"\n", "`"} & {*shown}
    assert len(shown) < 260


def test_a_configuration_of_transformers_may_hold_a_long_integer(tmp_path: Path):
    file = tmp_path / "tokenizer_config.json"
    file.write_text(f'{{"model_max_length": {int(1e30)}}}')
    assert not names_code(file, remedy="fetch it again")
    file.write_text(f'{{"model_max_length": {int(1e30)}, "auto_map": {{"AutoTokenizer": "code.Mine"}}}}')
    assert names_code(file, remedy="fetch it again")
    with pytest.raises(InputError, match="an integer of 100 bits"):
        read_json(file, dict[str, Any], remedy="fetch it again")


def test_a_part_of_a_value_is_checked_too():
    assert convert({"count": 3, "mean": 2, "more": 1}, Figures, where="FILE", remedy="r") == Figures(count=3, mean=2.0)
    with pytest.raises(RunError, match="FILE: count: expected int, found str; again"):
        convert({"count": "3"}, Figures, where="FILE", remedy="again", error=RunError)


def test_a_file_of_another_size_or_none_is_refused(tmp_path: Path):
    path = tmp_path / "file.json"
    with pytest.raises(RunError, match=r"file.json: cannot be read \(No such file or directory\); again"):
        read_json(path, Figures, remedy="again", error=RunError)
    path.write_bytes(b'\xef\xbb\xbf{"count": 1}')
    assert read_json(path, Figures, remedy="again") == Figures(count=1)
    with pytest.raises(InputError, match="more than 0 MiB"):
        read_json(path, Figures, remedy="again", max_bytes=10)
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path, Figures, remedy="again")


def test_lines_are_read_one_by_one_and_named(tmp_path: Path):
    plain, packed = tmp_path / "rows.jsonl", tmp_path / "rows.jsonl.gz"
    unnamed = tmp_path / "packed.jsonl"
    text = b'\xef\xbb\xbf\r\n\xef\xbb\xbf{"count": 1}\r\n  \n{"count": 2}\n{"count": -2}\n'
    plain.write_bytes(text)
    packed.write_bytes(gzip.compress(text))
    unnamed.write_bytes(gzip.compress(text))
    for path in (plain, packed, unnamed):
        rows = read_json_lines(path, Figures, remedy="again")
        assert [next(rows), next(rows)] == [(f"{path}:2", Figures(count=1)), (f"{path}:4", Figures(count=2))]
        with pytest.raises(InputError, match=f"{path.name}:5: count: expected int >= 0; again"):
            next(rows)


def test_a_line_has_at_most_16_mib_also_in_a_small_gzip_file(tmp_path: Path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"1\n" + b" " * (MAX_LINE_BYTES + 5), compresslevel=1))
    with pytest.raises(InputError, match=r":2: the line is too long, expected lines of 16 MiB at most; again"):
        list(read_json_lines(path, int, remedy="again"))


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"1\n2\n")[:-9], gzip.compress(b"1\n" * 99)[:15]],
    ids=["no gzip", "short end", "short data"],  # gzip writes the time, and all workers need the same names
)
def test_a_damaged_gzip_file_is_one_line(tmp_path: Path, content):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"rows.jsonl.gz: cannot be read \(damaged gzip file: .*\); again"):
        list(read_json_lines(path, int, remedy="again"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a = ", "not valid TOML"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"a = " + b"1" * 400, "an integer of 1326 bits"),
        (b"a = " + b"1" * 5000, "not valid TOML"),
        (b'a = "\xff"', r"not valid TOML \(not UTF-8 \(byte 5\), expected UTF-8: convert it"),
        ("a = 1".encode("utf-16"), r"not valid TOML \(text in UTF-16"),
        (b"#" * (1 << 20) + b"\n", "more than 1 MiB"),
    ],
)
def test_toml_is_checked_too(tmp_path: Path, text, message):
    path = tmp_path / "options.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 1\n")
    assert read_toml(path, remedy="correct it") == {"seed": 1}
    path.write_bytes(text)
    with pytest.raises(InputError, match=f"options.toml: .*{message}.*; correct it"):
        read_toml(path, remedy="correct it")
