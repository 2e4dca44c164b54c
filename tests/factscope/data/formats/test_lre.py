"""LRE."""

from factscope.data.load import load_facts
from helpers.records import LRE


def test_lre_asks_with_the_zero_shot_templates_and_joins_samples_of_one_subject(write):
    gulls, ravens = load_facts(write(LRE))
    assert (gulls.id.rsplit("-", 1)[0], gulls.prompt) == ("bird_colour/gulls", "What colour are gulls? They are")
    assert (gulls.answer, gulls.aliases, gulls.foil) == ("white", ("grey",), "black")
    assert ravens.paraphrases == ("ravens are",)
    without = {name: value for name, value in LRE.items() if name != "prompt_templates_zs"}
    assert load_facts(write(without))[0].prompt == "gulls are"
