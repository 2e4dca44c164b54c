"""One edit of several: of a stack, or of many that were computed apart."""
