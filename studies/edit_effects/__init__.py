"""What an edit changed inside: traces, circuits, heads and lens before, after and under control edits.

From the top: `study` puts edits and their nulls in, one after another; `model_state` asks each state of the model the
same questions; `result` is what a study holds, and `measures` how large each change is beside its nulls. `page` draws
one study, out of `pictures`, `tables` and `words`; `side_by_side` several.
"""
