"""What an edit asks for: after this prompt, about this subject, the model shall say `target` from now on.

It is CounterFact's `requested_rewrite` and EasyEdit's `{prompt, subject, target_new, ground_truth}`. A `Fact` is a
statement that is true, and its foil is a wrong answer; a request may well have a true target (zsRE asks to learn the
true answer), and may not know what was said before. What surrounds the prompt (paraphrases, neighbours) belongs to the
fact that the request is about, where there is one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from factscope.data.fact import SLOT, Fact, Neighbour, check_template, fill, named, same_text, whole_words
from factscope.data.joining import spelled
from factscope.errors import FactError


@dataclass(frozen=True)
class EditRequest:
    """One thing to say from now on; `template`, `id` and `relation` are the fact's, or found, where they are not given.

    Raises FactError: an empty text, a subject that is not in the prompt once, a target that is what was said before.
    """

    prompt: str
    subject: str  # as it stands in the prompt
    target: str  # what the model shall say; it begins with a space only where none would stand before it
    old: str | None = None  # what it said, or should have said; None: not known, and no score compares with it
    fact: Fact | None = None  # that it is about, with paraphrases and neighbours
    template: str = ""  # the prompt with "{}" in the subject's place
    id: str = ""
    relation: str = ""
    aliases: tuple[str, ...] = ()  # other spellings of the target that count as it

    def __post_init__(self) -> None:
        if self.fact is not None and (self.fact.prompt, self.fact.subject) != (self.prompt, self.subject):
            raise FactError(f"request {self.prompt!r} and its fact {self.fact.prompt!r} are not about the same prompt")
        found = {"template": self.template or (self.fact.template if self.fact else _template(self))}
        found["relation"] = self.relation or (self.fact.relation if self.fact else "prompt")
        found["id"] = self.id or (
            self.fact.id if self.fact else named(found["relation"], self.subject, found["template"])
        )
        for name, text in found.items():
            object.__setattr__(self, name, text)
        check_template(self.template)
        if fill(self.template, self.subject) != self.prompt:
            raise FactError(f"template {self.template!r} with {self.subject!r} does not give {self.prompt!r}")
        for field in ("id", "subject", "target", "old"):
            text = getattr(self, field)
            right = spelled(self.prompt, text or "") if field in ("target", "old") else (text or "").strip()
            if text is not None and (not right or text != right):
                raise FactError(f"request {self.id!r}: {field} is {text!r}: give text without spaces around it")
        if self.old is not None and same_text(self.target.strip(), (self.old.strip(),)):
            raise FactError(f"request {self.id!r}: the target {self.target!r} is its answer already; choose another")

    @classmethod
    def of(cls, fact: Fact) -> "EditRequest":
        """Say the fact's foil instead of its answer; FactError if it has no foil."""
        if fact.foil is None:
            raise FactError(f"fact {fact.id!r} has no target: give it a foil, the answer that the model shall learn")
        return cls(fact.prompt, fact.subject, fact.foil, fact.answer, fact)

    @classmethod
    def of_truth(cls, fact: Fact) -> "EditRequest":
        """Say the fact's true answer, in any of its spellings; what was said before is not known."""
        return cls(fact.prompt, fact.subject, fact.answer, None, fact, aliases=fact.aliases)

    def forgotten(self) -> "EditRequest":
        """The request whose target is what must go: the old answer; FactError where it is not known."""
        if self.old is None:
            raise FactError(f"request {self.id!r} does not say its old answer, so there is nothing to forget")
        return EditRequest(
            self.prompt, self.subject, self.old, self.target, None, self.template, self.id, self.relation
        )

    @property
    def key(self) -> tuple[str, str]:
        """Equal for two requests, or a fact and a request, that ask the same: subject and template, case apart."""
        return question_of(self)

    @property
    def paraphrases(self) -> tuple[str, ...]:
        """Other prompts that must give the target too."""
        return self.fact.paraphrases if self.fact else ()

    @property
    def neighbours(self) -> tuple[Neighbour, ...]:
        """What must stay as it is."""
        return self.fact.neighbours if self.fact else ()

    def told(self, template: str | None = None) -> Fact:
        """The statement as it shall be: a fact whose answer is the target, in another template if one is given."""
        return Fact(self.id, self.relation, self.subject, template or self.template, self.target)

    def __str__(self) -> str:
        return f"{self.prompt} {self.target}"


def question_of(asked: Fact | EditRequest) -> tuple[str, str]:
    """What "asks the same" means, everywhere: the subject and the template, upper and lower case apart."""
    return asked.subject.casefold(), asked.template.casefold()


def distinct(items: Iterable[Fact]) -> tuple[Fact, ...]:
    """The first of those that ask the same, in their order."""
    found: dict[tuple[str, str], Fact] = {}
    for item in items:
        found.setdefault(question_of(item), item)
    return tuple(found.values())


def requests_of(items: Iterable[Fact | EditRequest]) -> tuple[EditRequest, ...]:
    """Requests as they are, and for each fact the one that puts its foil in the answer's place."""
    return tuple(item if isinstance(item, EditRequest) else EditRequest.of(item) for item in items)


def saved_request(fact: dict[str, Any]) -> dict[str, Any]:
    """A fact as schema 1 saved it where it stood for a request: its foil was the target, "..." an unknown answer."""
    known = fact["answer"] != "..."
    asked = {name: fact[name] for name in ("id", "relation", "subject", "template")}
    asked |= {"prompt": fill(fact["template"], fact["subject"]), "target": fact["foil"]}
    return asked | {"old": fact["answer"] if known else None, "fact": fact if known else None}


def _template(request: EditRequest) -> str:
    """The prompt with a slot for its subject, which must stand there once, as whole words."""
    if SLOT in request.prompt:
        raise FactError(f"the prompt has {SLOT!r} in it, which marks a slot here; write it otherwise")
    places = whole_words(request.subject, request.prompt) if request.subject.strip() else []
    if len(places) != 1:
        count = "not" if not places else f"{len(places)} times"
        raise FactError(f"the subject {request.subject!r} stands {count} in {request.prompt!r}: give the template too")
    begin, end = places[0].span()
    return request.prompt[:begin] + SLOT + request.prompt[end:]
