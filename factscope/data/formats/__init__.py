"""Readers of public file formats, one file for each; found by listing this folder."""
