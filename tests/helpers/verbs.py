"""What Factscope can do with a model, each against plain transformers: the columns of the architecture table.

Each verb takes a family's model and the plain one, and gives the largest difference between what the two say. Where the
verb refuses the model it raises a UserError, and anything else that it raises is a mistake.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from circuits.engine.incremental import Fast
from circuits.engine.reference import Reference
from circuits.graph import Graph
from editing.compute import compute
from editing.edit import Edit, applied
from editing.export.folder import export as written
from editing.method import method
from editing.requests import request
from factscope.model.bridge import architecture
from factscope.model.forward.partial import check_parts
from factscope.model.forward.prefix import prefaced
from factscope.model.forward.scoring import Pair, score
from factscope.model.hooks import patched
from factscope.model.prompts import make_prompt, with_answer_ids
from factscope.model.weights import WeightName
from helpers.architectures import plain as plain_of
from helpers.circuits import task
from helpers.oracle import changed, mean_nll, module_of, outputs, reading, restored
from tracing.causal import Config, trace
from tracing.corruption import noise
from tracing.flow.knockout import FlowConfig, flow
from tracing.logit_lens import lens

EQUAL = 2e-5  # logits and nats in float32, two layers, another order of sums
ASKED = "Word is that [Oda Voss] lives in"
TOKENS = torch.tensor([[0, 17, 200, 31, 5, 90, 4, 61, 12]])


def logits(model: Any, plain: Any) -> float:
    """All logits of a row."""
    return _apart(model(TOKENS), plain(TOKENS).logits)


def traced(model: Any, plain: Any) -> float:
    """Corrupted runs, and cells of the first layer at the subject and at the end, for three kinds of state."""
    check_parts(model)
    prompt = make_prompt(model, ASKED, answer="Brask")
    corruption = noise(model, prompt, 2, level=1.0)
    clean = model(prompt.tensor())[0, -1].softmax(-1)
    with patched(model, corruption.patches(prompt, 0)):
        corrupt = model(corruption.tokens)[:, -1].softmax(-1).mean(0)
    prompt = with_answer_ids(model, prompt, [int((clean - corrupt).argmax())], "what the noise takes most from")
    assert corruption.noise is not None
    result = trace(model, prompt, Config(sites=("resid", "mlp", "attn"), samples=2, window=1), corruption=corruption)
    embed = module_of(model, plain, model.embed_ln if hasattr(model, "embed_ln") else model.embed)
    apart = 0.0
    for kind, module in _adding(model, plain).items():
        for place in (prompt.subject_span[1] - 1, len(prompt.tokens) - 1):
            corrupted, again = restored(plain, prompt, corruption.noise, module, place, embed)
            effect = (again - corrupted).mean()
            apart = max(apart, _apart(result.corrupted, corrupted), _apart(result.grid(kind).effect[0, place], effect))
    return apart


def _adding(model: Any, plain: Any) -> dict[str, Any]:
    """Modules of the first layer whose outputs are what a trace restores."""
    block, name = model.blocks[0], architecture(model)
    attn = getattr(block, "ln1_post", None) or block.attn
    mlp = getattr(block, "ln2_post", None) or block.mlp
    if name in ("MptForCausalLM", "MPTForCausalLM", "BloomForCausalLM", "OPTForCausalLM"):  # the MLP adds up itself
        mlp = block.mlp.out
    found = {"resid": module_of(model, plain, block), "mlp": module_of(model, plain, mlp)}
    if name == "BloomForCausalLM":
        return found | {"attn": plain.transformer.h[0].self_attention.dense}
    return found | {"attn": module_of(model, plain, attn)}


def followed(model: Any, plain: Any) -> float:
    """Attention to the subject knocked out, one layer at a time: the plain layer is given a mask that hides more."""
    prompt = make_prompt(model, ASKED, answer="Brask")
    result = flow(model, prompt, FlowConfig(window=1, nulls=0, sources=("subject",)))
    tokens, asked, apart = torch.tensor([(*prompt.tokens, *prompt.answer_ids[:-1])]), len(prompt.tokens) - 1, 0.0
    for number, one in enumerate(result.knockouts):
        for layer, block in enumerate(model.blocks):

            def hide(_: Any, given: Any, named: Any, one: Any = one) -> Any:
                own = next(each for each in (*given, *named.values()) if isinstance(each, Tensor) and each.ndim == 4)
                mask = own.clone()
                for query in one.queries:
                    mask[:, :, query, list(one.keys)] = own[:, :, :1, -1]
                swap = {id(own): mask}
                return tuple(swap.get(id(x), x) for x in given), {n: swap.get(id(x), x) for n, x in named.items()}

            handle = module_of(model, plain, block).register_forward_pre_hook(hide, with_kwargs=True)
            try:
                logp = plain(tokens, use_cache=False).logits[0, asked:].log_softmax(-1)
            finally:
                handle.remove()
            own = sum(logp[place, token] for place, token in enumerate(prompt.answer_ids))
            apart = max(apart, _apart(result.log_probability[number, layer], own))
    return apart


def lens_rows(model: Any, plain: Any) -> float:
    """The lens's last row, and the final state as the sum of what components add, read linearly."""
    prompt = make_prompt(model, ASKED, answer="Brask")
    result = lens(model, prompt)
    answer, tokens = prompt.answer_ids[0], torch.tensor([prompt.tokens])
    own, (normed,) = outputs(plain, tokens, [module_of(model, plain, model.ln_final)])
    bias = getattr(model.ln_final.original_component, "bias", None)
    weight = plain.get_output_embeddings().weight
    factor = model.adapter.apply_output_logits_transform(torch.tensor(1e-3)) / 1e-3
    linear = (normed[0, -1] - (0 if bias is None else bias)) @ (weight[answer] - weight.mean(0)) * factor
    direct = torch.tensor(sum(part.direct_effect for part in result.components))
    return max(_apart(direct, linear), _apart(result.log_probability[-1], own[0].log_softmax(-1)[:, answer]))


def scored(model: Any, plain: Any) -> float:
    """Answers of one token and of several, behind prompts that share a beginning and another that does not."""
    asked = (
        (ASKED, "Brask"),
        ("[Mira Drey] speaks", "Keltic Norrish"),
        ("Word is that [Oda Voss] works as a", "baker"),
    )
    prompts = [make_prompt(model, text, answer=answer) for text, answer in asked]
    said = score(model, [Pair(prompt.tokens, prompt.answer_ids) for prompt in prompts])
    return max(
        abs(one.nll - mean_nll(plain, prompt.tokens, prompt.answer_ids))
        for one, prompt in zip(said, prompts, strict=True)
    )


def told(model: Any, plain: Any) -> float:
    """An in-context edit: the score behind its text."""
    prompt = make_prompt(model, ASKED, answer="Vey")
    with _edit(model, "ice").applied(model):
        (said,) = score(model, [Pair(prompt.tokens, prompt.answer_ids)])
        row = prefaced(model, prompt.tokens)
    return abs(said.nll - mean_nll(plain, row, prompt.answer_ids))


def tuned(model: Any, plain: Any) -> float:
    """Fine-tuning: logits and score of the edited model."""
    return _edited(model, plain, "ft_m")


def stored(model: Any, plain: Any) -> float:
    """A value written at the MLP (ROME): logits and score of the edited model."""
    return _edited(model, plain, "rome")


def spread(model: Any, plain: Any) -> float:
    """Values written at the hidden state by several layers (MEMIT): logits and score of the edited model."""
    return _edited(model, plain, "memit")


def exported(model: Any, plain: Any) -> float:
    """A folder of the edited model, loaded by plain transformers."""
    edit = _edit(model, "rome")
    with tempfile.TemporaryDirectory() as folder:
        again = plain_of(written(model, [edit], Path(folder) / "edited"))
    own = again(TOKENS).logits
    assert not torch.allclose(own, plain(TOKENS).logits, atol=1e-4), "the edit does nothing"
    with edit.applied(model):
        return _apart(model(TOKENS), own)


def cut(model: Any, plain: Any) -> float:
    """Circuits: the model without what a head and what an MLP write, all of whose edges are cut, by both engines."""
    asked = task(model)
    graph = Graph.of(model)
    reference = Reference(model, graph, asked)
    fast, tokens, width = Fast(reference), asked.tokens(model), int(model.cfg.d_head)
    out = model.blocks[1].attn.o.original_component.weight
    projection = next(each for each in plain.modules() if torch.equal(getattr(each, "weight", out[:1]), out))

    def without_head(z: Tensor) -> Tensor:
        z = z.clone()
        z[..., width : 2 * width] = 0
        return z

    block = model.blocks[1]
    mlp = module_of(model, plain, block.mlp)
    normed = module_of(model, plain, block.ln1_post) if hasattr(block, "ln1_post") else None
    cases: dict[Any, Any] = {
        graph.head_writer(1, 1): without_share(projection, normed, width)
        if normed is not None
        else reading(projection, without_head),
        tuple(graph.mlp_writers(1)): changed([(mlp, without_all)]),
    }
    if graph.experts and not hasattr(block, "ln2_post"):
        cases[graph.writer_index["m1.e1"]] = without_expert(mlp, 1)
    apart = 0.0
    same = same_choices(plain, tokens)
    for writers, hooks in cases.items():
        kept = graph.full()
        kept[writers, :] = False
        with hooks, same():
            own = plain(tokens).logits[:, -1]
        apart = max(apart, _apart(reference.logits(kept), own), abs(fast.rebuild(kept) - reference.loss(kept)))
    return apart


def without_all(out: Tensor) -> Tensor:
    """Nothing, in the place of what an MLP gives."""
    return torch.zeros_like(out)


@contextmanager
def without_expert(mlp: Any, expert: int) -> Iterator[None]:
    """A mixture one of whose experts has an empty down-projection."""
    weights = [weight for name, weight in mlp.experts.named_parameters() if name.startswith("down_proj")]
    saved = [weight[expert].clone() for weight in weights]
    try:
        for weight in weights:
            weight[expert] = 0
        yield
    finally:
        for weight, before in zip(weights, saved, strict=True):
            weight[expert] = before


def same_choices(plain: Any, tokens: Tensor) -> Any:
    """A context in which every top-k of the plain model gives the places that it gives in a plain run of `tokens`."""
    own, made = torch.topk, []

    @contextmanager
    def every(function: Any) -> Iterator[None]:
        with mock.patch.object(torch, "topk", function), mock.patch.object(Tensor, "topk", function):
            yield

    def note(*args: Any, **how: Any) -> Any:
        found = own(*args, **how)
        made.append(found[1])
        return found

    with every(note):
        plain(tokens)

    def again() -> Any:
        left = iter(made)

        def repeat(scores: Tensor, *_: Any, **how: Any) -> Any:
            places = next(left)
            return torch.return_types.topk((scores.gather(how.get("dim", -1), places), places))

        return every(repeat)

    return again


@contextmanager
def without_share(projection: Any, normed: Any, width: int) -> Iterator[None]:
    """The second head's share of what leaves the norm after attention is taken away, the norm being left as it is.

    The norm multiplies each dimension by one number, which is what comes out divided by what goes in.
    """
    head = slice(width, 2 * width)
    own: list[Tensor] = []

    def hear(_: Any, given: Any) -> None:
        own.append(given[0][..., head] @ projection.weight[:, head].T)

    def less(_: Any, given: Any, out: Tensor) -> Tensor:
        rest: Tensor = out - out / given[0] * own[-1]
        return rest

    handles = projection.register_forward_pre_hook(hear), normed.register_forward_hook(less)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


VERBS: dict[str, Callable[[Any, Any], float]] = {
    "logits": logits,
    "trace": traced,
    "flow": followed,
    "lens": lens_rows,
    "score": scored,
    "in context": told,
    "fine-tune": tuned,
    "rome": stored,
    "memit": spread,
    "export": exported,
    "circuit": cut,
}


_SPECS = {name: method(name) for name in ("ice", "ft_m", "rome", "memit")}


@lru_cache(maxsize=len(_SPECS))
def _edit(model: Any, name: str) -> Edit:
    asked, spec = request(model, ASKED, "Vey", answer="Brask"), _SPECS[name]
    config = spec.config_for(model, {} if spec.in_context else {"steps": 3})
    return compute(spec, model, [asked], config, contexts=("{}",), shown=False)


def _edited(model: Any, plain: Any, name: str) -> float:
    edit, prompt = _edit(model, name), make_prompt(model, ASKED, answer="Vey")
    before = plain(TOKENS).logits
    with applied(model, [edit]), _same_change(model, plain, edit):
        own = plain(TOKENS).logits
        assert not torch.allclose(own, before, atol=1e-4), "the edit does nothing"
        (said,) = score(model, [Pair(prompt.tokens, prompt.answer_ids)])
        return max(_apart(model(TOKENS), own), abs(said.nll - mean_nll(plain, prompt.tokens, prompt.answer_ids)))


@contextmanager
def _same_change(model: Any, plain: Any, edit: Edit) -> Iterator[None]:
    """The edit's change of each weight, added to the plain model's own."""
    saved: list[tuple[Tensor, Tensor]] = []
    for delta in edit.deltas:
        block = model.blocks[WeightName.of(delta.weight).layer]
        weight, change = module_of(model, plain, block.mlp.out).weight.data, delta.dense()
        saved.append((weight, weight.clone()))
        transposed = block.mlp.out.original_component.__class__.__name__ != "Conv1D"
        weight += change.T if transposed else change
    try:
        yield
    finally:
        for weight, before in saved:
            weight.copy_(before)


def _apart(found: Tensor, own: Tensor) -> float:
    return float((found - own).abs().max())


def difference(model: Any, plain: Any, verb: str) -> float:
    """The largest difference of one verb, without gradients."""
    with torch.no_grad():
        return VERBS[verb](model, plain)
