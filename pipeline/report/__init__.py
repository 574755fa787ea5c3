"""Show results to people: the HTML page, tables for papers, the demo, what ``inspect`` prints."""
