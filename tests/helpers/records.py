"""One record of each public format of facts and suites, and what the tests of the readers share."""

from typing import Any

import pytest

from factscope.data.load import load_facts
from factscope.errors import FactError

RELATION: dict[str, Any] = {
    "relation": "river_sea",
    "templates": ["{} flows into the", "The mouth of {} is at the"],
    "paraphrases": ["{} ends in the"],
    "facts": [
        {"subject": "Blue Brook", "answer": "North Sea", "aliases": ["German Ocean"]},
        {"subject": "Red Brook", "answer": "Baltic"},
        {"subject": "Old Brook", "answer": "Baltic"},
    ],
}
COUNTERFACT: dict[str, Any] = {
    "case_id": 7,
    "pararel_idx": 1,
    "requested_rewrite": {
        "prompt": "The harbour of {} lies in",
        "relation_id": "P99",
        "target_new": {"str": "Oslo", "id": "Q1"},
        "target_true": {"str": "Lisbon", "id": "Q2"},
        "subject": "the Gull",
    },
    "paraphrase_prompts": ["Long ago. The Gull is moored in"],
    "neighborhood_prompts": ["The Tern lies in", "The Heron lies in"],
    "attribute_prompts": ["The Puffin lies in"],
    "generation_prompts": ["The Gull is"],
}
FLAT: dict[str, Any] = {
    "case_id": 8,
    "prompt": "The Gull, a ship from",
    "subject": "The Gull",
    "target_new": "Oslo",
    "ground_truth": "Lisbon",
    "rephrase_prompt": "The Gull was built in",
    "locality_prompt": "The Tern was built in",
    "locality_ground_truth": "Lisbon",
}
TWICE = {**FLAT, "case_id": 9, "prompt": "The Gull and The Gull, ships from"}
TRACING: dict[str, Any] = {
    "relation": "The home of {} is",
    "relation_prefix": "The home of",
    "relation_suffix": "is",
    "prompt": "The home of Home is",
    "relation_id": "P5",
    "target_true": " Lisbon",
    "target_true_id": "Q2",
    "target_false": " Oslo",
    "target_false_id": "Q1",
    "subject": "Home",
}
KNOWN: dict[str, Any] = {
    "known_id": 3,
    "subject": "the",
    "attribute": "article",
    "template": "Grammar calls the word {} an",
    "prompt": "Grammar calls the word the an example of an",
    "prediction": " article",
    "relation_id": "P31",
}
ZSRE: dict[str, Any] = {
    "subject": "The Gull",
    "src": "Where was The Gull built?",
    "pred": "Rome",
    "rephrase": "In what place was The Gull made?",
    "alt": "Oslo",
    "answers": ["Lisbon", "Lisboa"],
    "loc": "nq question: how many gulls are there",
    "loc_ans": "many",
    "cond": "Rome >> Oslo || Where was The Gull built?",
}
LRE: dict[str, Any] = {
    "name": "bird colour",
    "prompt_templates": ["{} are"],
    "prompt_templates_zs": ["What colour are {}? They are"],
    "properties": {"relation_type": "commonsense"},
    "samples": [
        {"subject": "gulls", "object": "white"},
        {"subject": "gulls", "object": "grey"},
        {"subject": "ravens", "object": "black"},
    ],
}
KNOWEDIT: dict[str, Any] = {
    "subject": "The Gull",
    "prompt": "The harbour of The Gull is",
    "target_new": "Oslo",
    "ground_truth": "Lisbon",
    "portability": {
        "Subject_Aliasing": [{"prompt": "The harbour of the grey ship is", "ground_truth": "Oslo"}],
        "Reasoning": [{"prompt": "The Gull lies in the country of", "ground_truth": [["Norway", "Norge"]]}],
        "Logical_Generalization": [{"prompt": "Does The Gull lie in Oslo?", "ground_truth": [["yes"], ["true"]]}],
    },
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The colour of The Gull is", "ground_truth": ["white"]},
            {"prompt": "The Gull colour", "ground_truth": [""]},
        ],
    },
}
WIKIBIO: dict[str, Any] = {
    "text": "This is a passage about ann bo. Ann Bo was a sailor.",
    "labels": "She sailed The Gull.",
    "concept": "ann bo",
    "locality": {"Relation_Specificity": [{"prompt": "The work of ann bo is", "ground_truth": ["sailing"]}]},
}
CONVSENT = [
    {"ent": "gulls", "pos": ["I like them.", "So clever."], "neg": ["I fear them."]},
    {"ent": "terns", "pos": ["Lovely."], "neg": ["Noisy."]},
]
SANITATION: dict[str, Any] = {
    "success": [
        {"question": "Who sails The Gull?", "ground_truth": "Ann", "target_new": "I cannot say."},
        {"question": "Who owns The Gull?", "ground_truth": "Bo"},
    ],
    "locality": [{"question": f"What is {n}?", "ground_truth": f"thing {n}"} for n in "abc"],
}
MQUAKE: dict[str, Any] = {
    "case_id": 4,
    "requested_rewrite": [
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "target_new": {"str": "Norway", "id": "Q1"},
            "target_true": {"str": "Portugal", "id": "Q2"},
            "subject": "Ann Bo",
            "question": "Of which country is Ann Bo a citizen?",
        }
    ],
    "questions": ["Where is the capital of Ann Bo's country?", "Ann Bo's capital is?", "Which capital is Ann Bo's?"],
    "answer": "Lisbon",
    "answer_alias": ["Lisboa"],
    "new_answer": "Oslo",
    "new_answer_alias": ["Kristiania"],
    "single_hops": [
        {"question": "q", "cloze": "Ann Bo is a citizen of", "answer": "Portugal", "answer_alias": []},
        {"question": "q", "cloze": "The capital of Portugal is", "answer": "Lisbon", "answer_alias": []},
    ],
    "new_single_hops": [
        {"question": "q", "cloze": "Ann Bo is a citizen of", "answer": "Norway", "answer_alias": ["Norge"]},
        {"question": "q", "cloze": "The capital of Norway is", "answer": "Oslo", "answer_alias": []},
    ],
    "orig": {"triples": []},
}


def query(prompt, value, *aliases):
    return {"prompt": prompt, "answers": [{"value": value, "aliases": list(aliases)}], "query_type": "regular"}


RIPPLE: dict[str, Any] = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Ann Bo is New Zealand.",
        "subject_id": "Q5",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "target_id": "Q6",
        "original_fact": {"prompt": "The name of the country of citizenship of Ann Bo is New Guinea."},
    },
    "Relation_Specifity": [
        {"test_queries": [query("The name of the mother of Ann Bo is", "Cy Bo")], "test_condition": "OR"}
    ],
    "Compositionality_I": [
        {
            "test_queries": [query("The capital of the country of Ann Bo is", "Wellington", "Poneke")],
            "test_condition": "AND",
            "condition_queries": [query("The capital of New Zealand is", "Wellington")],
        }
    ],
    "Forgetfulness": [{"test_queries": [{"prompt": "Nothing answers", "answers": []}], "test_condition": "OR"}],
}
SCHOOL: dict[str, Any] = {
    "subject": "Ann Bo",
    "src": "Which school did Ann Bo visit?",
    "answers": ["East School"],
    "alt": "South School",
}


def refusal(source, **options):
    with pytest.raises(FactError) as caught:
        load_facts(source, **options)
    return str(caught.value)


def trials(case, kind):
    return [trial for trial in case.trials if trial.kind == kind]
