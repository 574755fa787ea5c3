"""Generate the built-in sample corpus from a known grammar."""
