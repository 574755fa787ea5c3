"""Perplexity, minimal pairs and the report."""
