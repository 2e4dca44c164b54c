"""Values of the product's own kinds, made of random numbers."""

import numpy as np
import torch

from circuits.analysis.head_changes import HeadTable
from factscope.model.prompts import Prompt
from studies.tables.locating import Asked

ANY = Prompt("x", (0,), ("x",), None, "x", (0, 1), (0, 1), "flag", None, (), "")  # what is asked plays no part


def head_table(direct: np.ndarray) -> HeadTable:
    """Heads whose direct attributions [answer, head] are these."""
    heads = direct.shape[1]
    none, zero = ("",) * heads, torch.zeros(2, heads)
    return HeadTable(
        answers=("old", "new"),
        names=tuple(f"a0.h{head}" for head in range(heads)),
        attention_subject=zero[0],
        attention_relation=zero[0],
        direct_subject=torch.from_numpy(direct),
        direct_relation=zero,
        direct_rest=zero,
        roles=(none, none),
        top_tokens=((),) * heads,
        mlps=torch.zeros(2, 1),
    )


def profiles(rng: np.random.Generator, subjects: int, places: int = 20) -> tuple[np.ndarray, list[Asked]]:
    """What a method gives each place for two relations of each subject in two wordings: subject, fact and noise."""
    asked, rows = [], []
    for subject in range(subjects):
        own = rng.normal(size=places)
        for relation in range(2):
            fact = own + rng.normal(size=places)
            for wording in range(2):
                asked.append(Asked(str(subject), str(relation), wording, ANY))
                rows.append(fact + rng.normal(size=places))
    return np.stack(rows), asked
