"""A sentence that does not fit into memory is refused before the first step, and named. Large splits get few epochs."""

import json

import numpy as np
import pytest

from pipeline.corpus.dataset.dataset_store import Split
from storage.errors import InputError
from storage.ragged import Ragged
from teacher.teacher_config import TeacherConfig, TeacherTrainConfig
from teacher.train_teacher import check_longest, training_bytes
from tests.strategies import DEEP, ONE_TOKEN, WIDE, batch


def split_of(tokens: Ragged, actions: Ragged) -> Split:
    zeros = np.zeros(len(tokens), np.int32)
    return Split(
        name="train",
        tokens=tokens,
        actions=actions,
        document_ids=zeros,
        num_words=zeros,
        num_bytes=zeros,
        text_sha256="",
        sha256="",
    )


def test_a_longest_sentence_that_does_not_fit_is_refused_by_number():
    config = TeacherConfig(embed_dim=100, hidden_dim=100)
    split = split_of(*batch([ONE_TOKEN, WIDE, DEEP]))
    needed = training_bytes(config, len(WIDE[1]))
    check_longest(split, config, available_bytes=needed)
    with pytest.raises(InputError, match="split train, sentence 1: 40 tokens and 45 actions"):
        check_longest(split, config, available_bytes=needed - 1)


@pytest.mark.parametrize(
    ("positions", "epochs"), [(0, 20), (1, 20), (80_000, 20), (320_000, 10), (8_000_000, 2), (10**9, 1)]
)
def test_the_more_positions_the_fewer_epochs(positions, epochs):
    assert TeacherTrainConfig().for_positions(positions).num_epochs == epochs
    assert TeacherTrainConfig(num_epochs=3).for_positions(positions).num_epochs == 3


def test_a_run_records_how_many_epochs_it_has(small_world):
    assert json.loads((small_world / "teacher/run.json").read_text())["configuration"]["num_epochs"] == 20
