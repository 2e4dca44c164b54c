"""Free text: where it stops by itself, what counts as the answer, and the probes that every edit can be asked."""

from dataclasses import replace
from typing import Any

import pytest

import factscope as fs
from editing.evaluation.evaluate import evaluate, questions
from editing.evaluation.metrics import METRICS, Record
from editing.evaluation.protocol import ORDERS, differences, protocol
from editing.evaluation.read import Reading, Row
from editing.evaluation.said import normalised, states, states_only, until_stop
from factscope.data.case import Case
from factscope.data.questions.probes import probed, probes_of
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.forward.generate import generate, until_end


@pytest.mark.parametrize(
    ("text", "until"),
    [
        (" Rome, Italy.\n\nThe tower", "Rome, Italy"),
        (" Rome. Paris is another city.", "Rome"),
        (" the U.S. Army. Then", "the U.S. Army"),
        (" J. R. R. Tolkien. He wrote", "J. R. R. Tolkien"),
        (" 3.14 and more", "3.14 and more"),
        (" Rome!", "Rome"),
        (" approx. one half", "approx. one half"),
        (" Rom. Überall", "Rom"),
        ("", ""),
    ],
)
def test_a_text_stops_where_a_sentence_ends_and_not_in_a_name(text: str, until: str) -> None:
    assert until_stop(text) == until


def test_the_answer_counts_before_the_stop_only_and_whole_in_any_spelling() -> None:
    answers = (("The United States", "U.S."),)
    assert states(" in the united states, of course. Not Italy", answers)
    assert not states(" in Italy. The United States is elsewhere", answers)
    assert not states(" Romeo", (("Rome",),))
    assert states_only(" united states.", answers)
    assert not states_only(" in the united states.", answers)
    assert not states_only(" Rome and Oslo", (("Rome",), ("Oslo",)))
    assert normalised("  A  Tower, an Iron one: the 'Eiffel'! ") == "tower iron one eiffel"


def test_probes_are_made_of_the_prompt_and_its_answers_alone() -> None:
    request = EditRequest("The Tower is in", "The Tower", "Rome", "Paris")
    (question,), (after,), (negated,), (new,), (old,) = (group.questions for group in probes_of(request))
    assert question.prompt == "Question: How does this sentence go on? The Tower is in\nAnswer:"
    assert after.prompt.endswith(". The Tower is in")
    assert (negated.prompt, negated.target, negated.other) == ("It is not true that the Tower is in", "Rome", "Paris")
    assert (new.target, new.other) == ("yes", "no")
    assert (old.target, old.other) == ("no", "yes")
    assert "the Tower is in Paris?" in old.prompt
    asked = replace(request, prompt="Where is The Tower?", template="Where is {}?")
    assert [group.kind for group in probes_of(asked)] == ["frame", "frame"]
    assert probes_of(asked)[0].questions[0].prompt == "Question: Where is The Tower?\nAnswer:"
    assert [group.kind for group in probes_of(replace(request, old=None))] == ["frame", "frame"]
    guessed = probes_of(replace(request, old="the"))  # "is it true that the Tower is in the?" asks nothing
    assert [group.kind for group in guessed] == ["frame", "frame", "negation", "verification"]
    assert "in Rome?" in guessed[-1].questions[0].prompt


def row(kind: str, nll: float, other: float | None, **more: Any) -> Row:
    reading = Reading(nll, 1.0, True, 1.0, 0.0, other, **more)
    return Row("a", 0, kind, "", "all", "P", "new", "old", reading, reading)


def test_what_is_said_is_counted_beside_what_is_read() -> None:
    rows = (
        row("rewrite", 0.1, 3.0, said=" old. new", hit=True, stated=False, stated_only=False),
        row("paraphrase", 0.1, 3.0, stated=True, stated_only=True),
        row("negation", 0.1, 3.0),
        row("verification", 1.0, 2.0),
        row("verification", 2.0, 1.0),
    )
    read, said = Record(rows, "after", "likelihood"), Record(rows, "after", "said")
    got = {name: METRICS[name].measure(read) for name in ("reliability", "said", "said, paraphrases", "negation")}
    assert got == {"reliability": 1.0, "said": 0.0, "said, paraphrases": 1.0, "negation": 0.0}
    assert METRICS["verification"].measure(read) == 0.5
    assert METRICS["reliability"].measure(said) == 0.0  # the scorer reads the text alone
    assert METRICS["said, nothing else"].measure(said) == 0.0


def test_wild_reads_free_text_and_is_comparable_with_its_like_only() -> None:
    wild = protocol("wild")
    assert (wild.scorer, wild.words, wild.probes, wild.frame) == ("said", 50, True, "bare")
    framed = protocol("wild", frame="qa")
    assert any("frame" in why for why in differences(wild, framed))
    assert any("scorer" in why for why in differences(wild, protocol("easyedit")))
    assert not differences(wild, protocol("wild", probes=False))
    with pytest.raises(EditError, match="no frame 'chat'"):
        protocol("wild", frame="chat")
    assert protocol("counterfact", scorer="said").words == 50


def test_a_frame_and_probes_are_asked_and_written_as_plain_generation_writes(toy: Any) -> None:
    """Every text of every probe against the model's own greedy continuation of it, prompt by prompt."""
    request = fs.request(toy, fs.prompt(toy, "[Oda Voss] lives in", answer="Brask"), "Vey")
    edit = fs.edit(toy, request, "ft_m", settings={"layer": 0, "steps": 3})
    how = replace(ORDERS["single"], probes=True, words=4, frame="qa")
    report = evaluate(toy, [edit], protocol=how)
    kinds = [one.kind for one in report.rows]
    assert kinds.count("frame") == 2
    assert "verification" in kinds
    rows = [one for one in report.rows if one.kind in ("rewrite", "frame")]
    assert rows[0].prompt == "Please answer the question:\n\nQ: Oda Voss lives in\nA:"
    assert rows[1].prompt == "Question: How does this sentence go on? Oda Voss lives in\nAnswer:"
    asked = questions(toy, [probed(Case.of(edit.requests[0]))], edit.start_token, "qa")
    assert [one.row.prompt for one in asked] == [one.prompt for one in report.rows]
    with edit.applied(toy):
        for one in rows:
            (ids,) = [q.pairs[0].prompt for q in asked if q.row.prompt == one.prompt]
            (more,) = generate(toy, [ids], 4)
            assert one.after is not None
            assert one.after.said == toy.tokenizer.decode(until_end(toy, more), skip_special_tokens=True)
    assert "Asked otherwise: in other frames" in "\n".join(fs_words(report))


def fs_words(report: Any) -> list[str]:
    from editing.pages.told import told

    return told(report.rows)
