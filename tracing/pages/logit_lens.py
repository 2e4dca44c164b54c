"""What a lens looks like: ranks over layers and tokens, curves at the last token, and who writes the answer."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from factscope.model.prompts import Prompt
from factscope.model.readout import Component
from factscope.plots.specs import Bars, Curves, Heatmap, Page, Section, Series, Spec, Table, state_labels, state_name
from tracing.results import LensResult


def page(lens: LensResult) -> Page:
    """The lens alone."""
    title = f"Lens: {lens.prompt.text} … {lens.prompt.answer}"
    return Page(title, tuple(sections(lens)), f"Logit lens of {lens.run.model}")


def words(lens: LensResult) -> list[str]:
    """Where the answer comes first, at the last token, and which component raises it most."""
    first, best = _first(lens), _best(lens)
    where = "never stays first" if first is None else f"is first from {state_name(first)} on"
    return [
        f"{str(lens.prompt.answer).strip()} {where}, at the last token (rank {int(lens.rank[-1, -1])} at the end)",
        f"The largest part is written by {best.name}: {best.direct_effect:+.3g} logits",
    ]


def summary(lens: LensResult) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    best = _best(lens)
    return {
        "rank": int(lens.rank[-1, -1]),
        "first_from": _first(lens),
        "writer": best.name,
        "direct_effect": best.direct_effect,
    }


def records(result: LensResult) -> list[dict[str, Any]]:
    """A row a state and position: the answer's log-probability (nats) and rank, entropy (nats), the likeliest token."""
    states = state_labels(len(result.rank))
    foil, chance = result.foil_log_probability, result.top_probability
    return [
        {"layer": states[state], "pos": pos, "token": result.prompt.labels[pos],
         "log_probability": float(result.log_probability[state, pos]), "rank": int(result.rank[state, pos]),
         "entropy": float(result.entropy[state, pos]), "top": result.top[state][pos],
         "top_probability": None if chance is None else float(chance[state, pos]),
         "foil_log_probability": None if foil is None else float(foil[state, pos])}
        for state, pos in np.ndindex(*result.rank.shape)
    ]  # fmt: skip


def _first(lens: LensResult) -> int | None:
    """The state from which on the answer stays first; 0 is the embedding, None where it does not."""
    behind = [state for state, rank in enumerate(lens.rank[:, -1].tolist()) if rank > 1]
    first = behind[-1] + 1 if behind else 0
    return first if first < lens.rank.shape[0] else None


def _best(lens: LensResult) -> Component:
    return max(lens.components, key=lambda component: component.direct_effect)


def sections(lens: LensResult) -> list[Section]:
    """The lens over layers and tokens, its curves at the last token, and the components that write the answer."""
    return [
        Section("Logit lens, layer by layer", (*_maps(lens), *_curves(lens))),
        Section("Who writes the answer", _writers(lens)),
    ]


def _maps(lens: LensResult) -> tuple[Heatmap, ...]:
    """The most probable tokens in their cells, then rank, log-probability and entropy, layers by tokens."""
    prompt, norm = lens.prompt, f"Norm: {lens.norm}."
    hover = {
        "rank": lens.rank.numpy(),
        "log-probability (nats)": lens.log_probability.numpy(),
        "entropy (nats)": lens.entropy.numpy(),
        "most probable": np.array(lens.top, dtype=object),
    }
    rank = Heatmap(
        title=f"Rank of {prompt.answer!r}",
        values=-np.log10(lens.rank.numpy()),
        rows=state_labels(len(lens.rank)),
        columns=prompt.labels,
        value_title="rank",
        ranks=True,
        palette="blue",
        marked=tuple(prompt.subject_positions),
        left_out=(0,),
        hover=hover,
        note=norm,
    )
    probability = replace(
        rank,
        title=f"Log-probability of {prompt.answer!r}",
        values=hover["log-probability (nats)"],
        value_title="log-probability",
        ranks=False,
        unit="nats",
        palette="purple",
        limits=(-20.0, 0.0),
        note=f"{norm} Below −20 the colour stays the same.",
    )
    entropy = replace(
        rank,
        title="Entropy",
        values=hover["entropy (nats)"],
        value_title="entropy",
        ranks=False,
        unit="nats",
        palette="green",
        note=norm,
    )
    return (*_tokens(lens), rank, probability, entropy)


def _tokens(lens: LensResult) -> tuple[Heatmap, ...]:
    """What each state would say, written into its cell; none of a result that was saved without probabilities."""
    if lens.top_probability is None:
        return ()
    return (
        token_map(
            "What each state would say",
            lens.prompt,
            np.array(lens.top, dtype=object),
            lens.top_probability.numpy(),
            {f"rank of {lens.prompt.answer!r}": lens.rank.numpy()},
            note=f"Norm: {lens.norm}. The most probable token of each state; the colour is its probability.",
        ),
    )


def token_map(
    title: str, prompt: Prompt, tokens: np.ndarray, chance: np.ndarray, hover: Mapping[str, np.ndarray], note: str
) -> Heatmap:
    """States by positions with a token in each cell [state, pos]; the colour is the probability that it is given."""
    return Heatmap(
        title=title,
        values=chance,
        rows=state_labels(len(chance)),
        columns=prompt.labels,
        value_title="probability",
        palette="blue",
        limits=(0.0, 1.0),
        marked=tuple(prompt.subject_positions),
        cell_labels=tokens,
        hover={"says": tokens, **hover},
        note=note,
    )


def _curves(lens: LensResult) -> tuple[Curves, ...]:
    """Rank, probability and entropy over layers, at the last token and at the subject's."""
    prompt, layers = lens.prompt, state_labels(len(lens.rank))
    x = np.arange(len(layers))
    subject = lens.rank[:, list(prompt.subject_positions)].min(1).values
    ranks = Curves(
        "Rank of the answer, layer by layer",
        x,
        (
            Series("at the last token", lens.rank[:, -1].numpy(), palette="blue"),
            Series("best over the subject's tokens", subject.numpy(), palette="green"),
        ),
        x_labels=layers,
        y_title="rank",
        log_y=True,
    )
    answers = [Series(str(prompt.answer), lens.log_probability[:, -1].exp().numpy(), palette="purple")]
    if lens.foil_log_probability is not None:
        answers.append(Series(f"foil {prompt.foil}", lens.foil_log_probability[:, -1].exp().numpy(), palette="red"))
    probabilities = Curves(
        "Probability at the last token, layer by layer", x, tuple(answers), x_labels=layers, y_title="probability"
    )
    entropy = Curves(
        "Entropy of the prediction, layer by layer",
        x,
        (
            Series("at the last token", lens.entropy[:, -1].numpy(), palette="blue"),
            Series("at the last subject token", lens.entropy[:, prompt.subject_span[1] - 1].numpy(), palette="green"),
        ),
        x_labels=layers,
        y_title="entropy",
        unit="nats",
    )
    return ranks, probabilities, entropy


def _writers(lens: LensResult) -> tuple[Spec, ...]:
    """The largest direct effects, as bars and as a table, with the effects of all heads and MLPs between them."""
    best = sorted(lens.components, key=lambda c: -abs(c.direct_effect))[:15]
    bars = Bars(
        "Largest direct effects on the answer",
        tuple(c.name for c in best),
        np.array([c.direct_effect for c in best]),
        value_title="direct effect",
        unit="logits",
        note="What each writer adds to the answer's logit, less what it adds to the average token's."
        + ("" if any(".h" in c.name for c in lens.components) else " Heads are not told apart: they share a norm."),
    )
    table = Table(
        "Components at the last token",
        ("writer", "direct effect (logits)", "rank of the answer", "entropy (nats)", "raises most"),
        tuple(
            (c.name, round(c.direct_effect, 3), c.rank, round(c.entropy, 2), " ".join(map(repr, c.top))) for c in best
        ),
    )
    return (bars, *_effects_by_layer(lens), table)


def _effects_by_layer(lens: LensResult) -> tuple[Spec, ...]:
    """Direct effects of heads as a map and of MLPs as a curve; no map where heads have no write of their own."""
    direct = {component.name: component.direct_effect for component in lens.components}
    layers = range(lens.rank.shape[0] - 1)
    heads = sum(name.startswith("a0.h") for name in direct)
    drawn: list[Spec] = []
    if heads:
        drawn.append(
            Heatmap(
                "Direct effect of each head",
                np.array([[direct[f"a{layer}.h{head}"] for head in range(heads)] for layer in layers]),
                tuple(str(layer) for layer in layers),
                tuple(f"h{head}" for head in range(heads)),
                column_title="head",
                value_title="direct effect",
                unit="logits",
                scale="diverging",
            )
        )
    mlps = Series("MLP", np.array([direct[f"m{layer}"] for layer in layers]), palette="green")
    drawn.append(
        Curves("Direct effect of each MLP", np.arange(len(layers)), (mlps,), y_title="direct effect", unit="logits")
    )
    return tuple(drawn)
