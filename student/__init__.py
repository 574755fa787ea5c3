"""The GPT-2-like student and its distillation loss."""
