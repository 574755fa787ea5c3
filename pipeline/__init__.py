"""Process corpora, train, dump, evaluate and report. Nothing in this package knows a particular model."""

__version__ = "0.1.0"
"""Version of all four packages. pyproject.toml reads it here."""
