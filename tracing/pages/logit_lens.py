"""What a lens looks like: ranks over layers and tokens, curves at the last token, and who writes the answer."""

import numpy as np

from factscope.plots.specs import Bars, Curves, Heatmap, Page, Palette, Section, Series, Spec, Table
from tracing.results import LensResult


def lens_page(lens: LensResult) -> Page:
    """The lens alone."""
    title = f"Lens: {lens.prompt.text} … {lens.prompt.answer}"
    return Page(title, tuple(lens_sections(lens)), f"Logit lens of {lens.run.model}")


def lens_in_words(lens: LensResult) -> list[str]:
    """Where the answer comes first, at the last token, and who raises it most."""
    ranks = lens.rank[:, -1].tolist()
    behind = [layer for layer, rank in enumerate(ranks) if rank > 1]
    first = behind[-1] + 1 if behind else 0
    where = "never stays first" if first == len(ranks) else f"is first from {_state(first)} on"
    best = max(lens.components, key=lambda component: component.direct_effect)
    return [
        f"{str(lens.prompt.answer).strip()} {where}, at the last token (rank {ranks[-1]} at the end)",
        f"Most of it is written by {best.name}: {best.direct_effect:+.3g} logits",
    ]


def _state(layer: int) -> str:
    return "the embedding" if layer == 0 else f"layer {layer - 1}"


def lens_sections(lens: LensResult) -> list[Section]:
    """The lens over layers and tokens, its curves at the last token, and the components that write the answer."""
    prompt = lens.prompt
    layers = ("embed", *(str(i) for i in range(lens.rank.shape[0] - 1)))
    hover = {
        "rank": lens.rank.numpy(),
        "log-probability (nats)": lens.log_probability.numpy(),
        "entropy (nats)": lens.entropy.numpy(),
        "most probable": np.array(lens.top, dtype=object),
    }

    def over_tokens(
        title: str,
        values: np.ndarray,
        what: str,
        unit: str,
        palette: Palette,
        note: str,
        limits: tuple[float, float] | None = None,
    ) -> Heatmap:
        return Heatmap(
            title=title,
            values=values,
            rows=layers,
            columns=prompt.labels,
            value_title=what,
            unit=unit,
            palette=palette,
            limits=limits,
            marked=tuple(prompt.subject_positions),
            left_out=(0,),
            hover=hover,
            note=note,
        )

    norm = f"Norm: {lens.norm}."
    maps = (
        over_tokens(
            f"Rank of {prompt.answer!r}",
            -np.log10(lens.rank.numpy()),
            "−log10 rank",
            "",
            "blue",
            f"{norm} 0 is first place, −1 the tenth, −2 the hundredth.",
        ),
        over_tokens(
            f"Log-probability of {prompt.answer!r}",
            hover["log-probability (nats)"],
            "log-probability",
            "nats",
            "purple",
            f"{norm} Below −20 the colour stays the same.",
            (-20.0, 0.0),
        ),
        over_tokens("Entropy", hover["entropy (nats)"], "entropy", "nats", "green", norm),
    )
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
    curves = [Series(str(prompt.answer), lens.log_probability[:, -1].exp().numpy(), palette="purple")]
    if lens.foil_log_probability is not None:
        curves.append(Series(f"foil {prompt.foil}", lens.foil_log_probability[:, -1].exp().numpy(), palette="red"))
    probabilities = Curves(
        "Probability at the last token, layer by layer", x, tuple(curves), x_labels=layers, y_title="probability"
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
    best = sorted(lens.components, key=lambda c: -abs(c.direct_effect))[:15]
    bars = Bars(
        "Largest direct effects on the answer",
        tuple(c.name for c in best),
        np.array([c.direct_effect for c in best]),
        value_title="direct effect",
        unit="logits",
        note="What each writer adds to the answer's logit, less what it adds to the average token's.",
    )
    table = Table(
        "Components at the last token",
        ("writer", "direct effect (logits)", "rank of the answer", "entropy (nats)", "raises most"),
        tuple((c.name, round(c.direct_effect, 3), c.rank, round(c.entropy, 2), " ".join(c.top)) for c in best),
    )
    return [
        Section("Logit lens, layer by layer", (*maps, ranks, probabilities, entropy)),
        Section("Who writes the answer", (bars, *_writers(lens), table)),
    ]


def _writers(lens: LensResult) -> tuple[Spec, ...]:
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
