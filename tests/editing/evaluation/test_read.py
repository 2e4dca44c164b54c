"""Scoring against slow loops, metrics against cases counted by hand, protocols that must not be mixed."""

import math
from dataclasses import replace

import pytest
import torch

from editing import compute as computing
from editing.evaluation.failures import failures, kind_of
from editing.evaluation.metrics import METRICS, Record, mark
from editing.evaluation.protocol import PROTOCOLS, SCORERS, differences, protocol
from editing.evaluation.read import Reading, Row, Speech, asked_of, check_together, holds, listen, readings
from editing.evaluation.reference_texts import Snippets
from editing.evaluation.table import harmonic, table
from editing.methods.in_context import ike
from factscope.data.case import Case, Question, QuestionGroup
from factscope.data.fact import Fact
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.forward.batched import logits_at
from factscope.model.forward.generate import generate
from factscope.model.forward.scoring import Pair, score, shared
from factscope.statistics import wilson

STRICT = PROTOCOLS["strict"]

# ---- scoring


def test_only_rows_that_nothing_begins_with_are_run():
    rows = [(1, 2), (1, 2, 3), (1, 2), (1,), (1, 2, 4), (2,)]
    hosts, number = shared(rows)
    assert sorted(hosts) == [(1, 2, 3), (1, 2, 4), (2,)]
    assert all(hosts[at][: len(row)] == row for row, at in zip(rows, number, strict=True))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma3"])
def test_scores_are_those_of_one_prompt_and_one_token_at_a_time(tiny, kind):
    model = tiny(kind)
    generator = torch.Generator().manual_seed(0)
    common = torch.randint(1, model.cfg.d_vocab, (12,), generator=generator).tolist()  # long enough to be run once
    pairs = []
    for length, answer in [(13, 1), (13, 1), (17, 3), (20, 2), (14, 2)]:
        prompt = torch.randint(1, model.cfg.d_vocab, (length - 12,), generator=generator).tolist()
        ids = torch.randint(1, model.cfg.d_vocab, (answer,), generator=generator).tolist()
        pairs.append(Pair((*common, *prompt), tuple(ids)))
    pairs += [Pair(pairs[0].prompt, (5, 6)), Pair((3, 4), (9,))]
    for some in (pairs, pairs[:-1]):  # without the last, all rows begin alike
        for pair, said in zip(some, score(model, some), strict=True):
            nll, argmax, ids = 0.0, [], list(pair.prompt)
            for token in pair.answer:
                with torch.no_grad():
                    logp = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
                nll -= float(logp[token]) / len(pair.answer)
                argmax.append(int(logp.argmax()))
                ids.append(token)
            assert said.nll == pytest.approx(nll, abs=1e-5)
            assert list(said.argmax) == argmax
            assert said.right == tuple(a == b for a, b in zip(argmax, pair.answer, strict=True))


# ---- in-context edits


FACT = Fact("a", "home", "Ze", "{} is", "Bern", "York")


@pytest.mark.parametrize("target", ["I don't know.", "Washington, D.C.", "Who?", 'He said "no."', "York"])
def test_an_in_context_sentence_ends_once(tiny, target):
    model, fact = tiny("gpt2"), replace(FACT, foil=target)
    told = computing.compute("ice", model, [fact], shown=False, start="none").preface
    assert told == f"Imagine that Ze is {target}{'.' if target == 'York' else ''}\n"
    none = ike.Config(demonstrations=0)
    told = computing.compute("ike", model, [fact], none, shown=False, start="none").preface
    assert told == f"New Fact: Ze is {target}\nPrompt:\n"


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma3"])
def test_an_in_context_edit_is_its_text_before_the_prompt_and_nothing_else(tiny, kind):
    model = tiny(kind)
    edit = computing.compute("ice", model, [FACT], shown=False, start="none")
    row = model.tokenizer("Ze is", add_special_tokens=False)["input_ids"]
    told = model.tokenizer(edit.preface, add_special_tokens=False)["input_ids"] + row
    assert edit.preface == "Imagine that Ze is York.\n"
    with torch.no_grad():
        expected = model(torch.tensor([told]))[0, len(told) - 1]
    with edit.applied(model):
        seen = logits_at(model, [row, row[:-1]], [[len(row) - 1], [0]])[0][0]
        spoken = generate(model, [row], 3)
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)  # float32, another order of sums
    assert spoken == generate(model, [told], 3)
    torch.testing.assert_close(
        logits_at(model, [row], [[len(row) - 1]])[0][0],
        model(torch.tensor([row]))[0, -1].detach(),
        atol=1e-4,
        rtol=1e-4,
    )


def test_a_weight_edit_does_not_build_on_a_text_and_a_text_that_is_too_long_is_refused(tiny):
    model = tiny("llama")
    edit = computing.compute("ice", model, [FACT], shown=False)
    with edit.applied(model):
        with pytest.raises(EditError, match="cannot build on a text"):
            computing.compute("ft_m", model, [FACT], shown=False)
        with pytest.raises(EditError, match="and the model reads 64"):
            logits_at(model, [[1] * 60], [[59]])


def test_ike_shows_the_kinds_in_turn_the_most_alike_last(toy):
    fact = Fact("x", "toy", "Oda Voss", "{} lives in", "Vey", "Dunmoor")
    config = ike.Config(demonstrations=3, corpus=12)
    edit = computing.compute("ike", toy, [fact], config, shown=False)
    parts = edit.preface.split("\n\n")
    assert len(parts) == 4
    assert parts[-1] == "New Fact: Oda Voss lives in Dunmoor\nPrompt:\n"
    told, asked = parts[2].split("\nPrompt:\n")  # the most alike is a copy
    assert told.removeprefix("New Fact: ") == asked
    assert edit.digest == computing.compute("ike", toy, [fact], config, shown=False).digest


# ---- what is asked


def test_an_accepted_spelling_counts_as_whole_words_of_the_first_line():
    question = Question("q", (("New York", "NYC"), ("Ann",)))
    assert holds(" nyc, says Ann.\nmore", question)
    assert not holds("NYC", question)
    assert not holds("Anna of NYC", question)
    assert not holds("NYC\nAnn", question)


def test_cases_that_contradict_each_other_are_named():
    cases = [Case(name, "s", (EditRequest("Ze is", "Ze", foil, "Bern"),)) for name, foil in (("a", "X"), ("b", "Y"))]
    with pytest.raises(EditError, match=r"cases 'a' and 'b' give 'Ze is' targets 'X' and 'Y'"):
        check_together(cases)
    check_together(cases[:1])


def test_the_unedited_model_agrees_with_itself(tiny):
    model = tiny("neox")
    case = Case(
        "a", "s", (EditRequest.of(FACT),), (QuestionGroup("locality", "retained", (Question("Foo is", (("bar",),)),)),)
    )
    asked = asked_of(model, case, "auto")
    heard = listen(model, asked, [], protocol("generation", words=4), "auto", 0)
    assert all((one.same, one.kl) == (1, 0) and one.said is not None for one in readings(asked, heard, heard))


# ---- metrics, by hand


def reading(nll=1.0, other=None, right=0.0, same=1.0, kl=0.0, said=None, hit=None, stated=None):
    return Reading(nll, right, right == 1.0, same, kl, other, said, hit, stated=stated)


def row(kind, after, before=None, label="", case="a", trial=0, need="all", target="new", other="old"):
    return Row(case, trial, kind, label, need, "prompt", target, other, before or reading(), after)


def value(name, rows, scorer="token accuracy", when="after"):
    return METRICS[name].measure(Record(tuple(rows), when, scorer))


def test_counterfact_scores():
    rows = [
        row("rewrite", reading(nll=math.log(2), other=math.log(4))),
        row("paraphrase", reading(nll=1.0, other=1.0)),  # a tie fails
        row("paraphrase", reading(nll=1.0, other=2.0)),
        row("locality", reading(nll=math.log(10), other=math.log(2)), label="neighbourhood"),
        row("locality", reading(nll=5.0), label="other"),
    ]
    assert [value(name, rows) for name in ("ES", "PS", "NS")] == [1, 0.5, 0]
    assert value("EM", rows) == pytest.approx(1 / 2 - 1 / 4)
    assert value("NM", rows) == pytest.approx(1 / 10 - 1 / 2)
    assert float(harmonic(torch.tensor([1.0, 0.5, 0.25]).double().numpy()[:, None])[0]) == pytest.approx(
        3 / (1 + 2 + 4)
    )


def test_perfect_scores_are_not_certain():
    """Six cases that all succeed: S is 1, and the interval is that of six successes, not from 1 to 1."""
    rows = [
        each
        for case in "abcdef"
        for each in (
            row("rewrite", reading(nll=1.0, other=2.0), case=case),
            row("paraphrase", reading(nll=1.0, other=2.0), case=case, trial=1),
            row("locality", reading(nll=1.0, other=2.0), case=case, trial=2, label="neighbourhood"),
        )
    ]
    lines = {one.metric: one for one in table("m", rows, PROTOCOLS["counterfact"]) if one.when == "after"}
    assert (lines["S"].value, lines["S"].low, lines["S"].high) == pytest.approx((1, *wilson([1.0] * 6)))
    assert math.isnan(lines["EM"].low)


def test_a_harmonic_mean_of_zero_is_not_certain_either():
    """No edit took and neighbours differ: every resample gives S = 0, which is no interval of no width."""
    rows = [
        each
        for number, case in enumerate("abcdefgh")
        for each in (
            row("rewrite", reading(nll=2.0, other=1.0), case=case),
            row("paraphrase", reading(nll=2.0, other=1.0), case=case, trial=1),
            row("locality", reading(nll=1.0, other=2.0 * (number % 2)), case=case, trial=2, label="neighbourhood"),
        )
    ]
    lines = {one.metric: one for one in table("m", rows, PROTOCOLS["counterfact"]) if one.when == "after"}
    assert lines["S"].value == lines["S"].low == 0
    assert 0.2 < lines["S"].high < 1


def test_the_three_localities_differ():
    rows = [row("locality", reading(nll=1, other=2, right=0.0, same=0.5), label="neighbourhood")]
    assert [value(name, rows) for name in ("NS", "locality, unchanged", "locality, right")] == [1, 0.5, 0]


def test_a_scorer_changes_what_counts():
    rows = [row("rewrite", reading(nll=3, other=4, right=0.5, said="x", hit=True, stated=False))]
    scorers = ("likelihood", "token accuracy", "strict", "generation", "said")
    assert scorers == tuple(SCORERS)
    worth = [value("reliability", rows, scorer) for scorer in scorers]
    assert worth == [0, 0, 0, 1, 0]  # half an answer is none
    assert value("reliability, tokens", rows) == 0.5  # and has a name of its own
    assert [mark(rows[0].after, scorer) for scorer in SCORERS] == [1, 0.5, 0, 1, 0]


def test_multi_hop_needs_one_question_and_instance_wise_every_step():
    rows = [
        row("rewrite", reading(right=1.0)),
        row("rewrite", reading(right=0.5), trial=1),
        row("hop", reading(right=1.0), trial=2),
        row("hop", reading(right=0.0), trial=3),
        *(row("multi-hop", reading(right=float(i == 1)), trial=4, need="any") for i in range(3)),
    ]
    assert [value(name, rows, "strict") for name in ("edit-wise", "instance-wise", "multi-hop")] == [0.5, 0, 1]


def test_ripple_counts_tests_whose_conditions_held_of_edits_that_worked():
    label = "compositionality I"
    known, unknown = reading(right=1.0), reading(right=0.0)

    def rows(worked):
        return [
            row("rewrite", reading(right=worked)),
            row("ripple", reading(right=1.0), label=label, trial=1),
            row("ripple", reading(right=0.0), label=label, trial=1),  # and both must be given
            row("ripple", reading(right=1.0), label=label, trial=2),
            row("condition", reading(), known, label=label, trial=2),
            row("ripple", reading(right=0.0), label=label, trial=3),
            row("condition", reading(), unknown, label=label, trial=3),  # does not count
        ]

    assert value(f"ripple, {label}", rows(1.0), "strict") == 0.5
    assert value(f"ripple, {label}", rows(0.0), "strict") is None


def test_tone_is_certainty_times_staying_likely():
    rows = [
        row("sentiment", reading(nll=1.5), reading(nll=1.0), label="wanted"),
        row("sentiment", reading(nll=2.5), reading(nll=3.0), label="opposite"),
    ]
    assert value("tone", rows) == pytest.approx(1 / (1 + math.exp(-1)) * math.exp(-0.5))
    assert value("tone", rows, when="before") == pytest.approx(1 / (1 + math.exp(-2)))


def test_an_erased_answer_is_gone():
    """The old answer is gone and the refusal is there; nonsense, in which neither is there, does not pass."""
    told, untold = row("rewrite", reading(right=1.0)), row("rewrite", reading(right=0.5))
    assert value("erasure", [told, row("erasure", reading(right=0.5), trial=1)]) == 1
    assert value("erasure", [untold, row("erasure", reading(right=0.5), trial=1)]) == 0
    assert value("erasure", [untold, row("erasure", reading(right=1.0), trial=1)]) == 0


def test_pooled_numbers_weigh_prompts_or_kinds_alike():
    rows = [
        row("rewrite", reading(right=1.0)),
        row("paraphrase", reading(right=0.5), trial=1),
        row("paraphrase", reading(right=0.0), trial=2),
        row("portability", reading(right=1.0), label="alias", trial=3),
        row("portability", reading(right=1.0), label="alias", trial=4),
        row("portability", reading(right=0.0), label="reasoning", trial=5),
        row("locality", reading(same=1.0), label="forgetfulness", trial=6),
        row("locality", reading(same=0.5), label="relation specificity", trial=7),
        row("locality", reading(same=0.5), label="relation specificity", trial=8),
    ]
    assert value("edit success, pooled", rows, "token accuracy") == pytest.approx(1.5 / 3)
    assert value("portability, pooled", rows, "token accuracy") == pytest.approx(1 / 2)
    assert value("locality, pooled", rows, "token accuracy") == pytest.approx((1 + 0.5) / 2)
    assert value("locality, same answer", rows, "token accuracy") == pytest.approx(1 / 3)
    assert value("average of three", rows, "token accuracy") == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert value("average of three", rows[:3], "strict") is None  # nothing that must stay was asked
    kept, moved = (row("locality", reading(said=text), reading(said="Bern")) for text in ("Bern", "York"))
    assert value("locality, same answer", [kept, moved], "generation") == 0.5


def test_fluency_falls_with_repetition_and_says_whether_the_prompt_counts():
    rows = [row("rewrite", reading())]
    said = [Speech("a", "one two", " three four five", " six six six six")]
    worth = {
        s.when: s.value for s in table("m", rows, replace(STRICT, prompt_counts=False), said) if s.metric == "fluency"
    }
    assert worth["before"] == pytest.approx((math.log2(2) + 2 * 0) / 3)  # two 2-grams, one 3-gram
    assert worth["after"] == pytest.approx(0)
    longer = {s.when: s.value for s in table("m", rows, STRICT, said) if s.metric == "fluency"}
    assert longer["before"] == pytest.approx((math.log2(4) + 2 * math.log2(3)) / 3)


def test_the_reference_score_is_a_cosine_of_telling_words():
    snippets = Snippets.of({"P1/Q1": ("gulls fly",), "P1/Q2": ("terns fly",)})
    rare, common = math.log(3 / 2) + 1, math.log(3 / 3) + 1
    assert snippets.likeness("P1/Q1", ["Gulls fly!"]) == pytest.approx(1)
    assert snippets.likeness("P1/Q1", ["a ship"]) == 0
    assert snippets.likeness("P1/Q1", ["gulls"]) == pytest.approx(rare / math.hypot(rare, common))
    assert snippets.likeness("P1/Q3", ["gulls"]) is None
    said = [Speech("a", "p", " x", " y", None, (0.25, 0.5, None))]
    found = {s.when: s.value for s in table("m", [row("rewrite", reading())], STRICT, said) if s.unit == "cosine"}
    assert found == {"before": 0.25, "after": 0.5}


def test_every_metric_says_its_unit_source_and_direction_and_nan_is_no_score():
    assert {one.better for one in METRICS.values()} == {"higher", "lower"}
    lower = {name.partition(",")[0] for name, one in METRICS.items() if one.better == "lower"}
    assert lower == {"reversion", "old answer", "locality KL", "unrelated KL"}
    assert METRICS["new answer, hard wordings"].better == "higher"
    assert all(one.unit and one.source and one.about for one in METRICS.values())
    rows = [row("locality", reading(kl=kl), case=case) for kl, case in ((0.5, "a"), (math.nan, "b"))]
    (one,) = [s for s in table("m", rows, STRICT) if s.metric == "locality KL" and s.when == "after"]
    assert (one.n, one.value) == (1, 0.5)
    assert math.isnan(one.low)  # a mean of one case


def test_cases_weigh_the_same_and_the_interval_is_over_cases():
    rows = [row("rewrite", reading(right=1.0), case="a")] * 9 + [row("rewrite", reading(right=0.0), case="b")]
    (one,) = [s for s in table("m", rows, STRICT) if s.metric == "reliability" and s.when == "after"]
    assert (one.n, one.value) == (2, 0.5)
    assert (one.low, one.high) == wilson([0.0, 1.0])


def test_cases_about_one_subject_are_one_observation():
    """Ten cases of two subjects have the interval of two; without a subject every case is its own."""
    rows = [row("rewrite", reading(right=float(number < 5)), case=str(number)) for number in range(10)]
    about = [replace(each, subject="AB"[number < 5]) for number, each in enumerate(rows)]
    for some, like in ((about, [0.0, 1.0]), (rows, [0.0, 1.0] * 5)):
        (one,) = [s for s in table("m", some, STRICT) if s.metric == "reliability" and s.when == "after"]
        assert (one.n, one.value) == (10, 0.5)
        assert (one.low, one.high) == wilson(like)


def test_how_edits_fail():
    assert kind_of("", "Oslo", "Lisbon") == "meaningless"
    assert kind_of("the the the the the", "Oslo", "Lisbon") == "meaningless"
    assert kind_of("Lisbon Lisbon Lisbon Lisbon", "Oslo", "Lisbon") == "unrelated"
    assert kind_of("a city in Spain", "Oslo", "Lisbon") == "unrelated"
    assert kind_of("New, he said", "New York", "Lisbon") == "missing tokens"
    assert kind_of("New Lisbon", "New York", "Lisbon") == "partial replacement"
    rows = [row("rewrite", reading(said="Oslo", right=1.0)), row("rewrite", reading(said="x"), case="b")]
    assert [one.case for one in failures(rows)] == ["b"]


# ---- protocols


def test_a_changed_protocol_is_comparable_with_its_like_only():
    known = protocol("easyedit")
    assert known is PROTOCOLS["easyedit"] or known == PROTOCOLS["easyedit"]
    assert not differences(known, protocol("easyedit", words=20))  # it only writes as well
    other = protocol("easyedit", scorer="strict")
    assert other.comparable == ""
    assert other.name == "easyedit with scorer strict"
    assert differences(known, other) == ["scorer is 'token accuracy' in one and 'strict' in the other"]
    assert differences(protocol("generation"), protocol("generation", words=4))
    with pytest.raises(EditError, match="no protocol 'rome'; choose one of counterfact"):
        protocol("rome")
    with pytest.raises(EditError, match="no scorer 'loose'"):
        protocol("easyedit", scorer="loose")
