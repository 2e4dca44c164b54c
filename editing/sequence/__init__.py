"""Edit after edit, and when the model begins to break.

From the top: `run` settles what is to be done and does it piece by piece; `state` is the sequence as far as it has
come, and how a piece is done; `yardstick` is what the model is held against at every checkpoint, `keys` what PRUNE's
theory is about, `rules` when to stop; `result` is what is left.
"""
