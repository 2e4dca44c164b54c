"""Training as such: facts that never meet, a kill that changes nothing, and editors that are held to their model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from editing.compute import compute
from editing.method import method
from editing.pages import trained as pages
from editing.trained import learning
from editing.trained.editor import Trained
from editing.trained.facts import SHARES, examples, split, training_facts
from editing.trained.train import train_editor
from factscope.data.load import load_facts
from factscope.data.request import EditRequest
from factscope.errors import EditError, StoreError
from factscope.plots.render import figure, is_figure
from factscope.plots.specs import Headline
from factscope.runs.store import same
from helpers.editors import FACTS, config_of, editor_of
from helpers.results import check_result

NEW = EditRequest("Foo Bar lives in", "Foo Bar", "Oslo")


@pytest.fixture(scope="module")
def editor(tiny: Any) -> Trained:
    """A few steps of MEND."""
    found = editor_of(tiny("llama"), "mend", steps=4)
    assert found is not None
    return found


def test_facts_are_parted_by_subject_and_by_relation():
    parted = split(training_facts(load_facts()), seed=0)
    pools = {kind: parted.pool(kind) for kind in ("trained", *parted.asked)}
    subjects = {kind: {fact.subject.casefold() for fact in pool} for kind, pool in pools.items()}
    for one, other in (
        ("trained", "validation"),
        ("trained", "held-out subjects"),
        ("validation", "held-out subjects"),
    ):
        assert not subjects[one] & subjects[other]
    assert len(parted.new_relations) == 3
    assert {fact.relation for fact in pools["new relations"]} == set(parted.new_relations)
    assert not {fact.relation for kind in ("trained", *SHARES) for fact in pools[kind]} & set(parted.new_relations)
    seen = set(parted.seen)
    assert all(set(fact.digests) <= seen for kind in ("trained", "validation") for fact in pools[kind])
    assert not any(fact.digests[0] in seen for kind in ("held-out subjects", "new relations") for fact in pools[kind])
    assert split(training_facts(load_facts()), seed=0) == parted


def test_an_example_asks_for_another_wording_and_keeps_prompts_of_other_facts():
    facts = training_facts(load_facts())
    by_prompt = {text: fact for fact in facts for text in fact.wordings}
    for one in examples(facts, 40, "seed"):
        fact = by_prompt[one.prompt]
        assert one.other in fact.wordings
        assert one.target in fact.wrong
        assert (one.other != one.prompt) == (len(fact.wordings) > 1)
        near, hard, far = (by_prompt[text] for text in one.keep)
        assert (near.relation, near.subject == fact.subject) == (fact.relation, False)
        assert (hard.subject == fact.subject) != (hard.relation == fact.relation)
        assert far.relation != fact.relation
    assert examples(facts, 5, "step 1") != examples(facts, 5, "step 2")


@pytest.mark.parametrize("facts", [FACTS[:40], FACTS[:48] * 2])
def test_too_few_facts_or_relations_are_refused(tiny, facts):
    with pytest.raises(EditError, match="an editor needs 50 of 3 at least"):
        train_editor(tiny("llama"), "mend", facts, config_of(tiny("llama"), "mend"), shown=False)


def test_a_training_that_was_killed_goes_on_to_the_same_numbers(tiny, editor, tmp_path, monkeypatch):
    model, real, calls = tiny("llama"), learning.examples, []

    def dying(facts: Any, count: int, seed: str) -> Any:
        calls.append(seed)
        if seed == "step 0 3":
            raise KeyboardInterrupt
        return real(facts, count, seed)

    monkeypatch.setattr(learning, "examples", dying)
    config = config_of(model, "mend", steps=4)
    with pytest.raises(KeyboardInterrupt):
        train_editor(model, "mend", FACTS, config, folder=tmp_path, shown=False)
    monkeypatch.setattr(learning, "examples", real)
    with pytest.raises(StoreError, match="begun with other settings"):
        train_editor(model, "mend", FACTS, replace(config, batch=3), folder=tmp_path, shown=False)
    again = train_editor(model, "mend", FACTS, config, folder=tmp_path, shown=False)
    assert (again.digest, again.scores) == (editor.digest, editor.scores)
    assert all(torch.equal(again.curve[name], values) for name, values in editor.curve.items())
    assert "step 0 2" in calls  # the step after what was saved, which is done again


def test_an_editor_that_learns_lowers_its_loss(toy):
    facts = [one for name in ("town", "trade", "tongue") for one in load_facts(f"tests/toy/toy_{name}.json")]
    config = replace(
        config_of(toy, "mend", steps=30), layers=(1, 2, 3), alpha_rate=1.0, learning_rate=1e-2, every=15, batch=8
    )
    found = train_editor(toy, "mend", facts, config, shown=False)
    losses = [one.value for one in found.scores if (one.facts, one.metric) == ("validation", "loss")]
    assert found.best > 0
    assert min(losses[1:3]) < 0.9 * losses[0]


def test_an_editor_saved_and_loaded_is_the_same_and_an_altered_one_is_refused(editor, tmp_path):
    found = Trained.load(editor.save(tmp_path / "editor"))
    assert same(found, editor)
    text = (tmp_path / "editor/result.json").read_text()
    (tmp_path / "editor/result.json").write_text(text.replace('"rank": 4', '"rank": 5'))
    with pytest.raises(StoreError, match="altered since it was saved"):
        Trained.load(tmp_path / "editor")


def test_an_editor_is_held_to_its_method_model_and_settings(tiny, editor):
    model = tiny("llama")
    asked = [NEW]
    with pytest.raises(EditError, match="none was given: train one with edit train mend"):
        compute("mend", model, asked, shown=False)
    with pytest.raises(EditError, match="rome is not trained, so it takes no editor"):
        compute("rome", model, asked, editor=editor, shown=False)
    with pytest.raises(EditError, match="was trained with other settings \\(rank: 4, not 5\\)"):
        compute("mend", model, asked, config_of(model, "mend", steps=4).__class__(**editor.config | {"rank": 5}),
                editor=editor, shown=False)  # fmt: skip
    with pytest.raises(EditError, match="trained on texts that begin with 'auto', not 'none'"):
        compute("mend", model, asked, editor=editor, start="none", shown=False)
    with pytest.raises(EditError, match="and this model has"):
        compute("mend", tiny("gpt2"), asked, editor=editor, shown=False)
    with pytest.raises(EditError, match="rome needs no training"):
        train_editor(model, "rome", FACTS)
    edit = compute("mend", model, asked, editor=editor, shown=False)
    with edit.applied(model), pytest.raises(EditError, match="trained on the unedited model"):
        train_editor(model, "mend", FACTS, config_of(model, "mend"))


def test_a_fact_that_an_editor_was_trained_on_is_refused_or_counted(tiny, editor):
    model = tiny("llama")
    parted = split(training_facts(FACTS), 0)
    by_id = {(fact.subject, fact.relation): fact for fact in FACTS}
    pools = parted.trained, parted.asked["held-out subjects"]
    met, held = (by_id[pool[0].subject, pool[0].relation] for pool in pools)
    with pytest.raises(EditError, match="1 of 2 facts were in the training of editor"):
        compute("mend", model, [held, met], editor=editor, shown=False)
    said = compute("mend", model, [held, met], editor=editor, allow_trained=True, shown=False)
    assert "1 of 2 facts were in the editor's training" in said.notes
    worded = next(fact for fact in FACTS if fact.subject == met.subject and fact.paraphrases)
    asked = EditRequest(worded.paraphrases[0], worded.subject, "Lund")
    assert editor.known([asked]) == (asked,)  # the same prompt, although it names no relation
    assert not editor.known([NEW])


def test_its_page_shows_the_curve_and_what_it_does_for_facts_that_it_never_met(editor, tmp_path):
    check_result(editor, tmp_path, "Trained")
    page = pages.page(editor)
    specs = [spec for section in page.sections for spec in section.specs]
    assert [figure(spec) for spec in specs if is_figure(spec)]
    assert isinstance(specs[0], Headline)
    assert "whose subjects it never met" in specs[0].sentence
    assert any("held-out subjects: reliability" in line for line in pages.words(editor))
    assert set(pages.summary(editor)["scores"]) == {"trained", "held-out subjects", "new relations"}


def test_trained_methods_are_found_by_listing():
    assert method("mend").train is not None
    assert Path("editing/methods/trained/mend.py").exists()
