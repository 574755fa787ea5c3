"""What dumping costs beside the teacher's inference on the same batches, log-softmax and top k included.

    python -m benchmarks.dump [--quick] [--json FILE] [--data DATASET --teacher RUN]

Without a dataset and a teacher of your own: the sample corpus and an untrained teacher of size 256, whose arithmetic is
that of a trained one. One process, one thread for the model; preparing, encoding and writing have threads of their own.
A round is a whole dump, from creating the store to verifying it, and the same batches computed with nothing written.
`stage_NAME_share` is what a stage takes by itself, as a share of all stages.
"""

import argparse
import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.common import interleaved, parser, ratio, report
from pipeline.corpus.dataset.build import build_dataset
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.dataset import Dataset, load_dataset
from pipeline.corpus.dataset.tokenizer import train_tokenizer
from pipeline.corpus.sample.sample_corpus import write_sample_corpus
from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_loop import compute_shard, dump, dump_schema, shard_batches
from pipeline.runtime.distributed import World
from storage.dump.schema import DumpSchema
from teacher.rnng import Rnng
from teacher.teacher_config import TeacherConfig
from teacher.train_teacher import load_teacher

CPU = torch.device("cpu")


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, help="a dataset")
    options.add_argument("--teacher", type=Path, help="a teacher's run that reads it")
    given = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), given, rounds=3 if given.quick else 7)
    report(figures, given)


def measure(folder: Path, given: argparse.Namespace, *, rounds: int) -> dict[str, float]:
    """Return the ratio and both rates."""
    if given.data:
        dataset, (model, _) = load_dataset(given.data), load_teacher(given.teacher, CPU)
    else:
        dataset = sample_dataset(folder, num_sentences=600 if given.quick else 3000)
        config = TeacherConfig(dropout=0.0)
        sizes = {"vocab_size": dataset.tokenizer.vocab_size, "num_labels": len(dataset.labels)}
        model = Rnng(config, **sizes, eos_id=dataset.tokenizer.eos_id).eval()
    config = DumpConfig(shard_positions=4096 if given.quick else 16_384, device="cpu")
    schema = dump_schema(model, dataset, config, teacher="0" * 64, device=CPU)
    out = folder / "dump"

    def whole() -> None:
        shutil.rmtree(out, ignore_errors=True)
        dump(model, dataset, config, out=out, teacher="0" * 64, world=World(), device=CPU)

    seconds = interleaved({"dump": whole, "inference": inference(model, dataset, schema)}, rounds)
    return {
        "end_to_end_vs_inference": ratio(seconds, "dump", "inference"),
        "positions": schema.num_positions,
        "dump_positions_per_s": schema.num_positions / statistics.median(seconds["dump"]),
        "inference_positions_per_s": schema.num_positions / statistics.median(seconds["inference"]),
        **stages(model, dataset, schema),
    }


def inference(model: Rnng, dataset: Dataset, schema: DumpSchema) -> Callable[[], None]:
    """Return computing all that a dump keeps, one batch after the other, and keeping none of it."""
    split, eos_id = dataset.split("train"), dataset.tokenizer.eos_id

    def run() -> None:
        for shard in range(schema.layout.num_shards):
            batches = shard_batches(model, split, schema, shard, eos_id=eos_id)
            compute_shard(model, schema, shard, batches, device=CPU)

    return run


def stages(model: Rnng, dataset: Dataset, schema: DumpSchema) -> dict[str, float]:
    """Return how long each stage of the first shard takes by itself, as shares of their sum."""
    split, eos_id = dataset.split("train"), dataset.tokenizer.eos_id
    start = time.perf_counter()
    batches = list(shard_batches(model, split, schema, 0, eos_id=eos_id))
    prepared = time.perf_counter()
    with torch.no_grad():
        for batch in batches:
            model.states(batch.inputs)
    states = time.perf_counter()
    rows = compute_shard(model, schema, 0, batches, device=CPU)
    computed = time.perf_counter()
    rows.positions()
    converted = time.perf_counter()
    times = {
        "preparing": prepared - start,
        "states": states - prepared,
        "logits_and_top_k": (computed - states) - (states - prepared),
        "copying": converted - computed,
    }
    return {f"stage_{name}_share": value / sum(times.values()) for name, value in times.items()}


@contextlib.contextmanager
def temporary_dataset(given: Path | None, *, num_sentences: int) -> Iterator[Dataset]:
    """Return the dataset that was given, or one of the sample corpus for as long as it is needed."""
    if given:
        yield load_dataset(given)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield sample_dataset(Path(folder), num_sentences=num_sentences)


def sample_dataset(folder: Path, *, num_sentences: int) -> Dataset:
    """Return a dataset of the sample corpus."""
    write_sample_corpus(folder / "corpus", num_sentences, 1)
    stem = folder / "corpus" / "train"
    train_tokenizer([stem.with_suffix(".txt")], folder / "tokenizer.json", vocab_size=1000)
    build_dataset(BuildConfig(train=(stem,), dev=(stem,), tokenizer=folder / "tokenizer.json", out=folder / "dataset"))
    return load_dataset(folder / "dataset")


if __name__ == "__main__":
    main()
