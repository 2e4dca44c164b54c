"""RippleEdits (Cohen et al. 2024): an edit, six criteria of what follows or stays, and conditions for each test.

The record gives the edit as a finished sentence ("The name of the mother of X is Y.") and names neither X nor Y. Y is
what stands after the last "is", "are" or "was" of the words that it shares with the original fact's sentence (of the
whole sentence where there is no original fact), or after all shared words where there is no such verb among them. X is
what stands after the relation's own words and "of"; where they are not in the sentence, the longest end of it after an
"of" that a test of the same record has too. A record where neither is found is refused.
"""

import re

from factscope.data.case import Case, Question, QuestionGroup
from factscope.data.fact import SLOT, Fact, same_text
from factscope.data.formats.reader import Fields, as_list, record_format
from factscope.data.request import EditRequest
from factscope.errors import FactError

CRITERIA = {
    "Relation_Specifity": "relation specificity",  # spelt so in the published files
    "Relation_Specificity": "relation specificity",
    "Logical_Generalization": "logical generalization",
    "Subject_Aliasing": "subject aliasing",
    "Compositionality_I": "compositionality I",
    "Compositionality_II": "compositionality II",
    "Forgetfulness": "forgetfulness",
}

BEFORE = ("original_fact", "previous_fact")  # the published files say the first, their description the second


@record_format("RippleEdits", "example_type edit", " ".join(CRITERIA))
def read_ripple(fields: Fields, number: int, source: str) -> Case:
    """One edit with its tests."""
    edit = Fields(fields.value["edit"], ("prompt", "relation"), None, within="edit")
    left_out: list[str] = []
    trials = tuple(
        trial
        for key, label in CRITERIA.items()
        for index, value in enumerate(as_list(fields, key, needed=False))
        for trial in one_test(value, f"{key}[{index}]", label, left_out)
    )
    sentence = edit.text("prompt")
    before = None
    for name in BEFORE:
        if edit.value.get(name) is not None:
            before = Fields(edit.value[name], ("prompt",), None, within=f"edit.{name}").text("prompt")
    stem, new, old = split_sentence(sentence, before)
    prompts = [question.prompt for trial in trials for question in trial.questions]
    subject = find_name(stem, edit.text("relation"), prompts)
    begin = stem.rindex(subject)
    name, template = f"ripple/{number}", stem[:begin] + SLOT + stem[begin + len(subject) :]
    relation = edit.text("relation")
    if old is None:
        request = EditRequest(stem, subject, new, template=template, id=name, relation=relation)
    else:
        request = EditRequest.of(Fact(name, relation, subject, template, old, new, source=source))
    return Case(name, "RippleEdits", (request,), trials, left_out=tuple(left_out))


def one_test(value: object, place: str, label: str, left_out: list[str]) -> list[QuestionGroup]:
    """A test as a trial; none if one of its questions has no answer, which is noted."""
    test = Fields(value, ("test_queries",), None, within=place)
    try:
        asked, conditions = (queries(test, name) for name in ("test_queries", "condition_queries"))
    except NoAnswer as trouble:
        left_out.append(f"{place}: {trouble}")
        return []
    need = test.text("test_condition", "OR").upper()
    if need not in ("OR", "AND"):
        raise FactError(f"field {place + '.test_condition'!r} is {need!r}, not OR or AND")
    return [QuestionGroup("ripple", label, asked, "any" if need == "OR" else "all", conditions)] if asked else []


class NoAnswer(Exception):
    """A question of the published file that nothing can answer."""


def queries(test: Fields, name: str) -> tuple[Question, ...]:
    """The questions of a test or of its conditions."""
    out = []
    for index, value in enumerate(as_list(test, name, needed=False)):
        place = f"{test.within}{name}[{index}]"
        query = Fields(value, ("prompt", "answers"), None, within=place)
        answers = []
        for number, each in enumerate(as_list(query, "answers", needed=False)):
            answer = Fields(each, ("value",), None, within=f"{place}.answers[{number}]")
            texts = (str(answer.value["value"]).strip(), *(t.strip() for t in answer.value.get("aliases", [])))
            answers.append(tuple(dict.fromkeys(text for text in texts if text)))
        if not answers or not all(answers):
            raise NoAnswer(f"{name}[{index}] has no answer")
        out.append(Question(query.text("prompt"), tuple(answers)))
    return tuple(out)


def split_sentence(sentence: str, before: str | None) -> tuple[str, str, str | None]:
    """The prompt, the new answer and the old one of two sentences that differ in their end, or of one alone."""
    words, others = sentence.removesuffix(".").split(), (before or sentence).removesuffix(".").split()
    pairs = zip(words, others, strict=False)
    shared = next((i for i, (one, two) in enumerate(pairs) if one != two), min(len(words), len(others)))
    places = [i + 1 for i, word in enumerate(words[:shared]) if word in ("is", "are", "was")]
    shared = places[-1] if places else 0 if before is None else shared
    old = None if before is None else " ".join(others[shared:]) or None
    stem, new = " ".join(words[:shared]), " ".join(words[shared:])
    if not stem or not new or (old is not None and same_text(new, (old,))):
        raise FactError(f"field 'edit.prompt' is {sentence!r} beside {before!r}: which words are new is not to be seen")
    return stem, new, old


def find_name(stem: str, relation: str, prompts: list[str]) -> str:
    """The subject in the prompt of an edit; see the module's text."""
    text = re.sub(r"\s+(is|are|was)$", "", stem)
    phrase = relation.replace("_", " ").lower() + " of "
    if phrase in text.lower():
        found = text[text.lower().index(phrase) + len(phrase) :]
        if found:
            return found
    ends = [text[match.end() :] for match in re.finditer(r"\bof ", text)]
    shared = [end for end in ends if end and any(re.search(rf"\b{re.escape(end)}\b", prompt) for prompt in prompts)]
    if not shared:
        raise FactError(f"field 'edit.prompt': the subject of {stem!r} is not to be seen")
    return max(shared, key=len)
