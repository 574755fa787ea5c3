"""Turn treebanks and raw text into datasets of token ids and oracle actions."""
