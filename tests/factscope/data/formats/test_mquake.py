"""MQuAKE."""

from factscope.data.load import load_cases, load_facts
from helpers.records import MQUAKE, trials


def test_mquake_says_which_steps_of_the_chain_were_edited(write):
    (case,) = load_cases(write([MQUAKE]))
    assert [trial.label for trial in trials(case, "hop")] == ["edited", "kept"]
    (chain,) = trials(case, "multi-hop")
    assert (chain.need, len(chain.questions)) == ("any", 3)
    assert chain.questions[0].answers == (("Oslo", "Kristiania"),)
    assert load_facts(write([MQUAKE]))[0].prompt == "Ann Bo is a citizen of"
