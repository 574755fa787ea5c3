"""Train a model: the loop, its batches, steps and figures. It knows neither teacher nor student."""
