"""The command `edit`."""
