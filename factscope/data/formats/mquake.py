"""MQuAKE (Zhong et al. 2023): chains of facts, some of them edited, and questions over the whole chain.

CF, CF-3k, CF-3k-v2 and T have the same fields. A chain's steps are asked by their cloze; a step is labelled "edited"
where its answer is that of a rewrite and its cloze begins with the rewrite's prompt, else "kept".
"""

from factscope.data.case import Case, Question, QuestionGroup
from factscope.data.fact import Fact, same_text
from factscope.data.formats.reader import Fields, as_list, record_format
from factscope.data.request import EditRequest


@record_format(
    "MQuAKE",
    "requested_rewrite questions new_answer single_hops new_single_hops",
    "case_id answer answer_alias new_answer_alias answer_extended new_answer_extended orig",
)
def read_mquake(fields: Fields, number: int, source: str) -> Case:
    """One chain with its rewrites."""
    name, requests = fields.label("case_id", number), []
    for index, value in enumerate(as_list(fields, "requested_rewrite")):
        place = f"requested_rewrite[{index}]"
        rewrite = Fields(value, ("prompt", "subject", "target_new", "target_true"), None, within=place)
        new, true = (
            Fields(rewrite.value[key], ("str",), None, within=f"{place}.{key}").text("str")
            for key in ("target_new", "target_true")
        )
        fact = Fact(
            id=f"mquake/{name}/{index}",
            relation=rewrite.text("relation_id", "mquake"),
            subject=rewrite.text("subject"),
            template=rewrite.text("prompt"),
            answer=true,
            foil=new,
            source=source,
        )
        requests.append(EditRequest.of(fact))
    trials = []
    as_list(fields, "single_hops")
    for index, value in enumerate(as_list(fields, "new_single_hops")):
        hop = Fields(value, ("cloze", "answer"), None, within=f"new_single_hops[{index}]")
        cloze, answer = hop.text("cloze"), hop.text("answer")
        edited = any(cloze.startswith(each.prompt) and same_text(each.target, (answer,)) for each in requests)
        asked = Question(cloze, ((answer, *hop.texts("answer_alias")),))
        trials.append(QuestionGroup("hop", "edited" if edited else "kept", (asked,)))
    answers = ((fields.text("new_answer"), *fields.texts("new_answer_alias")),)
    chain = tuple(Question(text, answers) for text in fields.texts("questions"))
    trials.append(QuestionGroup("multi-hop", f"{len(trials)} hops", chain, need="any"))
    return Case(f"mquake/{name}", "MQuAKE", tuple(requests), tuple(trials))
