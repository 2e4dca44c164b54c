"""Editors that are trained over many facts before they edit any: the training set, the training, and what is kept."""
