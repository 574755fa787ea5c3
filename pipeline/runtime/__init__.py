"""Provide what a run needs around its model: options, processes, run directories, checkpoints and progress."""
