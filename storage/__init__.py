"""What is on disk: stores, shards, manifests, digests. Knows neither torch nor our other packages."""
