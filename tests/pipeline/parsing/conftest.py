import json
from pathlib import Path

import pytest

from pipeline.corpus.sample.sample_corpus import write_sample_corpus
from pipeline.parsing.parse_config import ParserConfig
from pipeline.parsing.train_parser import train_parser

SMALL = ParserConfig(
    embed_dim=64, num_layers=1, num_heads=2, ff_dim=128, char_embed_dim=32, num_epochs=30, lr=4e-3, warmup_steps=5,
    dropout=0.0, batch_sentences=10,
)  # fmt: skip


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the sample corpus, and short.mrg with 40 of its shorter trees."""
    folder = tmp_path_factory.mktemp("corpus")
    write_sample_corpus(folder, 300, 1)
    lines = (folder / "train.mrg").read_text().splitlines(keepends=True)
    (folder / "short.mrg").write_text("".join([line for line in lines if line.count(" ") < 45][:40]))
    return folder


@pytest.fixture(scope="session")
def parser_file(corpus: Path) -> Path:
    """Train a real benepar model in seconds."""
    train_parser([corpus / "short.mrg"], [corpus / "short.mrg"], corpus / "parser.pt", SMALL)
    return corpus / "parser.pt"


@pytest.fixture(scope="session")
def labelled_f1(parser_file: Path) -> float:
    """Return the F1 of that model on its training trees."""
    about = json.loads(parser_file.with_name("parser.pt.json").read_text())
    found: float = about["labelled_f1"]["all of dev"]
    return found
