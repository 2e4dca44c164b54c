"""Contexts are drawn by their seed."""

from editing.contexts import contexts


def test_contexts_are_repeated_by_their_seed_and_have_one_slot(tiny):
    model = tiny("gpt2")
    one, again, other = (contexts(model, 4, 6, seed) for seed in (0, 0, 1))
    assert one == again != other
    assert one[0] == "{}"
    assert all(text.count("{}") == 1 and not set("[]") & set(text) for text in one)
