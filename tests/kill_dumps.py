"""Kill dumps at random instants and finish them. test_dump_faults runs this program as a process, because it forks.

    python -m tests.kill_dumps SMALL_WORLD FOLDER REFERENCE_DIGEST NUM_KILLS SEED

Each attempt forks 1 to 3 processes and kills them all at a random instant. If the dump is complete before that, the
program compares it with the reference and begins a new dump. It prints one line of JSON.
"""

import json
import random
import shutil
import sys
import time
from pathlib import Path

from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_source import dump_run
from teacher.teacher_commands import TeacherSource
from teacher.teacher_config import BeamConfig
from tests.killing import attempt
from tests.processes import store_digest

CONFIG = DumpConfig(k=16, temperatures=(1.0, 2.0), shard_positions=384, batch_tokens=512, device="cpu")


def main() -> None:
    """Kill NUM_KILLS attempts, then finish the last dump."""
    world, folder, expected = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    num_kills, generator = int(sys.argv[4]), random.Random(int(sys.argv[5]))
    out = folder / "dump"
    start = time.monotonic()

    def dump() -> None:
        dump_run(world / "dataset", [TeacherSource(world / "teacher", BeamConfig())], out, CONFIG)

    attempt(dump, 2, log=folder / "log", patience_s=None)
    whole_s = time.monotonic() - start
    killed = finished = resumed_under_another_size = 0
    last_size = 2
    while True:
        if store_digest(out) == expected:
            finished += 1
            shutil.rmtree(out)
        size = generator.choice([1, 2, 2, 3])
        last = killed >= num_kills
        died = attempt(dump, size, log=folder / "log", patience_s=None if last else generator.uniform(0, whole_s))
        if last:
            break
        killed += died
        resumed_under_another_size += died and size != last_size
        last_size = size
    assert store_digest(out) == expected, "the last dump differs"
    print(json.dumps({"killed": killed, "finished": finished + 1, "sizes_changed": resumed_under_another_size}))


if __name__ == "__main__":
    main()
