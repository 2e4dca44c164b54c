"""What to edit, made from a sentence, checked before anything is computed, and asked in every context."""

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from factscope.data.fact import SLOT, Fact, same_text
from factscope.data.joining import spelled
from factscope.data.request import EditRequest
from factscope.data.shipped import find_fact
from factscope.errors import EditError, PromptError
from factscope.model.agreement import finite
from factscope.model.bridge import Bridge, device
from factscope.model.known import Known, answer_ranks
from factscope.model.prompts import Prompt, make_prompt, prompt_of, with_answer

Asked = TypeVar("Asked", Fact, EditRequest)


def request(
    model: Bridge, text: str, target: str, *, subject: str | None = None, answer: str | None = None, start: str = "auto"
) -> EditRequest:
    """A request from a sentence with its subject in [brackets]; errors as `request_at` and `make_prompt` raise them."""
    return request_at(model, make_prompt(model, text, subject=subject, start=start), target, answer)


def request_at(model: Bridge, prompt: Prompt, target: str, answer: str | None = None) -> EditRequest:
    """A request from a prompt, which says how its subject was found.

    The old answer, where it is not given, is a shipped fact's or the model's own greedy next token. A shipped fact
    brings its paraphrases and neighbours with it.

    Raises EditError: an empty target, a target that the model already gives.
    """
    if not target.strip():
        raise EditError("the target is empty; give the words that the model shall say instead, as --target Rome")
    known = find_fact(prompt.text)
    if known is not None and known.subject != prompt.subject:
        known = None
    if answer is None:
        answer = known.answer if known is not None else _own_answer(model, prompt)
    target = spelled(prompt.text, target)
    answer = spelled(prompt.text, answer) if answer else None
    if answer is not None and same_text(target.strip(), (answer.strip(),)):
        raise EditError(f"the target {target.strip()!r} is what the model is edited away from: choose another target")
    begin, end = prompt.subject_characters
    template = known.template if known else _plain(prompt.text[:begin]) + SLOT + _plain(prompt.text[end:])
    return EditRequest(prompt.text, prompt.subject, target, answer, known, template)


def _plain(text: str) -> str:
    if SLOT in text:
        raise EditError(f"the prompt has {SLOT!r} in it, which marks a slot here; write it otherwise")
    return text


@torch.no_grad()
def _own_answer(model: Bridge, prompt: Prompt) -> str | None:
    """What the model itself goes on with, as a request says it; None, and a warning, where words cannot say it."""
    token = int(finite(model(prompt.tensor(device(model)))[0, -1]).argmax())
    said: str = model.tokenizer.decode([token])
    for word in (said.strip(), " " + said.strip()):
        with contextlib.suppress(PromptError):
            if word.strip() and with_answer(model, prompt, word, "own").answer_ids[0] == token:
                return word
    warnings.warn(f"the model itself goes on with {said!r}, no answer that a score could compare with", stacklevel=4)
    return None


def check(requests: Sequence[EditRequest]) -> None:
    """Raise EditError where there is no request, or one prompt is given two targets or the same target twice."""
    if not requests:
        raise EditError("there is no fact to edit")
    seen: dict[tuple[str, str], EditRequest] = {}
    for one in requests:
        other = seen.setdefault(one.key, one)
        if other is not one:
            same = other.target == one.target
            what = "the same target twice" if same else f"two targets, {other.target!r} and {one.target!r}"
            raise EditError(f"{one.prompt!r} has {what} (facts {other.id!r} and {one.id!r}): keep one of them")


BARE = (SLOT,)  # the contexts of a prompt that stands alone


@dataclass(frozen=True)
class RequestPrompts:
    """The prompts of some requests: each in every context, after what begins a text."""

    requests: Sequence[EditRequest]
    contexts: Sequence[str] = BARE
    start: str = "auto"

    def of(self, model: Bridge, asked: EditRequest) -> list[Prompt]:
        """The prompts of one of them, context by context."""
        return target_prompts(model, asked, self.contexts, self.start)


def target_prompts(model: Bridge, asked: EditRequest, contexts: Sequence[str], start: str) -> list[Prompt]:
    """The request's prompt in every context, each with the target as its answer."""
    pairs = [context.split(SLOT) for context in contexts]
    return [prompt_of(model, asked.told(before + asked.template + after), start=start) for before, after in pairs]


def bare_prompt(model: Bridge, asked: EditRequest, start: str) -> Prompt:
    """The request's prompt by itself, with the target as its answer."""
    (prompt,) = target_prompts(model, asked, BARE, start)
    return prompt


def essence_prompt(model: Bridge, asked: EditRequest, start: str) -> Prompt:
    """ "{subject} is a": where the drift of what the subject is at all is measured (Meng et al. 2022)."""
    return prompt_of(model, asked.told("{} is a"), start=start)


def known(
    model: Bridge,
    asked: Sequence[Asked],
    limit: int | None = None,
    start: str = "auto",
    meaning: Known = Known(),
) -> tuple[Asked, ...]:
    """Those whose answer, as it is before an edit, the model knows; at most `limit` of them.

    A request that does not say what was true before is not known.
    """
    found: list[Asked] = []
    for begin in range(0, len(asked), 64):
        some = [(one, prompt_of(model, fact, start=start)) for one in asked[begin : begin + 64] if (fact := _true(one))]
        ranks = answer_ranks(model, [prompt for _, prompt in some])
        found += [one for (one, _), place in zip(some, ranks, strict=True) if meaning.holds(place)]
        if limit is not None and len(found) >= limit:
            return tuple(found[:limit])
    return tuple(found)


def _true(asked: Fact | EditRequest) -> Fact | None:
    if isinstance(asked, Fact):
        return asked
    return None if asked.old is None else Fact(asked.id, asked.relation, asked.subject, asked.template, asked.old)
