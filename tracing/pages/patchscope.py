"""What a patchscope looks like: what the target says of each layer's state, and where the answer is read from it."""

from typing import Any

import numpy as np
import torch

from factscope.data.fact import whole_words
from factscope.plots.labels import counted, layers_in_words, settings_in_words
from factscope.plots.specs import (
    Card,
    Cell,
    Curves,
    Headline,
    Heatmap,
    Number,
    Page,
    Section,
    Series,
    Spec,
    Table,
    Text,
    state_labels,
    state_name,
)
from factscope.results.provenance import provenance
from tracing.states.clean import ROLES
from tracing.states.results import PatchscopeResult

SHOWN = 5  # texts that a terminal shows


def words(result: PatchscopeResult) -> list[str]:
    """Whose state goes where, what some layers' states make the target say, and where the answer ranks best."""
    whose = f"State of {ROLES[str(result.settings['position'])]} {_token(result)}"
    shown = np.unique(np.linspace(0, len(result.texts) - 1, SHOWN).round().astype(int))
    texts = [f"  {state_name(int(state))}: {_one_line(result.texts[state])!r}" for state in shown]
    return [
        f"{whose}, put in the place of {_placeholder(result)} {_goes(result)}; continued:",
        f"  without a patch: {_one_line(result.unpatched_text)!r}",
        *texts,
        _naming_words(result),
        _best_words(result),
    ]


def summary(result: PatchscopeResult) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    source, into = best(result)
    return {
        "model": result.run.model,
        "fingerprint": result.run.fingerprint,
        "prompt": result.prompt.text,
        "token": result.prompt.labels[result.position],
        "target": result.target.text,
        "placeholder": result.target.subject,
        "answer": result.prompt.answer,
        "texts": list(result.texts),
        "unpatched_text": result.unpatched_text,
        "names_the_answer": naming(result),
        "best": {"source": source, "into": into, "rank": int(result.rank[source, into]),
                 "log_probability": float(result.log_probability[source, into])},
        "unpatched_rank": result.unpatched_rank,
        "others": list(result.others),
        "notes": list(result.notes),
        "seconds": result.run.seconds,
    }  # fmt: skip


def records(result: PatchscopeResult) -> list[dict[str, Any]]:
    """A row a state and a state that it is put into: the answer's log-probability (nats) and rank, the likeliest token.

    `null` is the mean log-probability with other subjects' states, where the row is one of those whose text is told.
    """
    states = state_labels(len(result.into))
    null = _null(result)
    return [
        {"source": states[source], "into": states[into],
         "log_probability": float(result.log_probability[source, into]), "rank": int(result.rank[source, into]),
         "top": result.top[source][into],
         "text": result.texts[source] if result.into[source] == into else None,
         "null": None if null is None or result.into[source] != into else float(null[source])}
        for source, into in np.ndindex(*result.rank.shape)
    ]  # fmt: skip


def naming(result: PatchscopeResult) -> list[int]:
    """The states whose texts name the answer as a whole word."""
    answer = str(result.prompt.answer).strip()
    return [state for state, text in enumerate(result.texts) if answer and whole_words(answer, text)]


def best(result: PatchscopeResult) -> tuple[int, int]:
    """Which state, put into which, makes the answer most probable."""
    source, into = torch.unravel_index(result.log_probability.argmax(), result.log_probability.shape)
    return int(source), int(into)


def _null(result: PatchscopeResult) -> np.ndarray | None:
    return result.null.mean(0).numpy() if len(result.null) else None


def _token(result: PatchscopeResult) -> str:
    return repr(result.prompt.labels[result.position])


def _placeholder(result: PatchscopeResult) -> str:
    """The placeholder in the last words of its target."""
    begin, end = result.target.subject_characters
    text = result.target.text
    before, after = text[max(0, begin - 30) : begin], text[end : end + 30]
    return f"{result.target.subject!r} in {('…' if begin > 30 else '') + before + result.target.subject + after!r}"


def _goes(result: PatchscopeResult) -> str:
    into = result.settings["into"]
    return "at the layer that it comes from" if into is None else f"after layer {into}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _naming_words(result: PatchscopeResult) -> str:
    found, answer = naming(result), str(result.prompt.answer).strip()
    if not found:
        return f"No text names {answer!r}"
    embedding = ["the embedding"] if found[0] == 0 else []
    layers = [state - 1 for state in found if state]
    named = embedding + ([layers_in_words(layers)] if layers else [])
    return f"{answer!r} is named with the state of {' and '.join(named)}"


def _best_words(result: PatchscopeResult) -> str:
    source, into = best(result)
    answer = str(result.prompt.answer).strip()
    told = (
        f"As the target's next token, {answer!r} ranks best where the state of {state_name(source)} is put after "
        f"{state_name(into)}: rank {int(result.rank[source, into])}, probability "
        f"{float(result.log_probability[source, into].exp()):.3g} (without a patch rank {result.unpatched_rank})"
    )
    null = _null(result)
    if null is None:
        return told
    gain = (result.chosen.numpy() - null).max()
    where = int((result.chosen.numpy() - null).argmax())
    return (
        f"{told}; {_goes(result)}, at most {gain:+.1f} nats above {counted(len(result.others), 'other subject')}' "
        f"states, with the state of {state_name(where)}"
    )


# ---- the page ----


def page(result: PatchscopeResult) -> Page:
    """The page of one patchscope."""
    sections = [
        Section("What was found", (_headline(result), *_notes(result))),
        Section("What the target says", (_texts(result),), _how(result)),
        Section("Where the answer is read", (*_curves(result), *_maps(result)), _MAPS),
        Section("What was run", (_card(result),)),
    ]
    title = f"Patchscope: {result.prompt.text} … {result.prompt.answer}"
    return Page(title, tuple(sections), f"States of {result.run.model}, read by another prompt")


_MAPS = (
    "The answer as the target's next token, in place of its own. A column right of the diagonal has a state written in "
    "above the layer that it comes from, so that fewer layers are left to work on it."
)


def _headline(result: PatchscopeResult) -> Headline:
    source, into = best(result)
    return Headline(
        f"{_naming_words(result)}.",
        (
            Number(str(len(naming(result))), f"of {len(result.texts)} states, whose texts name the answer"),
            Number(str(int(result.rank[source, into])), "best rank of the answer as the next token"),
            Number(str(result.unpatched_rank), "rank without a patch"),
        ),
    )


def _notes(result: PatchscopeResult) -> tuple[Spec, ...]:
    return (Text("\n\n".join(result.prompt.remarks(result.notes))),)


def _how(result: PatchscopeResult) -> str:
    return (
        f"The state of {ROLES[str(result.settings['position'])]} {_token(result)} is written over the placeholder "
        f"{result.target.subject!r} {_goes(result)}, and the target goes on, greedily. The first row is the target as "
        "it is."
    )


def _texts(result: PatchscopeResult) -> Table:
    named = naming(result)
    null = _null(result)
    columns: tuple[str, ...] = (
        "layer",
        "continued by",
        "names the answer",
        "rank of the answer",
        "log-probability (nats)",
    )
    rows: list[tuple[Cell, ...]] = [
        ("no patch", _one_line(result.unpatched_text), None, result.unpatched_rank, round(result.unpatched, 2))
    ]
    rows += [
        (
            label,
            _one_line(result.texts[state]),
            "yes" if state in named else None,
            int(result.rank[state, result.into[state]]),
            round(float(result.chosen[state]), 2),
        )
        for state, label in enumerate(state_labels(len(result.texts)))
    ]
    if null is not None:
        columns += ("of others' states",)
        rows = [(*row, of) for row, of in zip(rows, (None, *null.round(2).tolist()), strict=True)]
    return Table(f"{result.target.text}", columns, tuple(rows))


def _curves(result: PatchscopeResult) -> tuple[Spec, ...]:
    labels = state_labels(len(result.into))
    series = [Series("this state", result.chosen.numpy(), palette="blue")]
    if len(result.null):
        null = result.null.numpy()
        series.append(Series("other subjects' states, equally long", null.mean(0), null.min(0), null.max(0), "orange"))
    series.append(Series("no patch", np.full(len(labels), result.unpatched), palette="green"))
    curve = Curves(
        f"Log-probability of {result.prompt.answer!r}, {_goes(result)}",
        np.arange(len(labels)),
        tuple(series),
        x_title="layer that the state comes from",
        x_labels=labels,
        y_title="log-probability",
        unit="nats",
        note="The band holds all other subjects." if len(result.null) > 1 else "",
    )
    return (curve,)


def _maps(result: PatchscopeResult) -> tuple[Spec, ...]:
    labels = state_labels(len(result.into))
    return (
        Heatmap(
            f"Rank of {result.prompt.answer!r}, source by target layer",
            -np.log10(result.rank.numpy()),
            labels,
            labels,
            row_title="from layer",
            column_title="into layer",
            value_title="rank",
            ranks=True,
            palette="blue",
            hover={
                "rank": result.rank.numpy(),
                "log-probability (nats)": result.log_probability.numpy(),
                "says": np.array(result.top, dtype=object),
            },
        ),
    )


def _card(result: PatchscopeResult) -> Card:
    items = (
        *result.prompt.items(),
        ("target", result.target.text),
        ("placeholder", result.target.subject),
        ("other subjects", ", ".join(result.others) or "none"),
        ("settings", settings_in_words({k: v for k, v in result.settings.items() if k != "target"})),
    )
    return provenance(result.run, *items)
