"""Searches that decide one edge after another."""
