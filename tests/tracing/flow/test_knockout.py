"""Attention knockout: identities, two engines, and plain transformers with an attention mask."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import factscope as fs
from factscope.data.load import load_facts
from factscope.errors import ModelError, UserError
from factscope.model.bridge import info
from factscope.model.forward.attention import attention_knockout, check_knockout
from factscope.model.forward.scoring import Pair, score
from factscope.model.hooks import Patch, patched, record
from factscope.model.prompts import Prompt, make_prompt, prompt_of
from factscope.model.sites import Site
from factscope.plots.show import in_words, page_of, summary_of
from factscope.runs.store import load, same, save
from helpers.architectures import plain
from helpers.models import TOY
from helpers.results import check_result
from studies import face
from tracing.causal import window_of
from tracing.flow.knockout import FlowConfig, cells_of, flow
from tracing.flow.knockouts import closed, knockouts_of, random_sets
from tracing.flow.results import FlowResult

SHAPES = ("gpt2", "llama", "neox", "gemma3")
SENTENCE = "In Vey [Mira Hallin] lives in"
FLOAT32: dict[str, Any] = {"atol": 2e-5, "rtol": 1e-4}  # nats, four layers in float32, summed in another order


def _sentence(model: Any, answer: str = "Brask Lunholm") -> Prompt:
    return make_prompt(model, SENTENCE, answer=answer)


@pytest.mark.parametrize("name", SHAPES)
def test_the_fast_engine_gives_the_reference_numbers(tiny: Any, name: str) -> None:
    model, config = tiny(name), FlowConfig(window=3, nulls=1, sources=("subject", "relation"))
    prompt = _sentence(model)
    assert len(prompt.answer_ids) > 1
    slow, fast, small = (
        flow(model, prompt, each)
        for each in (replace(config, engine="reference"), config, replace(config, chunk_tokens=20))
    )
    assert float(slow.log_change.abs().max()) > 1e-3, "a change to compare"
    for one in (fast, small):
        torch.testing.assert_close(one.log_probability, slow.log_probability, **FLOAT32)
        torch.testing.assert_close(one.null, slow.null, **FLOAT32, equal_nan=True)
        assert one.clean == pytest.approx(slow.clean, abs=1e-5)


def test_plain_transformers_with_a_mask_says_the_same(tiny: Any) -> None:
    """The definition, written again: the bare model, whose layers are given a mask with more of it hidden.

    tests/factscope/model/test_architectures.py asks the same of every family.
    """
    model, window = tiny("llama"), 2
    prompt = _sentence(model)
    found = flow(model, prompt, FlowConfig(window=window, nulls=0))
    bare = plain(info(model).source)
    stack = next(each for each in bare.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == 4)
    tokens = torch.tensor([(*prompt.tokens, *prompt.answer_ids[:-1])])
    asked = len(prompt.tokens) - 1

    def hiding(queries: tuple[int, ...], keys: tuple[int, ...]) -> Any:
        def hook(_: Any, positional: Any, named: dict[str, Any]) -> Any:
            given = [*positional, *named.values()]
            (own,) = (each for each in given if isinstance(each, Tensor) and each.ndim == 4)
            mask = own.clone()
            for query in queries:
                for key in keys:
                    if key <= query:
                        mask[:, :, query, key] = -torch.inf
            named = {name: mask if each is own else each for name, each in named.items()}
            return tuple(mask if each is own else each for each in positional), named

        return hook

    for number, one in enumerate(found.knockouts):
        for layer in range(4):
            hook = hiding(one.queries, one.keys)
            handles = [stack[i].register_forward_pre_hook(hook, with_kwargs=True) for i in window_of(layer, window, 4)]
            try:
                with torch.no_grad():
                    logp = bare(tokens, use_cache=False).logits[0, asked:].log_softmax(-1)
            finally:
                for handle in handles:
                    handle.remove()
            own = sum(float(logp[i, token]) for i, token in enumerate(prompt.answer_ids))
            assert float(found.log_probability[number, layer]) == pytest.approx(own, abs=5e-5)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_what_is_knocked_out_is_zero_and_the_rest_sums_to_one(tiny: Any, name: str) -> None:
    model = tiny(name)
    prompt = _sentence(model)
    one = knockouts_of(prompt, ("last token",), ("subject",))[0]
    edges = closed(one, len(prompt.tokens))
    sites = [Site("pattern", 1)]
    with record(model, sites) as before:
        model(prompt.tensor())
    with attention_knockout(model, {1: edges[None]}), record(model, sites) as after:
        model(prompt.tensor())
    clean, masked = before[sites[0]][0], after[sites[0]][0]
    assert torch.all(masked[:, edges] == 0)
    kept = clean.masked_fill(edges, 0)
    torch.testing.assert_close(masked, kept / kept.sum(-1, keepdim=True), atol=1e-6, rtol=1e-5)


def test_a_last_token_that_sees_itself_alone_says_what_a_prompt_of_one_token_says(tiny: Any) -> None:
    """Rotary angles are relative, so nothing is left of the sentence, nor of its place in it."""
    model = tiny("llama")
    prompt = _sentence(model, answer="Brask")
    last = len(prompt.tokens) - 1
    edges = torch.zeros(1, last + 1, last + 1, dtype=torch.bool)
    edges[0, last, :last] = True
    with torch.no_grad(), attention_knockout(model, dict.fromkeys(range(4), edges)):
        alone = model(prompt.tensor())[0, -1]
    torch.testing.assert_close(alone, model(prompt.tensor()[:, -1:])[0, -1].detach(), atol=1e-5, rtol=1e-5)


def test_a_layer_that_moves_nothing_can_lose_nothing(tiny: Any) -> None:
    """Attention writes in one layer alone: only the windows that hold this layer change the answer."""
    model, mover, window = tiny("llama"), 2, 2
    nothing = [Patch(Site("attn", layer), torch.zeros(1)) for layer in range(4) if layer != mover]
    with patched(model, nothing):
        found = flow(model, _sentence(model, "Brask"), FlowConfig(window=window, nulls=0))
    holds = torch.tensor([mover in window_of(layer, window, 4) for layer in range(4)])
    subject = found.log_change[found.number("last token", "subject")]
    assert torch.all(subject[holds].abs() > 1e-4)
    assert torch.all(found.log_change[:, ~holds].abs() < 1e-6)
    # The subject's last token is read above, where attention writes nothing; below, nothing has reached it.
    assert torch.all(found.log_change[found.number("last subject", "subject")].abs() < 1e-6)


def test_the_answer_is_scored_whole(toy: Any) -> None:
    fact = load_facts(TOY / "toy_town.json")[0]
    prompt = make_prompt(toy, fact.prompt, subject=fact.subject, answer=f"{fact.answer} Vey Brask")
    assert any("first" in note for note in prompt.notes)
    found = flow(toy, prompt, FlowConfig(nulls=0))
    (said,) = score(toy, [Pair(prompt.tokens, prompt.answer_ids)])
    assert found.clean == pytest.approx(-said.nll * len(prompt.answer_ids), abs=1e-4)
    assert not any("first" in note for note in found.prompt.notes)
    (itself,) = (one for one in found.knockouts if (one.target, one.source) == ("last token", "itself"))
    assert len(itself.queries) == len(itself.keys) == len(prompt.answer_ids)


def test_an_edit_beside_the_weights_decides_where_the_prompt_ends(toy: Any) -> None:
    """A gate that opens at the prompt's last token, with an answer of several tokens behind it."""
    fact = load_facts(TOY / "toy_town.json")[0]
    prompt = make_prompt(toy, fact.prompt, subject=fact.subject, answer="Vey Brask")
    edit = fs.edit(toy, fs.request(toy, f"[{fact.subject}] lives in", "Vey"), "grace", settings={"steps": 5})
    config = FlowConfig(window=2, nulls=0)
    before = flow(toy, prompt, config)
    with edit.applied(toy):
        slow, fast = (flow(toy, prompt, replace(config, engine=engine)) for engine in ("reference", "fast"))
        (said,) = score(toy, [Pair(prompt.tokens, prompt.answer_ids)])
    assert slow.clean != pytest.approx(before.clean, abs=1e-2), "the edit does something"
    assert fast.clean == pytest.approx(-said.nll * len(prompt.answer_ids), abs=1e-4)
    torch.testing.assert_close(fast.log_probability, slow.log_probability, **FLOAT32)


def test_a_trained_model_needs_its_subject(toy: Any) -> None:
    prompt = prompt_of(toy, load_facts(TOY / "toy_town.json")[0])
    found = flow(toy, prompt, FlowConfig(window=toy.cfg.n_layers))
    assert found.change[found.number("last token", "subject")].min() < -0.9
    assert torch.all(found.change >= -1)
    assert same(found, replace(flow(toy, prompt, FlowConfig(window=toy.cfg.n_layers)), run=found.run))


def test_the_face_takes_a_text_and_shows_how_far_it_is(toy: Any, monkeypatch: Any) -> None:
    seen: list[tuple[Any, ...]] = []

    @contextmanager
    def progress(title: str, total: int, *, shown: bool | None) -> Iterator[Any]:
        seen.append((title, total, shown))
        done: list[int] = []
        yield done.append
        assert sum(done) == total

    monkeypatch.setattr(face, "progress", progress)
    config = FlowConfig(window=2, nulls=1)
    found = fs.flow(toy, SENTENCE, config, shown=True)
    prompt = make_prompt(toy, SENTENCE)
    assert same(found, replace(flow(toy, prompt, config), run=found.run))
    assert seen == [("knocking out", cells_of(toy, prompt, config), True)]


def test_a_result_is_saved_and_drawn_again(toy: Any, tmp_path: Any) -> None:
    found = flow(toy, _sentence(toy), FlowConfig(attributes=("Brask", "Vey"), nulls=2))
    again = load(save(found, tmp_path), FlowResult)
    assert same(again, found)
    assert in_words(again) == in_words(found)
    assert [section.heading for section in page_of(again).sections][1] == "What the answer loses without a source"
    assert len(summary_of(again)["knockouts"]) == len(found.knockouts)
    check_result(found, tmp_path / "out", "FlowResult")


def _costing(found: FlowResult, costs: dict[str, float], nulls: list[float]) -> FlowResult:
    """`found` as if each source, by name, cost the last token's answer so many nats in layer 1; nulls likewise."""
    log_probability = torch.full_like(found.log_probability, found.clean)
    null = torch.full((len(found.knockouts), len(nulls), log_probability.shape[1]), found.clean)
    for source, cost in costs.items():
        log_probability[found.number("last token", source), 1] = found.clean - cost
        null[found.number("last token", source), :, 1] = found.clean - torch.tensor(nulls)
    return replace(found, log_probability=log_probability, null=null)


def test_no_layer_is_named_where_the_answer_loses_nothing(toy: Any) -> None:
    found = _costing(flow(toy, _sentence(toy), FlowConfig(nulls=0)), {"subject": 0.001, "relation": 1.0}, [])
    line = next(line for line in in_words(found).splitlines() if line.startswith("Without attention of the last token"))
    assert "the subject: no fall in any layer" in line
    assert "the other words: -63% in layer 1" in line
    headline: Any
    table: Any
    headline, table = (page_of(found).sections[section].specs[0] for section in (0, 2))
    assert "does not see the subject: no fall in any layer" in headline.sentence
    assert {row[1]: row[3] for row in table.rows if row[0] == "last token"}["subject"] is None


@pytest.mark.parametrize(
    ("cost", "nulls", "said"),
    [
        (1.0, [0.1] * 19, False),
        (1.0, [0.1] * 9, False),  # p is 0.1, the least that nine sets allow
        (1.0, [0.1] * 15 + [2.0] * 4, True),
        (0.001, [2.0] * 19, False),  # nothing falls, so there is nothing to doubt
    ],
)
def test_a_fall_that_random_words_have_too_is_called_so(toy: Any, cost: float, nulls: list[float], said: bool) -> None:
    found = _costing(flow(toy, _sentence(toy), FlowConfig(nulls=0)), {"subject": cost, "relation": 0.5}, nulls)
    found = replace(
        found, null=found.null.index_fill(0, torch.tensor([found.number("last token", "relation")]), torch.nan)
    )
    doubt = "Some sets of as many random words cost as much as the subject"
    assert (doubt in in_words(found)) == said
    headline: Any = page_of(found).sections[0].specs[0]
    assert (doubt in headline.sentence) == said


# ---- which attention ----


def test_tokens_are_grouped_by_their_role(toy: Any) -> None:
    prompt = _sentence(toy)
    first, after = prompt.subject_span
    last = len(prompt.tokens) - 1
    found = {(one.target, one.source): one for one in knockouts_of(prompt, ("last token", "last subject"), (), 2)}
    at_last = {source: one for (target, source), one in found.items() if target == "last token"}
    assert at_last["subject"].keys == tuple(range(first, after))
    assert at_last["last subject"].keys == (after - 1,)
    assert at_last["start token"].keys == tuple(range(prompt.n_start))
    assert at_last["itself"].keys == at_last["itself"].queries == (last, last + 1)
    words = [key for source in ("start token", "subject", "relation") for key in at_last[source].keys]
    assert sorted(words) == list(range(last)), "every token before the last is in one of three"
    assert found["last subject", "subject"].keys == tuple(range(first, after - 1))
    assert found["last subject", "relation"].keys == tuple(range(prompt.n_start, first))
    assert ("last subject", "last subject") not in found


def test_a_subject_that_ends_the_prompt_is_one_target(toy: Any) -> None:
    found = knockouts_of(make_prompt(toy, "In Vey lives [Mira Hallin]"), ("last token", "last subject"), ())
    assert {one.target for one in found} == {"last token"}


def test_random_sets_are_as_large_and_others(toy: Any) -> None:
    prompt = make_prompt(toy, "In Vey today, Brask and Lunholm, [Mira Hallin] lives in")
    for one in knockouts_of(prompt, ("last token",), ()):
        sets = random_sets(prompt, one, 7, seed=3)
        assert len(sets) == 7
        assert len({each.keys for each in sets}) == 7
        assert one.keys not in {each.keys for each in sets}
        for each in sets:
            assert len(each.keys) == len(one.keys)
            assert min(each.keys) >= prompt.n_start
            assert max(each.keys) < len(prompt.tokens)
        assert sets == random_sets(prompt, one, 7, seed=3)
    short = make_prompt(toy, "[Oda Voss] lives")
    assert random_sets(short, knockouts_of(short, ("last subject",), ())[0], 19, 0) == [], "too few to say anything"
    assert cells_of(toy, prompt, FlowConfig(nulls=0)) == 4 * len(
        knockouts_of(prompt, ("last token", "last subject"), ())
    )


def test_windows_grow_with_the_model() -> None:
    assert [FlowConfig().layers(depth) for depth in (4, 12, 30, 48)] == [1, 2, 6, 9]


# ---- refusals ----


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"sources": ("object",)}, "there is no source 'object'"),
        ({"targets": ()}, "a knockout of nothing"),
        ({"sources": ("subject", "subject")}, "twice"),
        ({"engine": "slow"}, "choose fast or reference"),
        ({"nulls": -1}, "nulls must be 0 or more"),
    ],
)
def test_settings_that_make_no_sense(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        FlowConfig(**config)


def test_a_knockout_of_nothing_is_refused(toy: Any) -> None:
    prompt = make_prompt(toy, "[Oda] lives in", start="none")
    with pytest.raises(UserError, match="nothing to knock out: in 'Oda lives in' no token is the start token"):
        flow(toy, prompt, FlowConfig(sources=("start token",)))
    with pytest.raises(UserError, match="window of 5 layers is larger than the model, which has 4"):
        flow(toy, prompt, FlowConfig(window=5))


def test_a_token_that_would_see_nothing_is_refused(toy: Any) -> None:
    prompt = make_prompt(toy, "[Oda Voss] lives in", start="none")
    one_token = make_prompt(toy, "[Oda] lives in", start="none")
    assert one_token.subject_span == (0, 1)
    with pytest.raises(UserError, match="nothing left to attend to"):
        flow(toy, one_token, FlowConfig(targets=("last subject",)))
    flow(toy, prompt, FlowConfig(targets=("last token",), nulls=0))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mamba", "layer 0 of this model .* is given no attention mask"),
        ("falcon_h1", "a token that attention cannot see still changes the answer"),
    ],
)
def test_what_moves_tokens_by_other_ways_than_attention_is_refused(family: Any, name: str, words: str) -> None:
    model = family(name)
    with pytest.raises(ModelError, match=words) as refusal:
        check_knockout(model)
    assert "\n" not in str(refusal.value)


def test_half_of_the_attention_is_not_all_of_it(tiny: Any) -> None:
    """The proof fails where a layer does not take the mask: it would, if a mask were not looked at."""
    model = tiny("neox")
    prompt = _sentence(model, "Brask")
    middle = len(prompt.tokens) // 2
    edges = torch.zeros(1, len(prompt.tokens), len(prompt.tokens), dtype=torch.bool)
    edges[0, middle + 1 :, middle] = True
    other = prompt.tensor().clone()
    other[:, middle] = prompt.tokens[0]
    rows = torch.cat([prompt.tensor(), other])

    def answers(layers: range) -> Tensor:
        with torch.no_grad(), attention_knockout(model, dict.fromkeys(layers, edges)):
            logits: Tensor = model(rows)[:, -1]
        return logits

    whole, part = answers(range(4)), answers(range(3))
    torch.testing.assert_close(whole[0], whole[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(part[0], part[1], atol=1e-4)
