"""Editors that are trained over many facts before they edit any: the training set, the training, and what is kept.

From the top: `train` takes facts and gives an `editor`; `learning` is the loop; `facts` parts the facts and draws
examples; `examples` are these as tokens, and what the model says after an editor's change, run by `tail`; `changing`
is the loss of editors that make changes, and `factors` what those read that are fed with gradients. `fitting` asks
whether an editor is the one that an edit wants.
"""
