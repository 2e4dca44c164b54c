"""The same work by TransformerLens's own tools and by plain transformers with hooks, beside ours."""
