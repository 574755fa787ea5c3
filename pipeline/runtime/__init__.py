"""What a run needs around its model: configuration, processes, checkpoints, progress, learning-rate schedules."""
