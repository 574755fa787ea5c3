"""Read and write the files of stores. This package imports neither torch nor our other packages."""
