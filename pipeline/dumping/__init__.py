"""Dump the next-token distributions of any model, plan a dump, and verify it by recomputing."""
