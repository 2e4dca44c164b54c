"""Restraints on the sum of edits, one file for each; found by listing this folder."""
