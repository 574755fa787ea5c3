"""Measure a model by perplexity, minimal pairs, SyntaxGym and surprisals, and read and write the results."""
