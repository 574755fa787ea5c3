"""Read and write stores at URLs. Copies of files are cached locally, and a lease admits one writer at a time."""
