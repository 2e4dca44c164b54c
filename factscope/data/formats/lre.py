"""Linear Relational Embeddings: a relation with its templates and samples (Hernandez et al. 2024)."""

from factscope.data.fact import Entry, Relation, located
from factscope.data.formats.reader import Fields, as_list, document_format


@document_format("LRE", "name prompt_templates samples", "prompt_templates_zs properties domain range _domain _range")
def read_lre(fields: Fields, source: str) -> Relation:
    """Hernandez et al. 2024. We ask with the zero-shot templates, as the other wordings presume examples before them.

    A file without zero-shot templates is asked with the ordinary ones. Samples with the same subject ("big": "small",
    "little") are one fact: the first object is the answer, the others are aliases.
    """
    objects: dict[str, list[str]] = {}
    for index, value in enumerate(as_list(fields, "samples")):
        with located(f"record {index}"):
            sample = Fields(value, ("subject", "object"))
            objects.setdefault(sample.text("subject"), []).append(sample.text("object"))
    name = fields.text("name").replace(" ", "_")
    few_shot, zero_shot = fields.texts("prompt_templates"), fields.texts("prompt_templates_zs")
    entries = [
        Entry(subject, answers[0], tuple(dict.fromkeys(each for each in answers if each != answers[0])))
        for subject, answers in objects.items()
    ]
    return Relation(
        name=name,
        description=fields.text("name"),
        subject_type="subject",
        answer_type="object",
        templates=zero_shot or few_shot,
        paraphrases=few_shot if zero_shot else (),
        entries=tuple(entries),
        source=source,
    )
