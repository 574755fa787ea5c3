"""Train any model: the loop, its batches, its steps and its metrics."""
