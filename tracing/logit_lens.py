"""The logit lens: unembed every state, and every writer's output, as if the model ended there.

nostalgebraist 2020; the curves of Knowledge Circuits (Yao et al. 2024, Figs. 3 and 6). Two conventions for the norm:

*per-state*: each state is normalised by itself, as the model would if the state were its last. The usual logit lens.

*final-scale*: each state is divided by the scale of the *final* state at its position, without the norm's or the
unembedding's bias, as the Knowledge Circuits code has it. Ranks hardly differ; probabilities of early layers come out
flatter, because early states are small beside the final one. It is linear, so components add up: that is why it is the
one in which direct effects are given.

A component is one writer at the last position: the embedding, a head, an MLP. Its direct effect is what it adds to the
answer's logit less what it adds to the average token's (a shift of all logits alike changes no probability). Direct
effects of all writers, attention biases included, sum to the final logit's own, but for what the final norm's bias adds
where there is one.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factscope.errors import PromptError
from factscope.model.bridge import device
from factscope.model.hooks import record
from factscope.model.prompts import Prompt, with_answer_ids
from factscope.model.sites import Site
from factscope.model.weights import live_weights
from factscope.runs.provenance import Run, stopwatch
from tracing.results import Component, LensResult

Norm = Literal["per-state", "final-scale"]
_ROWS = 256  # states unembedded at once: 50 MB of logits with a vocabulary of 50,000


def lens(model: Any, prompt: Prompt, norm: Norm = "per-state", top: int = 5) -> LensResult:
    """Every layer and position of `prompt`, and every component at its last position.

    Heads are left out where the model normalises after attention (Gemma-2 and -3): they share that norm, so a head has
    no write of its own.
    """
    with torch.no_grad(), stopwatch() as seconds:
        layers = range(model.cfg.n_layers)
        sites = [Site("resid_pre"), *(Site(kind, i) for i in layers for kind in ("resid", "mlp", "attn", "head"))]
        with record(model, sites) as seen:
            logits = model(prompt.tensor(device(model)))[0, -1]
        if not prompt.answer_ids:
            prompt = with_answer_ids(model, prompt, [int(logits.argmax())], "the model's own prediction")
        states = torch.stack([seen[Site("resid_pre")][0], *(seen[Site("resid", i)][0] for i in layers)])
        final = states[-1]
        read = _reader(model, norm)
        n_layers, n_positions, _ = states.shape
        flat = read(states.flatten(0, 1), final.repeat(n_layers, 1))
        parts = _lens_rows(model, flat, prompt)
        grid = {name: values.unflatten(0, (n_layers, n_positions)) for name, values in parts.items()}
        words = [model.tokenizer.decode([i]) for i in grid.pop("top").flatten().tolist()]
        components = _components(model, prompt, seen, final[-1], norm, top)
    return LensResult(
        prompt=prompt,
        norm=norm,
        log_probability=grid["log_probability"],
        rank=grid["rank"],
        entropy=grid["entropy"],
        foil_log_probability=grid.get("foil"),
        top=tuple(tuple(words[i * n_positions : (i + 1) * n_positions]) for i in range(n_layers)),
        components=components,
        run=Run.of(model, 0).ended(seconds[0]),
    )


def answers_by_layer(
    model: Any, prompt: Prompt, tokens: Sequence[int], positions: Sequence[int], norm: Norm = "per-state"
) -> tuple[Float[Tensor, "token pos layer"], Int[Tensor, "token pos layer"]]:
    """Log-probability (nats) and rank (from 1) of several tokens at some positions; layer 0 is the embedding.

    The same numbers as `lens` gives for one answer, without its components: for following answers through many models.
    """
    layers = range(model.cfg.n_layers)
    sites = [Site("resid_pre"), *(Site("resid", i) for i in layers)]
    with torch.no_grad():
        with record(model, sites) as seen:
            model(prompt.tensor(device(model)))
        states = torch.stack([seen[site][0, list(positions)] for site in sites], 1)  # [pos, layer, d_model]
        final = states[:, -1:].expand_as(states)
        normed = _reader(model, norm)(states.flatten(0, 1), final.flatten(0, 1))
        logs = torch.log_softmax(_unembed(model, normed, bias=True).float(), -1)
        own = logs[:, list(tokens)].T
        ranks = torch.stack([1 + (logs > one[:, None]).sum(-1) for one in own])
    shape = (len(positions), len(sites))
    return own.unflatten(1, shape).cpu(), ranks.unflatten(1, shape).cpu()


def writes(model: Any, seen: dict[Site, Tensor]) -> dict[str, Float[Tensor, " d_model"]]:
    """What each writer adds to the residual stream at the last position, by name; sums to the final state.

    Heads where they have a write of their own, else the attention outputs whole (`a3`); with the heads, `a3.bias` where
    the attention has an output bias. `seen` holds the sites that `lens` records.
    """
    found = {"embed": seen[Site("resid_pre")][0, -1]}
    weights = live_weights(model)
    for layer in range(model.cfg.n_layers):
        z, whole = seen[Site("head", layer)][0, -1], seen[Site("attn", layer)][0, -1]
        out = weights.get(f"blocks.{layer}.attn.W_O")
        bias = weights.get(f"blocks.{layer}.attn.b_O")
        if out is not None and out.shape[:2] == z.shape:
            each = torch.einsum("hd,hdm->hm", z, out.to(z))  # head, d_head, d_model
            total = each.sum(0) if bias is None else each.sum(0) + bias
        if out is not None and out.shape[:2] == z.shape and torch.allclose(total, whole, rtol=1e-3, atol=1e-4):
            found |= {f"a{layer}.h{head}": write for head, write in enumerate(each)}
            if bias is not None:
                found[f"a{layer}.bias"] = bias
        else:
            found[f"a{layer}"] = whole
        found[f"m{layer}"] = seen[Site("mlp", layer)][0, -1]
    return found


def _components(
    model: Any, prompt: Prompt, seen: dict[Site, Tensor], final: Tensor, norm: Norm, top: int
) -> tuple[Component, ...]:
    found = writes(model, seen)
    names, outputs = list(found), torch.stack(list(found.values()))
    finals = final.expand_as(outputs)
    linear = _unembed(model, _reader(model, "final-scale")(outputs, finals), bias=False)
    rows = _lens_rows(model, _reader(model, norm)(outputs, finals), prompt)
    answer = prompt.answer_ids[0]
    direct = linear[:, answer] - linear.mean(-1)
    raised = linear.topk(top, -1).indices.tolist()
    return tuple(
        Component(
            name,
            float(rows["log_probability"][i]),
            int(rows["rank"][i]),
            float(rows["entropy"][i]),
            float(direct[i]),
            tuple(model.tokenizer.decode([token]) for token in raised[i]),
        )
        for i, name in enumerate(names)
    )


def _lens_rows(model: Any, normed: Float[Tensor, "row d_model"], prompt: Prompt) -> dict[str, Tensor]:
    """Log-probability and rank of the answer, entropy, most probable token, for each normalised state."""
    answer = prompt.answer_ids[0]
    pieces: dict[str, list[Tensor]] = {}
    for begin in range(0, len(normed), _ROWS):
        logs = torch.log_softmax(_unembed(model, normed[begin : begin + _ROWS], bias=True).float(), -1)
        found = {
            "log_probability": logs[:, answer],
            "rank": 1 + (logs > logs[:, answer : answer + 1]).sum(-1),
            "entropy": -(logs.exp() * logs).sum(-1),
            "top": logs.argmax(-1),
        }
        if prompt.foil_ids:
            found["foil"] = logs[:, prompt.foil_ids[0]]
        for name, values in found.items():
            pieces.setdefault(name, []).append(values.cpu())
    return {name: torch.cat(values) for name, values in pieces.items()}


def _unembed(model: Any, normed: Float[Tensor, "row d_model"], bias: bool) -> Float[Tensor, "row vocab"]:
    logits = model.unembed(normed[:, None])[:, 0]
    own = None if bias else live_weights(model).get("unembed.b_U")
    return logits if own is None else logits - own


def _reader(model: Any, norm: Norm) -> Any:
    """A function of states and the final states of their positions, both [row, d_model], to what is unembedded."""
    if norm not in ("per-state", "final-scale"):
        raise PromptError(f"there is no lens norm {norm!r}; choose per-state or final-scale")

    def per_state(states: Tensor, final: Tensor) -> Tensor:
        return model.ln_final(states[:, None])[:, 0]

    def final_scale(states: Tensor, final: Tensor) -> Tensor:
        normed = per_state(states, final)
        shift = getattr(model.ln_final.original_component, "bias", None)
        if shift is not None:
            normed = normed - shift
        return normed * (_scale(model, states) / _scale(model, final))

    return per_state if norm == "per-state" else final_scale


def _scale(model: Any, states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row 1"]:
    """What the final norm divides by: the root mean square, of the centred state where the norm centres."""
    rms = bool(model.cfg.uses_rms_norm)
    centred = states if rms else states - states.mean(-1, keepdim=True)
    return (centred.pow(2).mean(-1, keepdim=True) + model.cfg.eps).sqrt()
