"""The Recurrent Neural Network Grammar, trained and run level by level."""
