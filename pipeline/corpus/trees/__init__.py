"""Read treebanks and compare trees."""
