"""Evaluate a model: perplexity, minimal pairs, SyntaxGym and surprisals. Write and read the results."""
