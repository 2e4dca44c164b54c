"""Edits that were saved: the stack of them, listed, taken off, and exported as a model."""
