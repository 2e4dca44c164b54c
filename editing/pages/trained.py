"""A trained editor as a page: how it learnt, what it does for facts that it never met, and how it was made."""

from dataclasses import asdict
from typing import Any

import numpy as np

from editing.trained.editor import EditorScore, Trained
from factscope.plots.labels import counted, settings_in_words
from factscope.plots.specs import Card, Curves, Headline, Number, Page, Section, Series, Table
from factscope.statistics import wilson

KINDS = ("trained", "held-out subjects", "new relations")
MEANINGS = {  # of the metrics of one kind of editor; the first that an editor has is told
    "reliability": "Reliability: the new answer is given whole behind the wording that was edited. Generality: behind "
    "another one. Kept: the next token behind a prompt that must stay is the one that it was. A neighbour asks about "
    "another subject of the relation, a hard one about another relation of the subject, where there is such a fact.",
    "open for another wording": "Of the gate alone: whether a question in another wording finds the fact, and whether "
    "questions about other things find nothing. A neighbour asks about another subject of the relation, a hard one "
    "about another relation of the subject, where there is such a fact.",
}


def page(editor: Trained) -> Page:
    """The page of an editor."""
    sections = (
        Section("What it does", (headline(editor), scores_table(editor)), meaning(editor)),
        Section("How it learnt", (*curves(editor), *checks(editor), *trade_off(editor))),
        Section("What was run", (card(editor),)),
    )
    facts = counted(editor.counts["trained"], "fact")
    return Page(f"An editor by {editor.method}, trained on {facts}", sections, f"{editor.name}, for {editor.model}")


def words(editor: Trained) -> list[str]:
    """The method, the facts, and the scores on facts that it never met."""
    counts = ", ".join(f"{count} {kind}" for kind, count in editor.counts.items() if count)
    said = [f"Editor {editor.name}: {editor.method} for {editor.model}, on facts: {counts}"]
    for kind in KINDS:
        found = {one.metric: one for one in final(editor, kind)}
        if found:
            numbers = ", ".join(f"{name} {found[name].value:.2f}" for name in shares(editor)[:3] if name in found)
            said.append(f"{kind}: {numbers} (of {found['loss'].n})")
    return said


def summary(editor: Trained) -> dict[str, Any]:
    """What an editor is, for a program."""
    scores = {kind: {one.metric: one.value for one in final(editor, kind)} for kind in KINDS}
    return {"facts": editor.counts, "new_relations": editor.new_relations, "best": editor.best, "scores": scores}


def records(editor: Trained) -> list[dict[str, Any]]:
    """One row for each score: of validation facts while it learnt, and of every kind for the editor that was kept."""
    return [{"method": editor.method, "editor": editor.name, **asdict(one)} for one in editor.scores]


def shares(editor: Trained) -> list[str]:
    """The metrics that are shares of questions, in their order."""
    return [name for name in dict.fromkeys(one.metric for one in editor.scores) if is_share(name)]


def is_share(metric: str) -> bool:
    """Whether it is a share, and not a number of nats."""
    return metric != "loss" and not metric.startswith("KL")


def meaning(editor: Trained) -> str:
    """What the metrics say."""
    said = next((text for name, text in MEANINGS.items() if name in shares(editor)), "")
    together = f" Up to {editor.together} facts are one edit." if editor.together > 1 else ""
    return f"{said}{together} Brackets: Wilson's 95 % interval."


def final(editor: Trained, kind: str) -> tuple[EditorScore, ...]:
    """The scores of the editor that was kept, on facts of one kind."""
    return tuple(one for one in editor.scores if one.facts == kind)


def headline(editor: Trained) -> Headline:
    """What it does for subjects that it never met."""
    found = {one.metric: one.value for one in final(editor, "held-out subjects")}
    numbers = tuple(Number(f"{found[name]:.0%}", name) for name in shares(editor)[:3] if name in found)
    return Headline(
        f"An editor by {editor.method}, trained on {editor.counts['trained']} facts and asked about "
        f"{editor.counts.get('held-out subjects', 0)} whose subjects it never met.",
        numbers,
    )


def scores_table(editor: Trained) -> Table:
    """Every metric by kind of facts."""
    metrics = list(dict.fromkeys(one.metric for kind in KINDS for one in final(editor, kind)))
    kinds = [kind for kind in KINDS if final(editor, kind)]
    rows = []
    for metric in metrics:
        found = {kind: one for kind in kinds for one in final(editor, kind) if one.metric == metric}
        rows.append((metric, *(_cell(found.get(kind)) for kind in kinds)))
    note = f"New relations: {', '.join(editor.new_relations)}." if editor.new_relations else ""
    return Table("Scores of the editor that was kept", ("metric", *kinds), tuple(rows), note)


def _cell(score: EditorScore | None) -> str:
    if score is None:
        return ""
    if not is_share(score.metric):
        return f"{score.value:.3f} nats"
    hits = round(score.value * score.n)
    low, high = wilson([1.0] * hits + [0.0] * (score.n - hits))
    return f"{score.value:.2f} [{low:.2f}, {high:.2f}]"


def curves(editor: Trained) -> tuple[Curves, ...]:
    """The parts of the loss, step by step."""
    if not editor.curve:
        return ()
    window = max(1, len(next(iter(editor.curve.values()))) // 25)
    series = tuple(Series(name, smooth(values.numpy(), window)) for name, values in editor.curve.items())
    note = f"Mean of the last {window} steps." if window > 1 else ""
    steps = np.arange(1, len(next(iter(editor.curve.values()))) + 1)
    return (Curves("Loss on training facts", steps, series, "step", (), "loss", "nats", note=note),)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of each value and those before it, `window` at most."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - window)
    means: np.ndarray = (sums[ends] - sums[begins]) / (ends - begins)
    return means


def checks(editor: Trained) -> tuple[Curves, ...]:
    """The scores on validation facts while it learnt."""
    found: dict[str, dict[int, float]] = {}
    for one in editor.scores:
        if one.facts == "validation" and is_share(one.metric):
            found.setdefault(one.metric, {})[one.step] = one.value
    steps = sorted({step for values in found.values() for step in values})
    if len(steps) < 2:
        return ()
    series = tuple(Series(name, np.array([values[step] for step in steps])) for name, values in found.items())
    note = f"The editor of step {editor.best} was kept: its loss on these facts is the smallest."
    return (Curves("Validation facts", np.array(steps), series, "step", (), "share", "", note=note),)


def trade_off(editor: Trained) -> tuple[Curves, ...]:
    """Of a gate: what opens rightly and wrongly, floor by floor, for facts of relations that it was not trained on."""
    if "trade-off" not in editor.tensors:
        return ()
    floors, right, wrong = editor.tensors["trade-off"].double().numpy().T
    names = "other wordings, rightly", "prompts that must stay, wrongly"
    series = tuple(Series(name, some) for name, some in zip(names, (right, wrong), strict=True))
    note = f"Relations of training, left out in turn. The floor is {float(editor.tensors['floor']):.3g}."
    return (Curves("Share that opens", floors, series, "floor", (), "share", "", note=note),)


def card(editor: Trained) -> Card:
    """What is needed to do it again."""
    run = editor.run
    items = (
        ("editor", editor.digest),
        ("settings", settings_in_words(editor.config)),
        ("numbers learnt", f"{sum(tensor.numel() for tensor in editor.tensors.values()):,}"),
        ("facts", ", ".join(f"{kind} {count}" for kind, count in editor.counts.items())),
        ("step that was kept", str(editor.best)),
        ("start token", editor.start_token),
        *(run.items() if run else (("fingerprint", editor.base),)),
    )
    return Card(f"Editor {editor.name}", items, command=run.command if run else "")
