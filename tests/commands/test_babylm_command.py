"""Test that BabyLM's tasks get the figures of BabyLM's pipeline, here written again, slowly, on transformers."""

import csv
import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.evaluation.babylm_scores import check_replaced, evaluate_babylm, read_data
from pipeline.evaluation.babylm_tasks import read_choices
from pipeline.evaluation.intervals_and_p_values import spearman
from pipeline.evaluation.minimal_pairs import read_minimal_pairs
from pipeline.evaluation.reading_times import (
    CONTROLS,
    EYE_TRACKING,
    SELF_PACED,
    read_reading_data,
    reading_scores,
    word_surprisals,
)
from pipeline.evaluation.results import load_results, read_results
from pipeline.evaluation.sentence_models import evaluate_minimal_pairs
from storage.errors import InputError, StoreError
from student.export import export
from student.student_commands import open_scorer
from student.student_config import StudentTrainConfig
from student.train_student import train_student
from tests.processes import run_cli

Line = dict[str, Any]
Score = Callable[[str, int], float]

BLIMP = [
    {"sentence_good": "The dog sleeps.", "sentence_bad": "The dog sleep.", "UID": "agree", "field": "morphology",
     "linguistics_term": "agreement"},
    {"sentence_good": "The dogs sleep.", "sentence_bad": "The dogs sleeps.", "UID": "agree", "field": "morphology",
     "linguistics_term": "agreement"},
    {"sentence_good": "A cat sees a dog.", "sentence_bad": "Cat a sees dog a.", "UID": "order", "field": "syntax",
     "linguistics_term": "order"},
]  # fmt: skip
HYPERNYM = [
    {"sentence_good": "If it is a dog\nit is an animal.", "sentence_bad": "If it is an animal\nit is a dog."},
    {"sentence_good": "The same.", "sentence_bad": "The same."},
]
EWOK = [
    {"Domain": domain, "Context1": f"The {one} is big.", "Context2": f"The {one} is small.", "Target1": "It is heavy.",
     "Target2": "It is a light little thing.", "ContextType": "direct", "ContextDiff": "antonym", "TargetDiff": "x"}
    for domain, one in (("material", "dog"), ("material", "cat"), ("social", "child"))
]  # fmt: skip
ENTITIES = [
    {"input_prefix": f"Box {n} has a dog. Box {n}", "options": [" has a dog.", " has a cat.", last], "numops": n % 2}
    for n, last in ((1, " is small."), (2, " has nothing."), (3, " has the child."), (4, " has children."))
]
COMPS = [
    {"prefix_acceptable": f"A {good}", "prefix_unacceptable": f"A {bad}", "property_phrase": "sleeps in the house."}
    for good, bad in (("dog", "rock"), ("cat", "tree"), ("child", "door"))
]
WUGS = [
    {"sentences": f"The dog {stem}ed.\tThe dog {stem[:-1]}ung.", "ratio": str(ratio)}
    for stem, ratio in (("wug", 0.7), ("splin", 0.2), ("grim", 0.5), ("nold", 0.9))
]
FILES: dict[str, Sequence[Line]] = {
    "blimp_filtered/agree": BLIMP[:2],
    "blimp_filtered/order": BLIMP[2:],
    "supplement_filtered/hypernym": HYPERNYM,
    "ewok_filtered/material": EWOK[:2],
    "ewok_filtered/social": EWOK[2:],
    "entity_tracking/regular": ENTITIES,
    "entity_tracking/ambiref": ENTITIES[2:],
    "comps/comps_base": COMPS,
    "comps/comps_wugs_dist-before": COMPS[:1],
    "wug_adj_nominalization/wug_adj_nominalization": WUGS,
    "glue_filtered/boolq.valid": [{}],
}
SENTENCE = "The dog sees the cat near the old house and the children laugh about unwuggability today"
WORDS = SENTENCE.split()


@pytest.fixture(scope="module")
def model(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a student and export it."""
    folder = tmp_path_factory.mktemp("student")
    training = StudentTrainConfig(max_steps=8, batch_tokens=500, threads=1, device="cpu", lr=0.02, warmup_steps=0)
    sizes = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2}
    train_student(small_world / "dataset", None, folder / "run", sizes, training)
    export(folder / "run", folder / "exported")
    return folder / "exported"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write made-up data with the folders and fields of BabyLM's full_eval."""
    folder = tmp_path_factory.mktemp("evaluation_data") / "full_eval"
    for name, lines in FILES.items():
        file = folder / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    generator = np.random.default_rng(1)
    names = ["item", "word", "prev_item", "prev_word", *EYE_TRACKING, SELF_PACED, *CONTROLS, "prev_length"]
    (folder / "reading").mkdir()
    with (folder / "reading/reading_data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for n in range(1, len(WORDS)):
            numbers = {name: f"{generator.normal():.3f}" for name in names[4:]}
            numbers["RTgopast"] = "" if n == 3 else numbers["RTgopast"]
            before = {} if n == 1 else {"prev_item": " ".join(WORDS[: n - 1]), "prev_word": WORDS[n - 1]}
            # A sentence may begin with the word None, which a reader of tables takes for a missing value.
            item = "None" if n == 5 else " ".join(WORDS[:n])
            writer.writerow(numbers | before | {"item": item, "word": WORDS[n]})
    return folder


@pytest.fixture(scope="module")
def score(model: Path) -> Score:
    """Return the log-probability of the tokens that overlap with the end of a text, as the pipeline computes it."""
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)

    def of(text: str, start: int) -> float:
        encoded = tokenizer(text, return_offsets_mapping=True)
        ids = torch.tensor(encoded["input_ids"])
        with torch.no_grad():
            log_probs = theirs(ids[None]).logits[0].log_softmax(-1).double()
        scored = [i for i, (_, stop) in enumerate(encoded["offset_mapping"]) if stop > start]
        return sum(float(log_probs[i - 1, ids[i]]) for i in scored)

    return of


@pytest.fixture(scope="module")
def found(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("results")
    done = run_cli("evaluate", "babylm", model, data, "--out", out, "--device", "cpu", "--json")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary, out / "exported/main/zero_shot/causal"


def accuracy(items: Sequence[Sequence[float]]) -> float:
    return sum(values[0] > max(values[1:]) for values in items) / len(items)


def test_every_task_has_the_figure_of_the_pipeline(found: tuple[dict[str, Any], Path], score: Score) -> None:
    tasks = found[0]["tasks"]
    blimp = [[score(line[name], 0) for name in ("sentence_good", "sentence_bad")] for line in BLIMP]
    assert tasks["blimp_filtered"]["score"] == (accuracy(blimp[:2]) + accuracy(blimp[2:])) / 2
    supplement = [[score(line[name], 0) for name in ("sentence_good", "sentence_bad")] for line in HYPERNYM]
    assert tasks["supplement_filtered"]["score"] == accuracy(supplement)
    assert tasks["supplement_filtered"]["score_ties_right"] == accuracy(supplement) + 0.5
    assert tasks["supplement_filtered"]["num_ties"] == 1
    of_2026 = [[score(f"{line[c]} {line['Target1']}", len(line[c])) for c in ("Context1", "Context2")] for line in EWOK]
    of_2025 = [
        [score(f"{line['Context1']} {line[t]}", len(line["Context1"])) for t in ("Target1", "Target2")] for line in EWOK
    ]
    means = [(accuracy(items[:2]) + accuracy(items[2:])) / 2 for items in (of_2026, of_2025)]
    assert [tasks["ewok_filtered"][name] for name in ("score", "score_by_the_rules_of_2025")] == means
    comps = [
        [
            score(f"{line[p]} {line['property_phrase']}", len(line[p]) + 1)
            for p in ("prefix_acceptable", "prefix_unacceptable")
        ]
        for line in COMPS
    ]
    assert tasks["comps"]["score"] == (accuracy(comps) + accuracy(comps[:1])) / 2
    entities = [
        [score(line["input_prefix"] + end, len(line["input_prefix"])) for end in line["options"]] for line in ENTITIES
    ]
    # By the rules of 2026, the item with the word "nothing" is left out: regular has no item of 0 operations but one.
    regular = (accuracy([entities[3]]) + accuracy([entities[0], entities[2]])) / 2
    ambiref = (accuracy([entities[3]]) + accuracy([entities[2]])) / 2
    assert tasks["entity_tracking"]["score"] == (regular + ambiref) / 2
    assert tasks["entity_tracking"]["num_items"] == 5
    wugs = [[score(text, 0) for text in line["sentences"].split("\t")] for line in WUGS]
    shares = np.array([1 / (1 + math.exp(b - a)) for a, b in wugs])
    humans = np.array([float(line["ratio"]) for line in WUGS])
    assert tasks["wug_adj_nominalization"]["score"] == pytest.approx(spearman(shares, humans))
    assert found[0]["left_out"].keys() == {"glue_filtered"}
    # Accuracies of few items can agree by chance, so compare the log-probabilities too.
    rows: dict[str, list[list[float]]] = {}
    for row in map(json.loads, Path(found[0]["written"]).with_suffix(".jsonl").read_text().splitlines()):
        rows.setdefault(row["task"], []).append(row.get("log_probs", []))
    expected = {
        "blimp_filtered": blimp, "supplement_filtered": supplement, "ewok_filtered": of_2026,
        "comps": [*comps, comps[0]], "wug_adj_nominalization": wugs,
        "entity_tracking": [*entities[2:], entities[0], *entities[2:]],
    }  # fmt: skip
    for task, items in expected.items():
        np.testing.assert_allclose(rows[task], items, atol=1e-4, err_msg=task)


def test_the_files_of_predictions_have_the_pipelines_form(found: tuple[dict[str, Any], Path], score: Score) -> None:
    folder = found[1]

    def of(path: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((folder / path / "predictions.json").read_bytes())
        return content

    good, bad = (BLIMP[2][name] for name in ("sentence_good", "sentence_bad"))
    expected = good if score(good, 0) > score(bad, 0) else bad
    blimp = of("blimp/blimp_filtered")
    assert blimp["order"] == {"predictions": [{"id": "order_0", "pred": expected}]}
    assert [row["id"] for row in blimp["agree"]["predictions"]] == ["agree_0", "agree_1"]
    texts = [f"{EWOK[2][context]} It is heavy." for context in ("Context1", "Context2")]
    assert of("ewok/ewok_filtered")["social"]["predictions"][0]["pred"] in texts
    assert of("entity_tracking/entity_tracking").keys() == {
        "regular_0_ops", "regular_1_ops", "ambiref_0_ops", "ambiref_1_ops",
    }  # fmt: skip
    assert of("comps/comps").keys() == {"base", "wugs_dist_before"}
    wugs = of("wug_adj/wug_adj_nominalization")["wug_adj"]["predictions"]
    assert [set(row) for row in wugs] == [{"id", "pred", "prob"}] * 4
    reading = of("reading")["reading"]["predictions"]
    assert [row["id"] for row in reading] == list(range(len(WORDS) - 1))
    assert math.isnan(reading[0]["prev_pred"])
    assert reading[1]["prev_pred"] == reading[0]["pred"]


@pytest.mark.parametrize("name", ["blimp/predictions.json", "AoA_word/surprisal.json", "AoA_word/aoa_score.json"])
def test_only_files_of_predictions_are_replaced(found: tuple[dict[str, Any], Path], tmp_path: Path, name: str) -> None:
    check_replaced(found[1].parents[1])
    target = tmp_path / "zero_shot/causal" / name
    target.parent.mkdir(parents=True)
    target.write_text('{"mine": 1}')
    with pytest.raises(StoreError, match=rf"{name}: already exists and does not hold predictions"):
        check_replaced(tmp_path)


def test_words_have_the_surprisal_of_their_tokens_in_the_text(
    found: tuple[dict[str, Any], Path], model: Path, data: Path, score: Score
) -> None:
    written = json.loads((found[1] / "reading/predictions.json").read_bytes())["reading"]["predictions"]
    table = read_reading_data(data / "reading/reading_data.csv")
    expected = [-score(f"{c} {w}", len(c)) for c, w in zip(table.contexts, table.words, strict=True)]
    assert [row["pred"] for row in written] == pytest.approx(expected, abs=1e-4)
    assert table.contexts[4] == "None"
    # The pipeline's own figure, with transformers: the last word but one has many pieces.
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)

    def next_probability(text: str, target: int) -> float:
        with torch.no_grad():
            logits = theirs(**tokenizer(text, return_tensors="pt")).logits[0, -1]
        return float(logits.softmax(-1)[target])

    sums = []
    for context, word in zip(table.contexts, table.words, strict=True):
        first, *more = tokenizer(word, add_special_tokens=False)["input_ids"]
        logs, text = [math.log(next_probability(context, first))], context + tokenizer.decode(first)
        for piece in more:
            decoded = tokenizer.decode(piece)
            target = tokenizer(decoded, add_special_tokens=False)["input_ids"][0]
            logs.append(math.log(next_probability(text, target)))
            text += decoded
        sums.append(-sum(logs))
    with open_scorer(model, device="cpu", checkpoint="best", beam={}) as opened:
        _, pipelines = word_surprisals(opened.scorer, opened.tokenizer, table, max_tokens=opened.max_tokens)
    np.testing.assert_allclose(pipelines.words, sums, atol=1e-4)
    figures = found[0]["tasks"]["reading"]
    assert figures["num_words_where_the_pipeline_differs"] == int((~np.isclose(expected, sums, atol=1e-3)).sum())
    assert figures["with_the_pipelines_surprisals"] == pytest.approx(reading_scores(table, pipelines))


def test_results_lie_next_to_an_exported_folder_and_name_the_rules(
    found: tuple[dict[str, Any], Path], model: Path
) -> None:
    assert not (model / "results").exists()
    assert Path(found[0]["written"]).parent == model.with_name("exported-results")
    (result,) = read_results(model).values()
    assert result.kind == "babylm"
    assert result.settings["rules"] == "2026"
    (loaded,) = load_results(model, weights_sha256=result.fingerprints["weights"]).babylm
    assert loaded.convention == "by the rules of 2026; unconditional"


def test_minimal_pairs_and_babylm_agree(found: tuple[dict[str, Any], Path], model: Path, data: Path) -> None:
    with open_scorer(model, device="cpu", checkpoint="best", beam={}) as opened:
        read = read_minimal_pairs(data / "blimp_filtered")
        pairs = evaluate_minimal_pairs(opened, read, "blimp_filtered", prefix="none", eos=False)
    Path(pairs["written"]).unlink()
    assert found[0]["tasks"]["blimp_filtered"]["score"] == pairs["accuracy_macro"]


@pytest.mark.parametrize(
    ("folder", "line", "message"),
    [
        ("blimp_filtered", {"sentence_good": "A."}, "KeyError: 'sentence_bad'"),
        ("ewok_filtered", [], "expected object, found array"),
        ("entity_tracking", ENTITIES[0] | {"options": [" one"]}, "expected at least two"),
        ("entity_tracking", ENTITIES[0] | {"numops": "many"}, "ValueError"),
        ("wug_past_tense", {"sentences": "a\tb", "ratio": "half"}, "ValueError"),
        ("comps", COMPS[0], "KeyError: 'comps_other'"),
        ("comps", COMPS[0] | {"prefix_acceptable": None}, "prefix_acceptable is None, expected text"),
        (
            "ewok_fast",
            dict.fromkeys(("Context1", "Context2", "Domain", "Target2"), "a") | {"Target1": 3},
            "Target1 is 3",
        ),
        ("entity_tracking", ENTITIES[0] | {"options": " one"}, "options is ' one', expected text"),
        ("entity_tracking", ENTITIES[0] | {"options": [" one", ""]}, "options is [' one', ''], expected text"),
        ("blimp_fast", {"sentence_good": "a", "sentence_bad": "b", "field": "c", "UID": 7}, "its subset is 7"),
        ("wug_past_tense", {"sentences": "a\tb\tc", "ratio": 0.5}, "sentences has 3 forms, expected two"),
        ("wug_past_tense", {"sentences": "a\tb", "ratio": "nan"}, "ratio is nan, expected a share from 0 to 1"),
    ],
)
def test_a_malformed_item_is_named(tmp_path: Path, folder: str, line: object, message: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "._a.jsonl").write_bytes(b"\0hidden, and not read")
    (tmp_path / folder / "comps_other.jsonl").write_text(f"\n{json.dumps(line)}\n")
    with pytest.raises(InputError, match=r"comps_other\.jsonl:2: ") as error:
        read_choices(tmp_path / folder, "2026")
    assert message in str(error.value)


def test_a_text_that_is_too_long_is_named_before_anything_is_scored(model: Path, tmp_path: Path) -> None:
    (tmp_path / "entity_tracking").mkdir()
    (tmp_path / "blimp_fast").mkdir()
    (tmp_path / "blimp_fast/agree.jsonl").write_text(json.dumps(BLIMP[0]) + "\n")
    long = ENTITIES[0] | {"input_prefix": "Box one has a dog. " * 200}
    (tmp_path / "entity_tracking/regular.jsonl").write_text(f"{json.dumps(ENTITIES[0])}\n{json.dumps(long)}\n")
    with open_scorer(model, device="cpu", checkpoint="best", beam={}) as opened:
        blind = dataclasses.replace(opened, scorer=object())
        with pytest.raises(InputError, match=r"regular\.jsonl:2: a text of \d+ tokens, expected at most"):
            evaluate_babylm(blind, read_data(tmp_path, "2026"), out=None, name="", revision="")


def test_a_folder_without_tasks_is_refused_before_the_model_scores(model: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with (
        open_scorer(model, device="cpu", checkpoint="best", beam={}) as opened,
        pytest.raises(InputError, match=r"no task in it, found pictures, expected some of the folders blimp_filtered"),
    ):
        evaluate_babylm(opened, read_data(tmp_path, "2026"), out=None, name="", revision="")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + "a,b\n", "has more or fewer cells than the"),
        (lambda text: text.replace("\n", ",9\n").replace(",9\n", "\n", 1), "row 1 has more or fewer cells"),
        (lambda text: text.replace("\n", ",word\n", 1), "two columns word, expected one"),
        (lambda text: text + '"', r"cannot be read \(unexpected end of data\)"),
    ],
)
def test_a_malformed_table_of_reading_times_is_named(
    data: Path, tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    (tmp_path / "reading_data.csv").write_text(change((data / "reading/reading_data.csv").read_text()))
    with pytest.raises(InputError, match=rf"reading_data\.csv.*{message}.*; fetch"):
        read_reading_data(tmp_path / "reading_data.csv")


def test_the_gain_of_reading_times_is_that_of_ordinary_least_squares(data: Path) -> None:
    table = read_reading_data(data / "reading/reading_data.csv")
    generator = np.random.default_rng(2)
    num_rows = 60
    columns = {name: generator.normal(50, 10, num_rows) for name in table.columns}
    words, previous = generator.normal(5, 2, (2, num_rows))
    columns["RTgopast"][4] = np.nan
    previous[:2] = np.nan
    made = type(table)(contexts=(), words=(), previous=(), columns=columns)
    surprisals = type("Made", (), {"words": words, "previous": previous})()

    def r_squared(y: np.ndarray, terms: Sequence[np.ndarray]) -> float:
        x = np.stack([np.ones_like(y), *terms], axis=1)
        residual = y - x @ (np.linalg.pinv(x) @ y)
        return 1 - float(residual @ residual) / float(((y - y.mean()) ** 2).sum())

    def gain(measure: str, controls: Sequence[np.ndarray]) -> float:
        whole = np.isfinite(np.stack([columns[measure], words, *controls])).all(axis=0)
        kept = [control[whole] for control in controls]
        products = [kept[i] * kept[j] for i in range(len(kept)) for j in range(i + 1, len(kept))]
        y = columns[measure][whole]
        without, with_it = r_squared(y, [*kept, *products]), r_squared(y, [*kept, *products, words[whole]])
        return (with_it - without) / (1 - without)

    controls = [columns[name] for name in CONTROLS]
    scores = reading_scores(made, surprisals)
    assert scores["eye_tracking"] == pytest.approx(np.mean([gain(name, controls) for name in EYE_TRACKING]), rel=1e-6)
    expected = gain(SELF_PACED, [*controls, columns["prev_length"], previous])
    assert scores["self_paced_reading"] == pytest.approx(expected, rel=1e-6)


def test_a_rank_correlation_by_hand() -> None:
    assert spearman(np.array([1.0, 2, 3]), np.array([10.0, 20, 15])) == pytest.approx(0.5)
    # Ranks 1.5, 1.5, 3 and 1, 2, 3.
    assert spearman(np.array([1.0, 1, 2]), np.array([1.0, 2, 3])) == pytest.approx(math.sqrt(3) / 2)
    assert spearman(np.array([1.0, 1]), np.array([1.0, 2])) is None
