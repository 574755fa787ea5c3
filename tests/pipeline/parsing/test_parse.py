"""Test that parsing gives the same bytes with any processes and interruptions, and loses no sentence silently."""

import json
import random
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from spacy.tokens import Doc

from pipeline.corpus.trees.matching import match_words
from pipeline.corpus.trees.readers import Counts, read_sentences
from pipeline.corpus.trees.trees import format_tree, parse_tree
from pipeline.parsing.parse import parse_texts
from pipeline.parsing.parse_config import ParseConfig
from pipeline.parsing.parse_plan import plan_parse
from pipeline.parsing.sentence_parser import SentenceParser
from pipeline.parsing.text_shards import TextShards
from pipeline.runtime.progress import Progress
from pipeline.runtime.run_end import StoppedBySignal
from storage.errors import ConfigError, InputError, RunError, StoreBusyError, StoreError
from storage.fingerprints import sha256_file
from tests.killing import attempt

CPU = torch.device("cpu")
FLAT = ParseConfig(flat=True, max_words=40, shard_sentences=20, doc_sentences=8)
HARD = [
    'He said "(no) way \u2013 I won\'t" — ok… f(x)=2 -LRB- y.',
    "It costs $5.00/kg [sic], doesn't it?",
    "“Go!” said Zoë\u2018s 3rd-best friend\u2019s dog; :-) -- e.g. <b>{x}</b>",
    "-RRB-",
    "a" * 3_000,
    "naïve café 東京 \U0001f600",
]


@pytest.fixture(scope="module")
def texts(corpus: Path) -> list[str]:
    lines = (corpus / "dev.txt").read_text().splitlines()
    return [*lines[:70], *HARD, "long " * 50 + "end.", *lines[70:110]]


def write(folder: Path, texts: list[str], *, documents: bool = False) -> list[Path]:
    file = folder / "text.txt"
    file.write_text("".join(text + "\n" for text in texts))
    if documents:
        file.with_suffix(".docs").write_text("".join(f"d{i // 30}\n" for i in range(len(texts))))
        file.with_suffix(".speakers").write_text("".join(f"S{i % 3}\n" for i in range(len(texts))))
    return [file]


def with_model(model: Path, **changes: Any) -> ParseConfig:
    return replace(FLAT, model=str(model), flat=False, **changes)


def sentence_parser(parser_file: Path, **changes: int) -> SentenceParser:
    sizes = {"max_words": 100, "doc_sentences": 32} | changes
    return SentenceParser(ParseConfig(model=str(parser_file), **sizes), CPU)


def contents(stem: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in stem.parent.glob(stem.name + ".*")}


def test_words_of_trees_are_the_characters_of_the_text(parser_file: Path, texts: list[str]) -> None:
    for text, outcome in zip(texts, sentence_parser(parser_file).parse(texts), strict=True):
        assert outcome.reason is None
        written = parse_tree(format_tree(outcome.tree))
        assert written == outcome.tree
        spans = match_words(written, text)
        assert spans is not None
        assert "".join(text[start:stop] for start, stop in filter(None, spans)) == text.replace(" ", "")


def test_packing_changes_no_tree(parser_file: Path, texts: list[str]) -> None:
    alone, packed = (sentence_parser(parser_file, doc_sentences=size).parse(texts) for size in (1, 64))
    assert alone == packed


def test_trees_equal_the_trees_that_benepar_prints(parser_file: Path, texts: list[str]) -> None:
    parser = sentence_parser(parser_file)
    for text in [text for text in texts if not set(text) & set("()[]{}")][:40]:
        (outcome,) = parser.parse([text])
        words = parser._nlp.make_doc(text)
        doc = Doc(words.vocab, [token.text for token in words], sent_starts=[token.i == 0 for token in words])
        printed = parse_tree(next(parser._nlp(doc).sents)._.parse_string)
        phrases = [phrase for i, phrase in enumerate(printed.phrases) if i == 0 or phrase != printed.phrases[i - 1]]
        assert list(outcome.tree.phrases[1:]) == phrases
        assert outcome.tree.tags == printed.tags


def test_a_sentence_that_cannot_be_parsed_does_not_affect_other_sentences(parser_file: Path, texts: list[str]) -> None:
    """A model has 512 positions: two ends and 510 words. benepar raises an error for the whole Doc at 511 words."""
    parser = sentence_parser(parser_file, max_words=600, doc_sentences=64)
    outcomes = parser.parse([*texts[:20], "w " * 510 + "w", *texts[20:40]])
    assert outcomes[20].reason == "the parser failed: ValueError"
    assert "exceeds the maximum supported length of 510" in outcomes[20].detail
    assert outcomes[20].tree.phrases == (("TOP", 0, 511),)
    assert outcomes[:20] + outcomes[21:] == parser.parse(texts[:40])


def test_files_match_line_by_line_and_can_be_imported(parser_file: Path, texts: list[str], tmp_path: Path) -> None:
    done = parse_texts(write(tmp_path, texts, documents=True), tmp_path / "out", with_model(parser_file))
    assert done is not None
    assert (done["num_sentences"], done["num_trees"]) == (len(texts), len(texts))
    assert done["failures"] == {"more than 40 words": 1}
    read = list(read_sentences(tmp_path / "out.mrg", tmp_path / "out.txt", on_error="stop", counts=Counts()))
    assert [sentence.text for sentence in read] == texts
    assert (tmp_path / "out.docs").read_text() == (tmp_path / "text.docs").read_text()
    assert (tmp_path / "out.speakers").read_text() == (tmp_path / "text.speakers").read_text()
    assert (tmp_path / "out.documents.tsv").read_text().splitlines()[1].split("\t") == ["d0", "", ""]
    assert not (tmp_path / "out.parts").exists()
    about = json.loads((tmp_path / "out.parse.json").read_text())
    assert about["made_from"]["model"] == sha256_file(parser_file)
    assert about["made_from"]["versions"]["benepar"] == "0.2.0"


def test_the_documents_and_speakers_of_skipped_sentences_are_skipped_too(
    parser_file: Path, texts: list[str], tmp_path: Path
) -> None:
    bad = [i for i, text in enumerate(texts) if text.startswith("long ")]
    config = with_model(parser_file, on_failure="skip")
    parse_texts(write(tmp_path, texts, documents=True), tmp_path / "out", config)
    for suffix in (".txt", ".docs", ".speakers"):
        given = (tmp_path / f"text{suffix}").read_text().splitlines()
        assert (tmp_path / f"out{suffix}").read_text().splitlines() == [x for i, x in enumerate(given) if i not in bad]
    header, row = (tmp_path / "out.failures.tsv").read_text().splitlines()
    assert dict(zip(header.split("\t"), row.split("\t"), strict=True)) == {
        "sentence": str(bad[0] + 1),
        "document": "d2",
        "reason": "more than 40 words",
        "detail": "",
        "now": "left out",
        "text": texts[bad[0]],
    }


def test_stop_ends_at_the_first_failure_with_its_line_and_can_be_continued(
    parser_file: Path, texts: list[str], tmp_path: Path
) -> None:
    text = write(tmp_path, texts)
    config = with_model(parser_file, on_failure="stop")
    with pytest.raises(InputError, match=r"text\.txt:77: more than 40 words .*--on-failure flat or skip"):
        parse_texts(text, tmp_path / "out", config)
    assert TextShards(tmp_path / "out.parts").finished() == {0, 1, 2}
    with pytest.raises(RunError, match="started with another max_words; run the command that started it"):
        parse_texts(text, tmp_path / "out", with_model(parser_file, max_words=41))
    done = parse_texts(text, tmp_path / "out", with_model(parser_file))  # the remedy of the message
    assert done is not None
    assert done["failures"] == {"more than 40 words": 1}


def test_without_a_model_trees_are_flat(tmp_path: Path) -> None:
    done = parse_texts(write(tmp_path, ["Don't go (now)."]), tmp_path / "out", FLAT)
    assert done is not None
    assert done["failures"] == {}
    assert (tmp_path / "out.mrg").read_text() == (
        "(TOP (XX Do) (XX n't) (XX go) (XX -LRB-) (XX now) (XX -RRB-) (XX .))\n"
    )


@pytest.fixture
def uninterrupted(parser_file: Path, texts: list[str], tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "alone"
    folder.mkdir()
    parse_texts(write(tmp_path, texts, documents=True), folder / "out", with_model(parser_file))
    return contents(folder / "out")


def work(text: list[Path], out: Path, model: Path) -> None:
    warnings.simplefilter("error")
    parse_texts(text, out, with_model(model))


@pytest.mark.processes
@pytest.mark.faults
def test_a_killed_parse_continues_with_other_numbers_of_processes_to_the_same_bytes(
    parser_file: Path, tmp_path: Path, uninterrupted: dict[str, bytes], soak_factor: int
) -> None:
    draw = random.Random(5)
    start = time.monotonic()
    work([tmp_path / "text.txt"], tmp_path / "timed", parser_file)
    whole_s = time.monotonic() - start
    num_kills = 0
    for number in range(2 * soak_factor):
        out = tmp_path / f"again{number}" / "out"
        out.parent.mkdir()
        do: Callable[[], None] = partial(work, [tmp_path / "text.txt"], out, parser_file)
        patience = [draw.uniform(0.1, 0.8) * whole_s for _ in range(3)]
        for size, patience_s in zip((2, 1, 3, 2), (*patience, None), strict=True):
            if not attempt(do, size, log=tmp_path / "log", patience_s=patience_s):
                break
            num_kills += 1
            if out.with_suffix(".mrg").exists() and not out.with_suffix(".parts").exists():
                break  # killed after the last step
        assert contents(out) == uninterrupted
    assert num_kills


def test_a_parse_killed_before_it_tidied_up_is_finished_by_the_same_command(
    parser_file: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: TextShards) -> None:
        raise KeyboardInterrupt

    text, out = write(tmp_path, texts), tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(TextShards, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            parse_texts(text, out, with_model(parser_file))
    trees = (tmp_path / "out.mrg").read_bytes()
    parse_texts(text, out, with_model(parser_file))
    assert (tmp_path / "out.mrg").read_bytes() == trees
    assert not (tmp_path / "out.parts").exists()
    with pytest.raises(StoreError, match="already exists"):
        parse_texts(text, out, with_model(parser_file))


@pytest.mark.processes
def test_workers_write_the_same_bytes(parser_file: Path, tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    folder = tmp_path / "workers"
    folder.mkdir()
    text = [tmp_path / "text.txt"]
    parse_texts(text, folder / "out", with_model(parser_file, workers=2))
    assert contents(folder / "out") == uninterrupted


@pytest.mark.processes
def test_an_error_in_a_worker_is_reported(tmp_path: Path) -> None:
    (tmp_path / "no-model.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a benepar model that can be loaded here"):
        parse_texts(write(tmp_path, ["A b."]), tmp_path / "out", with_model(tmp_path / "no-model.pt", workers=2))


def test_the_error_for_a_missing_model_says_how_to_get_one(tmp_path: Path) -> None:
    text = write(tmp_path, ["A b."])
    with pytest.raises(InputError, match=r"benepar\.download\('benepar_en3'\).*train-parser"):
        parse_texts(text, tmp_path / "out", with_model(Path("benepar_en3")))
    with pytest.raises(InputError, match=r"nowhere/parser\.pt: no such file"):
        parse_texts(text, tmp_path / "out", with_model(Path("nowhere/parser.pt")))


def test_a_model_that_would_execute_something_is_refused(tmp_path: Path) -> None:
    torch.save({"config": partial(print, "executed")}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="not a benepar model that can be loaded here"):
        parse_texts(write(tmp_path, ["A b."]), tmp_path / "out", with_model(tmp_path / "evil.pt"))


def damaged(parser_file: Path, path: Path, value: float, name: str) -> Path:
    """Write a copy of a parser in which one tensor has another value everywhere."""
    content = torch.load(parser_file, weights_only=True)
    content["state_dict"][name].fill_(value)
    torch.save(content, path)
    return path


def a_bias(parser_file: Path) -> str:
    return next(name for name in torch.load(parser_file, weights_only=True)["state_dict"] if name.startswith("f_label"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_parser_whose_weights_are_not_finite_is_refused(parser_file: Path, tmp_path: Path, value: float) -> None:
    model = damaged(parser_file, tmp_path / "bad.pt", value, a_bias(parser_file))
    with pytest.raises(InputError, match=r"bad\.pt: some weights are NaN or infinite"):
        parse_texts(write(tmp_path, ["a dog"]), tmp_path / "out", with_model(model))
    assert not list(tmp_path.glob("out*.mrg"))


def test_scores_that_are_not_finite_are_failures_and_no_trees(parser_file: Path, tmp_path: Path) -> None:
    """Weights may be finite and still give infinite scores."""
    model = damaged(parser_file, tmp_path / "bad.pt", 3e38, a_bias(parser_file))
    for outcome in sentence_parser(model).parse(["a dog barks", "it is loud"]):
        assert outcome.reason == "the parser failed: FloatingPointError"
        assert outcome.detail == "the scores are NaN or infinite"
    with pytest.raises(InputError, match=r"no sentence has a parse: \{'the parser failed: FloatingPointError': 2}"):
        parse_texts(write(tmp_path, ["a dog barks", "it is loud"]), tmp_path / "out", with_model(model))
    assert not (tmp_path / "out.mrg").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_the_folder_of_a_model_is_never_run_and_never_asked_about(tmp_path: Path, file: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    about = {"model_type": "mine", "benepar": {}, "auto_map": {"AutoConfig": "code.Mine", "AutoModel": "code.Mine"}}
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / file).write_text(json.dumps(about))
    with pytest.raises(InputError, match=rf"{file}: the model needs Python code of its own \(auto_map\)"):
        parse_texts(write(tmp_path, ["a"]), tmp_path / "out", with_model(tmp_path / "model"))
    assert not (tmp_path / "ran").exists()


def test_no_variable_of_the_environment_lifts_the_restriction_of_the_unpickler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"config": Path("x"), "state_dict": {}}, tmp_path / "parser.pt")  # a class that is not on torch's list
    with pytest.raises(InputError, match=r"not a benepar model that can be loaded here \(UnpicklingError"):
        parse_texts(write(tmp_path, ["a"]), tmp_path / "out", with_model(tmp_path / "parser.pt"))


def test_old_trees_are_not_replaced_and_two_commands_at_once_are_refused(tmp_path: Path) -> None:
    text = write(tmp_path, ["A b."])
    with (
        TextShards(tmp_path / "out.parts").held(),
        pytest.raises(StoreBusyError, match="another process parses into it"),
    ):
        parse_texts(text, tmp_path / "out", FLAT)
    parse_texts(text, tmp_path / "out", FLAT)
    with pytest.raises(StoreError, match=r"out\.mrg: already exists"):
        parse_texts(text, tmp_path / "out", FLAT)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    text = write(tmp_path, ["A b.", "C d."] * 20)
    shards = TextShards(tmp_path / "out.parts")
    with pytest.raises(StoreError, match=r"00001\.jsonl: 1 trees, expected 20; remove it"):
        _parse_half(text, tmp_path / "out", shards)


def _parse_half(text: list[Path], out: Path, shards: TextShards) -> None:
    with shards.held():
        from pipeline.parsing.parse import _prepare

        _prepare(shards, text, FLAT, CPU)
    (shards.path / "00001.jsonl").write_text('{"tree": "(TOP (XX a))"}\n')
    parse_texts(text, out, FLAT)


def test_inputs_are_not_overwritten(tmp_path: Path) -> None:
    raw = tmp_path / "raw.txt"
    raw.write_text("One two. Three four.\n")
    with pytest.raises(ConfigError, match=r"raw\.txt is read and would be replaced"):
        parse_texts([raw], tmp_path / "raw", replace(FLAT, source="plain"))
    assert raw.read_text() == "One two. Three four.\n"
    text = write(tmp_path, ["A b."], documents=True)
    with pytest.raises(ConfigError, match=r"text\.\w+ is read and would be replaced"):
        parse_texts(text, tmp_path / "text", FLAT)


def test_files_of_an_earlier_text_are_removed(tmp_path: Path) -> None:
    parse_texts(write(tmp_path, ["A b.", "C d."], documents=True), tmp_path / "out", FLAT)
    (tmp_path / "out.mrg").unlink()
    (tmp_path / "other.txt").write_text("E f.\nG h.\n")
    parse_texts([tmp_path / "other.txt"], tmp_path / "out", FLAT)
    assert {file.suffix for file in tmp_path.glob("out.*")} == {".mrg", ".txt", ".tsv", ".json"}
    assert not (tmp_path / "out.documents.tsv").exists()


def test_a_text_that_was_not_gathered_to_its_end_is_gathered_again(tmp_path: Path) -> None:
    parts = tmp_path / "out.parts"
    parts.mkdir()
    for suffix in (".txt", ".docs", ".documents.tsv"):
        (parts / f"text{suffix}").write_text("old\n")
    parse_texts(write(tmp_path, ["A b."]), tmp_path / "out", FLAT)
    assert (tmp_path / "out.txt").read_text() == "A b.\n"
    assert not (tmp_path / "out.docs").exists()


def test_a_model_that_cannot_be_loaded_leaves_nothing_behind(tmp_path: Path) -> None:
    text = write(tmp_path, ["A b."])
    for model in ("nowhere.pt", str(tmp_path / "text.txt")):
        with pytest.raises(InputError) as found:
            parse_texts(text, tmp_path / "out", with_model(Path(model)))
        assert "weights_only" not in str(found.value)
    assert not (tmp_path / "out.parts").exists()


def test_either_all_texts_or_none_have_documents(tmp_path: Path) -> None:
    for name, documents in ("a", "x\ny\nx\n"), ("b", "x\nz\nz\n"), ("c", "u\nu\nv\n"), ("d", None):
        (tmp_path / f"{name}.txt").write_text("One.\nTwo.\nThree.\n")
        if documents is not None:
            (tmp_path / f"{name}.docs").write_text(documents)
    a, b, c, d = (tmp_path / f"{name}.txt" for name in "abcd")
    with pytest.raises(InputError, match=r"b\.docs: document 'x' is in .*a\.docs too"):
        parse_texts([a, b], tmp_path / "out", FLAT)
    with pytest.raises(InputError, match=r"d\.txt: no \.docs next to it, but other texts have one"):
        parse_texts([a, d], tmp_path / "out", FLAT)
    with pytest.raises(InputError, match=r"d\.txt: given more than once"):
        parse_texts([d, d], tmp_path / "out", FLAT)
    parse_texts([a, c], tmp_path / "out", FLAT)
    assert (tmp_path / "out.docs").read_text() == "x\ny\nx\nu\nu\nv\n"
    rows = (tmp_path / "out.documents.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == ["x", "y", "u", "v"]


def test_trees_given_as_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"text\.txt:2: looks like a tree"):
        parse_texts(write(tmp_path, ["A b.", "(S (NP (NN a)) (VP (VB b)))"]), tmp_path / "out", FLAT)


def test_raw_text_is_cleaned_first(tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("One two three. Four five six.\nSeven.\n\nEight nine.\n")
    config = replace(FLAT, source="plain", licence="CC0")
    done = parse_texts([tmp_path / "raw.txt"], tmp_path / "out", config)
    assert done is not None
    assert (tmp_path / "out.txt").read_text().splitlines() == [
        "One two three.",
        "Four five six.",
        "Seven.",
        "Eight nine.",
    ]
    assert (tmp_path / "out.documents.tsv").read_text().count("CC0") == 2
    assert (tmp_path / "out.dropped.tsv").exists()


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({".docs": "a\n"}, r"text\.docs: ends before line 2 of"),
        ({".docs": "a\n\n"}, r"text\.docs: is empty at line 2"),
        ({".docs": "a\na\na\n"}, r"text\.docs: has more than the 2 lines"),
        ({".speakers": "A\n"}, r"text\.speakers: ends before line 2"),
    ],
)
def test_files_next_to_the_text_must_have_as_many_lines(tmp_path: Path, beside: dict[str, str], message: str) -> None:
    text = write(tmp_path, ["A b.", "C d."])
    for suffix, content in beside.items():
        (tmp_path / f"text{suffix}").write_text(content)
    with pytest.raises(InputError, match=message):
        parse_texts(text, tmp_path / "out", FLAT)


def test_blank_and_undecodable_lines_are_counted(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"A b.\r\n\n \xe2\x80\x8b \nC \xff d.\nE f.\n")
    text = [tmp_path / "text.txt"]
    with pytest.raises(InputError, match=r"text\.txt:4: not UTF-8"):
        parse_texts(text, tmp_path / "out", FLAT)
    done = parse_texts(text, tmp_path / "out", replace(FLAT, on_error="skip"))
    assert done is not None
    assert done["text"] == {"num_lines": 5, "num_sentences": 2, "dropped": {"no words": 2, "not UTF-8": 1}}
    assert (tmp_path / "out.txt").read_text() == "A b.\nE f.\n"


def test_bad_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max-words is 0"):
        ParseConfig(flat=True, max_words=0)
    for model, flat in (("", False), ("parser.pt", True)):
        with pytest.raises(ConfigError, match="parse: give either --model or --flat"):
            ParseConfig(model=model, flat=flat)
    with pytest.raises(ConfigError, match="--language xx9"):
        parse_texts(write(tmp_path, ["A b."]), tmp_path / "out", replace(FLAT, language="xx9"))
    (tmp_path / "text.md").write_text("A b.")
    with pytest.raises(InputError, match="expected the name of a file"):
        parse_texts([tmp_path / "text.md"], tmp_path / "o", FLAT)


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "model"])
def test_a_plan_predicts_the_trees_and_leaves_nothing_behind(
    parser_file: Path, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch, flat: bool
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    files = write(tmp_path, texts[:60], documents=True)
    config = FLAT if flat else with_model(parser_file)
    plan = plan_parse(files, tmp_path / "out/trees", config, (1, 2, 100))
    assert not list((tmp_path / "out").iterdir())
    assert not list((tmp_path / "temporary").iterdir())
    parse_texts(files, tmp_path / "out/trees", config)
    written = sum((tmp_path / f"out/trees{suffix}").stat().st_size for suffix in (".mrg", ".txt", ".docs", ".speakers"))
    assert plan["size_bytes"] == pytest.approx(written, rel=0.15)  # a sample of 60 sentences
    assert (plan["num_sentences"], plan["num_shards"]) == (60, 3)
    hours = plan["hours_by_processes"]
    assert 0 < hours["100"] < hours["2"] < hours["1"]


def test_a_plan_that_gets_sigterm_removes_its_copy_of_the_text(
    tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(Progress, "update", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(StoppedBySignal):
        plan_parse(write(tmp_path, texts[:3]), tmp_path / "trees", FLAT, (1,))
    assert not list((tmp_path / "temporary").iterdir())
