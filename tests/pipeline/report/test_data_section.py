"""The section on data describes each dataset and names the runs that read it."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus.dataset.build import build_dataset
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.documents import Document, write_document_table
from pipeline.report.data_section import dataset_blocks, read_datasets
from pipeline.report.inspection import for_people, inspect_path
from pipeline.report.page import write_report
from pipeline.report.page_blocks import Paragraph, Plot, tables_in
from pipeline.report.reported_runs import ReportedRuns
from storage.errors import StoreError
from tests.pipeline.report.html_page import Page, texts

NUM_SENTENCES = 4
TREE = "(TOP (S (NP (X the) (X dog)) (VP (X barks))))"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for name, number in (("train", NUM_SENTENCES), ("dev", 1)):
        (tmp_path / f"{name}.mrg").write_text((TREE + "\n") * number)
        (tmp_path / f"{name}.txt").write_text("the dog barks\n" * number)
        (tmp_path / f"{name}.docs").write_text("a\n" * number)
        with (tmp_path / f"{name}.documents.tsv").open("w") as file:
            write_document_table(file, [Document("a", f"<b>{name}", "CC BY")])
    Tokenizer.train(["the dog barks"] * 3, 275).save(tmp_path / "tokenizer.json")
    stems = {"train": (tmp_path / "train",), "dev": (tmp_path / "dev",)}
    build_dataset(BuildConfig(**stems, tokenizer=tmp_path / "tokenizer.json", out=tmp_path / "data"))
    return tmp_path / "data"


def test_the_page_describes_each_given_dataset(made_up_runs: Any, dataset: Path, tmp_path: Path) -> None:
    write_report(made_up_runs.all, tmp_path / "without.html")
    assert 'id="data"' not in (tmp_path / "without.html").read_text()
    run = json.loads((made_up_runs.all[0] / "run.json").read_text())
    run["fingerprints"]["dataset"] = described(dataset)["sha256"]
    (made_up_runs.all[0] / "run.json").write_text(json.dumps(run))
    write_report(made_up_runs.all, tmp_path / "report.html", datasets=[dataset])
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.references <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert f"Read by {made_up_runs.all[0].name}. Trees: given" in page.text
    assert "b" not in page.tags
    sources = next(table for table in page.tables if table[1][:1] == ["source"])
    assert [row[0] for row in sources[2:]] == ["<b>train", "<b>dev"]
    assert sources[2][1:3] == ["CC BY", str(NUM_SENTENCES)]
    sizes = {row[0]: row[1:] for table in page.tables for row in table if row[0] == "sentences that are also in train"}
    assert sizes == {"sentences that are also in train": ["\u2013", "1"]}


def described(dataset: Path) -> Any:
    (about,) = read_datasets([dataset]).values()
    return about


def test_the_section_shows_the_figures_of_the_dataset(dataset: Path) -> None:
    blocks = dataset_blocks(0, "data", described(dataset), ReportedRuns([]))
    (note,) = (block.text for block in blocks if isinstance(block, Paragraph))
    assert note.startswith("No run on this page was trained on it.")
    plots = {block.title: texts(block.data.rows) for block in blocks if isinstance(block, Plot)}
    assert plots["Height of trees"] == [["train", "3", "4"], ["dev", "3", "1"]]
    assert plots["Branching"][0][:2] == ["train", "1"]
    *_, labels = (table for table in tables_in(blocks) if table.title.endswith("labels"))
    assert texts(labels.table.rows)[0] == ["NP", "4", "33.3", "1", "33.3"]


def test_a_dataset_without_statistics_shows_its_sizes_only(dataset: Path) -> None:
    about = described(dataset)
    for split in about["splits"].values():
        split["statistics"] = {}
    (sizes,) = tables_in(dataset_blocks(0, "data", about, ReportedRuns([])))
    assert texts(sizes.table.rows)[0] == ["sentences", "4", "1"]


def test_many_lengths_are_put_into_bins(dataset: Path) -> None:
    about = described(dataset)
    about["splits"]["train"]["statistics"]["tokens"] = [0] * 7 + [1] * 120
    plot = next(block for block in dataset_blocks(0, "data", about, ReportedRuns([])) if isinstance(block, Plot))
    rows = texts(plot.data.rows)
    assert rows[0] == ["train", "6\u20138", "2"]
    assert sum(int(row[2]) for row in rows if row[0] == "train") == 120


def test_the_error_names_a_missing_dataset(made_up_runs: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        write_report(made_up_runs.all, tmp_path / "report.html", datasets=[tmp_path / "nowhere"])


def test_inspect_shows_histograms_in_json_only(dataset: Path) -> None:
    about = inspect_path(dataset)
    train = about["splits"]["train"]
    assert train["statistics"]["heights"] == [0, 0, 0, NUM_SENTENCES]
    assert train["tokens_per_word"] == train["num_tokens"] / (3 * NUM_SENTENCES)
    assert train["bytes_per_token"] == 13 * NUM_SENTENCES / train["num_tokens"]
    assert about["num_entries_not_used"] == about["vocab_size"] - train["num_tokens"] // NUM_SENTENCES
    shown = for_people(about)["splits"]["train"]
    assert shown["statistics"] == {"mean_height": 3, "max_height": 3, "mean_children": 5 / 3, "unary_share": 0}
    assert shown["sources"] == {"<b>train": f"1 document, 4 sentences, {train['num_tokens']} tokens; licence: CC BY"}
