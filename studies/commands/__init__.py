"""One file a command; each imports torch only when it runs."""
