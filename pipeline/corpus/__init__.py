"""From treebank and raw text to token ids and oracle actions."""
