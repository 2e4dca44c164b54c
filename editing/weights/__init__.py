"""Weights: which are changed, lent to a computation, and what an edit does to them: where, how sparsely, in words."""
