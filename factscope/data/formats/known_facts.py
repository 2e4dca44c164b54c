"""ROME's known facts, which tracing is usually shown on."""

from factscope.data.fact import SLOT, Fact
from factscope.data.formats.reader import Fields, find_subject, record_format


@record_format("ROME's known facts", "subject attribute prompt", "known_id template prediction relation_id")
def read_known_fact(fields: Fields, number: int, source: str) -> Fact:
    """Facts that GPT-2 XL knows (Meng et al. 2022). `prompt` counts; `template` may be its beginning only."""
    template = fields.text("template", "")
    before = template.split(SLOT)[0] if SLOT in template else None
    subject, template = find_subject(fields, "prompt", before=before)
    return Fact(
        id=f"known_facts/{fields.label('known_id', number)}",
        relation=fields.text("relation_id", "known_facts"),
        subject=subject,
        template=template,
        answer=fields.text("attribute"),
        source=source,
    )
