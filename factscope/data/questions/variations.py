"""Hard wordings of an edit's prompt: after a long text, under doubt, with typos, in another language.

Edited models go back to what they said before where a prompt is long, noisy or doubtful (Ma et al. 2024, "On the
robustness of editing large language models", arXiv 2402.05827). The authors let a language model write such prompts;
here they are templates, so that every request has the same ones and nothing is fetched:

    long context    2, 8 or 24 plain sentences about a day on which nothing happens, then the prompt
    doubt           a doubt before the prompt; or the new answer, a doubt about it, and the prompt once more
    typos           two neighbouring letters exchanged in every longer word beside the subject; or in the subject alone
    language        the prompt's relation in French and German, where its template is translated; or French around it

The subject stays as it is but in the last of the typos, and answers keep their English spelling, so a translated prompt
asks for an English word. What the unedited model says to the same wording is read beside it. A prompt of a relation
that is not translated has one question of its language family; typos need words of four letters.
"""

import json
import random
import re
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

from factscope.data.case import Case, Question, QuestionGroup
from factscope.data.fact import SLOT, fill
from factscope.data.joining import between
from factscope.data.request import EditRequest

FAMILIES = ("long context", "doubt", "typos", "language")
LENGTHS = (2, 8, 24)  # sentences before the prompt
UNSURE = "Many people get this wrong, and I am not sure about it either. {}"
DOUBTED = "{}. Are you sure? I do not think that this is right. {}"  # the statement with the new answer, and the prompt
AROUND = "Complétez la phrase anglaise : « {}"
WORD = re.compile(r"[^\W\d_]{4,}")


def variations_of(request: EditRequest) -> tuple[QuestionGroup, ...]:
    """Every hard wording of a request, one question each, compared with the old answer where it is known."""
    answers, prompt, texts = ((request.target, *request.aliases),), request.prompt, _texts()
    said = prompt + between(prompt, request.target) + request.target
    found = {f"long context, {n} sentences": " ".join([*texts["sentences"][:n], prompt]) for n in LENGTHS}
    found["doubt, before"] = UNSURE.format(prompt)
    found["doubt, after the new answer"] = DOUBTED.format(said, prompt)
    before, after = request.template.split(SLOT)
    found["typos, around the subject"] = mistyped(before) + request.subject + mistyped(after)
    found["typos, in the subject"] = fill(request.template, mistyped(request.subject))
    relation = texts["the same as"].get(request.relation, request.relation)
    for language, template in texts["translated"].get(relation, {}).items():
        found[f"language, {language}"] = fill(template, request.subject)
    found["language, French around it"] = AROUND.replace("{}", prompt)
    return tuple(
        QuestionGroup("variation", label, (Question(text, answers, request.old),))
        for label, text in found.items()
        if text != prompt
    )


def family(label: str) -> str:
    """Which of FAMILIES a wording is of, by its label."""
    return label.partition(",")[0]


def mistyped(text: str, seed: int = 0) -> str:
    """A text with two unlike neighbours exchanged inside every word of four letters or more; always the same way."""
    draw = random.Random(f"{seed}/{text}")

    def exchanged(found: re.Match[str]) -> str:
        word = found[0]
        places = [at for at in range(1, len(word) - 1) if word[at] != word[at + 1]]
        if not places:
            return word
        at = draw.choice(places)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]

    return WORD.sub(exchanged, text)


def varied(case: Case) -> Case:
    """The same case, with the hard wordings of its requests."""
    return replace(case, more=(*case.more, *(group for request in case.requests for group in variations_of(request))))


@cache
def _texts() -> dict[str, Any]:
    """The sentences and the translated templates that ship with us."""
    file = resources.files("factscope") / "data" / "text" / "variations.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
