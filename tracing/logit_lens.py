"""The logit lens: unembed every state, and every writer's output, as if the model ended there.

nostalgebraist 2020; the curves of Knowledge Circuits (Yao et al. 2024, Figs. 3 and 6). A state is read in one of the
two ways of `factscope.model.readout`: *per-state*, as the model would if the state were its last, the usual logit lens;
or *final-scale*, as the Knowledge Circuits code has it. Ranks hardly differ; in final-scale probabilities of early
layers come out flatter, because early states are small beside the final one. Final-scale is linear, so components add
up: that is why direct effects are given in it.

A component is one writer at the last position: the embedding, a head, an MLP. Its direct effect is what it adds to the
answer's logit less what it adds to the average token's (a shift of all logits alike changes no probability). Direct
effects of all writers, attention biases included, sum to the final logit's own, but for what the final norm's bias adds
where there is one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factscope.model.agreement import finite
from factscope.model.bridge import Bridge, device
from factscope.model.hooks import record
from factscope.model.parts.writes import check_writes, component_sites, component_writes
from factscope.model.prompts import OWN_ANSWER, Prompt, as_prompt, with_answer_ids
from factscope.model.readout import ROWS, Norm, checked, rank, readout
from factscope.model.sites import Site
from factscope.runs.provenance import Run, stopwatch
from tracing.results import LensResult


def lens(model: Bridge, prompt: str | Prompt, norm: Norm = "per-state", top: int = 5) -> LensResult:
    """Every layer and position of `prompt`, and every component at its last position; a text is made a prompt first.

    Where the model normalises after attention (Gemma-2, OLMo-2), a head writes its share of what leaves the norm.
    """
    norm, prompt = checked(norm), as_prompt(model, prompt)
    check_writes(model)
    with torch.no_grad(), stopwatch() as seconds:
        layers = range(model.cfg.n_layers)
        sites = [*component_sites(model), *(Site("resid", layer) for layer in layers)]
        with record(model, sites) as seen:
            logits = finite(model(prompt.tensor(device(model)))[0, -1])
        if not prompt.answer_ids:
            prompt = with_answer_ids(model, prompt, [int(logits.argmax())], OWN_ANSWER)
        states = torch.stack([seen[Site("resid_pre")][0], *(seen[Site("resid", i)][0] for i in layers)])
        final = states[-1]
        n_layers, n_positions, _ = states.shape
        parts = _read(model, states.flatten(0, 1), final.repeat(n_layers, 1), prompt, norm)
        grid = {name: values.unflatten(0, (n_layers, n_positions)) for name, values in parts.items()}
        words = [model.tokenizer.decode([i]) for i in grid.pop("top").flatten().tolist()]
        found = component_writes(model, seen)
        writes = torch.stack(list(found.values()))
        components = readout(model).components(list(found), writes, final[-1], prompt.answer_ids[0], norm, top)
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
        top_probability=grid["top_probability"],
    )


def answers_by_layer(
    model: Bridge, prompt: Prompt, tokens: Sequence[int], positions: Sequence[int]
) -> tuple[Float[Tensor, "token pos layer"], Int[Tensor, "token pos layer"]]:
    """Log-probability (nats) and rank (from 1) of tokens at some positions, at the embedding and after each layer.

    The same numbers as `lens` gives for one answer, without its components: for following answers through many models.
    """
    layers, read = range(model.cfg.n_layers), readout(model).read
    sites = [Site("resid_pre"), *(Site("resid", i) for i in layers)]
    with torch.no_grad():
        with record(model, sites) as seen:
            model(prompt.tensor(device(model)))
        states = torch.stack([seen[site][0, list(positions)] for site in sites], 1)  # [pos, layer, d_model]
        final = states[:, -1:].expand_as(states)
        logits = read(states.flatten(0, 1), final.flatten(0, 1), "per-state")
        own = torch.log_softmax(logits, -1)[:, list(tokens)].T
        ranks = torch.stack([rank(logits, token) for token in tokens])
    shape = (len(positions), len(sites))
    return own.unflatten(1, shape).cpu(), ranks.unflatten(1, shape).cpu()


def _read(
    model: Bridge, states: Float[Tensor, "row d_model"], final: Float[Tensor, "row d_model"], prompt: Prompt, norm: Norm
) -> dict[str, Tensor]:
    """Log-probability and rank of the answer, entropy, most probable token, for each state."""
    answer, read = prompt.answer_ids[0], readout(model).read
    pieces: dict[str, list[Tensor]] = {}
    for some in (slice(begin, begin + ROWS) for begin in range(0, len(states), ROWS)):
        logits = read(states[some], final[some], norm)
        logs = torch.log_softmax(logits, -1)
        found = {
            "log_probability": logs[:, answer],
            "rank": rank(logits, answer),
            "entropy": -(logs.exp() * logs).sum(-1),
            "top": logits.argmax(-1),
            "top_probability": logs.max(-1).values.exp(),
        }
        if prompt.foil_ids:
            found["foil"] = logs[:, prompt.foil_ids[0]]
        for name, values in found.items():
            pieces.setdefault(name, []).append(values.cpu())
    return {name: torch.cat(values) for name, values in pieces.items()}
