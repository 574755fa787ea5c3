"""Measure a model: perplexity, minimal pairs, SyntaxGym, surprisals; write and read the results."""
