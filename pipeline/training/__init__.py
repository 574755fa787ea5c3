"""Train a model: the loop, its batches and steps. Knows neither teacher nor student."""
