"""The Recurrent Neural Network Grammar: its training, its beam search, and sampling from it."""
