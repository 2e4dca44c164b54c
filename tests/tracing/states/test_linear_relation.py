"""Linear maps of relations: Jacobians are autograd's, and in a model that is linear the map is the model."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import factscope as fs
from factscope.data.load import load_facts
from factscope.errors import StoreError, UserError
from factscope.model.hooks import Patch, patched
from factscope.model.prompts import make_prompt
from factscope.model.sites import Site
from factscope.runs import store
from factscope.runs.parts import Parts
from helpers.models import TOY
from helpers.results import check_result
from tracing.states.clean import CleanRun
from tracing.states.jacobian import jacobians
from tracing.states.linear_relation import Held, Maps, PseudoInverse, RelationConfig, linear_relation

SHAPES = ("gpt2", "llama", "neox", "gemma3")
QUICK = RelationConfig(examples=2, choice=3, limit=6, nulls=2, ranks=(2, 8, 32))


@pytest.mark.parametrize("name", SHAPES)
def test_a_jacobian_is_autograds_through_plain_transformers(tiny: Any, name: str) -> None:
    model, place, state = tiny(name), 3, 2
    prompt = make_prompt(model, "In Vey [Mira Hallin] lives in")
    clean = CleanRun.of(model, prompt.tokens)
    block, last = (model.blocks[layer].original_component for layer in (state - 1, 3))

    def final(moved: torch.Tensor) -> torch.Tensor:
        """The final state at the last token, where one state below has `moved` added: two hooks on plain modules."""
        seen: list[torch.Tensor] = []

        def add(_: Any, __: Any, out: Any) -> Any:
            whole = out[0] if isinstance(out, tuple) else out
            step = torch.zeros_like(whole).index_put((torch.tensor([0]), torch.tensor([place])), moved)
            return (whole + step, *out[1:]) if isinstance(out, tuple) else whole + step

        def keep(_: Any, __: Any, out: Any) -> None:
            seen.append(out[0] if isinstance(out, tuple) else out)

        hooks = [block.register_forward_hook(add), last.register_forward_hook(keep)]
        model.original_model(prompt.tensor())
        for hook in hooks:
            hook.remove()
        return seen[0][0, -1]

    wanted = torch.autograd.functional.jacobian(final, torch.zeros(clean.states.shape[-1]))
    found = jacobians(clean, place)
    torch.testing.assert_close(found[state, :, 0], wanted, atol=1e-4, rtol=1e-3)
    from_the_start = jacobians(clean, 0)[state, :, place]  # the same, in a graph that begins at the first token
    torch.testing.assert_close(from_the_start, found[state, :, 0], atol=1e-4, rtol=1e-3)


@contextlib.contextmanager
def linear(model: Any) -> Iterator[None]:
    """The model with nothing in it that is not affine: no norm in the blocks, no MLP, attention spread evenly."""
    norms = [norm for block in model.blocks for norm in (block.ln1, block.ln2)]
    hooks = [norm.register_forward_hook(lambda _, given, __: given[0]) for norm in norms]
    even = [
        Patch(Site("pattern", layer), lambda seen: (seen > 0).to(seen) / (seen > 0).sum(-1, keepdim=True))
        for layer in range(4)
    ]
    none = [Patch(Site("mlp", layer), torch.zeros(1)) for layer in range(4)]
    try:
        with patched(model, [*even, *none]):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def test_in_a_linear_model_the_map_is_the_model(tiny: Any) -> None:
    """Subjects that differ in their last token alone: F(s) = W s + b holds for each, and W+ moves it exactly."""
    model = tiny("gpt2")
    one = make_prompt(model, "In Vey [Oda] lives in")
    after = one.subject_span[1]
    place = after - 1
    prompts = [replace(one, tokens=(*one.tokens[:place], token, *one.tokens[after:])) for token in range(60, 65)]
    with linear(model):
        maps = Maps.of(model, prompts[:2], range(4), Parts(None, None, lambda _: None))
        held = Held.of(model, prompts[2:], range(4))
        # At the embedding nothing else differs. Above, other tokens have read the subject, and only W is still alike.
        torch.testing.assert_close(maps.predicted(held.subject, 1.0)[:, 0], held.final, atol=1e-5, rtol=1e-4)
        other = Maps.of(model, prompts[3:4], range(4), Parts(None, None, lambda _: None))
        torch.testing.assert_close(other.weight, maps.weight, atol=1e-5, rtol=1e-4)
        clean = CleanRun.of(model, prompts[2].tokens)
        step = PseudoInverse.of(maps.weight[0]).of_rank(held.final[1] - held.final[0], 48)
        ((_, logits),) = clean.patched((held.subject[0, 0] + step)[None], [0], place)
        torch.testing.assert_close(logits[0], CleanRun.of(model, prompts[3].tokens).logits[-1], atol=1e-3, rtol=1e-3)


def test_one_example_is_predicted_exactly_and_held_out_facts_are_held_out(toy: Any) -> None:
    """W s + J s - ... : of one example, b is what is missing, so its own final state comes back."""
    facts = load_facts(TOY / "toy_town.json")
    found = linear_relation(toy, facts, replace(QUICK, examples=1, demonstrations=False, betas=(1.0,), layers=(0,)))
    (subject,) = found.examples
    prompt = make_prompt(toy, next(f for f in facts if f.subject == subject).template.replace("{}", f"[{subject}]"))
    clean = CleanRun.of(toy, prompt.tokens)
    state = clean.states[1, prompt.subject_span[1] - 1]
    torch.testing.assert_close(found.predict(state), clean.states[-1, -1], atol=1e-4, rtol=1e-4)
    parts = [set(found.examples), set(found.choice), set(found.subjects)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert found.states == (1,)


def test_the_toys_towns_are_read_and_written_by_a_map(toy: Any, tmp_path: Path) -> None:
    facts = load_facts(TOY / "toy_town.json")
    config = RelationConfig(examples=4, demonstrations=False, choice=4, limit=16, nulls=2)
    found = linear_relation(toy, facts, config)
    decoded, edited, layer = found.decoded, found.edited, found.decoded.layer
    assert float(decoded.right[:, layer].float().mean()) > float(decoded.null[:, :, layer].float().mean())
    assert float(edited.right[:, layer].float().mean()) > float(edited.random[:, layer].float().mean())
    assert found.states == (0, 1, 2, 3)
    right = [said == answer for said, answer in zip(decoded.says, decoded.answers, strict=True)]
    assert right == decoded.right[:, layer].tolist()
    assert [said == want for said, want in zip(edited.says, edited.wanted, strict=True)] == edited.right[
        :, layer
    ].tolist()
    check_result(found, tmp_path, "RelationResult")
    assert "hernandez2024linearity" in fs.cite(found)
    assert len(found.to_frame()) == 4


@pytest.mark.parametrize("after", [1, 3, 6])  # an example, a fact that chooses, a fact that is scored
def test_a_stopped_map_goes_on_to_the_same_result(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    facts = load_facts(TOY / "toy_town.json")
    whole = linear_relation(toy, facts, QUICK)
    done: list[str] = []
    real = Parts.get

    def stopping(self: Parts, name: str, cls: type, make: Any) -> Any:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(name)
        return real(self, name, cls, make)

    with monkeypatch.context() as stopped:
        stopped.setattr(Parts, "get", stopping)
        with pytest.raises(KeyboardInterrupt):
            linear_relation(toy, facts, QUICK, folder=tmp_path)

    def never(*_: Any) -> Any:
        raise AssertionError("a part that was done is made again")

    def resumed(self: Parts, name: str, cls: type, make: Any) -> Any:
        return real(self, name, cls, never if name in done else make)

    with monkeypatch.context() as going_on:
        going_on.setattr(Parts, "get", resumed)
        again = linear_relation(toy, facts, QUICK, folder=tmp_path)
    assert store.same(replace(again, run=whole.run), whole)
    with pytest.raises(StoreError, match="begun with other settings"):
        linear_relation(toy, facts, replace(QUICK, nulls=1), folder=tmp_path)


@pytest.mark.parametrize(
    ("source", "change", "words"),
    [
        ("toy_town.json", {"layers": (3,)}, "choose among 0 to 2"),
        ("toy_town.json", {"examples": 0}, "examples must be 1 or more"),
        ("toy_town.json", {"examples": 20}, "24 facts are too few for 20 examples"),
        ("toy_town.json", {"choice": 18, "examples": 2}, "of 22 other facts"),
        (None, {}, "a map is of one relation"),
    ],
)
def test_a_mistake_is_one_sentence(toy: Any, source: str | None, change: dict[str, Any], words: str) -> None:
    facts = load_facts(TOY / source if source else None)
    with pytest.raises(UserError) as seen:
        linear_relation(toy, facts, replace(RelationConfig(), **change))
    assert words in str(seen.value)
