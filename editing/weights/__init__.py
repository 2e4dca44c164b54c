"""Weights lent to a computation, and what an edit does to them: where, how sparsely, what its change says in words."""
