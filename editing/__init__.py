"""What if it were otherwise? Edits of what a model knows, as values that can be saved, stacked and undone."""
