"""What lenses side by side look like: the answer's rank by each, tokens in cells, and who is nearer to the model."""

from typing import Any

import numpy as np
from torch import Tensor

from factscope.plots.labels import as_sentence, heading, settings_in_words
from factscope.plots.specs import (
    Card,
    Cell,
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
    state_name,
)
from factscope.results.provenance import provenance
from tracing.pages.logit_lens import token_map
from tracing.states.results import LensesResult

COLOURS: tuple[Palette, ...] = ("blue", "orange", "green")


def words(result: LensesResult) -> list[str]:
    """From where each lens has the answer first at the last token, and how far each is from the model elsewhere."""
    answer = str(result.prompt.answer).strip()
    found = [f"{reader}: {answer} {_where(result, number)}" for number, reader in enumerate(result.readers)]
    judged = [
        _judged(reader, result.held_out[[0, number]], "texts") for number, reader in enumerate(result.readers) if number
    ]
    if result.held_out_documents is not None:
        judged.append(_judged(result.readers[-1], result.held_out_documents, "documents"))
    return [*found, *judged]


def _judged(reader: str, kl: Tensor, on: str) -> str:
    """A lens beside the logit lens, on texts that it has not seen; `kl` is [the two, state]."""
    below, own = kl[:, :-1].mean(1).tolist()
    nearer = (kl[1] < kl[0])[:-1]
    return (
        f"On held-out {on} the {reader} is nearer to the model than the logit lens in {int(nearer.sum())} of "
        f"{len(nearer)} states below the last (KL to the model's own prediction {own:.2f} and {below:.2f} nats on "
        "average)"
    )


def summary(result: LensesResult) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return {
        "model": result.run.model,
        "fingerprint": result.run.fingerprint,
        "prompt": result.prompt.text,
        "answer": result.prompt.answer,
        "first_from": {reader: first(result, number) for number, reader in enumerate(result.readers)},
        "held_out_kl": {reader: result.held_out[number].tolist() for number, reader in enumerate(result.readers)},
        **({} if result.held_out_documents is None else {"held_out_documents_kl": result.held_out_documents.tolist()}),
        "seconds": result.run.seconds,
    }


def records(result: LensesResult) -> list[dict[str, Any]]:
    """A row a lens, state and position: the answer's log-probability (nats) and rank, KL to the model (nats)."""
    states = state_labels(result.rank.shape[1])
    return [
        {"lens": result.readers[reader], "layer": states[state], "pos": pos, "token": result.prompt.labels[pos],
         "log_probability": float(result.log_probability[reader, state, pos]),
         "rank": int(result.rank[reader, state, pos]), "kl": float(result.kl[reader, state, pos]),
         "top": result.top[reader][state][pos],
         "top_probability": float(result.top_probability[reader, state, pos]),
         "held_out_kl": float(result.held_out[reader, state])}
        for reader, state, pos in np.ndindex(*result.rank.shape)
    ]  # fmt: skip


def first(result: LensesResult, reader: int) -> int | None:
    """The state from which on the answer stays first at the last token; None where it does not."""
    ranks = result.rank[reader, :, -1].tolist()
    behind = [state for state, rank in enumerate(ranks) if rank > 1]
    begin = behind[-1] + 1 if behind else 0
    return begin if begin < len(ranks) else None


def _where(result: LensesResult, reader: int) -> str:
    """Where the answer comes first by one lens, and where it is among the first ten."""
    begin, ranks = first(result, reader), result.rank[reader, :, -1].tolist()
    near = next((state for state, rank in enumerate(ranks) if rank <= 10), None)
    told = "never stays first" if begin is None else f"is first from {state_name(begin)} on"
    return f"{told}, and among the first ten from {state_name(near)} on, at the last token"


# ---- the page ----


def page(result: LensesResult) -> Page:
    """The page of lenses of one prompt."""
    sections = [
        Section("What was found", (_headline(result), Text("\n\n".join(map(as_sentence, words(result)[1:]))))),
        Section("The answer, layer by layer", _curves(result), " ".join(_HOW[: len(result.readers)])),
        Section("What each state would say", _maps(result)),
        Section("Which lens is nearer to the model", (*_kl(result), _table(result))),
        Section("What was run", (_card(result),)),
    ]
    title = f"Lenses: {result.prompt.text} … {result.prompt.answer}"
    return Page(title, tuple(sections), f"States of {result.run.model}, read by {_COUNT[len(result.readers)]} lenses")


_COUNT = {2: "two", 3: "three"}
_HOW = (  # one sentence for each reader, and at the last layer they are one
    "At the last layer all lenses are one. The logit lens reads a state as if the model ended there.",
    "The Jacobian lens moves it first as states of that layer move the final states on average.",
    "The tuned lens moves it by a map that was trained, layer by layer, to say what the model will say.",
)


def _headline(result: LensesResult) -> Headline:
    return Headline(
        as_sentence(words(result)[0]),
        tuple(
            Number(
                state_name(first(result, number)), f"from where on {result.prompt.answer!r} is first by the {reader}"
            )
            for number, reader in enumerate(result.readers)
        ),
    )


def _over_states(result: LensesResult, title: str, y_title: str, lines: dict[str, np.ndarray], **more: Any) -> Curves:
    labels, colours = state_labels(result.rank.shape[1]), dict(zip(result.readers, COLOURS, strict=False))
    return Curves(
        title,
        np.arange(len(labels)),
        tuple(Series(reader, line, palette=colours[reader]) for reader, line in lines.items()),
        x_labels=labels,
        y_title=y_title,
        **more,
    )


def _curves(result: LensesResult) -> tuple[Spec, ...]:
    subject = result.prompt.subject_span[1] - 1
    return tuple(
        _over_states(
            result,
            f"Rank of {result.prompt.answer!r} at {where}",
            "rank",
            {reader: ranks[:, pos].numpy() for reader, ranks in zip(result.readers, result.rank, strict=True)},
            log_y=True,
        )
        for where, pos in (("the last token", -1), ("the subject's last token", subject))
    )


def _maps(result: LensesResult) -> tuple[Spec, ...]:
    return tuple(
        token_map(
            heading(reader),
            result.prompt,
            np.array(result.top[number], dtype=object),
            result.top_probability[number].numpy(),
            {f"rank of {result.prompt.answer!r}": result.rank[number].numpy(), "KL (nats)": result.kl[number].numpy()},
            note="The most probable token of each state; the colour is its probability.",
        )
        for number, reader in enumerate(result.readers)
    )


def _kl(result: LensesResult) -> tuple[Curves, ...]:
    drawn = {"texts": dict(zip(result.readers, result.held_out, strict=True))}
    if result.held_out_documents is not None:
        drawn["documents"] = dict(zip((result.readers[0], result.readers[-1]), result.held_out_documents, strict=True))
    return tuple(
        _over_states(
            result,
            f"Distance from the model's own prediction, on held-out {on}",
            "KL(final ‖ lens)",
            {reader: line.numpy() for reader, line in lines.items()},
            unit="nats",
        )
        for on, lines in drawn.items()
    )


def _table(result: LensesResult) -> Table:
    """Over the positions of the prompt, the start token apart."""
    begin = result.prompt.n_start
    kl = result.kl[:, :, begin:].mean(-1)
    same = result.same[:, :, begin:].float().mean(-1)
    rows: list[tuple[Cell, ...]] = [
        (label, *(round(float(kl[r, state]), 2) for r in range(len(result.readers))),
         *(round(float(same[r, state]), 2) for r in range(len(result.readers))))
        for state, label in enumerate(state_labels(kl.shape[1]))
    ]  # fmt: skip
    columns = tuple(f"{what}, {reader}" for what in ("KL (nats)", "same token") for reader in result.readers)
    return Table("Over the tokens of the prompt", ("layer", *columns), tuple(rows))


def _card(result: LensesResult) -> Card:
    tuned = result.tuned_settings
    trained = [] if tuned is None else [("training of the tuned lens", settings_in_words(tuned))]
    items = (
        *result.prompt.items(),
        ("fit", settings_in_words(result.settings)),
        *trained,
    )
    return provenance(result.run, *items)
