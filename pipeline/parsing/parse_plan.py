"""Predict the hours, the memory and the bytes of ``parse`` before it starts. No output of ``parse`` is written.

The text is gathered into a temporary folder, which is removed even after SIGTERM. Then some groups of successive
sentences, from all parts of the text, are parsed and timed. ``parse`` divides the text into shards (1,000 sentences by
default), and a process parses whole shards. So processes beyond the number of shards save no time. The hours do not
include the time to read the finished shards back when they are joined.
"""

import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.parsing.parse_config import ParseConfig
from pipeline.parsing.sentence_parser import SentenceParser
from pipeline.parsing.text_input import gather
from pipeline.parsing.text_shards import encoded_rows
from pipeline.runtime.distributed import joined
from pipeline.runtime.plan import MEASURE_S, peak_memory, spread, write_rate
from pipeline.runtime.progress import Progress
from pipeline.runtime.run_end import StoppedBySignal, stop_request

NUM_PACKS = 8
"""Maximum number of packs to time. A pack is a group of successive sentences."""
LEAST_PACKS = 4
"""Number of packs to time even if they take longer than `MEASURE_S`."""
_WARM_UP = 16
"""Number of sentences that are parsed first. Their speed decides how many sentences a pack has."""
_ROW_FRAME = len('{"tree": ""}')
"""A finished shard stores each tree in a row ``{"tree": "TREE"}``. This is the number of bytes around TREE."""


def plan_parse(texts: Sequence[Path], out_stem: Path, config: ParseConfig, processes: Sequence[int]) -> dict[str, Any]:
    """Return counts, rates, memory and bytes of a parse, and the hours for each of ``processes``, as JSON values.

    Args:
        texts: Files of sentences. If ``config.source`` is given: files and folders of raw text.
        out_stem: The STEM of the files that would be written.
        config: The options of ``parse``. ``workers`` has no effect.
        processes: Numbers of processes.

    Raises:
        ConfigError: If the command itself runs in several processes.
        InputError: If a text or the model cannot be read.
        StoppedBySignal: After SIGTERM.
    """
    with (
        joined(config.device, threads=1) as (world, device),
        stop_request() as stop,
        tempfile.TemporaryDirectory() as folder,
    ):

        def heed() -> None:
            if stop.requested:
                raise StoppedBySignal

        world.refuse_several("parse --plan")
        stem, start = Path(folder) / "text", time.perf_counter()
        gather(texts, stem, config, before_line=heed)
        gather_s = time.perf_counter() - start
        text_bytes = sum(file.stat().st_size for file in Path(folder).iterdir())
        lengths = _words_by_line(stem.with_suffix(".txt"))
        num_sentences = len(lengths)
        parser = SentenceParser(config, device)
        warm_up = _lines(stem.with_suffix(".txt"), [(at, 1) for at in spread(num_sentences, _WARM_UP)])
        begin = time.perf_counter()
        parser.parse(warm_up)
        per_sentence = (time.perf_counter() - begin) / len(warm_up)
        size = min(config.doc_sentences, max(_WARM_UP, int(MEASURE_S / LEAST_PACKS / per_sentence)))
        seconds, row_bytes, measured = 0.0, 0, 0
        packs = np.random.default_rng(1).permutation(spread(max(1, num_sentences - size), NUM_PACKS))
        with Progress("plan", total=len(packs), unit="packs") as progress:
            for number, first in enumerate(packs.tolist()):
                heed()
                pack = _lines(stem.with_suffix(".txt"), [(first, size)])
                begin = time.perf_counter()
                row_bytes += len(encoded_rows(parser.parse(pack)))
                seconds += time.perf_counter() - begin
                measured += len(pack)
                progress.update(1)
                if number + 1 >= LEAST_PACKS and seconds > MEASURE_S:
                    break
        readable = np.where(lengths <= config.max_words, lengths, 0)
        # The longest sentence that is parsed needs the most memory.
        parser.parse(_lines(stem.with_suffix(".txt"), [(int(readable.argmax()), 1)]))
        memory = peak_memory(device)
        rows = row_bytes / measured * num_sentences
        trees, parts = round(rows - num_sentences * _ROW_FRAME), round(rows + text_bytes)
        rate, num_shards = write_rate(out_stem), -(-num_sentences // config.shard_sentences)
        write_s = (text_bytes + trees + parts) / rate
        return {
            "num_sentences": num_sentences,
            "num_words": int(lengths.sum()),
            "num_shards": num_shards,
            "measured_sentences": measured,
            "sentences_per_s": measured / seconds,
            "write_bytes_per_s": rate,
            **memory,
            "size_bytes": text_bytes + trees,
            "temporary_bytes": parts,
            "hours_by_processes": {
                str(number): (
                    gather_s
                    + write_s
                    + min(num_sentences, -(-num_shards // number) * config.shard_sentences) * seconds / measured
                )
                / 3600
                for number in processes
            },
        }


def _words_by_line(file: Path) -> np.ndarray:
    """Return int64 ``[M]``: the number of words of each sentence, where white space separates words."""
    with file.open(encoding="utf-8", newline="\n") as lines:
        return np.fromiter((len(line.split()) for line in lines), np.int64)


def _lines(file: Path, ranges: Sequence[tuple[int, int]]) -> list[str]:
    """Return the lines in some ranges, in order. A range is (first line, number of lines)."""
    found: list[str] = []
    at = 0
    with file.open(encoding="utf-8", newline="\n") as lines:
        for first, number in ranges:
            found += [line.removesuffix("\n") for line in islice(lines, first - at, first - at + number)]
            at = first + number
    return found
