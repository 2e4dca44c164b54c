"""The list of all runs in a folder, as one page: looked through, set side by side, linked by fact."""
