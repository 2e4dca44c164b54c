"""Statements about the world: facts, records of benchmarks, edit requests, and the files that they come from."""
