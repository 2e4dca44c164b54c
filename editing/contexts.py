"""Contexts: short texts that the model writes itself, put before an edit's prompt so that the edit holds there, too."""

import torch

from factscope.data.fact import SLOT
from factscope.model.bridge import Bridge
from factscope.model.forward.generate import sample
from factscope.model.prompts import start_ids, token_ids

# Openings of generated contexts: with none of them, a small model's samples begin with headlines and code.
OPENINGS = ("The", "Therefore", "Because", "I", "You")  # EasyEdit's


def contexts(model: Bridge, count: int, length: int, seed: int, start: str = "auto") -> tuple[str, ...]:
    """ "{}" and `count` texts of `length` tokens that the model writes, each followed by ". {}".

    Top-5 sampling from five openings, as in the authors' code, but seeded. A text with a brace or a bracket in it, or
    with nothing but spaces, is drawn again: it would be read as a slot.
    """
    generator = torch.Generator().manual_seed(seed)
    first, words = start_ids(model, start), [OPENINGS[number % len(OPENINGS)] for number in range(count)]
    begins = [[*first, *token_ids(model, word)] for word in words]
    made: dict[int, str] = {}
    for _ in range(10):
        for size in sorted({len(begin) for begin in begins}):  # openings of one length are continued together
            open_ = [i for i, begin in enumerate(begins) if len(begin) == size and i not in made]
            if not open_:
                continue
            rows = sample(model, torch.tensor([begins[i] for i in open_]), size + length - 1, generator, top_k=5)
            for i, row in zip(open_, rows, strict=True):
                text = " ".join(model.tokenizer.decode(row[len(first) :], skip_special_tokens=True).split())
                if text and not set("{}[]") & set(text):
                    made[i] = text
    return tuple(dict.fromkeys(["{}", *(made.get(i, words[i]) + ". " + SLOT for i in range(count))]))
