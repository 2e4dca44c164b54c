"""Our own files: a relation with its templates and entries, or facts one by one."""

from pathlib import Path

from factscope.data.fact import Entry, Fact, Neighbour, Relation, located
from factscope.data.formats.reader import Fields, as_list, document_format, record_format
from factscope.errors import FactError


@document_format(
    "a relation file of ours", "relation templates facts", "description subject_type answer_type paraphrases"
)
def read_relation(fields: Fields, source: str) -> Relation:
    """Our own: templates once, then subjects and answers; foils and neighbours come from the other entries."""
    entries: dict[str, Entry] = {}
    for index, value in enumerate(as_list(fields, "facts")):
        with located(f"record {index}"):
            fact = Fields(value, ("subject", "answer"), ("aliases", "foil"))
            subject, foil = fact.text("subject"), fact.text("foil") if "foil" in fact.value else None
            if subject in entries:
                raise FactError(
                    f"the subject {subject!r} was given before: keep one, with other true answers in 'aliases'"
                )
            entries[subject] = Entry(subject, fact.text("answer"), fact.texts("aliases"), foil)
    return Relation(
        name=fields.text("relation"),
        description=fields.text("description", fields.text("relation")),
        subject_type=fields.text("subject_type", "subject"),
        answer_type=fields.text("answer_type", "answer"),
        templates=fields.texts("templates"),
        paraphrases=fields.texts("paraphrases"),
        entries=tuple(entries.values()),
        source=source,
    )


@record_format(
    "our facts, one by one",
    "subject template answer",
    "id relation foil aliases paraphrases neighbours source",
)
def read_fact(fields: Fields, number: int, source: str) -> Fact:
    """A `Fact`, field by field (what `dataclasses.asdict` gives)."""
    neighbours = []
    for index, value in enumerate(as_list(fields, "neighbours", needed=False)):
        each = Fields(value, ("prompt", "answer"), ("subject",), within=f"neighbours[{index}]")
        subject = each.text("subject") if "subject" in each.value else None
        neighbours.append(Neighbour(each.text("prompt"), each.text("answer"), subject))
    relation = fields.text("relation", Path(source).stem)
    return Fact(
        id=fields.text("id", f"{relation}/{number}"),
        relation=relation,
        subject=fields.text("subject"),
        template=fields.text("template"),
        answer=fields.text("answer"),
        foil=fields.text("foil") if "foil" in fields.value else None,
        aliases=fields.texts("aliases"),
        paraphrases=fields.texts("paraphrases"),
        neighbours=tuple(neighbours),
        source=fields.text("source", source),
    )
