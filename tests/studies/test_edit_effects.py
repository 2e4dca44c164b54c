"""What an edit did inside: nothing for an edit of nothing, what was wired in where that is known, beside its nulls."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from circuits.analysis.cross_faithfulness import cross_faithfulness, entries
from circuits.analysis.diff import MixedSettings, changes, diff, same_settings
from circuits.analysis.head_changes import head_changes, head_table
from circuits.engine.incremental import Fast
from circuits.engine.reference import Reference
from circuits.find import find
from circuits.graph import Graph
from circuits.method import method
from circuits.scorers.eap import EAP
from circuits.scorers.exact import Exact
from editing import compute as computing
from editing import method as methods
from editing.delta import Delta
from editing.edit import Edit
from editing.nulls import SCRAMBLES, scrambled
from factscope.data.fact import Fact
from factscope.data.load import load_facts
from factscope.data.request import requests_of
from factscope.errors import EditError, UserError
from factscope.model.prompts import prompt_of
from factscope.model.weights import fingerprint, live_weights
from factscope.plots.page import write_page
from factscope.plots.show import in_words
from factscope.runs import store
from factscope.runs.parts import JOURNAL
from helpers.browser import needs_chromium, open_page, with_script
from helpers.circuits import hand_wired, task
from helpers.models import TOY
from helpers.results import check_result
from studies.edit_effects.model_state import Config, Experiment
from studies.edit_effects.page import page
from studies.edit_effects.result import EditStudy
from studies.edit_effects.study import costs, edit_studies
from studies.edit_effects.words import summary, words
from tracing.logit_lens import answers_by_layer, lens

SMALL = Config(samples=2, edges=40, nulls=1, value_nulls=0, again=0, neighbours=0)


@pytest.fixture(scope="module")
def fact() -> Fact:
    return load_facts(TOY / "toy_town.json")[0]


@pytest.fixture(scope="module")
def edit(toy: Any, fact: Fact) -> Edit:
    """A real one, which takes."""
    config = methods.method("ft_m").config_for(toy, {"layer": 1, "steps": 60, "learning_rate": 0.003})
    return computing.compute("ft_m", toy, [fact], config)


@pytest.fixture(scope="module")
def study(toy: Any, edit: Edit) -> EditStudy:
    return edit_studies(toy, [edit], replace(SMALL, nulls=2, value_nulls=1, again=1, neighbours=1))[0]


def hand_made(model: Any, fact: Fact, *deltas: Delta) -> Edit:
    return Edit("by hand", {}, requests_of((fact,)), deltas, fingerprint(model), "test", 0)


# ---- nulls ----


@pytest.mark.parametrize("kind", SCRAMBLES)
@pytest.mark.parametrize("rank", [1, 3, None])
def test_a_null_has_the_edits_singular_values_and_nothing_else(kind: str, rank: int | None, fact: Fact) -> None:
    generator = torch.Generator().manual_seed(0)
    right = torch.randn(rank or 24, 16, generator=generator)
    left = None if rank is None else torch.randn(24, rank, generator=generator)
    edit = Edit("x", {}, requests_of((fact,)), (Delta("blocks.0.mlp.W_out", right, left),), "base", "test", 0)
    null, other = scrambled(edit, 0, kind), scrambled(edit, 1, kind)
    was, now = edit.deltas[0].dense(), null.deltas[0].dense()
    torch.testing.assert_close(torch.linalg.svdvals(now), torch.linalg.svdvals(was), rtol=1e-5, atol=1e-5)  # float32
    overlap = float((was * now).sum() / was.norm() ** 2)
    assert abs(overlap) < 0.6  # one random direction of 16 against another
    assert len({edit.digest, null.digest, other.digest}) == 3
    assert scrambled(edit, 0, kind).digest == null.digest
    key = torch.randn(24, generator=generator, dtype=torch.float64)
    answers_alike = torch.allclose((key @ now).norm(), (key @ was).norm(), rtol=1e-5)
    assert answers_alike == (kind == "values")  # the narrow null reads what the edit reads, and as strongly


def test_there_is_no_other_scramble(edit: Edit) -> None:
    with pytest.raises(EditError, match="no scramble"):
        scrambled(edit, 0, "letters")


# ---- nothing changes nothing ----


def test_a_zero_edit_gives_an_empty_difference_bitwise(toy: Any, fact: Fact) -> None:
    shape = live_weights(toy)["blocks.1.mlp.W_out"].shape
    zero = hand_made(toy, fact, Delta("blocks.1.mlp.W_out", torch.zeros(1, shape[1]), torch.zeros(shape[0], 1)))
    (found,) = edit_studies(toy, [zero], SMALL)
    assert (found.diff.gained, found.diff.lost, found.diff.moved) == ((), (), ())
    assert found.diff.total_change == 0.0
    assert torch.equal(found.before.circuit.scores, found.after.circuit.scores)
    for kind in SMALL.sites:
        assert torch.equal(found.before.trace.result.grid(kind).effect, found.after.trace.result.grid(kind).effect)  # type: ignore[union-attr]
    assert torch.equal(found.before.lens.probability, found.after.lens.probability)
    assert torch.equal(found.before.heads.direct, found.after.heads.direct)
    assert all(head.shift == 0 and head.out_of_nulls is False for head in found.heads)
    assert all(
        measure.edit == 0 and measure.beyond is False for measure in found.measures if measure.edit == measure.edit
    )
    assert in_words(found).startswith("No larger than its nulls")
    assert "did not take" in in_words(found)


def test_after_an_edit_and_its_undo_everything_is_found_as_before(toy: Any, edit: Edit, study: EditStudy) -> None:
    edit.commit(toy)
    edit.revert(toy)
    (again,) = edit_studies(toy, [edit], replace(SMALL, nulls=0))
    assert torch.equal(again.before.circuit.scores, study.before.circuit.scores)
    assert torch.equal(again.before.circuit.kept, study.before.circuit.kept)
    assert torch.equal(again.after.circuit.scores, study.after.circuit.scores)
    assert again.before.trace.result is not None
    assert study.before.trace.result is not None
    assert torch.equal(again.before.trace.result.grid("resid").effect, study.before.trace.result.grid("resid").effect)
    assert in_words(again).startswith("Without nulls")


# ---- a change that is known in advance ----


def test_an_edge_that_the_edit_wired_in_is_found_and_no_other(tmp_path: Path, fact: Fact) -> None:
    """Before, m0 writes nothing; the edit lets it write. So its edges appear, and those into it, and no others."""
    model = hand_wired(tmp_path)
    before_task = replace(task(model), metric="logit_difference")
    generator = torch.Generator().manual_seed(0)
    shape = live_weights(model)["blocks.0.mlp.W_out"].shape
    wired = hand_made(model, fact, Delta("blocks.0.mlp.W_out", torch.randn(*shape, generator=generator) * 0.2))

    def search() -> Any:
        return find(model, before_task, Exact(threshold=1e-9), split=False)

    before = search()
    with wired.applied(model):
        after = search()
    found = diff(before, after, level=1e-9)
    assert set(found.gained) == {"embed->m0", "a0.h1->m0", "m0->m1", "m0->logits"}
    assert found.lost == ()
    assert found.only_crossed == ()
    assert set(found.gained) <= {move.edge for move in found.moved}
    silent = changes(before, after)[before.graph.writer_index["a1.h2"]]
    assert float(silent[~silent.isnan()].abs().max()) < 1e-12  # nan: no such edge
    assert found.nodes_gained == ("m0",)
    assert {entry.edge for entry in entries(before, after, (0,))} == {"m0->m1", "m0->logits"}

    cross = cross_faithfulness(model, wired, before, after)
    assert cross.cell("after", "after").faithfulness == pytest.approx(1, abs=1e-9)  # all that has an effect is in it
    assert cross.cell("before", "before").faithfulness == pytest.approx(1, abs=1e-9)
    same = cross.cell("before", "after").loss, cross.cell("before", "before").loss
    assert same[0] == pytest.approx(same[1], abs=1e-9)  # to the old model the new edges carry nothing
    assert abs(cross.cell("after", "before").faithfulness - 1) > 1e-3


def test_an_edge_that_crosses_the_threshold_has_not_moved(tiny: Any) -> None:
    model = tiny("llama")
    asked = task(model)
    small, large = (find(model, asked, EAP(edges=count)) for count in (40, 60))
    found = diff(small, large)
    assert len(found.gained) + len(found.lost) > 0
    assert (found.n_moved, found.total_change) == (0, 0.0)
    assert set(found.only_crossed) == {*found.gained, *found.lost}


def test_mixed_settings_are_refused(tiny: Any) -> None:
    model = tiny("llama")
    circuits = [
        find(model, task(model, metric), method(name, {"edges": count}))
        for metric, name, count in (
            ("nll", "eap", 40),
            ("nll", "eap", 41),
            ("kl", "eap_ig", 40),
            ("nll", "eap_ig", 40),
        )
    ]
    same_settings(circuits[0], circuits[0])
    for other, named in zip(circuits[1:], ("settings", "method", "method"), strict=True):
        with pytest.raises(MixedSettings, match=named):
            same_settings(circuits[0], other)


# ---- the parts ----


def test_the_fast_engine_begins_with_the_whole_model(tiny: Any) -> None:
    """What roles and heads are read from is the model's own run, not the circuit that a check left behind."""
    model = tiny("llama")
    asked = task(model)
    fast = Fast(Reference(model, Graph.of(model), asked))
    with torch.no_grad():
        own = model(asked.tokens(model), use_cache=False)[0, -1]
        found = fast.kernel.logits(fast.inputs[fast.graph.reader_index["logits"]][:, -1])[0]
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)  # float32, four layers


def test_one_reading_serves_both_answers(toy: Any, fact: Fact) -> None:
    """Turning old and new round turns every head's sign; the same model twice has no change."""
    prompt = prompt_of(toy, fact)
    old, new = prompt.answer_ids[0], prompt.foil_ids[0]
    there = head_table(toy, Graph.of(toy), prompt, (old, new), ("a", "b"))
    back = head_table(toy, Graph.of(toy), prompt, (new, old), ("b", "a"))
    assert torch.equal(there.direct[0], back.direct[1])
    assert there.roles == (back.roles[1], back.roles[0])
    assert all(change.shift == 0 and change.what == "none" for change in head_changes(there, there))


def test_both_answers_through_the_layers_are_the_lens(toy: Any, fact: Fact) -> None:
    prompt = prompt_of(toy, fact)
    whole = lens(toy, prompt)
    logs, ranks = answers_by_layer(toy, prompt, prompt.answer_ids[:1], [-1, prompt.subject_span[1] - 1])
    torch.testing.assert_close(logs[0, 0], whole.log_probability[:, -1])
    assert torch.equal(ranks[0, 1], whole.rank[:, prompt.subject_span[1] - 1])


def test_the_study_says_what_changed(study: EditStudy) -> None:
    assert study.took
    assert study.before.gap < 0 < study.after.gap
    lead = study.after.lens.leads_from()
    assert study.before.lens.leads_from() is None
    assert lead is not None
    assert bool((study.after.lens.probability[1, 0, lead:] > study.after.lens.probability[0, 0, lead:]).all())
    gap = next(measure for measure in study.measures if measure.unit == "logits")
    assert gap.edit == pytest.approx(study.after.gap - study.before.gap)
    assert gap.beyond is True  # FT-M on the very prompt against random directions
    assert (len(gap.scrambled), len(gap.values)) == (2, 1)
    # Effects of edges out of the embedding sum, as the steps of EAP-IG grow, to the gap between clean and ablated.
    circuit = study.after.circuit
    assert -circuit.loss_full == pytest.approx(study.after.gap, abs=1e-3)
    assert json.loads(json.dumps(summary(study)))["took"] is True
    told = page(study).sections[0].explanation
    assert "each of 3 nulls (control edits): random edits of the same size in the same weights" in told
    assert re.search(r"1 values null \d+%, 2 directions nulls \d+% to \d+%", words(study)[0])


def test_a_study_is_saved_and_drawn_again(study: EditStudy, tmp_path: Path) -> None:
    store.save(study, tmp_path)
    back = store.load(tmp_path, EditStudy)
    assert store.same(study, back)
    check_result(study, tmp_path / "out", "EditStudy")
    check_result(study.diff, tmp_path / "diff", "CircuitDiff")
    assert in_words(back) == in_words(study)


def test_an_interrupted_study_goes_on(toy: Any, edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = edit_studies(toy, [edit], SMALL)
    searches: list[str] = []
    plain_search, plain_heads = Experiment.search, Experiment.heads

    def search(self: Experiment, *arguments: Any) -> Any:
        searches.append("one")
        return plain_search(self, *arguments)

    def stop_in_the_edited_model(self: Experiment, prompt: Any) -> Any:
        if fingerprint(toy) != edit.base:
            raise KeyboardInterrupt
        return plain_heads(self, prompt)

    monkeypatch.setattr(Experiment, "search", search)
    monkeypatch.setattr(Experiment, "heads", stop_in_the_edited_model)
    with pytest.raises(KeyboardInterrupt):
        edit_studies(toy, [edit], SMALL, folder=tmp_path)
    assert fingerprint(toy) == edit.base
    assert len(searches) == 2  # before and after
    monkeypatch.setattr(Experiment, "heads", plain_heads)
    (found,) = edit_studies(toy, [edit], SMALL, folder=tmp_path)
    assert len(searches) == 3  # the null's alone
    lines = (tmp_path / JOURNAL).read_text().splitlines()[1:]
    ask = Experiment.of(toy, edit.requests[0], SMALL, edit.start_token)
    assert len(costs(ask, [edit])) == len(lines)  # so the bar ends where the study does
    assert torch.equal(found.after.circuit.scores, whole.after.circuit.scores)
    assert [m.edit for m in found.measures] == [m.edit for m in whole.measures]
    with pytest.raises(UserError, match="other settings"):
        edit_studies(toy, [edit], replace(SMALL, edges=41), folder=tmp_path)


def test_an_edit_of_another_model_and_edits_in_place_are_refused(toy: Any, tiny: Any, edit: Edit) -> None:
    with pytest.raises(EditError, match="load the model it was made for"):
        edit_studies(tiny("llama"), [edit], SMALL)
    with edit.applied(toy), pytest.raises(EditError, match="in place"):
        edit_studies(toy, [edit], SMALL)
    with pytest.raises(UserError, match="nulls"):
        Config(nulls=-1)


def test_acdc_keeps_to_the_divergence(toy: Any, edit: Edit) -> None:
    (found,) = edit_studies(toy, [edit], replace(SMALL, circuit="acdc", metric="kl", edges=None, threshold=0.3, nulls=0,
                                                 split=False, sites=("resid",)))  # fmt: skip
    assert found.before.circuit.task.metric == "kl"
    assert found.before.circuit.loss_full == pytest.approx(0, abs=1e-6)
    assert Config(circuit="acdc").metric == "kl"


# ---- the command and its page ----

QUICK = (
    "--samples",
    1,
    "--edges",
    40,
    "--nulls",
    1,
    "--value-nulls",
    0,
    "--again",
    0,
    "--neighbours",
    0,
    "--model",
    TOY,
)
TUNE = ("--layer", 1, "--set", "steps=40", "--set", "learning_rate=0.003")


def test_methods_side_by_side_and_another_prompt(run_command: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = run_command(
        "circuit", "diff", "[Oda Voss] lives in", "--target", "Vey", "--methods", "ft-m,ft-l", *TUNE, *QUICK,
        "--out", run, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert [each["method"] for each in said["methods"]] == ["ft_m", "ft_l"]
    linked = re.findall(r'href="(\./[^"#]+)"', (run / "page.html").read_text(encoding="utf-8"))
    assert linked == ["./ft_m/page.html", "./ft_l/page.html"]
    assert all((run / page).is_file() for page in linked)
    assert (run / "ft_m" / "result.json").is_file()
    assert not (run / "parts").exists()
    done = run_command(
        "circuit", "diff", "--edit", run / "edits" / "ft_m", "--ask", "[Oda Tavi] lives in", "--old", "Brask", "--new",
        "Vey", *QUICK, "--out", tmp_path / "asked", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["prompt"] == "Oda Tavi lives in"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("diff", "--nulls", "1"), "either a PROMPT"),
        (("diff", "[Oda Voss] lives in"), "--target is missing"),
        (("diff", "[Oda Voss] lives in", "--target", "Vey", "--ask", "x"), "belong together"),
        (("diff", "--edit", "x", "--target", "Vey"), "brings its own"),
        (("diff", "--edit", "nowhere", *QUICK), "not a run folder"),
        (("diff", "[Oda Voss] lives in", "--target", "Vey", "--circuit-method", "magic"), "no circuit method"),
        (("diff", "[Oda Voss] lives in", "--target", "Vey", "--method", "magic", "--model", "nowhere"), "no method"),
        (("diff", "[Oda Voss] lives in", "--target", "Vey", "--restrain", "hug", "--model", "nowhere"), "no restraint"),
        (("diff", "[Oda Voss] lives in", "--target", "Vey", "--set", "restrain.keep=1"), "add --restrain"),
        (("diff", "[Oda Voss] lives in", "--target", "Vey", "--method", "rome", "--layer", "1,2"), "give one number"),
        (("diff", "[Oda Voss] lives in", "--target", "Vey", *QUICK, "--layer", "9"), "no layer 9"),
        (("diff", "[Oda Voss] lives in", "--target", "Vey", *QUICK, "--nulls", "-1"), "at least 0, not -1"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(run_command: Any, arguments: tuple[Any, ...], said: str) -> None:
    done = run_command("circuit", *arguments)
    assert done.exit_code == 2, done.stderr
    assert said in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


PRESS = """
const figure = document.querySelector(".network");
const buttons = [...figure.querySelectorAll(".views button")];
buttons[2].click();
const stage = figure.querySelector(".stage:not([hidden])");
const name = (mark) => mark.querySelector("text").textContent;
const mark = [...stage.querySelectorAll(".node")].find((each) => name(each) === "logits");
mark.dispatchEvent(new MouseEvent("click", { bubbles: true }));
document.body.dataset.pressed = buttons.findIndex((each) => each.getAttribute("aria-pressed") === "true");
document.body.dataset.view = stage.dataset.view;
document.body.dataset.path = stage.querySelectorAll(".edge.on").length;
"""


@needs_chromium
@pytest.mark.browser
def test_the_page_tells_the_story_and_its_buttons_change_the_wiring(study: EditStudy, tmp_path: Path) -> None:
    from factscope.plots.figures.network import first_stage, stages
    from studies.edit_effects.pictures import network

    drawn = network(study)
    counts = [(study.diff.edges_before, "before"), (study.diff.edges_after, "after")]
    for view, (count, name) in zip(drawn.views, counts, strict=False):  # one count of one thing: that of the words
        assert view.name == f"{name}, {count} edges"
        assert f"{count} {name}" in words(study)[0] or f"{count} edges {name}" in words(study)[0]
    path = write_page(page(study), tmp_path / "page.html")
    plain = open_page(path, tmp_path)
    assert plain.console == ()
    assert "drawn-all" in plain.dom
    for heading in (
        "Did the edit take?",
        "Which wiring changed",
        "Which heads turned",
        "Beside changes that mean nothing",
    ):
        assert heading in plain.dom
    opened = open_page(with_script(path, PRESS), tmp_path)
    assert 'data-pressed="2"' in opened.dom
    assert 'data-view="2"' in opened.dom
    node = next(number for number, mark in enumerate(drawn.nodes) if mark.name == "logits")
    stage = stages(drawn)[first_stage(drawn)]
    changed = [drawn.views[2].edges[place] for place in stage.drawn[2]]
    above = {node}
    for _ in drawn.nodes:  # all that leads to the logits in the view that is shown
        above |= {edge.source for edge in changed if edge.target in above}
    lit = sum(edge.source in above and edge.target in above for edge in changed)
    assert f'data-path="{lit}"' in opened.dom


def test_an_edit_beside_the_weights_is_a_node_of_every_graph_and_others_are_refused(toy: Any, fact: Fact) -> None:
    beside = computing.compute("t_patcher", toy, [fact], shown=False)
    (found,) = edit_studies(toy, [beside], replace(SMALL, nulls=0, value_nulls=1))
    (layer,) = beside.layers
    graphs = {side.circuit.graph for side in (found.before, found.after, *found.nulls)}
    assert {graph.beside for graph in graphs} == {(layer,)}
    assert f"b{layer}" in found.diff.nodes_gained
    assert any(entry.edge.startswith(f"b{layer}->") for entry in found.entries)
    shown = page(found)
    assert "The edited weights" not in [section.heading for section in shown.sections]
    told = shown.sections[0].explanation
    assert "after a null (a control edit): a random edit of the same size beside the same layer." in told
    assert " 1 values null " in words(found)[0]
    whole, text = (
        computing.compute(name, toy, [fact], settings, shown=False)
        for name, settings in (("memoe", methods.method("memoe").config_for(toy, {"steps": 2})), ("ice", None))
    )
    for edit, said in ((whole, "looks at whole prompts, and a trace runs parts"), (text, "nothing to see inside")):
        with pytest.raises(EditError, match=said):
            edit_studies(toy, [edit], SMALL)
