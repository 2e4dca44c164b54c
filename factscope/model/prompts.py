"""Where text becomes tokens, and the only place where it does.

A `Prompt` is a text whose parts are known in tokens: which are the subject, which token the answer begins with, what
was put in front. The subject's span comes from character offsets of the whole text, never from tokenising a piece of
it (a word's tokens depend on what stands before it), and the answer's ids from encoding prompt and answer together and
taking what is new. A space stands between the two where one belongs: not after an opening quote or bracket, nor inside
a word that a hyphen parts, nor in a script that writes none. How the subject and the answer were found is part of the
value, because a guess must be seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from factscope.data.fact import Fact
from factscope.data.joining import between
from factscope.data.subjects import Span, subject_in
from factscope.errors import PromptError, TokenMismatch
from factscope.model.bridge import Bridge, info

OWN_ANSWER = "the model's own prediction"  # where an answer comes from that nobody gave
_BY_FIRST = "it is traced by its first"  # token: in the note of an answer of several


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt. Positions count from 0 and include the start token where there is one."""

    text: str
    tokens: tuple[int, ...]
    labels: tuple[str, ...]  # each token as it reads, one per token
    start_token: str | None  # what was put in front, or None
    subject: str
    subject_characters: Span  # in the text
    subject_span: Span  # positions
    subject_from: str  # "brackets", "flag", "fact", or a guess in words
    answer: str | None  # the whole text of the answer, with its leading space
    answer_ids: tuple[int, ...]
    answer_from: str  # "flag", "fact", OWN_ANSWER
    foil: str | None = None
    foil_ids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()  # what a person should know: a multi-token answer, a trimmed space

    def __repr__(self) -> str:
        """In short: the end of a notebook's cell shows it."""
        said = "no answer" if self.answer is None else f"answer {self.answer!r} (from: {self.answer_from})"
        other = "" if self.foil is None else f", foil {self.foil!r}"
        begun = "no start token" if self.start_token is None else f"begun by {self.start_token}"
        notes = "".join(f"; {note}" for note in self.notes)
        subject = f"{self.marked!r} (subject from: {self.subject_from})"
        return f"Prompt: {subject}, {said}{other}; {len(self.tokens)} tokens, {begun}{notes}"

    @property
    def marked(self) -> str:
        """The text with its subject in brackets."""
        begin, end = self.subject_characters
        return f"{self.text[:begin]}[{self.text[begin:end]}]{self.text[end:]}"

    @property
    def n_start(self) -> int:
        """How many tokens were put in front (0 or 1)."""
        return 0 if self.start_token is None else 1

    @property
    def subject_positions(self) -> range:
        """Positions of the subject's tokens."""
        return range(*self.subject_span)

    def items(self) -> tuple[tuple[str, str], ...]:
        """What a page's card says of it, and where its parts are from."""
        return (
            ("prompt", self.text),
            ("subject", f"{self.subject} (from: {self.subject_from})"),
            ("answer", f"{self.answer} (from: {self.answer_from})"),
            ("start token", self.start_token or "none"),
        )

    def remarks(self, more: Sequence[str] = ()) -> list[str]:
        """Where subject and answer are from, and the notes, with `more`, as sentences."""
        said = f"The subject is {self.subject!r} ({self.subject_from}); the answer {self.answer!r} is from "
        return [
            f"{said}{self.answer_from}.",
            *(f"{note[0].upper()}{note[1:]}." for note in (*self.notes, *more)),
        ]

    def tensor(self, device: Any = "cpu") -> Int[Tensor, "1 pos"]:
        """The tokens as one row."""
        return torch.tensor([self.tokens], device=device)

    def roles(self) -> tuple[str, ...]:
        """The role of each token, as in the average plots of Meng et al. 2022.

        start, before, first/middle/last subject, first after, further, last. A subject of one token is its last
        (ROME counts it as both first and last); the token before the answer is always "last".
        """
        first, after = self.subject_span
        roles = []
        for position in range(len(self.tokens)):
            if position < self.n_start:
                role = "start token"
            elif position < first:
                role = "before subject"
            elif position < after:
                inside = "first subject" if position == first else "middle subject"
                role = "last subject" if position == after - 1 else inside
            elif position == len(self.tokens) - 1:
                role = "last token"
            else:
                role = "first after" if position == after else "further"
            roles.append(role)
        return tuple(roles)


ROLES = (
    "before subject",
    "first subject",
    "middle subject",
    "last subject",
    "first after",
    "further",
    "last token",
)


@dataclass(frozen=True)
class PromptPair:
    """A clean prompt and a corrupt one that differ in the subject alone, token for token of equal length."""

    clean: Prompt
    corrupt: Prompt

    def __post_init__(self) -> None:
        a, b = self.clean, self.corrupt
        if len(a.tokens) != len(b.tokens):
            raise TokenMismatch(
                f"{a.text!r} is {len(a.tokens)} tokens, {b.text!r} is {len(b.tokens)}: choose a subject of equal length"
            )
        if a.subject_span != b.subject_span:
            raise TokenMismatch(
                f"{a.subject!r} stands at tokens {a.subject_span}, {b.subject!r} at {b.subject_span}: choose a subject "
                "that takes the same place"
            )
        outside = [
            i
            for i, (x, y) in enumerate(zip(a.tokens, b.tokens, strict=True))
            if x != y and i not in a.subject_positions
        ]
        if outside:
            raise TokenMismatch(
                f"{a.text!r} and {b.text!r} differ outside the subject too, at {a.labels[outside[0]]!r} and "
                f"{b.labels[outside[0]]!r}"
            )


def as_prompt(model: Bridge, prompt: str | Prompt) -> Prompt:
    """A prompt as it is; of a text, the prompt that `make_prompt` makes, and what that raises."""
    return make_prompt(model, prompt) if isinstance(prompt, str) else prompt


def make_prompt(
    model: Bridge,
    text: str,
    *,
    subject: str | None = None,
    answer: str | None = None,
    foil: str | None = None,
    start: str = "auto",
) -> Prompt:
    """Tokenise `text` for `model` and find its subject and answer.

    The subject is, in this order: what stands in [brackets] in the text, `subject`, the subject of a shipped fact, or
    a guess, which `subject_from` then says. `answer` and `foil` follow after a space where one belongs (`between`), and
    as they are if they bring their own. `start` is "auto" (what the model's entry says), "none", or a token of the
    tokenizer.

    Raises PromptError (subject absent, there twice, or marked and named otherwise, an empty or too long prompt, an
    unknown start token, an answer whose tokens merge with the prompt's) and TokenMismatch (answer and foil begin with
    the same token).
    """
    notes: list[str] = []
    text, span, origin = subject_in(text, subject)
    if text != text.rstrip():
        ending = "space" if text[len(text.rstrip()) :].strip(" ") == "" else "line break or tab"
        text = text.rstrip()
        notes.append(f"the {ending} at the end of the prompt was removed; the answer brings its own space")
    prompt = _tokenised(model, text, span, origin, start, notes)
    if answer is not None:
        prompt = with_answer(model, prompt, answer, "flag")
    return with_foil(model, prompt, foil) if foil is not None else prompt


def tokenized(
    model: Bridge, text: str, answer: str | None = None, start: str = "auto"
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of a prompt that is asked without a subject, the start token among them, and those of its answer.

    Brackets are plain text here. Raises PromptError as `make_prompt` does for the text, the start and the answer.
    """
    text = text.rstrip()
    if not text:
        raise PromptError("the prompt is empty; write the beginning of a sentence whose next word is the answer")
    _, tokens, offsets = _begun(model, text, start)
    if answer is None:
        return tokens, ()
    return tokens, _continuation(model, text, tokens[len(tokens) - len(offsets) :], answer, "answer")[1]


def prompt_of(model: Bridge, fact: Fact, *, start: str = "auto") -> Prompt:
    """The prompt of a fact, its answer and foil included; the foil is left out where it begins like the answer."""
    prompt = _tokenised(model, fact.prompt.rstrip(), fact.subject_span, "fact", start, [])
    prompt = with_answer(model, prompt, fact.answer, "fact")
    if fact.foil is None:
        return prompt
    try:
        return with_foil(model, prompt, fact.foil)
    except TokenMismatch as why:
        return replace(prompt, notes=(*prompt.notes, str(why)))


def with_answer(model: Bridge, prompt: Prompt, answer: str, origin: str) -> Prompt:
    """`prompt` with this answer; an answer of several tokens is traced by its first, and a note says so."""
    joined, ids = _continuation(model, prompt.text, prompt.tokens[prompt.n_start :], answer, "answer")
    notes = prompt.notes
    if not joined[0].isspace():
        after = prompt.text[-1]
        notes = (*notes, f"the answer {joined!r} follows {after!r} without a space; begin it with a space to have one")
    if len(ids) > 1:
        first = model.tokenizer.decode([ids[0]])
        notes = (*notes, f"the answer {joined!r} is {len(ids)} tokens; {_BY_FIRST}, {first!r}")
    return replace(prompt, answer=joined, answer_ids=ids, answer_from=origin, notes=notes)


def with_answer_ids(model: Bridge, prompt: Prompt, ids: Sequence[int], origin: str) -> Prompt:
    """`prompt` with an answer given as tokens, as when the model itself gave it.

    Raises PromptError for a token that the tokenizer does not have: vocabularies are padded beyond their tokens.
    """
    unsaid = next((i for i in ids if model.tokenizer.convert_ids_to_tokens(i) is None), None)
    if unsaid is not None:
        raise PromptError(
            f"what the model itself says after {prompt.text!r} is its token {unsaid}, which its tokenizer does not "
            "have: give an answer with --answer"
        )
    said = replace(prompt, answer=model.tokenizer.decode(list(ids)), answer_ids=tuple(ids), answer_from=origin)
    return _apart(model, said)


def as_a_whole(prompt: Prompt) -> Prompt:
    """`prompt` without the note that an answer of several tokens is traced by its first, for what reads all of them."""
    return replace(prompt, notes=tuple(note for note in prompt.notes if _BY_FIRST not in note))


def with_foil(model: Bridge, prompt: Prompt, foil: str) -> Prompt:
    """`prompt` with this wrong answer to compare with."""
    joined, ids = _continuation(model, prompt.text, prompt.tokens[prompt.n_start :], foil, "foil")
    return _apart(model, replace(prompt, foil=joined, foil_ids=ids))


def _apart(model: Bridge, prompt: Prompt) -> Prompt:
    """The prompt, if its answer and its foil can be told apart; TokenMismatch if they begin alike."""
    if prompt.answer_ids and prompt.foil_ids and prompt.answer_ids[0] == prompt.foil_ids[0]:
        token = model.tokenizer.decode([prompt.foil_ids[0]])
        raise TokenMismatch(
            f"answer {prompt.answer!r} and foil {prompt.foil!r} begin with the same token {token!r}, so their "
            "difference is always zero: choose another foil"
        )
    return prompt


def swap_subject(model: Bridge, prompt: Prompt, subject: str, answer: str | None = None) -> PromptPair:
    """The pair of `prompt` and the same text about another subject; TokenMismatch unless they align."""
    return PromptPair(prompt, about(model, prompt, subject, answer))


def about(model: Bridge, prompt: Prompt, subject: str, answer: str | None = None) -> Prompt:
    """The text of `prompt` about another subject, which may have another number of tokens."""
    begin, end = prompt.subject_characters
    text = prompt.text[:begin] + subject + prompt.text[end:]
    start = prompt.start_token or "none"
    other = _tokenised(model, text, (begin, begin + len(subject)), "swap", start, [])
    if answer is not None:
        other = with_answer(model, other, answer, "fact")
    return other


# ---- tokens ----


def _tokenised(model: Bridge, text: str, span: Span, origin: str, start: str, notes: list[str]) -> Prompt:
    if span[1] > len(text):
        span = (span[0], len(text))
    token, tokens, offsets = _begun(model, text, start)
    begun = len(tokens) - len(offsets)
    if begun and tokens[begun] == tokens[0]:
        notes = [*notes, f"{token} stands at the beginning twice, once of the text's own; --start none leaves ours out"]
    inside = [i for i, (a, b) in enumerate(offsets) if text[max(a, span[0]) : min(b, span[1])].strip()]
    if not inside:
        raise PromptError(f"the subject {text[span[0] : span[1]]!r} has no token of its own in {text!r}")
    first, last = inside[0], inside[-1]
    spill = text[offsets[first][0] : span[0]].strip() + text[span[1] : offsets[last][1]].strip()
    if spill:
        notes = [*notes, f"the subject shares a token with {spill!r} beside it"]
    return Prompt(
        text=text,
        tokens=tokens,
        labels=tuple(model.tokenizer.decode([i]) for i in tokens),
        start_token=token,
        subject=text[span[0] : span[1]],
        subject_characters=span,
        subject_span=(first + begun, last + 1 + begun),
        subject_from=origin,
        answer=None,
        answer_ids=(),
        answer_from="",
        notes=tuple(notes),
    )


def _begun(model: Bridge, text: str, start: str) -> tuple[str | None, tuple[int, ...], tuple[Span, ...]]:
    """The start token, all tokens with it, and the characters of the text's own."""
    token, begin = start_token(model, start)
    ids, offsets = _encode(model, text)
    count, longest = len(begin) + len(ids), int(getattr(model.cfg, "n_ctx", 0) or 0)
    if longest and count > longest:
        raise PromptError(f"the prompt is {count} tokens, and this model reads {longest} at most: shorten it")
    return token, (*begin, *ids), offsets


def _encode(model: Bridge, text: str) -> tuple[tuple[int, ...], tuple[Span, ...]]:
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError(f"{type(tokenizer).__name__} gives no character offsets; the model needs a tokenizer.json")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PromptError(f"{text!r} has characters that no text has (half a pair, or undecoded bytes)") from None
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = _embedded(model, tuple(encoded["input_ids"]))
    return ids, tuple((a, b) for a, b in encoded["offset_mapping"])


def token_ids(model: Bridge, text: str) -> tuple[int, ...]:
    """The ids of a text that is no prompt, without a start token; PromptError for a token that the model lacks."""
    return _embedded(model, tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"]))


def _embedded(model: Bridge, ids: tuple[int, ...]) -> tuple[int, ...]:
    """The ids, if the model has an embedding for each: a tokenizer may know more tokens than its model."""
    known = next(model.embed.parameters()).shape[0]
    beyond = next((i for i in ids if i >= known), None)
    if beyond is not None:
        raise PromptError(
            f"the tokenizer has a token {model.tokenizer.convert_ids_to_tokens(beyond)!r} (number {beyond}) that the "
            f"model, of {known} tokens, was never given: write the text without it"
        )
    return ids


def _continuation(
    model: Bridge, text: str, own: tuple[int, ...], answer: str, what: Literal["answer", "foil"]
) -> tuple[str, tuple[int, ...]]:
    """`answer` with its leading space, and its ids: the whole text's, less `own`, the prompt's."""
    if not answer.strip():
        raise PromptError(f"the {what} is empty")
    joined = answer.rstrip() if answer[0].isspace() else between(text, answer) + answer.rstrip()
    ids, _ = _encode(model, text + joined)
    if ids[: len(own)] != own or len(ids) == len(own):
        raise PromptError(
            f"the {what} {answer!r} merges with the end of the prompt {text[-20:]!r} into other tokens; end the "
            "prompt at a word's end"
        )
    return joined, ids[len(own) :]


def start_token(model: Bridge, start: str = "auto") -> tuple[str | None, tuple[int, ...]]:
    """The token that begins a document and its id, as asked for by "auto", "none" or a token; None and () for none.

    Raises PromptError if this tokenizer does not have the token: it would take its unknown token instead.
    """
    token = info(model).start_token if start == "auto" else start
    if token is None or token == "none":
        return None, ()
    number = model.tokenizer.convert_tokens_to_ids([token])[0]
    if number is None or model.tokenizer.convert_ids_to_tokens(number) != token:
        raise PromptError(f"{token!r} is not a token of this model; choose one of its own, or --start none")
    return token, _embedded(model, (int(number),))


def document_bounds(model: Bridge) -> frozenset[int | None]:
    """The tokens that stand between documents: the tokenizer's end of a text, and what begins one."""
    return frozenset((getattr(model.tokenizer, "eos_token_id", None), *start_ids(model)))


def start_ids(model: Bridge, start: str = "auto") -> tuple[int, ...]:
    """The ids that begin a document: none, or the one start token; PromptError as in `start_token`."""
    return start_token(model, start)[1]
