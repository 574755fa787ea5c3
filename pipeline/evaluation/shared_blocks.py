"""Compute a long evaluation block by block, so that several processes can share it and an interruption loses little.

Rank 0 runs the command as if it were the only process. The other ranks wait in ``shared_blocks`` until rank 0 asks for
values of sentences. Then all ranks compute blocks of sentences, and each free process takes the next block. The other
ranks send their blocks to rank 0. They end when rank 0 has finished.

The division into blocks depends only on the sentences (``Job.blocks_of``), and one process computes a whole block. So
the values do not depend on the number of processes, if each process has the same number of threads.

Rank 0 appends each finished block to a file in the folder of results (``block_file``). If the command is interrupted,
the same command computes the rest, with any number of processes. An interruption loses the blocks that are being
computed. It also loses blocks that other ranks have sent and rank 0 has not appended yet, because rank 0 appends
nothing while it computes a block of its own. SIGTERM ends the command between two blocks. The file is removed when the
command has written its result.

Shape letters: M sentences, n tokens of a sentence.
"""

import contextlib
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray

from pipeline import __version__
from pipeline.evaluation.block_file import BlockFile
from pipeline.runtime.distributed import World, device_model
from pipeline.runtime.progress import Progress
from pipeline.runtime.run_directory import results_folder, versions
from pipeline.runtime.run_end import StoppedBySignal, stop_request
from pipeline.training.batching import consecutive_batches, longest_first
from pipeline.training.model_files import ModelFiles
from storage.errors import RunError, StoreError
from storage.fingerprints import Json, canonical_json
from storage.ragged import Ragged

log = logging.getLogger(__name__)

Rows: TypeAlias = Mapping[str, Ragged]
"""Data about M sentences. Each key, such as ``tokens`` or ``log_probs``, has M rows, one per sentence."""

NO_LIMIT: Final = 1 << 62
_FINISHED, _FAILED = b"finished", b"failed"
"""What rank 0 sends instead of a request, so that the other ranks end."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is computed for each sentence, and how the sentences are divided into blocks."""

    compute: Callable[[Rows, NDArray[np.int64]], Rows]
    """Takes the inputs of some sentences, such as their ``tokens``, and an array that is the same for all sentences.
    Returns the values of these sentences, in the same order."""
    _: KW_ONLY
    per_position: tuple[str, ...]
    """The names of the values that have a number for each token of a sentence and for ``<eos>``."""
    others: tuple[str, ...] = ()
    """The names of the other values. For each of these names, the row of a sentence may have any length."""
    max_sentences: int
    """Largest number of sentences in a block."""
    max_positions: int = NO_LIMIT
    """Largest number of positions in a block. A longer sentence is a block by itself."""
    window: int = NO_LIMIT
    """The sentences are divided into windows of this many successive sentences. All sentences of a block are from the
    same window. Values are read one window at a time, so that only the values of one window are in memory."""

    def form(self) -> dict[str, Json]:
        """Return all fields except ``compute``, for the fingerprint of a file of finished blocks."""
        return {
            "values": [*self.per_position, *self.others],
            "max_sentences": self.max_sentences,
            "max_positions": self.max_positions,
            "window": self.window,
        }

    def blocks_of(self, inputs: Rows) -> list[list[NDArray[np.int64]]]:
        """Return the blocks of each window. A block is given by the indices of its sentences, longest sentence first.

        Sentences of equal length that begin alike are neighbours, because a beam search computes their common beginning
        only once.
        """
        windows, num_positions = [], _num_positions(inputs)
        for first in range(0, len(num_positions), self.window):
            window = np.arange(first, min(first + self.window, len(num_positions)))
            lengths = num_positions[window]
            order = longest_first(lengths, inputs["tokens"].take(window))
            ranges = consecutive_batches(lengths[order], self.max_positions, self.max_sentences)
            windows.append([first + order[low:high] for low, high in ranges])
        return windows


@contextlib.contextmanager
def shared_blocks(
    jobs: Mapping[str, Job], world: World, *, files: ModelFiles, settings: Mapping[str, Any], device: torch.device
) -> Iterator["SharedBlocks"]:
    """Yield, on rank 0, an object that computes values of sentences in all processes.

    These values can be read only inside the body of the ``with`` statement.

    Every rank must enter the ``with`` statement, but only rank 0 executes the body. The other ranks compute blocks
    until rank 0 leaves the body, and then raise SystemExit.

    ``settings`` is everything besides the model that could change a value. ``device`` is where this process computes.

    Raises:
        StoreError: If results cannot be written.
        RunError: If two processes have different models, devices or versions of a library.
    """
    about = canonical_json(
        {
            "weights": files.weights_sha256,
            "tokenizer": files.tokenizer_sha256,
            "settings": dict(settings),
            "device": device_model(device),
            "threads": torch.get_num_threads(),
            "versions": versions() | {"rnng-distill": __version__},
        }
    )
    world.on_main(files.check_writable)
    if (expected := world.share(about)) != about:
        ours, theirs = json.loads(about), json.loads(expected)
        different = ", ".join(name for name, value in ours.items() if theirs[name] != value)
        raise RunError(
            f"{files.path}: rank {world.rank} and rank 0 have different values of {different}, expected the same. "
            "Start all processes on machines of one kind, with the same model and the same versions"
        )
    blocks = SharedBlocks(jobs, world, files, about)
    if not world.is_main:
        while (request := world.share(b"")) not in {_FINISHED, _FAILED}:
            blocks.help(request)
        raise SystemExit(request == _FAILED)
    with blocks:
        yield blocks


class SharedBlocks:
    """Computes values of sentences, in all processes. The function ``shared_blocks`` makes and ends this object."""

    def __init__(self, jobs: Mapping[str, Job], world: World, files: ModelFiles, about: bytes) -> None:
        self._jobs, self._world, self._model, self._about = jobs, world, files, about
        self._files: dict[str, BlockFile] = {}
        self._num_requests = 0
        self._is_sharing = False

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        for file in self._files.values():
            if kind is None or not file.finished:
                file.remove()
            elif kind is KeyboardInterrupt:
                log.warning("%s: %d finished blocks. Run the same command to continue", file.path, len(file.finished))
            file.close()
        # If a computation was interrupted, the other ranks may still be in a block and read no message. They end when
        # they lose this process.
        if not self._is_sharing and (kind is None or isinstance(error, Exception)):
            self._world.share(_FINISHED if kind is None else _FAILED)

    def rows(
        self, what: str, inputs: Rows, extra: Sequence[int] | NDArray[np.int64] = ()
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Compute values for M sentences. Return the values of each sentence by name, in order. Only rank 0 calls this.

        All values are computed before this method returns. The iterator then reads them from the file of finished
        blocks.

        ``inputs`` has, for each name, one row per sentence. The rows named ``tokens`` are the sentences. ``extra`` is
        the same for all sentences, such as the ids of some tokens.

        Raises:
            StoppedBySignal: On all ranks, after SIGTERM on one of them.
            StoreBusyError: If another process is doing the same evaluation.
            StoreError: If the file of finished blocks cannot be read or written.
        """
        job = self._jobs[what]
        values = {"extra": np.asarray(extra, np.int64)} | _as_arrays(inputs)
        windows = job.blocks_of(inputs)
        blocks = [block for window in windows for block in window]
        fingerprint = self._fingerprint(canonical_json({"what": what, **job.form()}), values)
        folder = results_folder(self._model.path)
        if (file := self._files.get(fingerprint)) is None:
            file = BlockFile(folder, what, fingerprint=fingerprint, num_blocks=len(blocks))
            self._files[fingerprint] = file
            if file.finished:
                log.info("%s: %d of %d blocks were finished earlier", file.path, len(file.finished), len(blocks))
        todo = [number for number in range(len(blocks)) if number not in file.finished]
        if todo:
            self._is_sharing = True
            if self._world.size > 1:
                self._world.share(canonical_json({"what": what, "todo": todo}) + safetensors.numpy.save(values))
            self._compute(what, inputs, values["extra"], blocks, todo, file)
            self._is_sharing = False
        return _in_order(windows, file, job, inputs["tokens"].lengths)

    def _fingerprint(self, form: bytes, values: Mapping[str, NDArray[Any]]) -> str:
        digest = hashlib.sha256(self._about + form)
        for name, array in sorted(values.items()):
            digest.update(canonical_json({"name": name, "type": str(array.dtype), "size": len(array)}))
            digest.update(array.data)
        return digest.hexdigest()

    def help(self, request: bytes) -> None:
        """Compute blocks that rank 0 asked for. The other ranks call this."""
        line, payload = request.split(b"\n", 1)
        asked = json.loads(line)
        arrays = safetensors.numpy.load(payload)
        extra, inputs = arrays.pop("extra"), _as_rows(arrays)
        windows = self._jobs[asked["what"]].blocks_of(inputs)
        blocks = [block for window in windows for block in window]
        self._compute(asked["what"], inputs, extra, blocks, asked["todo"], None)

    def _compute(
        self,
        what: str,
        inputs: Rows,
        extra: NDArray[np.int64],
        blocks: Sequence[NDArray[np.int64]],
        todo: Sequence[int],
        file: BlockFile | None,
    ) -> None:
        """Compute the blocks ``todo`` together with the other processes. ``file`` is None on all ranks but rank 0."""
        world, job = self._world, self._jobs[what]
        key, self._num_requests = f"blocks/{self._num_requests}", self._num_requests + 1
        lengths = _num_positions(inputs)
        total, left = int(lengths.sum()), sum(int(lengths[blocks[number]].sum()) for number in todo)
        num_taken = 0
        with (
            stop_request() as stop,
            Progress(what, total=total, initial=total - left, unit="positions", shown=file is not None) as progress,
        ):

            def finished(number: int, data: bytes) -> None:
                assert file is not None
                file.append(number, data)
                progress.update(int(lengths[blocks[number]].sum()))

            def take_from_others() -> None:
                nonlocal num_taken
                while file is not None and (sent := world.take(f"{key}/{num_taken}")) is not None:
                    num_taken += 1
                    finished(int.from_bytes(sent[:8], "little"), sent[8:])

            while not world.tally(f"{key}/stop", int(stop.requested)) and (turn := world.claim(key)) < len(todo):
                number = todo[turn]
                of_block = {name: rows.take(blocks[number]) for name, rows in inputs.items()}
                data = safetensors.numpy.save(_as_arrays(job.compute(of_block, extra)))
                if file is None:
                    posted = world.tally(f"{key}/posted", 1) - 1
                    world.post(f"{key}/{posted}", number.to_bytes(8, "little") + data)
                else:
                    finished(number, data)
                    take_from_others()
            world.barrier()
            take_from_others()
            if world.tally(f"{key}/stop", 0):
                if file is not None:
                    log.warning(
                        "%s: stopped by a signal after %d of %d blocks. Run the same command to continue",
                        file.path,
                        len(file.finished),
                        len(blocks),
                    )
                raise StoppedBySignal


def _num_positions(inputs: Rows) -> NDArray[np.int64]:
    """Return ``[M]``: for each sentence, the sum of the lengths of its rows in ``inputs``, plus 1 for ``<eos>``."""
    lengths: NDArray[np.int64] = 1 + np.sum([rows.lengths for rows in inputs.values()], axis=0)
    return lengths


def _as_arrays(rows: Rows) -> dict[str, NDArray[Any]]:
    return {
        f"{name}.{part}": np.ascontiguousarray(array)
        for name, each in rows.items()
        for part, array in (("values", each.values), ("lengths", each.lengths))
    }


def _as_rows(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Ragged]:
    names = sorted({name.rpartition(".")[0] for name in arrays})
    return {name: Ragged.from_lengths(arrays[f"{name}.values"], arrays[f"{name}.lengths"]) for name in names}


def _in_order(
    windows: Sequence[Sequence[NDArray[np.int64]]], file: BlockFile, job: Job, num_tokens: NDArray[np.int64]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the values of each sentence, from the finished blocks."""
    numbers = itertools.count()
    for window in windows:
        found: dict[int, dict[str, NDArray[Any]]] = {}
        for sentences in window:
            rows = _checked_rows(file, next(numbers), job, num_tokens[sentences])
            for i, sentence in enumerate(sentences.tolist()):
                found[sentence] = {name: each[i] for name, each in rows.items()}
        yield from (found[sentence] for sentence in sorted(found))


def _checked_rows(file: BlockFile, number: int, job: Job, num_tokens: NDArray[np.int64]) -> Rows:
    """Return the values of a finished block, whose sentences have ``num_tokens`` tokens."""
    try:
        rows = _as_rows(safetensors.numpy.load(file.read(number)))
    except (safetensors.SafetensorError, ValueError, KeyError):
        rows = {}
    if (
        set(rows) != {*job.per_position, *job.others}
        or any(len(each) != len(num_tokens) for each in rows.values())
        or any(not np.array_equal(rows[name].lengths, num_tokens + 1) for name in job.per_position)
    ):
        raise StoreError(
            f"{file.path}: block {number} does not have the values of its {len(num_tokens)} sentences; remove the "
            "file, and run the same command again"
        )
    return rows
