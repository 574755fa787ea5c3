"""Compare the time of a whole dump with the time of the teacher's inference alone.

    python -m benchmarks.dump [--quick] [--json FILE] [--data DATASET --teacher RUN]

Without --data and --teacher, the benchmark uses the sample corpus and an untrained teacher of size 256, which needs the
same arithmetic as a trained teacher. One thread runs the model.

A whole dump goes from creating the store to verifying it. Other threads prepare its batches, and encode and write the
result. The inference prepares the same batches, computes their states, logits, log-softmax and top k, and writes
nothing. It uses only the thread that runs the model.

end_to_end_vs_inference  Seconds of the inference / seconds of the whole dump.
stage_NAME_share         Seconds of the stage NAME / seconds of all stages, run one after the other on the first shard.
                         The stages are preparing (the batches), states, logits_and_top_k, and copying (the results).
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

from benchmarks.common import interleaved, parser, ratio, report, use_one_thread
from pipeline.corpus.dataset.build import build_dataset
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.dataset_store import Dataset, load_dataset
from pipeline.corpus.dataset.tokenizer import train_tokenizer
from pipeline.corpus.sample.sample_corpus import write_sample_corpus
from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_loop import DumpJob, compute_shard, dump, shard_batches
from pipeline.runtime.distributed import World
from teacher.rnng import Rnng
from teacher.teacher_config import TeacherConfig
from teacher.train_teacher import load_teacher

CPU = torch.device("cpu")


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, help="dataset to dump")
    options.add_argument("--teacher", type=Path, help="run of a teacher trained on this dataset")
    given = options.parse_args()
    if (given.data is None) != (given.teacher is None):
        options.error("give both --data and --teacher, or neither")
    use_one_thread()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), given, rounds=3 if given.quick else 7)
    report(figures, given)


def measure(folder: Path, given: argparse.Namespace, *, rounds: int) -> dict[str, float]:
    """Return all figures."""
    if given.data:
        dataset, (model, _) = load_dataset(given.data), load_teacher(given.teacher, CPU)
    else:
        dataset = sample_dataset(folder, num_sentences=600 if given.quick else 3000)
        model = untrained_teacher(dataset, TeacherConfig(dropout=0.0))
    config = DumpConfig(shard_positions=4096 if given.quick else 16_384, device="cpu")
    job = DumpJob(models=[model], dataset=dataset, config=config, teachers=["0" * 64], device=CPU)
    num_positions = job.schema.num_positions
    out = folder / "dump"

    def whole() -> None:
        shutil.rmtree(out, ignore_errors=True)
        dump(job, out, World())

    seconds = interleaved({"dump": whole, "inference": inference(job)}, rounds)
    return {
        "end_to_end_vs_inference": ratio(seconds, "dump", "inference"),
        "positions": num_positions,
        "dump_positions_per_s": num_positions / statistics.median(seconds["dump"]),
        "inference_positions_per_s": num_positions / statistics.median(seconds["inference"]),
        **stages(job),
    }


def inference(job: DumpJob) -> Callable[[], None]:
    """Return a function that computes the content of a dump, one batch after another, and writes nothing."""

    def run() -> None:
        for shard in range(job.schema.layout.num_shards):
            compute_shard(job.models, job.schema, shard, shard_batches(job, shard), device=CPU)

    return run


def stages(job: DumpJob) -> dict[str, float]:
    """Return the share of the time that each stage takes on the first shard."""
    start = time.perf_counter()
    batches = list(shard_batches(job, 0))
    prepared = time.perf_counter()
    with torch.no_grad():
        for batch in batches:
            job.models[batch.model].states(batch.inputs)
    states = time.perf_counter()
    rows = compute_shard(job.models, job.schema, 0, batches, device=CPU)
    computed = time.perf_counter()
    rows.finished()
    converted = time.perf_counter()
    times = {
        "preparing": prepared - start,
        "states": states - prepared,
        "logits_and_top_k": (computed - states) - (states - prepared),
        "copying": converted - computed,
    }
    return {f"stage_{name}_share": value / sum(times.values()) for name, value in times.items()}


def untrained_teacher(dataset: Dataset, config: TeacherConfig) -> Rnng:
    """Return a teacher with random weights for the tokens and labels of a dataset, in evaluation mode."""
    tokenizer = dataset.tokenizer
    sizes = {"vocab_size": tokenizer.vocab_size, "num_labels": len(dataset.labels), "eos_id": tokenizer.eos_id}
    return Rnng(config, **sizes).eval()


@contextlib.contextmanager
def temporary_dataset(given: Path | None, *, num_sentences: int) -> Iterator[Dataset]:
    """Yield the dataset at ``given``, or a temporary dataset of the sample corpus."""
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
