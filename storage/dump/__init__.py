"""Read and write one dump: its schema, its shards and its manifest."""
