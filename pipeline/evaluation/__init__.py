"""Evaluate a model: perplexity, mixtures, minimal pairs, SyntaxGym and surprisals. Write and read the results."""
