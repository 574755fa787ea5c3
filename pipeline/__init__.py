"""Process corpora, train, dump, evaluate and report, without knowledge of any particular model."""

import os

__version__ = "0.1.0"
"""Version of all four packages. pyproject.toml reads it here."""

# An OpenMP thread that waits spins for long by default, and so takes the core of the thread that it waits for if the
# machine has other work. Without spinning at all, small steps are slower on a quiet machine. This must be set before
# torch loads OpenMP. It does not change results. benchmarks/busy.py measures it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
