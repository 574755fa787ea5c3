"""Show results to people: the HTML page, tables for papers, the demo and the output of ``inspect``."""
