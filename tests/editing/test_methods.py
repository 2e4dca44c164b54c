"""Contract over every editing method that the folder holds, and what each promises, on tiny random models."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from editing import compute as computing
from editing import method as methods
from editing.edit import Edit, in_place
from editing.requests import RequestPrompts, bare_prompt
from editing.solve import training
from editing.solve.closed_form import KeyMetric
from editing.solve.training import every_token
from editing.solve.values import Descent, find_keys, find_values, read_subjects
from editing.spectrum import spectra
from factscope.data.fact import Fact, Neighbour
from factscope.data.request import requests_of
from factscope.errors import EditError, SettingError
from factscope.model.forward.batched import logits_at
from factscope.model.sites import Site
from factscope.model.weights import fingerprint, live_weights
from helpers.editors import config_of, editor_of
from helpers.models import hooks_left
from helpers.moments import text_moments

FACTS = requests_of(
    (
        Fact(
            "a",
            "home",
            "Foo Bar",
            "{} lives in",
            "Rome",
            "Oslo",
            (),
            ("The home of Foo Bar is",),
            (Neighbour("Q is", "y"),),
        ),
        Fact("b", "home", "Quux", "The home of {} is the city", "Rome", "Paris"),
        Fact("c", "home", "Ze", "{} is", "Bern", "York"),
    )
)
KINDS = ("gpt2", "llama", "neox", "gemma3")
CONTEXTS = ("{}", "I said. {}", "Now then. {}")
SHORT = Descent(steps=6, learning_rate=0.1, clamp=50.0, weight_decay=0.0)


def settings(name, layers=(0, 1)):
    spec = methods.method(name)
    config = spec.Config()
    if spec.in_context:
        smaller = {"demonstrations": 0, "reads": 0}  # what the tiny models have room for
        return replace(config, **{key: value for key, value in smaller.items() if hasattr(config, key)})
    config = spec.at_layers(
        config, layers[-1:] if name in ("emmet", "melo") or spec.layer_setting == "layer" else layers
    )
    if hasattr(config, "descent"):
        return replace(config, descent=SHORT)
    return replace(config, steps=6) if hasattr(config, "steps") else config


def own(model, name):
    """The configuration and, of a method that is trained, the editor."""
    editor = editor_of(model, name)
    return {"config": settings(name) if editor is None else config_of(model, name), "editor": editor}


def target_loss(model, facts):
    """Mean nats a target token, on the bare prompts."""
    rows = [bare_prompt(model, fact, "auto") for fact in facts]
    tokens = [(*p.tokens, *p.answer_ids[:-1]) for p in rows]
    logits = logits_at(model, tokens, [range(len(p.tokens) - 1, len(t)) for p, t in zip(rows, tokens, strict=True)])
    picked = [
        one.log_softmax(-1).gather(1, torch.tensor(p.answer_ids)[:, None]) for one, p in zip(logits, rows, strict=True)
    ]
    return float(-torch.stack([p.mean() for p in picked]).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", methods.method_names())
def test_every_method_makes_an_edit_that_acts_and_leaves_no_trace(tiny, name, kind):
    model = tiny(kind)
    facts = FACTS[2:] if methods.method(name).in_context else FACTS  # the tiny models read 64 tokens at most
    before, loss = fingerprint(model), target_loss(model, facts)
    edit = computing.compute(
        name, model, facts, moments=text_moments(model, [0, 1]), contexts=CONTEXTS, shown=False, **own(model, name)
    )
    assert fingerprint(model) == before
    assert isinstance(edit, Edit)
    assert edit.method == name
    assert edit.base == before
    assert edit.requests == facts
    spec = methods.method(name)
    parts = ("W_out",) if spec.train is None else ("W_gate", "W_in", "W_out")
    assert {delta.weight for delta in edit.deltas} <= {f"blocks.{i}.mlp.{part}" for i in (0, 1) for part in parts}
    editor = editor_of(model, name)
    assert edit.editor == ("" if editor is None else editor.digest)
    assert (bool(edit.preface), bool(edit.bypasses)) == (spec.in_context, spec.beside)
    assert bool(edit.deltas) == (not spec.in_context and not spec.beside)
    untouched = {n: w.clone() for n, w in live_weights(model).items() if n not in {d.weight for d in edit.deltas}}
    with edit.applied(model):
        assert target_loss(model, facts) != loss
        assert (fingerprint(model) == before) == methods.method(name).in_context
        assert all(torch.equal(live_weights(model)[n], w) for n, w in untouched.items())
    assert fingerprint(model) == before
    assert not hooks_left(model)
    assert not in_place(model)


@pytest.mark.parametrize("name", methods.method_names())
def test_each_alone_side_by_side_is_each_alone(tiny, name):
    model = tiny("llama")
    how = {"moments": text_moments(model, [0, 1]), "contexts": CONTEXTS, "shown": False} | own(model, name)
    each = computing.compute_each(name, model, FACTS, **how)
    for fact, edit in zip(FACTS, each, strict=True):
        alone = computing.compute(name, model, [fact], **how)
        assert edit.preface == alone.preface
        for beside, lone in zip(edit.bypasses, alone.bypasses, strict=True):
            for part, tensor in beside.tensors.items():
                torch.testing.assert_close(tensor, lone.tensors[part], atol=1e-3, rtol=1e-3)
        for one, other in zip(edit.deltas, alone.deltas, strict=True):
            torch.testing.assert_close(
                one.dense(), other.dense(), atol=1e-4 * float(other.dense().abs().max()), rtol=1e-2
            )


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Two caches that know nothing of each other: contexts are sampled once in each."""
    return tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")


@pytest.mark.parametrize("name", methods.method_names())
def test_the_same_seed_gives_the_same_edit(tiny, name, caches, monkeypatch):
    model = tiny("gpt2")
    how = {"moments": text_moments(model, [0, 1]), "seed": 3, "shown": False} | own(model, name)
    made = []
    for cache in caches:
        monkeypatch.setenv("FACTSCOPE_CACHE", str(cache))
        made.append(computing.compute(name, model, FACTS[:1], **how).digest)
    assert made[0] == made[1]


def test_contexts_are_sampled_once_for_a_model_and_a_seed_and_anew_under_an_edit(tiny, tmp_path, monkeypatch):
    model, real = tiny("llama"), computing.contexts
    asked: list[Any] = []

    def counted(*given: Any) -> Any:
        asked.append(given[3])
        return real(*given)

    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(computing, "contexts", counted)
    config = replace(settings("rome"), descent=replace(SHORT, steps=2))
    how = {"moments": text_moments(model, [1]), "shown": False}
    one, again, other = (computing.compute("rome", model, FACTS[:1], config, seed=seed, **how) for seed in (0, 0, 1))
    assert asked == [0, 1]
    assert one.contexts == again.contexts == real(model, config.contexts, config.context_length, 0)
    assert one.contexts != other.contexts
    with one.applied(model):
        computing.compute("rome", model, FACTS[1:2], config, seed=0, **how)
    assert asked == [0, 1, 0]


def test_an_unknown_method_or_setting_is_named():
    with pytest.raises(EditError, match=r"no method 'romeo'; choose one of .*rome"):
        methods.method("romeo")


def test_a_method_s_settings_are_read_and_checked(tiny):
    model = tiny("llama")
    for settings in (["layers=0,1", "steps=7", "ridge=0.5"], {"layers": [0, 1], "descent": {"steps": 7}, "ridge": 0.5}):
        config: Any = methods.method("memit").config_for(model, settings)
        assert (config.layers, config.descent.steps, config.ridge) == ((0, 1), 7, 0.5)
    with pytest.raises(SettingError, match="no setting 'stepps'"):
        methods.method("memit").config_for(model, ["stepps=7"])


# ---- what each method promises ----


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_rome_writes_its_value_at_the_bare_key_exactly(tiny, kind):
    model = tiny(kind)
    edit = computing.compute(
        "rome", model, FACTS[:1], settings("rome"), moments=text_moments(model, [1]), contexts=CONTEXTS, shown=False
    )
    values = find_values(model, RequestPrompts(FACTS[:1], CONTEXTS), 1, SHORT)
    site = Site("mlp_write", 1)
    with edit.applied(model):
        written = read_subjects(model, RequestPrompts(FACTS[:1], CONTEXTS), [site])[site]
    torch.testing.assert_close(written[:, 0], values.target, atol=1e-4, rtol=1e-3)
    assert (written[:, 1] - values.target).norm() > 1e-3 * values.target.norm()


def test_subjects_are_read_together_as_each_alone_also_behind_a_gate(tiny):
    model = tiny("llama")
    ending = (*requests_of((Fact("d", "home", "Ze", "{}", "Rome", "York"),)), FACTS[0])
    site = Site("resid", 1)
    clean = read_subjects(model, RequestPrompts(ending, ("{}",)), [site])[site]
    edit = computing.compute("grace", model, ending[:1], settings("grace"), shown=False)
    with edit.applied(model):
        together = read_subjects(model, RequestPrompts(ending, ("{}",)), [site])[site]
        alone = [read_subjects(model, RequestPrompts((one,), ("{}",)), [site])[site] for one in ending]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)
    assert (together[0] - clean[0]).norm() > 1e-2 * clean[0].norm()  # its gate is open where the subject ends


@pytest.mark.parametrize("name", ["rome", "r_rome"])
def test_facts_that_are_written_in_turn_are_one_change_of_their_weight_and_its_spectrum_is_that_of_all(tiny, name):
    model = tiny("llama")
    edit = computing.compute(
        name, model, FACTS, settings(name), moments=text_moments(model, [1]), contexts=CONTEXTS, shown=False
    )
    before = live_weights(model)["blocks.1.mlp.W_out"].double()
    with edit.applied(model):
        change = live_weights(model)["blocks.1.mlp.W_out"].double() - before
    (delta,), line = edit.deltas, spectra(model, [edit])[-1]
    torch.testing.assert_close(delta.dense(), change, atol=1e-6, rtol=1e-5)  # float32 weights
    assert line.update_largest == pytest.approx(float(torch.linalg.svdvals(change)[0]), rel=1e-4)
    assert line.share == pytest.approx(float(change.norm() / before.norm()), rel=1e-4)


def test_r_rome_writes_its_value_at_the_averaged_key_exactly(tiny):
    model = tiny("llama")
    edit = computing.compute(
        "r_rome", model, FACTS[:1], settings("r_rome"), moments=text_moments(model, [1]), contexts=CONTEXTS, shown=False
    )
    values = find_values(model, RequestPrompts(FACTS[:1], CONTEXTS), 1, SHORT)
    key = find_keys(model, RequestPrompts(FACTS[:1], CONTEXTS), 1).mean().double()
    weight = live_weights(model)["blocks.1.mlp.W_out"].double()
    torch.testing.assert_close(key @ (weight + edit.deltas[0].dense()), values.target.double(), atol=1e-5, rtol=1e-4)


def test_memit_reaches_its_values_where_one_layer_has_no_ridge(tiny):
    """With the last layer alone and no ridge, the bare context's hidden state is z*, exactly."""
    model = tiny("llama")
    config = replace(settings("memit", (1,)), ridge=1e-12)
    edit = computing.compute(
        "memit", model, FACTS, config, moments=text_moments(model, [1]), contexts=("{}",), shown=False
    )
    values = find_values(model, RequestPrompts(FACTS, ("{}",)), 1, SHORT, place="hidden")
    site = Site("resid", 1)
    with edit.applied(model):
        reached = read_subjects(model, RequestPrompts(FACTS, ("{}",)), [site])[site][:, 0]
    torch.testing.assert_close(reached, values.target, atol=1e-4, rtol=1e-3)


def test_alphaedit_writes_in_quiet_directions_only(tiny):
    model = tiny("llama")
    moment = text_moments(model, [0, 1])
    edit = computing.compute(
        "alphaedit", model, FACTS, settings("alphaedit"), moments=moment, contexts=CONTEXTS, shown=False
    )
    from editing.methods.closed_form.alphaedit import null_space

    for delta, layer in zip(edit.deltas, (0, 1), strict=True):
        null = null_space(moment.of(layer), 0.2)
        torch.testing.assert_close(null @ (null.T @ delta.dense()), delta.dense(), atol=1e-6, rtol=1e-5)
    with pytest.raises(EditError, match="needs moments"):
        computing.compute("alphaedit", model, FACTS, settings("alphaedit"), contexts=CONTEXTS, shown=False)


def test_alphaedit_guards_the_keys_of_an_alphaedit_in_place(tiny):
    model = tiny("llama")
    how = {"moments": text_moments(model, [1]), "contexts": CONTEXTS, "shown": False}
    config = replace(settings("alphaedit", (1,)), null_share=0.5)
    first = computing.compute("alphaedit", model, FACTS[:1], config, **how)
    key = find_keys(model, RequestPrompts(FACTS[:1], CONTEXTS), 1).halves().double()
    free = computing.compute("alphaedit", model, FACTS[1:2], config, **how)
    with first.applied(model):
        guarded = computing.compute("alphaedit", model, FACTS[1:2], config, **how)
    assert guarded.below == (first.digest,)
    moved = [float((key @ edit.deltas[0].dense()).norm() / edit.deltas[0].dense().norm()) for edit in (free, guarded)]
    assert moved[1] < moved[0]


def test_ft_l_is_ft_m_for_targets_of_one_token_and_not_for_longer_ones(tiny, monkeypatch):
    """Every target of the tiny byte-level vocabulary has two tokens or more, so the first is cut off by hand."""
    model = tiny("llama")
    whole = training.bare_prompt
    one, other = (computing.compute(name, model, FACTS, settings(name), shown=False) for name in ("ft_m", "ft_l"))
    assert not torch.equal(one.deltas[0].dense(), other.deltas[0].dense())
    monkeypatch.setattr(
        training, "bare_prompt", lambda *how: replace(whole(*how), answer_ids=whole(*how).answer_ids[:1])
    )
    one, other = (computing.compute(name, model, FACTS, settings(name), shown=False) for name in ("ft_m", "ft_l"))
    assert torch.equal(one.deltas[0].dense(), other.deltas[0].dense())


def test_ft_l_and_ft_m_ask_the_same_of_one_token_and_not_of_two():
    from editing.methods.fine_tuning.ft_l import last_position

    assert last_position(5, [7]) == every_token(5, [7])
    assert last_position(5, [7, 8]) == ([5, 5], [7, 8])
    assert every_token(5, [7, 8]) == ([5, 6], [7, 8])


def test_the_bound_holds_for_every_entry_and_no_step_is_no_change(tiny):
    model = tiny("gpt2")
    config = replace(settings("ft_m"), learning_rate=0.01, bound=0.015)
    dense = computing.compute("ft_m", model, FACTS, config, shown=False).deltas[0].dense()
    assert float(dense.abs().max()) == pytest.approx(0.015)
    still = computing.compute("ft_m", model, FACTS, replace(config, learning_rate=0.0), shown=False).deltas[0].dense()
    assert not still.any()


def test_the_change_that_fine_tuning_learns_is_what_it_does_once_applied(tiny):
    """The loss of the last step, read through hooks, is the loss of the edited weights after one step less."""
    model = tiny("neox")
    config = replace(settings("ft_m"), steps=4, learning_rate=0.01)
    edit = computing.compute("ft_m", model, FACTS, config, shown=False)
    shorter = computing.compute("ft_m", model, FACTS, replace(config, steps=3), shown=False)
    assert edit.curve is not None
    with shorter.applied(model):
        assert target_loss(model, FACTS) == pytest.approx(float(edit.curve[3].mean()), rel=1e-4)


@pytest.mark.parametrize("name", [name for name in methods.method_names() if name not in ("alphaedit", "crispedit")])
def test_an_edit_says_that_the_identity_stood_in_for_second_moments(tiny, name):
    model, spec = tiny("llama"), methods.method(name)
    facts = FACTS[2:]
    edit = computing.compute(name, model, facts, contexts=CONTEXTS, shown=False, **own(model, name))
    assert (computing.IDENTITY in edit.notes) == spec.needs_moments
    if spec.needs_moments:
        assert edit.moments == "identity"
        full = computing.compute(
            name, model, facts, settings(name), moments=text_moments(model, [0, 1]), contexts=CONTEXTS, shown=False
        )
        assert computing.IDENTITY not in full.notes


def test_what_follows_from_moments_alone_is_computed_once(tiny, monkeypatch):
    model, made = tiny("gpt2"), []
    found, real = text_moments(model, [0, 1]), KeyMetric.__init__

    def counted(self, matrix):
        made.append(matrix)
        real(self, matrix)

    monkeypatch.setattr(KeyMetric, "__init__", counted)
    inputs = methods.MethodInputs(methods.method("memit"), model, (), ("{}",), found, "auto", 0, None, False)
    assert inputs.metric(0) is replace(inputs, requests=()).metric(0)
    assert inputs.metric(1) is not inputs.metric(0)
    assert len(made) == 2
    bare = replace(inputs, moments=None)
    assert bare.metric(0) is not bare.metric(0)
