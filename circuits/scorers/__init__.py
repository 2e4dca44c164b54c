"""Scores for every edge at once; one file each, found by name; `examples(reference)` where each prompt has its own."""
