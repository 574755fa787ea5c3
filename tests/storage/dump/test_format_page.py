"""docs/format.md is enough to read a dump: its code, with zarr and numpy alone, gives the dumped distributions."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.corpus.dataset.tokenizer import special_template
from storage.dump.compact import encode_rows
from tests.storage.dump.compact_dumps import write_with_zarr_metadata
from tests.storage.dumps import LENGTHS, full_distributions, make_positions, make_schema, write_dump

PAGE = Path(__file__).resolve().parents[3] / "docs" / "format.md"


@pytest.fixture(scope="module")
def page() -> Any:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(block, namespace)  # noqa: S102  our own page
    return SimpleNamespace(**namespace)


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("format") / "dump"
    write_dump(path, make_schema(LENGTHS), LENGTHS)
    return path


@pytest.fixture(scope="module")
def drawn_dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("format") / "dump"
    write_dump(path, make_schema(LENGTHS, selection="stratified", num_top=2), LENGTHS)
    return path


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("position", [0, 31, 32, 93])
def test_the_page_gives_the_distribution_of_a_position(
    page: Any, dump: Path, position: int, temperature: float
) -> None:
    ids, probabilities, tail = page.distribution(dump, position, temperature)
    log_probs = full_distributions(make_schema(LENGTHS))[position]
    tempered = np.exp(log_probs / temperature) / np.exp(log_probs / temperature).sum()
    best = np.argsort(-log_probs, kind="stable")[:6]
    assert ids.tolist() == best.tolist()
    # float16 rounds |logp| < 8 by at most 2⁻⁹, half a unit in its last place.
    assert probabilities == pytest.approx(tempered[best], rel=2**-8)
    assert tail == pytest.approx(1 - tempered[best].sum(), rel=1e-6)
    assert probabilities.sum() + tail == pytest.approx(1, abs=2**-8)


def test_the_page_gives_the_sentences_of_a_training_loop(page: Any, tmp_path: Path) -> None:
    write_dump(tmp_path / "dump", make_schema(LENGTHS), LENGTHS)
    (tmp_path / "dump/tokenizer.json").write_text(json.dumps({"post_processor": None}))
    sentences = page.Sentences(tmp_path / "dump", 2.0)
    assert len(sentences) == len(LENGTHS)
    sentence, first = sentences[1], int(sentences.offsets[1])
    assert sentence["input_ids"].tolist() == [0, *sentence["gold"][:-1]]
    for i in range(len(sentence["gold"])):
        ids, probabilities, tail = page.distribution(tmp_path / "dump", first + i, 2.0)
        assert sentence["ids"][i].tolist() == ids.tolist()
        assert np.exp(sentence["log_probs"][i]) == pytest.approx(probabilities, rel=1e-5)
        assert np.exp(sentence["log_tail"][i]) == pytest.approx(tail, rel=1e-5)
    adopted = special_template({"<s>": 7, "</s>": 2}, bos="<s>", eos="</s>")
    (tmp_path / "dump/tokenizer.json").write_text(json.dumps({"post_processor": adopted}))
    assert page.bos_id(tmp_path / "dump") == 7


@pytest.mark.parametrize("changes", [{"selection": "sampled"}, {"selection": "stratified", "num_top": 2}])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_page_estimates_a_distribution_from_draws(
    page: Any, tmp_path: Path, changes: dict[str, Any], temperature: float
) -> None:
    schema = make_schema(LENGTHS, **changes)
    rows = write_dump(tmp_path / "dump", schema, LENGTHS)
    assert rows.counts is not None
    for position in (0, 31, 32, 93):
        log_probs, counts = full_distributions(schema)[position], rows.counts[position]
        p, tempered = np.exp(log_probs), np.exp(log_probs / temperature) / np.exp(log_probs / temperature).sum()
        best = np.argsort(-log_probs, kind="stable")
        expected = {int(token): tempered[token] for token in best[: schema.num_top]}
        rest = p[best[schema.num_top :]].sum()
        for token, count in zip(rows.ids[position], counts, strict=True):
            if count:
                expected[int(token)] = count / schema.num_draws * rest / p[token] * tempered[token]
        ids, weights = page.estimate(tmp_path / "dump", position, temperature)
        assert ids.tolist() == list(expected)
        assert weights == pytest.approx(list(expected.values()), rel=2**-8)


@pytest.mark.parametrize("array", ["tokens", "ids", "logp", "gold_logp", "tail", "logz", "counts"])
@pytest.mark.parametrize("position", [0, 7, 8, 31, 32, 93])
def test_the_page_locates_a_row_by_numpy_alone(
    page: Any, dump: Path, drawn_dump: Path, array: str, position: int
) -> None:
    for path in (drawn_dump,) if array == "counts" else (dump, drawn_dump):
        expected = page.zarr.open_group(path, mode="r")[array][position]
        found = page.row(path, array, position)
        assert np.array_equal(found, np.atleast_1d(expected), equal_nan=found.dtype.kind == "f")


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("position", [0, 31, 32, 93])
def test_the_page_gives_the_distribution_of_a_position_of_a_compact_dump(
    page: Any, tmp_path: Path, position: int, temperature: float
) -> None:
    schema = make_schema(LENGTHS)
    arrays = encode_rows(make_positions(schema), schema.temperatures, where="rows")
    write_with_zarr_metadata(tmp_path, schema, arrays)
    ids, probabilities, tail = page.compact_distribution(tmp_path, position, temperature)
    log_probs = full_distributions(schema)[position]
    tempered = np.exp(log_probs / temperature) / np.exp(log_probs / temperature).sum()
    best = np.argsort(-log_probs, kind="stable")[:6]
    assert ids.tolist() == best.tolist()
    # Falls are off by 1/32 of a nat, and a little more after wide gaps. So is the sum that normalises them.
    assert probabilities == pytest.approx(tempered[best], rel=2**-3)
    assert tail == pytest.approx(1 - tempered[best].sum(), rel=1e-6)
    assert probabilities.sum() + tail == pytest.approx(1, abs=1e-12)
