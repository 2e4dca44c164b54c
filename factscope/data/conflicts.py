"""Facts of a file that cannot, or may not, all be edited into one model.

One prompt that stands twice is refused when both are edited at once. Two targets for one subject and relation in other
words are not, as a relation may well have two answers; but what is edited then may contradict itself, so it is said
when the file is looked at. Only a relation that the records name counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from factscope.data.case import Case
from factscope.data.fact import same_text
from factscope.data.request import EditRequest

KINDS = {  # what is counted, what it is given, what follows
    "two targets": ("prompt", "two targets", "an edit of both at once is refused"),
    "twice": ("prompt", "the same target twice", "an edit of both at once is refused"),
    "other words": (
        "subject",
        "two targets under one relation in other words",
        "an edit of both at once, which is not refused, may contradict itself",
    ),
}


@dataclass(frozen=True)
class Conflict:
    """Requests of one question; `prompts` and `targets` are one for each of `facts`."""

    kind: str  # one of KINDS
    facts: tuple[str, ...]  # ids
    prompts: tuple[str, ...]
    targets: tuple[str, ...]

    @classmethod
    def of(cls, kind: str, requests: Iterable[EditRequest]) -> "Conflict":
        """The conflict of these requests."""
        some = tuple(requests)
        return cls(kind, tuple(r.id for r in some), tuple(r.prompt for r in some), tuple(r.target for r in some))

    def __str__(self) -> str:
        pairs = dict.fromkeys(zip(self.prompts, self.targets, strict=True))
        asked = {prompt: [repr(target) for other, target in pairs if other == prompt] for prompt in self.prompts}
        said = " and ".join(f"{prompt!r} with {' and '.join(targets)}" for prompt, targets in asked.items())
        return f"{said} (facts {', '.join(self.facts)})"


def conflicts(cases: Sequence[Case]) -> tuple[Conflict, ...]:
    """Every group of requests that ask for one thing; those with one prompt first, in the order of the file."""
    prompts: dict[tuple[str, str], list[EditRequest]] = {}
    relations: dict[tuple[str, str], list[EditRequest]] = {}  # one request for each prompt
    for case in cases:
        for request in case.requests:
            same = prompts.setdefault(request.key, [])
            if not same and names_relation(request, case.suite):
                relations.setdefault((request.key[0], request.relation), []).append(request)
            same.append(request)
    found = [Conflict.of("two targets" if differ(some) else "twice", some) for some in prompts.values() if some[1:]]
    return (*found, *(Conflict.of("other words", some) for some in relations.values() if differ(some)))


def changed_neighbours(requests: Sequence[EditRequest]) -> tuple[int, int]:
    """How many neighbours of these requests ask the very prompt that another of them changes, and how many there are.

    Where all are edited into one model such a neighbour cannot stay, and its new answer is no side effect.
    """
    targets = {request.prompt.casefold(): request.target for request in requests}
    near = [each for request in requests for each in request.neighbours]
    changed = [each for each in near if each.prompt.casefold() in targets]
    return sum(not same_text(targets[each.prompt.casefold()], (each.answer,)) for each in changed), len(near)


def told_of_neighbours(together: Iterable[Sequence[EditRequest]]) -> str:
    """How many neighbours another request of the same group changes, in a sentence; empty where none does.

    The requests of one group are in the model at once.
    """
    found = [changed_neighbours(group) for group in together]
    changed, every = sum(one for one, _ in found), sum(total for _, total in found)
    if not changed:
        return ""
    return (
        f"{changed} of {every} neighbours ask what another of these facts changes; NS and locality count its new "
        "answer as harm"
    )


def differ(requests: Sequence[EditRequest]) -> bool:
    """Whether the requests have more than one target, upper and lower case apart."""
    return len({request.target.casefold() for request in requests}) > 1


def names_relation(request: EditRequest, suite: str) -> bool:
    """Whether the record named its relation: else readers take what its id begins with, and our own the file's name."""
    own = request.fact is not None and suite.startswith("our ")
    return request.relation != (Path(request.fact.source).stem if own and request.fact else request.id.split("/")[0])


def summary(found: Sequence[Conflict]) -> list[str]:
    """One sentence for each kind there is: how many, what follows, and the first."""
    said = []
    for kind, (what, given, so) in KINDS.items():
        some = [one for one in found if one.kind == kind]
        if len(some) == 1:
            said.append(f"1 {what} is given {given}: {so}: {some[0]}")
        elif some:
            said.append(f"{len(some)} {what}s are given {given}: {so}; the first: {some[0]}; --json lists all")
    return said
