"""Compare runs: which differ by their seed alone, intervals, significance tests."""
