"""Parse raw text into constituents with spaCy and benepar, and train a benepar model."""
