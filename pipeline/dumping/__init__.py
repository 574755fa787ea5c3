"""Dump the next-token distributions of any model, plan a dump, and compute it again."""
