"""Factscope: trace a fact in a language model, find its circuit, edit it, and see what changed."""

__version__ = "0.1.0"
