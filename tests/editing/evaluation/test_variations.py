"""Hard wordings of an edit's prompt: what they are made of, and when an edit counts as gone back."""

import re
from dataclasses import replace
from typing import Any

import pytest

import factscope as fs
from editing.evaluation.evaluate import EditReport, evaluate
from editing.evaluation.metrics import METRICS, Record
from editing.evaluation.protocol import ORDERS, differences, protocol
from editing.evaluation.read import Reading, Row
from editing.pages.wordings import wording_table, wording_words, wordings
from factscope.data.fact import SLOT
from factscope.data.questions.variations import FAMILIES, LENGTHS, _texts, family, mistyped, variations_of
from factscope.data.request import EditRequest
from factscope.data.shipped import relations

REQUEST = EditRequest(
    "The Eiffel Tower is located in the city of", "The Eiffel Tower", "Rome", "Paris", relation="landmark_city"
)


def test_a_hard_wording_asks_the_same_of_the_same_subject() -> None:
    groups = {one.label: one.questions[0] for one in variations_of(REQUEST)}
    assert {family(label) for label in groups} == set(FAMILIES)
    assert all((one.target, one.other) == ("Rome", "Paris") for one in groups.values())
    kept = [one.prompt for label, one in groups.items() if label != "typos, in the subject"]
    assert all("The Eiffel Tower" in text for text in kept)
    contexts = [groups[f"long context, {n} sentences"].prompt for n in LENGTHS]
    assert all(text.endswith(f" {REQUEST.prompt}") for text in contexts)
    assert [text.count(". ") for text in contexts] == list(LENGTHS)
    doubted = groups["doubt, after the new answer"].prompt
    assert doubted.startswith(f"{REQUEST.prompt} Rome. ")
    assert doubted.endswith(f" {REQUEST.prompt}")
    assert groups["language, German"].prompt == "The Eiffel Tower befindet sich in der Stadt"
    other = replace(REQUEST, relation="P276")  # CounterFact's relations are Wikidata's
    assert [one.label for one in variations_of(other)] == list(groups)
    assert "language, German" not in {one.label for one in variations_of(replace(REQUEST, relation="prompt"))}
    assert all(one.questions[0].other is None for one in variations_of(replace(REQUEST, old=None)))


def test_typos_keep_the_letters_and_come_out_the_same_every_time() -> None:
    text = "The young of the cat, which is called a kitten, Ooooo"
    typed = mistyped(text)
    assert typed != text
    assert typed == mistyped(text)
    for word, other in zip(re.findall(r"\w+", text), re.findall(r"\w+", typed), strict=True):
        assert sorted(word) == sorted(other)
        assert (word[0], len(word) < 4 or sum(a != b for a, b in zip(word, other, strict=True)) in (0, 2)) == (
            other[0],
            True,
        )
    assert typed.endswith("Ooooo")  # no two unlike neighbours inside it


def test_every_shipped_relation_is_translated_with_one_place_for_the_subject() -> None:
    texts = _texts()
    assert set(texts["translated"]) == set(relations())
    assert set(texts["the same as"].values()) <= set(relations())
    for templates in texts["translated"].values():
        assert list(templates) == ["French", "German"]
        assert all(template.count(SLOT) == 1 for template in templates.values())
    assert len(texts["sentences"]) >= max(LENGTHS)


def row(kind: str, label: str, was: tuple[float, float], now: tuple[float, float], old: bool = False) -> Row:
    readings = [Reading(new, 0.0, new < 0.5, 1.0, 0.0, other, exact_other=old) for new, other in (was, now)]
    return Row("a", 0, kind, label, "all", "P", "new", "old", readings[0], readings[1])


HELD = row("rewrite", "", (3.0, 0.1), (0.1, 3.0))
WORDINGS = (
    row("variation", "typos, around the subject", (3.0, 0.1), (0.1, 3.0)),
    row("variation", "typos, in the subject", (3.0, 0.1), (2.0, 2.0), old=True),  # a tie is no edit that holds
    row("variation", "doubt, before", (3.0, 0.1), (3.0, 1.0), old=True),
)


def test_reversion_is_of_edits_that_hold_and_weighs_families_alike() -> None:
    def got(rows: tuple[Row, ...], when: str = "after", scorer: str = "likelihood") -> dict[str, float | None]:
        return {name: METRICS[name].measure(Record(rows, when, scorer)) for name in METRICS if "rever" in name}

    rows = (HELD, *WORDINGS)
    found = got(rows)
    assert found["reversion"] == (0.5 + 1.0) / 2
    assert (found["reversion, typos"], found["reversion, doubt"], found["reversion, language"]) == (0.5, 1.0, None)
    assert set(got(rows, "before").values()) == {None}  # nothing was edited yet
    fallen = row("rewrite", "", (3.0, 0.1), (3.0, 0.1))
    assert set(got((fallen, *WORDINGS)).values()) == {None}  # what never held cannot go back
    hard = {name: METRICS[name].measure(Record(rows, "after", "likelihood")) for name in METRICS if "hard" in name}
    assert hard == {"new answer, hard wordings": (0.5 + 0.0) / 2, "old answer, hard wordings": (0.5 + 1.0) / 2}
    written = replace(WORDINGS[0], after=replace(WORDINGS[0].before, said=" old. new", stated=False, exact_other=False))
    assert METRICS["old answer, hard wordings"].measure(Record((HELD, written), "after", "said")) == 1.0


def test_the_page_says_first_in_words_what_went_back() -> None:
    (said,) = wording_words((HELD, *WORDINGS))
    assert "of 1 edit that holds on its own prompt, 1 goes back" in said
    assert "“typos, in the subject”, 1 of 1" in said
    cells = {cell[0]: cell[1:] for cell in wording_table((HELD, *WORDINGS)).rows}
    assert cells["typos, around the subject"][:3] == (1, 1, 0.0)
    assert cells["doubt, before"][2] == 1.0
    assert wordings((HELD,)) == ()
    (none,) = wording_words((row("rewrite", "", (3.0, 0.1), (3.0, 0.1)), *WORDINGS))
    assert none.startswith("No edit holds")


def test_a_model_is_asked_in_hard_wordings_beside_the_usual_questions(toy: Any) -> None:
    """On the toy: the same readings as without them, and the old answer's exactness as a request for it reads it."""
    request = fs.request(toy, fs.prompt(toy, "[Oda Voss] lives in", answer="Brask"), "Vey")
    edit = fs.edit(toy, request, "ft_m", settings={"layer": 0, "steps": 3})
    plain = evaluate(toy, [edit], protocol=replace(ORDERS["single"], words=0))
    asked = evaluate(toy, [edit], protocol=replace(ORDERS["single"], words=0, variations=True))
    usual = [one for one in asked.rows if one.kind != "variation"]
    assert [one.prompt for one in usual] == [one.prompt for one in plain.rows]
    for one, alone in zip(usual, plain.rows, strict=True):
        assert one.after is not None
        assert alone.after is not None
        assert one.after.nll == pytest.approx(alone.after.nll, abs=1e-5)  # float32, in batches of other sizes
    hard = [one for one in asked.rows if one.kind == "variation"]
    assert {family(one.label) for one in hard} >= {"doubt", "typos"}
    assert not any("24 sentences" in one.label for one in hard)  # longer than the toy reads
    swapped = EditRequest(hard[0].prompt, request.subject, "Brask", "Vey")
    other = evaluate(toy, [edit], facts=[swapped], protocol=replace(ORDERS["together"], words=0)).rows[0]
    assert hard[0].after is not None
    assert other.after is not None
    assert (hard[0].after.exact_other, hard[0].before.exact_other) == (other.after.exact, other.before.exact)
    assert isinstance(asked, EditReport)
    assert any(section.heading == "In hard wordings" for section in fs_page(asked))


def fs_page(report: EditReport) -> Any:
    from editing.pages.report import page

    return page(report).sections


def test_hard_wordings_are_more_questions_and_no_other_protocol() -> None:
    with_them = protocol("counterfact", variations=True)
    assert (with_them.name, with_them.variations) == ("counterfact", True)
    assert not differences(protocol("counterfact"), with_them)
