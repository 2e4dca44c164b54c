"""Which questions an in-context edit is about: on paper, on the toy, and as a contract of what the gate promises."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import factscope as fs
from editing.compute import compute, compute_each
from editing.edit import Edit, applied, commit, revert
from editing.merge.stack import merged
from editing.methods.in_context.retrieval import Config, keys_of
from editing.requests import request, target_prompts
from editing.scope import Scope, joined, pooled
from factscope.errors import EditError
from factscope.model.forward.batched import logits_at
from factscope.model.forward.generate import generate
from factscope.model.forward.prefix import prefaced
from factscope.model.forward.scoring import Pair, score
from factscope.model.weights import fingerprint

FACTS = (("[Oda Voss] lives in", "Vey"), ("[Mira Drey] speaks", "Norrish"))
LATER = "The weather was good and the sea was calm. [Tam] is"


@pytest.fixture(scope="module")
def edits(toy: Any) -> list[Edit]:
    """A memory of each fact alone."""
    return compute_each("retrieval", toy, [request(toy, text, target) for text, target in FACTS], shown=False)


def tokens(model: Any, edit: Edit) -> tuple[int, ...]:
    """The edit's own prompt."""
    return tuple(target_prompts(model, edit.requests[0], ("{}",), "auto")[0].tokens)


def test_nearness_is_one_for_the_stored_prompt_and_a_rome_edits_share_for_another():
    draw = torch.Generator().manual_seed(0)
    ordinary, own = torch.randn(40, 5, generator=draw), torch.randn(3, 5, generator=draw)
    keys, mean = keys_of(own, ordinary, 0.3), ordinary.mean(0)
    scope = Scope(0, mean, keys, ("a", "b", "c"), 0.5)
    near = scope.nearness(own)
    torch.testing.assert_close(near.diagonal(), torch.ones(3), atol=1e-5, rtol=0)  # float32
    moment = torch.cov((ordinary - mean).double().T, correction=0)
    moment += 0.3 * moment.diagonal().mean() * torch.eye(5)
    inverse = torch.linalg.inv(moment)  # the obvious way: a rank-one change C^-1 k / k C^-1 k, met with another key
    x, k = (own[0] - mean).double(), (own[1] - mean).double()
    torch.testing.assert_close(near[0, 1].double(), x @ inverse @ k / (k @ inverse @ k), atol=1e-5, rtol=1e-4)


def test_the_nearest_entries_above_the_floor_are_told_the_nearest_last():
    scope = Scope(0, torch.zeros(2), torch.tensor([[1.0, 0], [0, 1.0], [0, 1.0]]), ("a", "b", "c"), 0.5, 2)
    asked = torch.tensor([[0.9, 0.6], [0.6, 0.2], [0.5, 0.5], [0.1, 0.8]])
    assert scope.chosen(asked) == [[2, 0], [0], [], [1, 2]]  # 0.5 is not above the floor; of two alike the later


def test_a_question_that_nothing_is_near_to_is_bitwise_the_models_own(toy, edits):
    (edit, _), own = edits, tokens(toy, edits[0])
    far = [fs.prompt(toy, text, answer="Vey").tokens for text in (LATER, "[Tam] is")]
    rows = [own, *far]
    at = [[len(row) - 1] for row in rows]
    alone = logits_at(toy, rows[1:], at[1:])
    with edit.applied(toy):
        beside = logits_at(toy, rows, at)
        assert prefaced(toy, own) != own
        assert [prefaced(toy, row) for row in far] == [tuple(row) for row in far]
    assert all(torch.equal(a, b) for a, b in zip(alone, beside[1:], strict=True))
    assert not torch.equal(logits_at(toy, [own], at[:1])[0], beside[0])


def test_an_open_question_is_answered_as_in_context(toy, edits):
    own = tokens(toy, edits[0])
    told = compute("ice", toy, edits[0].requests, shown=False)
    with told.applied(toy):
        (wanted,) = logits_at(toy, [own], [[len(own) - 1]])
    with edits[0].applied(toy):
        (found,) = logits_at(toy, [own], [[len(own) - 1]])
    assert torch.equal(found, wanted)


def test_what_is_generated_is_what_is_scored(toy, edits):
    prompts = [tokens(toy, edit) for edit in edits]
    with applied(toy, edits):
        said = generate(toy, prompts, 3)
        scored = score(toy, [Pair(prompt, tuple(ids)) for prompt, ids in zip(prompts, said, strict=True)])
        # asked with a row that begins with it, which is another question
        longer = score(toy, [Pair((*prompt, *ids[:2]), (ids[2],)) for prompt, ids in zip(prompts, said, strict=True)])
        both = score(toy, [Pair(prompts[0], tuple(said[0])), Pair((*prompts[0], *said[0][:2]), (said[0][2],))])
    assert [one.argmax for one in scored] == [tuple(ids) for ids in said]
    torch.testing.assert_close(both[0].logp, scored[0].logp)
    torch.testing.assert_close(both[1].logp, longer[0].logp)


def test_memories_add_up_in_any_order_and_one_is_taken_out_without_a_trace(toy, edits):
    one, other = edits
    rows = [tokens(toy, edit) for edit in edits]
    at, before = [[len(row) - 1] for row in rows], fingerprint(toy)

    def answers(some: list[Edit]) -> list[torch.Tensor]:
        with applied(toy, some):
            return logits_at(toy, rows, at)

    both = answers([one, other])
    for again in (answers([other, one]), answers([merged([one, other])])):
        assert all(torch.equal(a, b) for a, b in zip(both, again, strict=True))
    commit(toy, (one, other))
    revert(toy, (one,))
    left = logits_at(toy, rows, at)
    revert(toy, (other,))
    assert all(torch.equal(a, b) for a, b in zip(left, answers([other]), strict=True))
    assert fingerprint(toy) == before
    whole = compute("retrieval", toy, [*one.requests, *other.requests], shown=False).scope
    assert whole is not None
    assert torch.equal(whole.keys, pooled([one.scope, other.scope])[0].keys)


def test_a_memory_saved_and_loaded_is_the_same(edits, tmp_path):
    found: Any = Edit.load(edits[0].save(tmp_path / "edit"))
    assert found.digest == edits[0].digest
    assert found.scope.texts == ("Imagine that Oda Voss lives in Vey.\n",)
    assert found.scope.one_with(edits[0].scope)
    assert replace(found, scope=replace(found.scope, floor=0.9), digest="").digest != found.digest


def test_what_does_not_go_together_is_refused(toy, edits):
    ice = compute("ice", toy, edits[1].requests, shown=False)
    with pytest.raises(EditError, match="do not become one edit"):
        merged([edits[0], ice])
    assert joined([None, None]) is None
    with applied(toy, (edits[0], ice)):  # but they may stand side by side
        own = tokens(toy, edits[0])
        assert toy.tokenizer.decode(prefaced(toy, own)).count("Imagine that") == 2
    for wrong, words in ((Config(reads=9), "layers 0 to"), (Config(reads=0, most=0), "at least 1")):
        with pytest.raises(EditError, match=words):
            compute("retrieval", toy, edits[0].requests, wrong, shown=False)
