"""Evaluate a model: perplexity, mixtures, minimal pairs, SyntaxGym, BabyLM, surprisals. Write and read the results."""
