"""Turn raw text into one sentence per line."""
