"""Planted truths: circuits and edits that are in a model on purpose, and must be found, and nothing else."""
