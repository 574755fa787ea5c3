"""What is on disk: stores, shards, manifests, digests. numpy and zarr only; knows neither torch nor our other packages."""
