"""Forward passes: many rows at once, parts of a pass, and text that the model writes."""
