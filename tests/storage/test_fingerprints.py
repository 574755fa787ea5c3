"""JSON is canonical, and fingerprints depend only on content."""

from pathlib import Path

import numpy as np
import pytest

from storage.errors import FingerprintMismatchError
from storage.fingerprints import canonical_json, check_fingerprint, sha256_arrays, sha256_bytes, sha256_file


def test_json_is_canonical() -> None:
    assert canonical_json({"b": 1, "a": ["é", 0.1]}) == '{"a":["é",0.1],"b":1}\n'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_nan_and_infinity(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": value})


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes((1 << 20) + 17)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == sha256_bytes(data)


def test_a_digest_of_arrays_depends_only_on_their_content() -> None:
    values = np.arange(12, dtype="<u2").reshape(3, 4)
    digest = sha256_arrays({"a": values, "b": values[0]})
    assert digest == sha256_arrays({"b": values[0].copy(), "a": np.asfortranarray(values)})
    assert digest == sha256_arrays({"a": values.astype(">u2"), "b": values[0]})
    others = [
        {"a": values},
        {"a": values, "c": values[0]},
        {"a": values.reshape(4, 3), "b": values[0]},
        {"a": values.astype("<i2"), "b": values[0]},
        {"a": values + np.uint16(1), "b": values[0]},
    ]
    assert digest not in {sha256_arrays(other) for other in others}


def test_a_mismatch_shows_both_fingerprints_and_the_remedy() -> None:
    check_fingerprint("dump: tokenizer", found="a" * 64, expected="a" * 64, remedy="")
    with pytest.raises(FingerprintMismatchError, match=r"tokenizer: sha256 is a{12}, expected b{12}\. Do it"):
        check_fingerprint("dump: tokenizer", found="a" * 64, expected="b" * 64, remedy="Do it")
