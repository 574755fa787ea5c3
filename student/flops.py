"""Model FLOPs of the student: what its arithmetic needs, whatever a program spends on padding or on doing it twice.

As PaLM counts them (Chowdhery et al. 2022, appendix B), a multiplication and an addition being two:

    FLOPs of a position = 6 N + 12 n D l        forward (2 N + 4 n D l) and backward, twice that
    N = n (4 D² + 2 D F) + V D

n blocks, D embedding size, F size of the feed-forward layers, V vocabulary, l positions of the row that the position
stands in. N are the parameters of matrix products: those of the blocks and the output layer, which is tied to the
token embedding; the look-up in that and the position embedding, biases and gains are no products. Under the causal
mask half of attention's products would do; PaLM counts all, and so do others.

l is a row's own number of positions (``student.rows``), not that of the longest one beside it.
"""

import numpy as np
from numpy.typing import NDArray

from student.student_config import StudentConfig


def num_matmul_parameters(config: StudentConfig) -> int:
    """Return N."""
    size = config.embed_dim
    return config.num_blocks * (4 * size**2 + 2 * size * config.inner_dim) + config.vocab_size * size


def training_flops(config: StudentConfig, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``[M]``: model FLOPs of training on each of M rows once, for int64 ``[M]`` positions of each."""
    rows = lengths.astype(np.float64)
    return rows * (6 * num_matmul_parameters(config) + 12 * config.num_blocks * config.embed_dim * rows)
