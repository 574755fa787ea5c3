"""Parse raw text with spaCy and benepar, and train such a parser."""
