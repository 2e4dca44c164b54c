"""What the subject's last token holds, and where the last token takes the answer from: attributes and extraction.

Geva et al. 2023, sections 5 and 6. The *attributes rate* of a layer is the share of the 50 most probable words of the
subject's last token, by the logit lens, that are attributes of the subject. Tokens that are no words do not count:
fewer than three letters, and function words. The authors take the subject's attributes from paragraphs of Wikipedia;
ours are the answers, and their other names, of the facts that are known of the subject, and of the facts that are
known of these answers in turn (the Eiffel Tower, Paris, France, French), or words that are given. There are far fewer
of them, so a rate is small, and only its course over the layers and its distance from the null mean something. The
null is the mean rate of other subjects' attributes, without those that are this subject's too.

A layer *extracts* the answer where the first token of what its attention (or its MLP) writes at the last token, read
alone, is the answer's first token.
"""

import re
from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from factscope.data.fact import Fact
from factscope.data.function_words import FUNCTION_WORDS
from factscope.data.shipped import find_fact, relations
from factscope.errors import UserError
from factscope.model.bridge import Bridge, device
from factscope.model.hooks import record
from factscope.model.prompts import Prompt
from factscope.model.readout import rank, readout
from factscope.model.sites import Site
from tracing.flow.results import PARTS, Enrichment, Extraction

Pool: TypeAlias = Sequence[Fact]
WORDS = 50  # of the lens, among which attributes are counted
OTHERS = 30  # subjects of the null, at most


def recorded(model: Bridge, prompt: Prompt) -> dict[Site, Float[Tensor, "pos d_model"]]:
    """The states and updates that both rates read, of one forward pass."""
    layers = range(model.cfg.n_layers)
    sites = [Site("resid_pre"), *(Site(kind, layer) for layer in layers for kind in ("resid", *PARTS))]
    with record(model, sites) as seen:
        model(prompt.tensor(device(model)))
    return {site: value[0] for site, value in seen.items()}


# ---- the attributes rate ----


def enrichment(
    model: Bridge,
    prompt: Prompt,
    states: dict[Site, Float[Tensor, "pos d_model"]],
    given: Sequence[str] = (),
    pool: Pool = (),
) -> Enrichment | None:
    """The attributes rate by layer at the subject's last token; None where no attribute of the subject is known."""
    words = tuple(dict.fromkeys(given)) or attributes_of(prompt.subject, pool)
    if given and not _texts(model, words):
        raise UserError(f"none of the attributes {', '.join(given)} is a word of three letters or more")
    own = _texts(model, words)
    if not own:
        return None
    place, layers = prompt.subject_span[1] - 1, range(model.cfg.n_layers)
    column = torch.stack([states[site][place] for site in (Site("resid_pre"), *(Site("resid", i) for i in layers))])
    top = [first_words(model, row) for row in readout(model).read(column, column[-1:], "per-state")]
    others = [_texts(model, attributes_of(other, pool)) - own for other in _other_subjects(prompt, pool)]
    nulls = [_rates(top, other) for other in others if other]
    return Enrichment(
        words=words,
        words_from="given" if given else "known facts of the subject, and of their answers",
        rate=torch.tensor(_rates(top, own)),
        null=torch.tensor(nulls).mean(0) if nulls else torch.full((len(top),), torch.nan),
        others=len(nulls),
        top=tuple(tuple(found[:10]) for found in top),
    )


def attributes_of(subject: str, pool: Pool = ()) -> tuple[str, ...]:
    """Answers and their other names of all facts of a subject, and of all facts of these answers in turn.

    Facts are those of `pool` and those that ship with us. The subject itself is none of its attributes.
    """
    known: dict[str, list[str]] = {}
    for fact in pool:
        known.setdefault(_name(fact.subject), []).extend((fact.answer, *fact.aliases))
    for relation in relations().values():
        for entry in relation.entries:
            known.setdefault(_name(entry.subject), []).extend((entry.answer, *entry.aliases))
    found, asked, reached = dict[str, None](), [_name(subject)], {_name(subject)}
    while asked:
        for answer in known.get(asked.pop(0), []):
            if _name(answer) not in reached:
                reached.add(_name(answer))
                asked.append(_name(answer))
                found[answer] = None
    return tuple(found)


def _name(text: str) -> str:
    return text.casefold().removeprefix("the ")


def _other_subjects(prompt: Prompt, pool: Pool) -> list[str]:
    """Subjects of the same relation: of the pool's facts that ask as the prompt does, else of the shipped relation."""
    own = _name(prompt.subject)
    asked = {fact.relation for fact in pool if _name(fact.subject) == own}
    names = [fact.subject for fact in pool if fact.relation in asked]
    fact = find_fact(prompt.text)
    if fact is not None:
        names += [entry.subject for entry in relations()[fact.relation].entries]
    return [name for name in dict.fromkeys(names) if _name(name) != own][:OTHERS]


def _texts(model: Bridge, words: Sequence[str]) -> frozenset[str]:
    """The tokens of the words, inside a text and at its beginning, as they read, those that are no words left out."""
    encode, decode = model.tokenizer.encode, model.tokenizer.decode
    ids = {i for word in words for text in (word, f" {word}") for i in encode(text, add_special_tokens=False)}
    return frozenset(text for i in ids if (text := _word(decode([i]))))


def _word(token: str) -> str:
    """A token as a word, in lower case; empty for one that is none."""
    text = token.strip().casefold()
    return text if re.fullmatch(r"[^\W\d_]{3,}", text) and text not in FUNCTION_WORDS else ""


def first_words(model: Bridge, logits: Float[Tensor, " vocab"]) -> list[str]:
    """The `WORDS` most probable tokens that are words, the most probable first; spellings of one word count each."""
    found: list[str] = []
    order = logits.argsort(descending=True).tolist()
    for token in order:
        if text := _word(model.tokenizer.decode([token])):
            found.append(text)
            if len(found) == WORDS:
                break
    return found


def _rates(top: Sequence[Sequence[str]], attributes: frozenset[str]) -> list[float]:
    return [sum(text in attributes for text in words) / len(words) if words else 0.0 for words in top]


# ---- extraction ----


def extraction(model: Bridge, prompt: Prompt, states: dict[Site, Float[Tensor, "pos d_model"]]) -> Extraction:
    """The answer's rank in each update at the last token, and the update's own first token."""
    layers = range(model.cfg.n_layers)
    final = states[Site("resid", len(layers) - 1)][-1]
    ranks, top = [], []
    for part in PARTS:
        updates = torch.stack([states[Site(part, layer)][-1] for layer in layers])
        logits = readout(model).read(updates, final, "final-scale")
        ranks.append(rank(logits, prompt.answer_ids[0]).cpu())
        top.append(tuple(model.tokenizer.decode([i]) for i in logits.argmax(-1).tolist()))
    return Extraction(torch.stack(ranks), tuple(top))
