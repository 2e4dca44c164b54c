"""Ways to make one edit of many that were computed apart."""
