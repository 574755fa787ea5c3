"""Compare runs: read them, group them by everything but the seed, and test the differences between the groups."""
