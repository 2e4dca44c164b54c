"""Methods that find values by descent and write them by one linear solve (editing/solve)."""
