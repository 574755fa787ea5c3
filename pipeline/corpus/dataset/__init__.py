"""Build, store and read the datasets that teacher and student are trained on."""
