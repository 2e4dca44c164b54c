"""The command `circuit`."""
