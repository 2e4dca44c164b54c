"""REMEDI: a shift at one token by hand, the side path is the edit, and what an unlearnt map does: nothing."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from editing.compute import compute
from editing.edit import applied
from editing.methods.trained.remedi import Editor, Shifted, beliefs, statements
from editing.pages.beside import beside
from editing.requests import target_prompts
from editing.scope import name_ends
from editing.trained.examples import TrainingInputs
from editing.trained.facts import examples, split, training_facts
from editing.trained.tail import Tail
from factscope.data.request import EditRequest
from factscope.data.shipped import relations
from factscope.errors import EditError
from factscope.model.forward.batched import logits_at
from factscope.model.forward.scoring import Pair, score
from factscope.model.hooks import record
from factscope.model.prompts import tokenized
from factscope.model.sites import Site
from factscope.plots.specs import Table
from helpers.editors import FACTS, config_of, editor_of

ASKED = EditRequest("Foo Bar lives in", "Foo Bar", "Rome")
KINDS = ("gpt2", "llama", "neox")  # gemma3 has a norm behind the MLP


def resid(model: Any, rows: list[tuple[int, ...]], layer: int = 0) -> list[torch.Tensor]:
    """The stream after a block, row by row, each run alone."""
    found = []
    for row in rows:
        with record(model, [Site("resid", layer)]) as seen:
            model(torch.tensor([row]))
        found.append(seen[Site("resid", layer)][0].clone())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_shifts_the_stream_after_the_block_at_the_end_of_the_name_and_nowhere_else(tiny, kind):
    """By the map of the mean state of the answer's tokens, read from the model's own plain pass."""
    model = tiny(kind)
    editor = editor_of(model, "remedi")
    assert editor is not None
    edit = compute("remedi", model, [ASKED], editor=editor, shown=False)
    (prompt,) = target_prompts(model, ASKED, ("{}",), "auto")
    rows = [tuple(tokenized(model, text)[0]) for text in ("Foo Bar is", "Foo Barn is", "It is foo bar, Foo Bar")]
    ends = [name_ends(model, row, "Foo Bar") for row in rows]
    (said,) = resid(model, [(*prompt.tokens, *prompt.answer_ids)])
    wanted = said[len(prompt.tokens) :].mean(0) @ editor.tensors["W"] + editor.tensors["b"]
    before = resid(model, rows)
    with edit.applied(model):
        after = resid(model, rows)
    assert (ends[1], ends[2]) == (None, len(rows[2]) - 1)
    for end, old, new in zip(ends, before, after, strict=True):
        shift = torch.zeros_like(old)
        if end is not None:
            shift[end] = wanted
        torch.testing.assert_close(new - old, shift, atol=1e-5, rtol=1e-3)
    assert torch.equal(before[1], after[1])


def test_what_it_reads_is_the_answers_tokens_alone_whatever_stands_beside(tiny):
    model = tiny("llama")
    prompts = [target_prompts(model, one, ("{}",), "auto")[0] for one in (ASKED, EditRequest("Ze is", "Ze", "Oslo"))]
    pairs = [Pair(tuple(prompt.tokens), tuple(prompt.answer_ids)) for prompt in prompts]
    tail = Tail(model, 0, [(*pair.prompt, *pair.answer) for pair in pairs])
    together = statements(tail, pairs)
    for pair, one in zip(pairs, together, strict=True):
        (states,) = resid(model, [(*pair.prompt, *pair.answer)])
        torch.testing.assert_close(one, states[len(pair.prompt) :].mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_what_a_training_step_reads_is_the_edited_model(tiny, kind):
    model = tiny(kind)
    inputs = TrainingInputs(model, split(training_facts(FACTS), 0), 0, "auto", False)
    asker, config = Shifted(inputs, 0), config_of(model, "remedi")
    (example,) = examples(asker.facts.trained, 1, "some")
    editor = editor_of(model, "remedi")
    assert editor is not None
    learner = Editor(asker, config)
    after = asker.after([example], learner.changes(editor.tensors, [example]))
    request = EditRequest(example.prompt, example.subject, example.target)
    edit = compute("remedi", model, [request], editor=editor, allow_trained=True, shown=False)
    with edit.applied(model):
        (said,) = score(model, asker.others([example]))
    torch.testing.assert_close(float(after.other), said.nll, atol=1e-4, rtol=1e-4)


def test_an_unlearnt_map_is_the_model_itself_and_two_shifts_add_up(tiny):
    model = tiny("llama")
    editor = editor_of(model, "remedi")
    assert editor is not None
    none = {name: torch.zeros_like(part) for name, part in editor.tensors.items()}
    still = compute("remedi", model, [ASKED], editor=replace(editor, tensors=none, digest=""), shown=False)
    row = tuple(tokenized(model, "Foo Bar is")[0])
    at = [[len(row) - 1]]
    plain = logits_at(model, [row], at)[0]
    with applied(model, [still]):
        assert torch.equal(logits_at(model, [row], at)[0], plain)
    one = compute("remedi", model, [ASKED], editor=editor, shown=False)
    twice = {name: 2 * part for name, part in editor.tensors.items()}
    double = compute("remedi", model, [ASKED], editor=replace(editor, tensors=twice, digest=""), shown=False)
    same = replace(one, seed=1, digest="")
    with applied(model, [one, same]):
        added = logits_at(model, [row], at)[0]
    with applied(model, [double]):
        torch.testing.assert_close(logits_at(model, [row], at)[0], added, atol=1e-5, rtol=1e-4)
    assert not torch.equal(added, plain)


def test_the_last_layer_is_refused_for_nothing_above_reads_the_shift(tiny):
    from editing.trained.train import train_editor

    model = tiny("llama")
    last = int(model.cfg.n_layers) - 1
    with pytest.raises(EditError, match=f"a shift stands in layers 0 to {last - 1} of this model, not in {last}"):
        train_editor(model, "remedi", FACTS, replace(config_of(model, "remedi"), layer=last), shown=False)


def test_the_probe_is_a_cosine_of_states_and_vectors_less_their_means_whatever_the_vectors_size(tiny):
    model = tiny("llama")
    editor = editor_of(model, "remedi")
    assert editor is not None
    asked = (replace(ASKED, old="Oslo"), EditRequest("Quux Z sits in", "Quux Z", "Bern"))
    usual = [EditRequest.of_truth(r.fact(e, r.templates[0])) for r in relations().values() for e in r.entries[:2]]

    def state(one: EditRequest) -> torch.Tensor:
        (prompt,) = target_prompts(model, one, ("{}",), "auto")
        (seen,) = resid(model, [tuple(prompt.tokens)])
        return seen[name_ends(model, prompt.tokens, one.subject)]

    def vector(one: EditRequest) -> torch.Tensor:
        (prompt,) = target_prompts(model, one, ("{}",), "auto")
        (seen,) = resid(model, [(*prompt.tokens, *prompt.answer_ids)])
        return seen[len(prompt.tokens) :].mean(0) @ editor.tensors["W"] + editor.tensors["b"]

    states, vectors = (torch.stack([ask(one) for one in usual]).mean(0) for ask in (state, vector))
    wanted = [
        torch.nn.functional.cosine_similarity(state(one) - states, vector(one) - vectors, dim=0)
        for one in (*asked, replace(asked[0], target="Oslo", old=None))
    ]
    found = beliefs(model, editor, asked)
    torch.testing.assert_close(found, torch.tensor([[wanted[0], wanted[2]], [wanted[1], 0.0]]), atol=1e-4, rtol=1e-4)
    louder = replace(editor, tensors={name: 3 * part for name, part in editor.tensors.items()})
    torch.testing.assert_close(beliefs(model, louder, asked), found, atol=1e-4, rtol=1e-4)

    edits = [compute("remedi", model, [one], editor=editor, shown=False) for one in asked]
    torch.testing.assert_close(torch.cat([edit.memory["probe"] for edit in edits]), found, atol=1e-5, rtol=1e-4)
    (table,) = [spec for spec in beside(edits) if "subject's state" in spec.title]
    assert isinstance(table, Table)
    assert [row[:3] for row in table.rows] == [("Foo Bar lives in", "Rome", "Oslo")]
    assert table.rows[0][-1] == ("old" if found[0, 1] > found[0, 0] else "new")
    with edits[0].applied(model):  # another on top reads the model without the first one's shift
        again = compute("remedi", model, [asked[1]], editor=editor, shown=False)
    assert torch.equal(again.bypasses[0].tensors["values"], edits[1].bypasses[0].tensors["values"])
