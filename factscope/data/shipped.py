"""What ships with us: facts, found by relation or by the prompt that asks for one of them, and ordinary text."""

import json
from functools import cache
from importlib import resources

from factscope.data.fact import SLOT, Fact, Relation
from factscope.data.records import shipped_relation


def relations() -> dict[str, Relation]:
    """The relations that ship with us, by name."""
    return dict(_shipped())


@cache
def documents() -> tuple[str, ...]:
    """Ordinary text, which SmolLM2-135M wrote by itself."""
    file = resources.files("factscope") / "data" / "text" / "written.json"
    return tuple(json.loads(file.read_text(encoding="utf-8"))["documents"])


def find_fact(prompt: str) -> Fact | None:
    """The shipped fact that a prompt asks for under any template or paraphrase; its `template` is the one that fits."""
    prompt = prompt.strip()
    for relation in _shipped().values():
        for wording in relation.wordings:
            before, after = wording.split(SLOT)
            if len(prompt) > len(before) + len(after) and prompt.startswith(before) and prompt.endswith(after):
                subject = prompt[len(before) : len(prompt) - len(after)]
                for entry in relation.entries:
                    if entry.subject == subject:
                        return relation.fact(entry, wording)
    return None


@cache
def shipped_subjects() -> frozenset[str]:
    """Every subject of the shipped facts; "The Eiffel Tower" also as it stands inside a sentence, and bare."""
    subjects = {entry.subject for relation in _shipped().values() for entry in relation.entries}
    with_article = {subject for subject in subjects if subject.startswith("The ")}
    return frozenset(
        subjects | {f"the {subject[4:]}" for subject in with_article} | {subject[4:] for subject in with_article}
    )


@cache
def _shipped() -> dict[str, Relation]:
    folder = resources.files("factscope") / "data" / "relations"
    files = sorted((each for each in folder.iterdir() if each.name.endswith(".json")), key=lambda each: each.name)
    found = [shipped_relation(each.read_text(encoding="utf-8"), each.name) for each in files]
    return {relation.name: relation for relation in found}
