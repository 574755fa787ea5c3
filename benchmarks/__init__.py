"""Measure this project. ``python -m benchmarks.NAME [--quick] [--json FILE]`` starts the benchmark NAME."""
