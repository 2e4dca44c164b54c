"""Figures of their own kind, each with its spec beside its drawing."""
