"""CounterFact, in the three forms that are about."""

from factscope.data.case import Case
from factscope.data.fact import Fact, Neighbour
from factscope.data.formats.reader import Fields, find_subject, neighbours_of, portability, record_format
from factscope.data.request import EditRequest

FLAT = "CounterFact, flat (EasyEdit)"


@record_format(
    "CounterFact",
    "requested_rewrite",
    "case_id pararel_idx paraphrase_prompts neighborhood_prompts attribute_prompts generation_prompts",
)
def read_counterfact(fields: Fields, number: int, source: str) -> Case:
    """Meng et al. 2022, as published. The neighbours share the true answer; the attribute prompts are not used."""
    rewrite = Fields(
        fields.value["requested_rewrite"],
        ("prompt", "subject", "target_new", "target_true"),
        ("relation_id",),
        within="requested_rewrite",
    )
    true, new = (
        Fields(rewrite.value[name], ("str",), ("id",), within=f"requested_rewrite.{name}")
        for name in ("target_true", "target_new")
    )
    fact = Fact(
        id=f"counterfact/{fields.label('case_id', number)}",
        relation=rewrite.text("relation_id", "counterfact"),
        subject=rewrite.text("subject"),
        template=rewrite.text("prompt"),
        answer=true.text("str"),
        foil=new.text("str"),
        paraphrases=fields.texts("paraphrase_prompts"),
        neighbours=tuple(Neighbour(prompt, true.text("str")) for prompt in fields.texts("neighborhood_prompts")),
        source=source,
    )
    snippets = f"{fact.relation}/{new.text('id', '')}"
    return Case(
        fact.id, "CounterFact", (EditRequest.of(fact),), speak=fields.texts("generation_prompts"), snippets=snippets
    )


@record_format(
    FLAT,
    "prompt subject target_new ground_truth",
    "case_id relation_id rephrase_prompt locality_prompt locality_ground_truth portability_prompt"
    " portability_ground_truth",
)
def read_flat_counterfact(fields: Fields, number: int, source: str) -> Fact | Case:
    """EasyEdit's form of the same records; `ground_truth` is the true answer, portability what follows from the new."""
    subject, template = find_subject(fields, "prompt")
    fact = Fact(
        id=f"counterfact/{fields.label('case_id', number)}",
        relation=fields.text("relation_id", "counterfact"),
        subject=subject,
        template=template,
        answer=fields.text("ground_truth"),
        foil=fields.text("target_new"),
        paraphrases=fields.texts("rephrase_prompt"),
        neighbours=neighbours_of(fields, "locality_prompt", "locality_ground_truth"),
        source=source,
    )
    asked = neighbours_of(fields, "portability_prompt", "portability_ground_truth")
    if not asked:
        return fact
    follows = portability((one.prompt for one in asked), (one.answer for one in asked))
    return Case(fact.id, FLAT, (EditRequest.of(fact),), follows, speak=(fact.prompt,))


@record_format(
    "CounterFact for tracing",
    "prompt subject target_true target_false",
    "relation relation_prefix relation_suffix relation_id target_true_id target_false_id",
)
def read_tracing_counterfact(fields: Fields, number: int, source: str) -> Fact:
    """The Hugging Face data set NeelNanda/counterfact-tracing; the prefix says where the subject begins."""
    subject, template = find_subject(fields, "prompt", before=fields.text("relation_prefix", ""))
    return Fact(
        id=f"counterfact_tracing/{number}",
        relation=fields.text("relation_id", "counterfact"),
        subject=subject,
        template=template,
        answer=fields.text("target_true"),
        foil=fields.text("target_false"),
        source=source,
    )
