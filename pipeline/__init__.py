"""Everything that knows no model: corpus, runtime, training loop, dump loop, evaluation."""
