"""Circuits whose edges belong to tokens of one role, so that facts of different lengths share one circuit."""
