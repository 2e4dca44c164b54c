"""The benchmark's tasks from generators of our own: prompts with an answer, a wrong answer and a counterfactual.

    ioi         "When Mary and John went to the store, John gave a book to"; the counterfactual has the indirect object
                as the second subject (`s2_io_flip`), the wrong answer is the subject
    arithmetic  "Sum: 12+34="; two other numbers (`random_counterfactual`), whose sum is the wrong answer
    colours     "The box is red. What colour is the box?" with four lettered choices; other letters
                (`symbol_counterfactual`), the wrong answer is the letter that they give
    choice      shipped facts as questions with four lettered choices, in the form of ARC's; other letters

What is measured is the logit difference between the answer and the wrong answer, and a cut edge carries what its
writer gives on the counterfactual.

Scope: *not* the benchmark's data: wordings, names and numbers are ours, and figures stand beside its own only as far as
that. Prompts of one task have one length in tokens, the commonest; pairs whose lengths or first tokens do not fit are
left out, as there.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from circuits.task import Task, largest_group
from factscope.data.shipped import relations
from factscope.errors import PromptError, TokenMismatch, UserError
from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt, make_prompt

NAMES = ("Mary", "John", "Tom", "James", "Dan", "Sarah", "Amy", "Paul", "Mark", "Anna", "David", "Laura", "Alice",
         "Jack", "Kate", "Peter", "Simon", "Emma", "Lucy", "Adam")  # fmt: skip
PLACES = ("store", "park", "school", "station", "garden", "office", "museum", "hospital")
THINGS = ("book", "ring", "letter", "drink", "key", "flower", "ticket", "coat")
COLOURS = ("red", "blue", "green", "black", "white", "yellow", "brown", "pink", "grey", "purple")
OBJECTS = ("box", "car", "cup", "door", "hat", "chair", "ball", "bag")
LETTERS = "ABCD"
OTHER_LETTERS = "EFGHJKLMNPQRSTUVWXYZ"
CANDIDATES = 12  # drawn for each prompt that is wanted: those of the commonest length are taken


@dataclass(frozen=True)
class Pair:
    """Two texts with the part that differs [in brackets], the clean one's answer and the wrong one."""

    clean: str
    corrupt: str
    answer: str
    foil: str


def ioi(rng: random.Random) -> Pair:
    """Indirect object identification."""
    io, s = rng.sample(NAMES, 2)
    first = (io, s) if rng.random() < 0.5 else (s, io)
    place, thing = rng.choice(PLACES), rng.choice(THINGS)
    text = f"When {first[0]} and {first[1]} went to the {place}, [{{}}] gave a {thing} to"
    return Pair(text.format(s), text.format(io), io, s)


def arithmetic(rng: random.Random) -> Pair:
    """Sums of two numbers of two digits."""
    a, b, c, d = (rng.randint(10, 49) for _ in range(4))
    return Pair(f"Sum: [{a}+{b}]=", f"Sum: [{c}+{d}]=", str(a + b), str(c + d))


def colours(rng: random.Random) -> Pair:
    """Which of four colours was named."""
    thing, named = rng.choice(OBJECTS), rng.sample(COLOURS, 4)
    right = rng.randrange(4)
    return _lettered(rng, f"A {thing} is {named[right]}. What colour is the {thing}?", named, right)


def choice(rng: random.Random) -> Pair:
    """A shipped fact among four answers of its relation."""
    relation = rng.choice([one for one in relations().values() if len(one.answers) >= 8])
    entry = rng.choice(relation.entries)
    wrong = rng.sample([one for one in relation.answers if one not in (entry.answer, *entry.aliases)], 3)
    right = rng.randrange(4)
    named = [*wrong[:right], entry.answer, *wrong[right:]]
    question = relation.templates[0].replace("{}", entry.subject)
    return _lettered(rng, f"Question: Which answer is right? {question} ...", named, right)


TASKS: dict[str, Callable[[random.Random], Pair]] = {
    "ioi": ioi, "arithmetic": arithmetic, "colours": colours, "choice": choice,
}  # fmt: skip


def _lettered(rng: random.Random, question: str, choices: list[str], right: int) -> Pair:
    other = rng.sample(OTHER_LETTERS, 4)

    def asked(letters: str) -> str:
        listed = "\n".join(f"{letter}. {one}" for letter, one in zip(letters, choices, strict=True))
        return f"{question}\n[{listed}]\nAnswer:"

    return Pair(asked(LETTERS), asked("".join(other)), LETTERS[right], other[right])


def task_of(model: Bridge, name: str, prompts: int, seed: int = 0, start: str = "auto") -> Task:
    """So many prompts of a task for this model, drawn by `seed`, each once.

    Raises UserError for a task that there is not, and where too few prompts have one length.
    """
    if name not in TASKS:
        raise UserError(f"there is no task {name!r}; choose one of {', '.join(TASKS)}")
    rng = random.Random(f"{name}/{seed}")
    drawn: dict[str, tuple[Prompt, Prompt]] = {}
    for pair in (TASKS[name](rng) for _ in range(CANDIDATES * prompts)):
        drawn |= {clean.text: (clean, corrupt) for clean, corrupt in _made(model, pair, start)}
    chosen = largest_group([clean for clean, _ in drawn.values()])[:prompts] if drawn else ()
    if len(chosen) < prompts:
        raise UserError(
            f"{len(chosen)} of the {prompts} prompts of {name} have one length in this model's tokens: ask for fewer"
        )
    corrupt = tuple(drawn[prompt.text][1] for prompt in chosen)
    return Task(chosen, "logit_difference", "counterfactual", corrupt)


def _made(model: Bridge, pair: Pair, start: str) -> Iterator[tuple[Prompt, Prompt]]:
    """The pair in this model's tokens; nothing where lengths differ or the two answers begin alike."""
    try:
        clean = make_prompt(model, pair.clean, answer=pair.answer, foil=pair.foil, start=start)
        corrupt = make_prompt(model, pair.corrupt, start=start)
    except (PromptError, TokenMismatch):
        return
    if len(clean.tokens) == len(corrupt.tokens):
        yield replace(clean, notes=()), corrupt
