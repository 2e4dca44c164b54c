"""lm-eval is an optional extra: without it one sentence says so; with it, a task file of one's own is asked."""

import sys

import pytest

from editing import methods
from editing.edit import EditError
from editing.harness import evaluate_tasks
from workbench.facts import Fact

FACT = Fact("a", "town", "Oda Voss", "{} lives in", "Brask", "Vey")
TASK = """task: towns
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc}]
"""


def test_without_it_one_sentence_says_what_to_install(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(EditError, match=r"pip install 'factscope\[lm-eval\]'"):
        evaluate_tasks(tiny("llama"), (), ["hellaswag"])


def test_a_task_of_ones_own_sees_the_edit_and_no_text(toy, tmp_path):
    pytest.importorskip("lm_eval")
    import json

    docs = tmp_path / "towns.jsonl"
    docs.write_text(json.dumps({"prompt": "Oda Voss lives in", "choices": ["Brask", "Vey"], "gold": 1}) + "\n")
    (tmp_path / "towns.yaml").write_text(TASK % docs)
    edit = methods.compute("ft_m", toy, [FACT], methods.config_for("ft_m", toy, {"layer": "0"}), shown=False)
    before, after = (evaluate_tasks(toy, edits, ["towns"], include=tmp_path) for edits in ((), (edit,)))
    assert (before["towns"]["acc,none"], after["towns"]["acc,none"]) == (0, 1)
    with pytest.raises(EditError, match="knows no task 'villages'"):
        evaluate_tasks(toy, (), ["villages"], include=tmp_path)
    told = methods.compute("ice", toy, [FACT], shown=False)
    with pytest.raises(EditError, match="changes none"):
        evaluate_tasks(toy, (told,), ["towns"], include=tmp_path)
