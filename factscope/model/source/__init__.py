"""Where a model comes from: its name, its files, and whether they arrived whole."""
