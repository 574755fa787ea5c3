"""Write and read one dump: its schema, shards, manifest and statistics."""
