"""Kinds of bypass, one file for each; found by listing this folder and imported only when met."""
