"""One edit, told: the lines of a terminal and of a program say what was read, and nothing that one fact cannot say."""

import math
from dataclasses import replace
from typing import Any

from editing.evaluation.metrics import Record
from editing.evaluation.metrics.efficacy import said
from editing.evaluation.read import Reading, Row
from editing.pages.told import answer_table, in_json, one_fact, told
from factscope.model.forward.generate import end_tokens, until_end


def reading(top: str, new: float, old: float, **more: Any) -> Reading:
    return Reading(-math.log(new), 1.0, top == "Rome", 1.0, 0.1, -math.log(old), top=f" {top}", top_p=0.9, **more)


def row(kind: str, prompt: str, was: Reading, now: Reading | None, target: str = "Rome") -> Row:
    return Row("a", 0, kind, "", "all", prompt, target, "Paris", was, now)


EDITED = row(
    "rewrite", "The tower is in", reading("Paris", 0.01, 0.8, said=" Paris. It is", hit=False),
    reading("Rome", 0.95, 0.02, said=" Rome. It is", hit=True),
)  # fmt: skip
WORDS = row("paraphrase", "The tower stands in", reading("Paris", 0.01, 0.8), reading("Paris", 0.3, 0.4))
CALM = row("locality", "The arch is in", reading("Paris", 0.8, 0.01), reading("Paris", 0.8, 0.01), "Paris")
MOVED = replace(CALM, prompt="The museum is in", after=replace(CALM.before, kl=2.0, next_same=False))
NEAR = [replace(CALM, prompt=f"Place {n} is in", after=replace(CALM.before, next_same=True)) for n in range(4)]


def test_a_fact_is_told_by_its_answers_and_counts() -> None:
    rows = [EDITED, WORDS, *NEAR, MOVED]
    lines = told(rows)
    assert "The tower is in" in lines[1]
    assert "␣Paris" in lines[1]
    assert lines[1].rstrip().endswith("0.95")  # the new answer's probability, now
    assert sum(line.startswith("neighbour") for line in lines) == 3  # of five
    assert any("The museum is in" in line for line in lines)  # the one that moved most is among them
    assert "in other words 0 of 1" in lines[-1]
    assert "the next token of 4 of 5 neighbours is as before" in lines[-1]
    assert "no paraphrases or neighbours" in told([EDITED])[-1]
    assert ["“Paris. It is”" in line or "“Rome. It is”" in line for line in lines].count(True) == 2


def test_a_neighbour_shows_the_new_answers_probability_not_its_own() -> None:
    table = answer_table([EDITED, CALM])
    assert table.columns[-2:] == ("P(Rome) before", "now")
    assert table.rows[1][-2:] == ("0.01", "0.01")


def test_a_program_reads_before_and_after() -> None:
    body = in_json([EDITED, WORDS])
    assert (body["prompt"], body["target"]) == ("The tower is in", "Rome")
    assert (body["before"]["next_token"], body["after"]["next_token"]) == (" Paris", " Rome")
    assert math.isclose(body["after"]["target_probability"], 0.95)
    assert [one["prompt"] for one in body["questions"]] == ["The tower stands in"]


def test_several_facts_are_no_single_fact_and_a_row_that_was_not_read_is_none() -> None:
    assert one_fact([EDITED, replace(EDITED, case="b")]) is None
    assert one_fact([replace(EDITED, after=None)]) is None
    assert one_fact([WORDS]) is None


def test_said_asks_what_is_written_and_not_what_is_read() -> None:
    """An answer that teacher forcing finds and free generation does not counts as read alone."""
    hidden = replace(EDITED, after=replace(EDITED.after, hit=False) if EDITED.after else None)
    assert said(Record((EDITED,), "after", "likelihood")) == 1
    assert said(Record((hidden,), "after", "likelihood")) == 0
    assert said(Record((WORDS,), "after", "likelihood")) is None


def test_a_text_ends_where_the_model_ends_it(toy: Any) -> None:
    (end,) = end_tokens(toy)
    assert until_end(toy, [5, 6, end, 7, 8]) == [5, 6]
    assert until_end(toy, [5, 6]) == [5, 6]
