"""Scores for every edge at once; one file each, found by name: CONVENTION, Config, `score(reference, config)`."""
