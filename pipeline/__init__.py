"""Process corpora, train, dump, evaluate and report, without knowledge of any particular model."""
