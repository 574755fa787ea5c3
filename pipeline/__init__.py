"""Process corpora, train, dump, evaluate and report, without knowledge of any particular model."""

__version__ = "0.1.0"
"""Version of all four packages. pyproject.toml reads it here."""
