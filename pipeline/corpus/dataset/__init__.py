"""Build the dataset that teacher and student read: tokens, oracle actions, splits."""
