"""Turn treebanks and raw text into token ids and oracle actions."""
