"""What to edit: facts whose `foil` is what the model must say from now on, checked before anything is computed.

A CounterFact record already reads that way (its target_new is our foil). `request` makes one from a sentence.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from factscope.data.fact import SLOT, Fact, same_text
from factscope.data.shipped import find_fact
from factscope.errors import EditError
from factscope.model.bridge import device
from factscope.model.forward.batched import logits_at
from factscope.model.prompts import Prompt, make_prompt, prompt_of


def request(
    model: Any, text: str, target: str, *, subject: str | None = None, answer: str | None = None, start: str = "auto"
) -> tuple[Fact, Prompt]:
    """A fact to edit from a sentence with its subject in [brackets], and how its subject was found.

    The answer, where it is not given, is a shipped fact's or the model's own greedy next token. A shipped fact brings
    its paraphrases and neighbours with it.

    Raises EditError (an empty target, a target that the model already gives) and PromptError as `make_prompt` does.
    """
    if not target.strip():
        raise EditError("the target is empty; give the words that the model shall say instead, as --target Rome")
    prompt = make_prompt(model, text, subject=subject, start=start)
    known = find_fact(prompt.text)
    if known is not None and known.subject != prompt.subject:
        known = None
    if answer is None:
        answer = known.answer if known is not None else _own_answer(model, prompt)
    if same_text(target.strip(), (answer.strip(),)):
        raise EditError(f"the target {target.strip()!r} is what the model is edited away from: choose another target")
    begin, end = prompt.subject_characters
    if known is not None:
        return replace(known, answer=answer.strip(), foil=target.strip(), aliases=()), prompt
    fact = Fact(
        id=f"prompt/{prompt.subject}",
        relation="prompt",
        subject=prompt.subject,
        template=_plain(prompt.text[:begin]) + SLOT + _plain(prompt.text[end:]),
        answer=answer.strip(),
        foil=target.strip(),
        source="prompt",
    )
    return fact, prompt


def _plain(text: str) -> str:
    if SLOT in text:
        raise EditError(f"the prompt has {SLOT!r} in it, which marks a slot here; write it otherwise")
    return text


@torch.no_grad()
def _own_answer(model: Any, prompt: Prompt) -> str:
    token = int(model(prompt.tensor(device(model)))[0, -1].argmax())
    word = model.tokenizer.decode([token]).strip()
    return word or model.tokenizer.convert_ids_to_tokens(token)


def check(facts: Sequence[Fact]) -> None:
    """Raise EditError unless every fact has a target, and no subject is given two targets for one question."""
    if not facts:
        raise EditError("there is no fact to edit")
    seen: dict[tuple[str, str], Fact] = {}
    for fact in facts:
        if fact.foil is None:
            raise EditError(f"fact {fact.id!r} has no target: give it a foil, the answer that the model shall learn")
        if same_text(fact.foil, (fact.answer,)):
            raise EditError(f"fact {fact.id!r}: the target {fact.foil!r} is its answer already; choose another")
        key = (fact.subject.casefold(), fact.template.casefold())
        other = seen.setdefault(key, fact)
        if other is not fact:
            what = (
                "the same target twice" if other.foil == fact.foil else f"two targets, {other.foil!r} and {fact.foil!r}"
            )
            raise EditError(f"{fact.prompt!r} has {what} (facts {other.id!r} and {fact.id!r}): keep one of them")


def target_prompts(model: Any, fact: Fact, contexts: Sequence[str], start: str) -> list[Prompt]:
    """The fact's prompt in every context, each with the target as its answer."""
    made = []
    for context in contexts:
        before, after = context.split(SLOT)
        asked = replace(fact, template=before + fact.template + after, answer=str(fact.foil), foil=None, aliases=())
        made.append(prompt_of(model, asked, start=start))
    return made


def essence_prompt(model: Any, fact: Fact, start: str) -> Prompt:
    """ "{subject} is a": where the drift of what the subject is at all is measured (Meng et al. 2022)."""
    return prompt_of(
        model, replace(fact, template="{} is a", answer=str(fact.foil), foil=None, aliases=()), start=start
    )


@torch.no_grad()
def known(model: Any, facts: Sequence[Fact], limit: int | None = None, start: str = "auto") -> tuple[Fact, ...]:
    """The facts whose answer the model gives: its greedy next token is the answer's first; at most `limit` of them."""
    found: list[Fact] = []
    for begin in range(0, len(facts), 64):
        some = [(fact, prompt_of(model, fact, start=start)) for fact in facts[begin : begin + 64]]
        tops = logits_at(model, [p.tokens for _, p in some], [[len(p.tokens) - 1] for _, p in some])
        found += [f for (f, p), top in zip(some, tops, strict=True) if int(top[0].argmax()) == p.answer_ids[0]]
        if limit is not None and len(found) >= limit:
            return tuple(found[:limit])
    return tuple(found)
