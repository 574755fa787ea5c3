"""Constituency parsing of raw text by spaCy and benepar, and training such a parser."""
