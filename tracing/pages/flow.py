"""What the flow of information in one prompt looks like: words, curves by source over layers, and the tables behind."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from factscope.plots.labels import counted, layers_in_words, numbers_in_words, settings_in_words
from factscope.plots.specs import (
    Card,
    Curves,
    Headline,
    Number,
    Page,
    Palette,
    Section,
    Series,
    Spec,
    Table,
    Text,
    state_labels,
)
from factscope.results.provenance import provenance
from factscope.statistics import null_p
from tracing.causal import window_of
from tracing.flow.results import PARTS, SOURCES, TARGETS, Enrichment, Extraction, FlowResult

COLOURS: dict[str, Palette] = {
    "subject": "purple",
    "last subject": "blue",
    "relation": "orange",
    "itself": "green",
    "start token": "red",
}
WRITERS = {"attn": "attention", "mlp": "MLP"}
NOWHERE = "no fall in any layer"
_SHOWN_STATES = 6  # states whose words the page lists
LEAST = 10.0  # percent that an axis spans at least


def words(result: FlowResult) -> list[str]:
    """The answer, then each target's strongest sources in the order of their layers."""
    prompt = result.prompt
    answer = str(prompt.answer).strip()
    lines = [f"{answer}: probability {np.exp(result.clean):.3f} ({windows(result.window)})"]
    for target in TARGETS:
        numbers = [n for n, one in enumerate(result.knockouts) if one.target == target]
        if numbers:
            told = "; ".join(
                _in_words(result, number) for number in sorted(numbers, key=lambda n: order(result.change[n]))
            )
            lines.append(f"Without attention of {TARGETS[target]} to {told}")
    unsure = _unsure(result, _main(result))
    return [*lines, *([unsure] if unsure else []), *recall_in_words(result)]


def windows(window: int) -> str:
    """How many layers a knockout spans."""
    return f"attention knocked out in {counted(window, 'layer')} at a time"


def recall_in_words(result: FlowResult) -> list[str]:
    """The attributes rate and the extracting layers, a sentence each."""
    return [_enrichment_words(result.enrichment), _extraction_words(result.extraction)]


def _layer(result: FlowResult, number: int) -> int:
    """The layer whose window costs the answer most."""
    return int(result.change[number].argmin())


def falls(change: Tensor) -> bool:
    """Whether a line over the layers, [layer], a relative change, reaches -1 % (rounded) anywhere."""
    return round(float(change.nan_to_num(torch.inf).min()), 2) < 0


def order(change: Tensor) -> tuple[bool, int]:
    """Where a knockout comes among others: by its strongest layer, and last where nothing falls."""
    return not falls(change), int(change.nan_to_num(torch.inf).argmin())


def _in_words(result: FlowResult, number: int) -> str:
    """One knockout's strongest window, if the answer loses anything in any."""
    source, layer = SOURCES[result.knockouts[number].source], _layer(result, number)
    if not falls(result.change[number]):
        return f"{source}: {NOWHERE}"
    layers = window_of(layer, result.window, result.change.shape[1])
    chance = probability(result, number)
    sure = "" if chance is None else f", p = {chance:.2g}"
    return f"{source}: {float(result.change[number, layer]):+.0%} in {layers_in_words(layers)}{sure}"


def _unsure(result: FlowResult, numbers: Sequence[int]) -> str:
    """Which of the knockouts `numbers` cost no more than some random set of words, in a sentence; "" if none."""
    alike = []
    for number in numbers:
        sets = [one for one in result.null_change[number] if not one.isnan().any()]
        chance = probability(result, number)
        if falls(result.change[number]) and chance is not None and chance > max(0.05, 1 / (1 + len(sets))):
            alike.append(SOURCES[result.knockouts[number].source])
    return f"Some sets of as many random words cost as much as {' and '.join(alike)}: see p" if alike else ""


def probability(result: FlowResult, number: int) -> float | None:
    """How often a random set of as many words costs as much in its own strongest window; None without such sets."""
    lowest = [float(one.min()) for one in result.null_change[number] if not one.isnan().any()]
    return null_p(-float(result.change[number].min()), [-one for one in lowest])


def summary(result: FlowResult) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    enrichment = result.enrichment
    return {
        "model": result.run.model,
        "fingerprint": result.run.fingerprint,
        "prompt": result.prompt.text,
        "subject": result.prompt.subject,
        "answer": result.prompt.answer,
        "answer_from": result.prompt.answer_from,
        "predicted": result.predicted,
        "probability": float(np.exp(result.clean)),
        "window": result.window,
        "knockouts": [
            {
                "target": one.target,
                "source": one.source,
                "tokens": [_token(result, key) for key in one.keys],
                "layer": (layer := _layer(result, number)),
                "relative_change": float(result.change[number, layer]),
                "log_change": float(result.log_change[number, layer]),
                "p": probability(result, number),
            }
            for number, one in enumerate(result.knockouts)
        ],
        "attributes": None if enrichment is None else list(enrichment.words),
        "attributes_rate": None if enrichment is None else enrichment.rate.tolist(),
        "extracting_layers": {part: _extracting(result.extraction, number) for number, part in enumerate(PARTS)},
        "notes": list(result.prompt.notes),
        "seconds": result.run.seconds,
    }


def records(result: FlowResult) -> list[dict[str, Any]]:
    """A row a knockout and layer: the answer's log-probability (nats), and the relative change of its probability.

    `null` is the mean change under random sets of as many words.
    """
    null = result.null_change.nanmean(1) if result.null.shape[1] else torch.full_like(result.change, torch.nan)
    return [
        {"target": one.target, "source": one.source, "layer": layer,
         "log_probability": float(result.log_probability[number, layer]), "clean": result.clean,
         "change": float(result.change[number, layer]), "null": float(null[number, layer])}
        for number, one in enumerate(result.knockouts)
        for layer in range(result.log_probability.shape[1])
    ]  # fmt: skip


# ---- the page ----


def page(result: FlowResult) -> Page:
    """The page of one flow."""
    prompt = result.prompt
    sections = [
        Section("What was found", (_headline(result), *_notes(result))),
        Section("What the answer loses without a source", curves(result), _explanation(result)),
        Section("Beside random words", (table(result),), _NULLS),
        *recall_sections(result.enrichment, result.extraction),
        Section("What was run", (_card(result),)),
    ]
    return Page(f"Flow: {prompt.text} … {prompt.answer}", tuple(sections), f"Attention knockout in {result.run.model}")


_NULLS = (
    "p: how often a random set of as many words of the prompt, without the start token, costs as much in its own "
    "strongest layers. Sets may overlap with the source, which makes p large rather than small."
)


def _main(result: FlowResult) -> list[int]:
    """The two critical points: where the last token reads the relation, and where it reads the subject."""
    main = [
        n for n, one in enumerate(result.knockouts)
        if one.target == "last token" and one.source in ("subject", "relation")
    ]  # fmt: skip
    return main or [*range(len(result.knockouts))][:2]


def _headline(result: FlowResult) -> Headline:
    """What the answer's probability loses at the critical points, and whether random words cost as much."""
    told = [
        f"where {TARGETS[result.knockouts[n].target]} does not see {_in_words(result, n)}"
        for n in sorted(_main(result), key=lambda n: order(result.change[n]))
    ]
    unsure = _unsure(result, _main(result))
    return Headline(
        f"What the probability of {str(result.prompt.answer).strip()!r} loses, {'; '.join(told)}."
        + (f" {unsure}." if unsure else ""),
        (
            Number(f"{np.exp(result.clean):.3f}", f"probability of {result.prompt.answer!r}, clean"),
            Number(counted(result.window, "layer"), "in which attention is knocked out at a time"),
        ),
    )


def _notes(result: FlowResult) -> tuple[Spec, ...]:
    prompt = result.prompt
    notes = prompt.remarks()
    if len(prompt.answer_ids) > 1:
        notes.append(f"The answer is {len(prompt.answer_ids)} tokens; its probability is that of all of them.")
    return (Text("\n\n".join(notes)),)


def curves(result: FlowResult) -> tuple[Spec, ...]:
    """A picture for each target: the relative change of the answer's probability, a line for each source."""
    drawn = []
    for target in TARGETS:
        lines = [
            Series(SOURCES[one.source], 100 * result.change[number].numpy(), palette=COLOURS[one.source])
            for number, one in enumerate(result.knockouts)
            if one.target == target
        ]
        null = _null_line(result, target)
        if lines:
            drawn.append(change_by_layer(target, (*lines, *null)))
    return tuple(drawn)


def change_by_layer(target: str, lines: tuple[Series, ...]) -> Curves:
    """The picture of one target, in percent of the answer's probability."""
    return Curves(
        f"Attention of {TARGETS[target]} knocked out",
        np.arange(len(lines[0].y)),
        lines,
        x_title="layer in the middle of the window",
        y_title="change of the answer's probability",
        unit="%",
        least=LEAST,
    )


def _null_line(result: FlowResult, target: str) -> tuple[Series, ...]:
    """The mean of the random sets that are as large as the subject, and where all of them lie."""
    number = next(
        (n for n, one in enumerate(result.knockouts) if (one.target, one.source) == (target, "subject")), None
    )
    if number is None or not (sets := [one for one in result.null_change[number] if not one.isnan().any()]):
        return ()
    every = 100 * np.stack([one.numpy() for one in sets])
    return (Series("as many random words", every.mean(0), every.min(0), every.max(0)),)


def _explanation(result: FlowResult) -> str:
    several = len(result.prompt.answer_ids) > 1
    return (
        "Each point: the attention to these tokens is masked before the softmax, in all heads of "
        f"{counted(result.window, 'layer')} around that layer; the rest of the attention then sums to one. -100 % "
        "where nothing of the answer's probability is left, above 0 where the knockout helps. "
        + ("At the last token, every position that says a token of the answer is cut off. " if several else "")
        + "The start token holds no word: models park attention there, and its line shows what disturbing that costs."
    )


def table(result: FlowResult) -> Table:
    """Each knockout in its strongest window, beside the random sets."""
    rows = []
    for number, one in enumerate(result.knockouts):
        layer, null = _layer(result, number), result.null_change[number]
        layers = window_of(layer, result.window, result.change.shape[1])
        there = null[:, layer][~null[:, layer].isnan()]
        chance = probability(result, number)
        rows.append(
            (
                one.target,
                one.source,
                " ".join(_token(result, key).strip() for key in one.keys),
                numbers_in_words(layers) if falls(result.change[number]) else None,
                round(100 * float(result.change[number, layer]), 1) + 0.0,
                round(float(result.log_change[number, layer]), 3) + 0.0,
                round(100 * float(there.mean()), 1) if len(there) else None,
                len(there),
                None if chance is None else round(chance, 3),
            )
        )
    return Table(
        "Each knockout in the layers where it costs most",
        ("target", "source", "tokens", "layers", "change %", "nats", "random words, %", "sets", "p"),
        tuple(rows),
    )


def _token(result: FlowResult, position: int) -> str:
    """A token of the prompt, or of the answer behind it."""
    labels = result.prompt.labels
    return labels[position] if position < len(labels) else str(result.prompt.answer)


# ---- attributes and extraction ----


def recall_sections(enrichment: Enrichment | None, extraction: Extraction) -> list[Section]:
    """What the subject's last token holds, and which layers extract the answer."""
    held = []
    if enrichment is not None:
        x, labels = np.arange(len(enrichment.rate)), state_labels(len(enrichment.rate))
        lines = [Series("attributes of the subject", 100 * enrichment.rate.numpy(), palette="purple")]
        if enrichment.others:
            lines.append(Series("attributes of other subjects", 100 * enrichment.null.numpy(), palette="blue"))
        rate = Curves(
            "Attributes rate at the subject's last token", x, tuple(lines), x_labels=labels,
            y_title="share of the first 50 words", unit="%", least=LEAST,
        )  # fmt: skip
        chosen = sorted({round(i) for i in np.linspace(0, len(labels) - 1, min(_SHOWN_STATES, len(labels)))})
        rows = tuple((labels[i], ", ".join(enrichment.top[i])) for i in chosen)
        held = [rate, Table("The first words of the lens there", ("state after layer", "words"), rows)]
    ranks = Curves(
        "Rank of the answer in what each layer writes at the last token",
        np.arange(extraction.rank.shape[1]),
        tuple(
            Series(WRITERS[part], extraction.rank[number].numpy(), palette="red" if part == "attn" else "green")
            for number, part in enumerate(PARTS)
        ),
        y_title="rank (1: the update extracts the answer)",
        log_y=True,
    )
    return [
        Section("What the subject's last token holds", tuple(held), f"{_enrichment_words(enrichment)}."),
        Section("Where the answer is extracted", (ranks,), f"{_extraction_words(extraction)}."),
    ]


def _enrichment_words(enrichment: Enrichment | None) -> str:
    if enrichment is None:
        return "Attributes rate: no attribute of the subject is known; --attributes gives words"
    top = int(enrichment.rate.argmax())
    said = f"Attributes rate at the subject's last token ({', '.join(enrichment.words[:6])}"
    said += ", ...)" if len(enrichment.words) > 6 else ")"
    if not enrichment.rate.any():
        return f"{said}: 0 % of the first 50 words at every layer"
    null = "" if enrichment.null[top].isnan() else f" ({enrichment.null[top]:.1%} for other subjects' attributes)"
    return f"{said}: at most {enrichment.rate[top]:.1%} of the first 50 words, {_state(top)}{null}"


def _state(state: int) -> str:
    return "in the embedding" if state == 0 else f"after layer {state - 1}"


def _extracting(extraction: Extraction, part: int) -> list[int]:
    return [layer for layer, found in enumerate(extraction.extracts[part].tolist()) if found]


def _extraction_words(extraction: Extraction) -> str:
    told = []
    for number, part in enumerate(PARTS):
        layers = _extracting(extraction, number)
        if layers:
            told.append(f"the {WRITERS[part]} of layer{'s' * (len(layers) > 1)} {numbers_in_words(layers)}")
    if told:
        return f"The answer is extracted at the last token by {' and by '.join(told)}"
    best = int(extraction.rank.argmin())
    number, layer = divmod(best, extraction.rank.shape[1])
    return (
        "No layer's update alone extracts the answer at the last token; nearest is the "
        f"{WRITERS[PARTS[number]]} of layer {layer}, with the answer at rank {int(extraction.rank[number, layer])}"
    )


def _card(result: FlowResult) -> Card:
    items = (
        *result.prompt.items(),
        ("window", counted(result.window, "layer")),
        ("settings", settings_in_words(result.settings)),
    )
    return provenance(result.run, *items)
