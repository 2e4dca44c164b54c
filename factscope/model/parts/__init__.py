"""A model taken apart: norms, heads and experts, and what each of them adds to the residual stream."""
