"""Which words of a sentence are its subject: those that are marked or named, a shipped fact's, or a guess that is said.

A guess goes from what is certain to what is likely: a name among the shipped subjects; a run of capitalised words; and
a common noun, or any word that the sentence speaks *of* ("the opposite of hot"), among the shipped subjects. A word
such as "eat" is the subject of a shipped fact too, and in "Most people eat" it is a verb: it is never guessed there.
"""

import difflib
import re
from collections.abc import Iterator

from factscope.data.fact import whole_words
from factscope.data.function_words import FUNCTION_WORDS
from factscope.data.shipped import find_fact, relations, shipped_subjects
from factscope.errors import PromptError

Span = tuple[int, int]  # characters: first, and one past the last
NOUNS = ("animal_young", "element_symbol")  # shipped relations whose common words are things
_OPENERS = (
    "according actually everybody everyone finally nobody often people perhaps sadly somebody someone sometimes soon "
    "suddenly today tomorrow usually yesterday"
)
OPENERS = FUNCTION_WORDS | frozenset(_OPENERS.split())  # with a capital where they begin a sentence, and no names
_RUN = r"(?:The\s+)?[A-Z][\w'’.-]*(?:\s+(?:of\s+|the\s+)?(?:[A-Z][\w'’.-]*|\d+\b))*"
_SCENE = "In|On|At|During|Since|Before|After"
_SPEAKS_OF = r"(?:of|for|word|verb|noun|adjective|term|called)\s+['\"‘“]?$|['\"‘“]$"


def subject_in(text: str, subject: str | None = None) -> tuple[str, Span, str]:
    """The text without brackets, the subject's characters in it, and how they were found.

    Raises PromptError, before any model is needed: an empty text, brackets that do not match or mark several, a subject
    that is absent, there twice, or marked and named otherwise, or none that could be guessed.
    """
    if not text.strip():
        raise PromptError("the prompt is empty; write the beginning of a sentence whose next word is the answer")
    marked = re.findall(r"\[([^\[\]]*)\]", text)
    if subject is not None:
        return text, _named(text, subject, [each.strip() for each in marked]), "flag"
    if text.count("[") != len(marked) or text.count("]") != len(marked):
        raise PromptError(f"the brackets in {text!r} do not match; write [subject], or name it with --subject")
    if len(marked) > 1:
        raise PromptError(f"{text!r} marks {len(marked)} subjects in brackets; mark one")
    if marked:
        begin = text.index(f"[{marked[0]}]")
        inner = marked[0].strip()
        pad = len(marked[0]) - len(marked[0].lstrip())
        plain = text.replace(f"[{marked[0]}]", marked[0], 1)
        if not inner:
            raise PromptError(f"the brackets in {text!r} are empty; put them around the subject")
        return plain, (begin + pad, begin + pad + len(inner)), "brackets"
    fact = find_fact(text)
    if fact is not None:
        lead = len(text) - len(text.lstrip())
        a, b = fact.subject_span
        return text, (a + lead, b + lead), "fact"
    span, how = guess_subject(text)
    return text, span, f"guess: {how}"


def _named(text: str, subject: str, inside: list[str]) -> Span:
    """The place of a subject that is named; `inside` is what stands in brackets."""
    if subject in inside:
        raise PromptError(f"the subject is both in brackets and named, {subject!r}; one of the two is enough")
    if len(inside) == 1 and "[" not in subject and any(map(str.isalpha, inside[0])):  # "[1]" is a reference
        raise PromptError(f"the brackets mark the subject {inside[0]!r}, and --subject names {subject!r}; give one")
    if not subject.strip():
        raise PromptError("the subject is empty")
    places = [match.start() for match in re.finditer(re.escape(subject), text)]
    whole = [p for p in places if _is_word(text, p, p + len(subject))]
    places = whole or places
    if not places:
        words = text.split()
        runs = [" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, min(len(words), i + 6) + 1)]
        close = difflib.get_close_matches(subject, runs, 1, 0.6)
        hint = f"; did you mean {close[0]!r}?" if close else "; write it as it stands there"
        raise PromptError(f"the subject {subject!r} is not in the prompt {text!r}{hint}")
    if len(places) > 1:
        raise PromptError(
            f"the subject {subject!r} is in the prompt {len(places)} times; mark the one that is meant with [brackets]"
        )
    return places[0], places[0] + len(subject)


def _is_word(text: str, begin: int, end: int) -> bool:
    return not (begin and text[begin - 1].isalnum()) and not (end < len(text) and text[end].isalnum())


# ---- guesses ----


def guess_subject(text: str) -> tuple[Span, str]:
    """The likeliest subject's characters, and why it was taken; to be printed. PromptError where none is likely."""
    shipped, runs = list(_shipped(text)), list(_capitalised(text))
    if names := [span for span in shipped if text[slice(*span)] != text[slice(*span)].lower()]:
        return _longest(names), "a subject of the shipped facts"
    if runs:
        main = [span for span in runs if not _sets_the_scene(text, span)]
        return _longest(main or runs), "the longest run of capitalised words"
    if shipped:
        return _longest(shipped), "a subject of the shipped facts"
    raise PromptError(f"no subject could be guessed in {text!r}; mark it with [brackets] or name it with --subject")


def _longest(spans: list[Span]) -> Span:
    """The longest; of equal ones, the first."""
    return min(spans, key=lambda span: (span[0] - span[1], span[0]))


def _shipped(text: str) -> Iterator[Span]:
    """Shipped subjects as whole words: names that are not a part of a longer one, things, and words spoken of."""
    things = {entry.subject for name in NOUNS for entry in relations()[name].entries}
    for subject in shipped_subjects():
        for match in whole_words(subject, text) if subject in text else ():
            begin, end = match.span()
            if subject != subject.lower():
                fits = not re.match(r"\s+[A-Z]", text[end:])  # "Martin Luther" of "Martin Luther King"
            else:
                fits = subject in things or re.search(_SPEAKS_OF, text[:begin]) is not None
            if fits:
                yield begin, end


def _capitalised(text: str) -> Iterator[Span]:
    """Runs of capitalised words, a leading "The" included, without what opens a sentence and a genitive's ending."""
    for match in re.finditer(_RUN, text):
        begin, end = match.span()
        while (word := re.match(r"\w+", text[begin:end])) and word[0].lower() in OPENERS:
            if word[0] == "The" and word.end() < end - begin:
                break
            begin += len(text[begin:end]) - len(re.sub(r"^[\w'’]+\s*", "", text[begin:end]))
        end = begin + len(re.sub(r"(?:['’]s)?[.,]?$", "", text[begin:end]))
        if begin < end:
            yield begin, end


def _sets_the_scene(text: str, span: Span) -> bool:
    """Whether it only says when or where: "On Monday, ..."."""
    before = re.search(rf"(?:^|[.?!]\s+)(?:{_SCENE})\s+(?:the\s+)?$", text[: span[0]])
    return before is not None and text[span[1] : span[1] + 1] == ","
