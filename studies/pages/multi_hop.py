"""Who answers the second hop after an edit, as a page and in words."""

from typing import Any

from factscope.plots.labels import counted, settings_in_words
from factscope.plots.specs import Card, Cell, Headline, Number, Page, Section, Table, Text
from factscope.results.provenance import provenance
from studies.tables.multi_hop import KINDS, HopStudy, Share, shares

NAMES = {
    "new": "what follows from the edit",
    "old": "what followed before it",
    "edited": "the edited object itself",
    "other": "something else",
}
WHERE = {
    "before": "the chain, before",
    "after": "the chain, after",
    "bare_before": "without the first hop, before",
    "bare_after": "without the first hop, after",
}


def words(study: HopStudy) -> list[str]:
    """Who answers, what the edit itself did, and what the second hop suggests alone."""
    rows, after = study.rows, shares(study.rows, "after")
    took = [row for row in rows if row.took]
    lines = [
        f"Of {counted(len(rows), 'chain')} with the first hop edited by {study.method}, the second hop is answered by "
        + ", ".join(f"{NAMES[kind]} in {_said(after[kind])}" for kind in KINDS)
        + "."
    ]
    of_them = shares(took, "after")
    lines.append(
        f"The edit itself took in {len(took)} of {len(rows)}"
        + (f"; of these, {', '.join(f'{kind} {of_them[kind].count}' for kind in KINDS)}." if took else ".")
    )
    preferred = shares(rows, "after", "preferred")
    lines.append(
        "Of the three answers the most probable is "
        + ", ".join(f"{kind} in {preferred[kind].value:.0%}" for kind in KINDS[:3])
        + "."
    )
    bare = [row for row in rows if row.bare_after is not None]
    if bare:
        stayed = sum(row.bare_after is not None and row.bare_after.said == row.after.said != "other" for row in bare)
        found = shares(rows, "bare_after")
        lines.append(
            f"Without the first hop in the question, {counted(len(bare), 'answer')}: "
            + ", ".join(f"{kind} {found[kind].count}" for kind in KINDS)
            + f"; in {stayed} the answer to the whole chain is the same one, and needs no first hop."
        )
    if study.unknown:
        lines.append(
            f"{counted(study.unknown, 'further chain')} {'was' if study.unknown == 1 else 'were'} asked and not "
            "edited: the unedited model does not answer the second hop."
        )
    return lines


def page(study: HopStudy) -> Page:
    """The counts in words and as a table, then every chain with what was said."""
    after = shares(study.rows, "after")
    head = Headline(words(study)[0], tuple(Number(f"{after[kind].value:.0%}", NAMES[kind]) for kind in KINDS))
    reading = (
        "Counted is the first of the three answers in a greedy continuation, up to its natural stop. Chains are edited "
        "one at a time, and each edit is taken out again."
    )
    counts = tuple(_counted(study, where, how) for how in ("said", "preferred") for where in WHERE)
    table = Table(
        "Answers to the second hop",
        ("question", "read as", "chains", *(NAMES[kind] for kind in KINDS)),
        tuple(row for row in counts if row is not None),
        note="Shares of chains, in brackets 95 % (Wilson), by subject. Most probable: of the three answers alone.",
    )
    return Page(
        f"The second hop of {counted(len(study.rows), 'chain')}",
        (
            Section("The answer", (head, Text("\n\n".join(words(study)[1:])), table), reading),
            Section("Every chain", (_chains(study), _bare(study))),
            Section("How it was measured", (_card(study),)),
        ),
        subtitle=f"{study.method}, {study.source}",
    )


def summary(study: HopStudy) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return {
        "chains": len(study.rows),
        "unknown": study.unknown,
        "took": sum(row.took for row in study.rows),
        "answers": {where: {kind: share.count for kind, share in shares(study.rows, where).items()} for where in WHERE},
        "preferred": {kind: share.count for kind, share in shares(study.rows, "after", "preferred").items()},
    }


def records(study: HopStudy) -> list[dict[str, Any]]:
    """A row for each chain and question: what was said, and what of the three is the most probable."""
    found = []
    for row in study.rows:
        for where in WHERE:
            heard = getattr(row, where)
            if heard is not None:
                found.append(
                    {
                        "chain": row.id,
                        "subject": row.subject,
                        "question": row.bare if where.startswith("bare") else row.question,
                        "when": where.removeprefix("bare_"),
                        "first hop": "removed" if where.startswith("bare") else "asked",
                        "edit took": int(row.took),
                        "said": heard.said,
                        "preferred": heard.preferred,
                        "text": heard.text,
                    }
                )
    return found


def _said(share: Share) -> str:
    return f"{share.count} ({share.value:.0%}, {share.low:.0%} to {share.high:.0%})"


def _counted(study: HopStudy, where: str, how: str) -> tuple[Cell, ...] | None:
    found = shares(study.rows, where, how)
    if not found:
        return None
    cells = [
        None if how == "preferred" and kind == "other" else f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
        for kind, one in found.items()
    ]
    read = "what is written" if how == "said" else "the most probable"
    return (WHERE[where], read, found["new"].n, *cells)


def _chains(study: HopStudy) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            row.question, row.edited, "yes" if row.took else "no", row.new, row.old, row.after.said, row.after.text,
            row.before.text,
        )
        for row in study.rows
    )  # fmt: skip
    columns = ("question", "edited to", "took", "new", "old", "said after", "after", "before")
    return Table("The chains, before and after their edits", columns, rows)


def _bare(study: HopStudy) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (row.bare, row.new, row.old, row.bare_after.said, row.bare_after.text, row.bare_before.text)
        for row in study.rows
        if row.bare_before is not None and row.bare_after is not None
    )
    columns = ("question", "new", "old", "said after", "after", "before")
    return Table("Without the first hop", columns, rows, folded=True)


def _card(study: HopStudy) -> Card:
    items = (
        ("chains", f"{study.source}, {study.chains} with three different answers"),
        ("method", study.method),
        ("settings", settings_in_words(study.settings)),
    )
    return provenance(study.run, *items)
