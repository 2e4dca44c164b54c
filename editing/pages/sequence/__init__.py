"""Sequences of edits as pages: one, its restrained copies, and the same facts in several orders."""
