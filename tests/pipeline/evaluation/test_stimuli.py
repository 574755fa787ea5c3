"""Tests of the sentences that surprisals are wanted of: tables, regions, and the text before a sentence."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.evaluation.evaluation_config import SurprisalConfig
from pipeline.evaluation.stimuli import Stimulus, check_stimuli, read_stimuli
from storage.errors import ConfigError, InputError, RnngDistillError

TOKENIZER = Tokenizer.train(["The hens peck.", "A fox waits, quietly."] * 3, 300)
BOS = TOKENIZER.bos_id


def stimuli(
    tmp_path: Path,
    content: str,
    *,
    name: str = "text.txt",
    context_positions: int = 1000,
    max_tokens: int | None = None,
    dropped: Counter[str] | None = None,
    **options: Any,
) -> list[Stimulus]:
    (tmp_path / name).write_text(content)
    return list(
        read_stimuli(
            tmp_path / name,
            TOKENIZER,
            SurprisalConfig(**options),
            max_tokens=max_tokens,
            context_positions=context_positions,
            dropped=Counter() if dropped is None else dropped,
        )
    )


def joined(*sentences: str) -> list[int]:
    """Return the tokens of sentences as a model reads them before another sentence."""
    return [i for sentence in sentences for i in (*TOKENIZER.encode(sentence), BOS)]


ROWS = [("1", "x", "The hens peck."), ("1", "y", 'A fox, "the" fox'), ("2", "x", "A fox waits.")]


def as_csv(rows: list[tuple[str, ...]], delimiter: str) -> str:
    quoted = (
        '"' + cell.replace('"', '""') + '"' if {'"', delimiter} & {*cell} else cell for row in rows for cell in row
    )
    return "".join(delimiter.join(next(quoted) for _ in row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("reading.csv", as_csv([("item", "condition", "sentence"), *ROWS], ",")),
        ("reading.csv", as_csv([("item", "condition", "sentence"), *ROWS], ";")),
        ("reading.tsv", as_csv([("item", "condition", "sentence"), *ROWS], "\t")),
        ("reading.txt", "".join("\t".join(row) + "\r\n" for row in [("item", "condition", "sentence"), *ROWS])),
        (
            "reading.jsonl",
            "".join(json.dumps({"item": int(a), "condition": b, "sentence": c}) + "\n" for a, b, c in ROWS),
        ),
    ],
)
def test_each_row_of_a_table_is_a_sentence_with_its_item(tmp_path: Path, name: str, content: str) -> None:
    found = stimuli(tmp_path, content, name=name, column="sentence", item=("item", "condition"))
    assert [(one.number, one.text, one.item) for one in found] == [
        (i, text, (item, condition)) for i, (item, condition, text) in enumerate(ROWS, 1)
    ]
    with pytest.raises(InputError, match=rf"{name}: looks like .*sentence.*expected running text; name the column"):
        stimuli(tmp_path, content, name=name)
    with pytest.raises(InputError, match=rf"{name}: no column story, .*--column NAME"):
        stimuli(tmp_path, content, name=name, column="story")
    with pytest.raises(InputError, match=rf"{name}: no column group, expected one of item, condition, sentence"):
        stimuli(tmp_path, content, name=name, column="sentence", item=("group",))
    with pytest.raises(InputError, match=rf"{name}:[23]: a second row of item 1, expected one row per sentence"):
        stimuli(tmp_path, content, name=name, column="sentence", item=("item",))


def test_a_column_of_running_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="running text, expected a table or JSON lines; leave out --column sentence"):
        stimuli(tmp_path, "The hens peck.\n", column="sentence")


def test_a_malformed_row_is_named_or_skipped_and_counted(tmp_path: Path) -> None:
    table = "item,sentence\n1,The hens peck.\n2,The fox,waits.\n3,\n4,A fox waits.\n"
    with pytest.raises(InputError, match=r"text\.csv:3: 3 cells, expected 2 .* or use --on-error skip"):
        stimuli(tmp_path, table, name="text.csv", column="sentence")
    dropped: Counter[str] = Counter()
    options: dict[str, Any] = {"name": "text.csv", "column": "sentence", "item": ("item",)}
    found = stimuli(tmp_path, table, **options, on_error="skip", dropped=dropped)
    assert [(one.number, one.line, one.item) for one in found] == [(1, 2, ("1",)), (4, 5, ("4",))]
    assert dropped == {"malformed row": 1, "empty": 1}
    lists = '{"item": 1, "sentence": "The hens peck."}\n{"item": 2, "sentence": ["A fox", "waits."]}\n'
    for more in {}, {"item": ("item",), "region": "item"}:
        with pytest.raises(InputError, match=r"text\.jsonl:2: sentence is \['A fox.*expected a string.*jq"):
            stimuli(tmp_path, lists, name="text.jsonl", column="sentence", **more)


@pytest.mark.parametrize("names", [("word", "word"), ("rt", "word", "word"), ("item", "item", "word")])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    table = as_csv([names, ("3", "fox", "7")[: len(names)], ("4", "hen", "8")[: len(names)]], "\t")
    with pytest.raises(InputError, match=r"two columns (word|item), expected one; rename one, or give the number"):
        stimuli(tmp_path, table, column="word", item=("item",) if "item" in names else ())


REGIONS = [
    ("story", "zone", "word"),
    ("a", "1", "The old  hens"),
    ("a", "2", "peck."),
    ("b", "1", "A"),
    ("b", "2", "fox"),
    ("b", "3", "waits."),
]


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_the_rows_of_an_item_are_the_regions_of_a_sentence(tmp_path: Path, delimiter: str) -> None:
    table = as_csv(REGIONS, delimiter)
    options: dict[str, Any] = {"column": "word", "item": ("story",), "region": "zone"}
    first, second = stimuli(tmp_path, table, **options)
    assert (first.text, second.text) == ("The old hens peck.", "A fox waits.")
    assert [first.text[slice(*span)] for span in first.word_spans] == ["The old hens", "peck."]
    assert [second.text[slice(*span)] for span in second.word_spans] == ["A", "fox", "waits."]
    assert (second.number, second.line, second.item, second.regions) == (2, 4, ("b",), ("1", "2", "3"))
    assert second.words.max() == 2


@pytest.mark.parametrize(
    "zones", [("1", "1.25", "1.5"), ("1.9", "1.10", "2.1"), ("2.0", "3.0", "10.0"), ("9", "1a", "1"), ("9" * 5000, "1")]
)
def test_numbers_of_regions_may_have_a_point(tmp_path: Path, zones: tuple[str, ...]) -> None:
    table = as_csv([("story", "zone", "word"), *[("a", zone, "fox") for zone in zones]], ",")
    (found,) = stimuli(tmp_path, table, name="text.csv", column="word", item=("story",), region="zone")
    assert found.regions == zones


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([("a", "3", "now")], r":7: story a comes again after other items; put its rows together, or name in --item"),
        ([("b", "2", "fox")], r":7: zone 2 of story b is there a second time, expected .* once; name in --item"),
        ([("b", "4", "")], r":4: an empty cell of column word, expected text; remove this row"),
        ([("b", "4")], r":7: 2 cells, expected 3 .*; correct this row"),
        (
            [("c", "2.0", "fox"), ("c", "10.0", "A"), ("c", "3.0", "A")],
            ":7: zone of story c is 2.0, 10.0, 3.0, expected asc",
        ),
        (
            [("c", "1", "A\nc,2,fox")],
            r":7: word is 'A\\nc,2,fox', expected a region on one line; an unclosed quotation mark",
        ),
        ([("c", "2", "fox"), ("c", "1", "A")], r":7: zone of story c is 2, 1, expected ascending .*; sort the rows"),
    ],
)
def test_regions_that_make_no_sentence_are_refused(tmp_path: Path, extra: list[tuple[str, ...]], message: str) -> None:
    table = as_csv([*REGIONS, *extra], ",")
    with pytest.raises(InputError, match=message):
        stimuli(tmp_path, table, name="text.csv", column="word", item=("story",), region="zone")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"item": ("a",)}, "--item or --region without --column"),
        ({"column": "a", "region": "b"}, "--region without --item"),
        ({"column": "a", "item": ("b",), "region": "c", "spans": Path("d")}, "--region and --spans"),
        ({"context": Path("a"), "context_sentences": 1}, "--context and --context-sentences"),
        ({"context_sentences": -1}, "context-sentences is -1, expected at least 0"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SurprisalConfig(**options)


@pytest.mark.parametrize(
    ("content", "message"), [("", "no sentence; expected"), ("\n\n", r"no sentence: \{'empty': 2\}; expected")]
)
def test_an_input_without_a_sentence_is_refused_before_a_model_is_loaded(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "text.txt").write_text(content)
    with pytest.raises(InputError, match=message):
        check_stimuli(tmp_path / "text.txt", SurprisalConfig(on_error="skip"))


def test_the_lines_before_a_sentence_are_its_context_up_to_an_empty_line(tmp_path: Path) -> None:
    a, b, c = "The hens peck.", "A fox waits.", "quietly, the fox"
    found = stimuli(tmp_path, f"{a}\n{b}\n{c}\n\n \n{a}\n{b}\n", context_sentences=2)
    assert [one.number for one in found] == [1, 2, 3, 6, 7]
    assert [one.before for one in found] == [[], joined(a), joined(a, b), [], joined(a)]
    assert not any(one.num_cut for one in found)
    with pytest.raises(ConfigError, match="a table, which does not say where documents end"):
        stimuli(tmp_path, as_csv(REGIONS, ","), name="text.csv", column="word", context_sentences=1)


def test_a_file_gives_the_text_before_each_sentence(tmp_path: Path) -> None:
    (tmp_path / "before.txt").write_text("\nThe hens  peck. A fox waits.\n\nquietly\n")
    found = stimuli(tmp_path, "A fox\nA fox\nthe hens\nthe hens\n", context=tmp_path / "before.txt")
    assert [one.before for one in found] == [[], joined("The hens peck.", "A fox waits."), [], joined("quietly")]
    table = as_csv([("item", "sentence"), ("1", "A fox"), ("2", "A fox"), ("3", "the hens"), ("4", "the hens")], ",")
    options: dict[str, Any] = {"column": "sentence", "item": ("item",), "context": tmp_path / "before.txt"}
    assert [one.before for one in stimuli(tmp_path, table, name="text.csv", **options)] == [one.before for one in found]


@pytest.mark.parametrize("num_lines", [0, 1, 3, 5])
def test_a_file_of_contexts_with_another_number_of_lines_is_refused(tmp_path: Path, num_lines: int) -> None:
    (tmp_path / "before.txt").write_text("A fox.\n" * num_lines)
    with pytest.raises(InputError, match=rf"before\.txt: {num_lines} lines, expected 2, one for each sentence of"):
        stimuli(tmp_path, "the hens\nthe hens\n", context=tmp_path / "before.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item,sentence\n1,The hens peck.\n2,A fox waits.\n", r"before\.txt: looks like a table"),
        (b"A fox\nA \xff fox\n", r"before\.txt:2: not UTF-8"),
    ],
)
def test_a_file_of_contexts_that_is_no_text_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    (tmp_path / "before.txt").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RnngDistillError, match=message):
        stimuli(tmp_path, "the hens\nthe hens\n", context=tmp_path / "before.txt")


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (0, []),
        (1, []),
        (2, [TOKENIZER.encode("A fox waits.")[-1], BOS]),
        (len(joined("A fox waits.")), joined("A fox waits.")),
        (len(joined("The hens peck.", "A fox waits.")) - 1, joined("A fox waits.")),
        (len(joined("The hens peck.", "A fox waits.")), joined("The hens peck.", "A fox waits.")),
    ],
)
def test_the_oldest_text_is_left_out_if_a_row_is_too_long(tmp_path: Path, room: int, expected: list[int]) -> None:
    positions = len(TOKENIZER.encode("quietly")) + 1 + room
    text = "The hens peck.\nA fox waits.\nquietly\n"
    found = stimuli(tmp_path, text, context_sentences=9, context_positions=positions)[-1]
    assert found.before == expected
    given = len(TOKENIZER.encode("The hens peck.")) + len(TOKENIZER.encode("A fox waits."))
    assert found.num_cut == given - sum(i != BOS for i in expected)
