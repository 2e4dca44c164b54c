"""What a model says by itself: where a free continuation stops, and whether it is the answer.

Teacher forcing puts the true tokens before each next one and stops after as many as the answer has; free generation
does neither, and finds far fewer edits (Yang et al. 2025, "The Mirage of Model Editing", arXiv 2502.11177). WILD stops
at ".", which cuts "U.S." and "J. R. R. Tolkien" so that such answers never count. Here a text stops at a line break, or
at a sentence's end: one of .!? before a blank and a capital, or before nothing, but not behind a single letter.
"""

import re
import string
from collections.abc import Sequence

from factscope.data.fact import whole_words

END = re.compile(r"(?<!\b\w)[.!?](?=\s+[^\Wa-z]|\s*$)")
FRAMES = {"bare": "{}", "qa": "Please answer the question:\n\nQ: {}\nA:"}  # WILD's own default, and its qa_inst


def until_stop(text: str) -> str:
    """A continuation up to its natural stop, without it."""
    line = next((part for part in text.strip().splitlines()), "")
    found = END.search(line)
    return line if found is None else line[: found.start()]


def states(text: str, answers: Sequence[Sequence[str]]) -> bool:
    """Whether a text, up to its stop, has every answer in one of its spellings, as whole words in any case."""
    said = until_stop(text)
    return all(any(whole_words(each, said, re.IGNORECASE) for each in spellings) for spellings in answers)


def states_only(text: str, answers: Sequence[Sequence[str]]) -> bool:
    """Whether a text, up to its stop, is a spelling and nothing else, normalised; of several answers, never."""
    said = normalised(until_stop(text))
    return len(answers) == 1 and any(normalised(each) == said for each in answers[0])


def normalised(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks (Rajpurkar et al. 2016, SQuAD's exact match)."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(word for word in bare.split() if word not in ("a", "an", "the"))
