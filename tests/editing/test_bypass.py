"""What stands beside the weights: the contract of every method of its kind, and the codebook's table by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import factscope as fs
from benchmarks import closed_gate
from circuits.engine.incremental import Fast
from circuits.engine.reference import Reference
from circuits.graph import Graph
from circuits.task import Task
from editing.bypass import KINDS, Bypass, check, functions, join
from editing.bypasses.codebook import GAP, balls, nearest
from editing.compute import compute, compute_each
from editing.edit import Edit, applied, commit, in_place, revert
from editing.export.folder import export
from editing.merge.stack import merged
from editing.method import method, method_names
from editing.methods.bypass import grace
from editing.nulls import scrambled
from editing.pages import edit as edit_page
from editing.pages.beside import beside
from editing.requests import request, target_prompts
from editing.restraint import restrained
from editing.trained.train import train_editor
from factscope.data.load import load_facts
from factscope.data.shipped import relations
from factscope.errors import EditError
from factscope.model.forward.batched import logits_at, padded
from factscope.model.forward.ends import ending, ends_of
from factscope.model.forward.generate import generate
from factscope.model.forward.scoring import Pair, score, shared
from factscope.model.hooks import record, stand, standing
from factscope.model.prompts import tokenized
from factscope.model.sites import Site
from factscope.model.weights import fingerprint
from factscope.plots.figures.slides import Scatter
from factscope.plots.render import figure
from helpers.models import TOY, hooks_left

BESIDE = [name for name in method_names() if method(name).beside]
# Exemptions, each by definition. CaliNET has no gate: its slots are asked at every token, and what keeps them quiet is
# a penalty. T-Patcher's gate is a half-space of states, and MEMOIR's an overlap of prompts' mean activations, whose
# floors are fitted beside shipped prompts; the toy's own prompts, of four words each, look alike to both. What they owe
# is that the prompts which they were fitted beside stay closed, as every gate does (the second test).
OPEN = ("calinet",)
ALIKE = ("t_patcher", "memoir", *OPEN)
# Of nulls with a random gate: a half-space holds every other prompt, whichever it is, and WISE's distance is a norm, in
# which a shard that reads permuted entries is as far from the projection as the one it was made of.
HALF = ("t_patcher", "wise", *OPEN)
FACTS = (("[Oda Voss] lives in", "Vey"), ("[Mira Drey] speaks", "Norrish"))


@pytest.fixture(scope="module")
def edits(toy: Any) -> dict[str, list[Edit]]:
    """One edit of each fact by every method of the kind."""
    asked = [request(toy, text, target) for text, target in FACTS]
    return {name: compute_each(name, toy, asked, shown=False, **trained(toy, name)) for name in BESIDE}


def trained(model: Any, name: str) -> dict[str, Any]:
    """Of a method that is trained: an editor that learnt the toy's facts, for a few seconds."""
    if method(name).train is None:
        return {}
    facts = [one for relation in ("town", "trade", "tongue") for one in load_facts(TOY / f"toy_{relation}.json")]
    quick = {"layer": 0, "learning_rate": 2e-2, "keep_weight": 0.1, "steps": 60, "every": 60}
    config = method(name).config_for(model, quick)
    editor = train_editor(model, name, facts, config, shown=False)
    return {"editor": editor, "config": config, "allow_trained": True}


def rows_of(model: Any, edit: Edit) -> list[tuple[int, ...]]:
    """The edit's own prompt, and some about other subjects."""
    (own,) = target_prompts(model, edit.requests[0], ("{}",), "auto")
    others = [
        fs.prompt(model, text, answer="Vey").tokens
        for text in ("[Ilse Senn] works as a", "[Mira Drey] lives in", "The capital of [France] is")
    ]
    return [tuple(own.tokens), *map(tuple, others)]


def last(model: Any, rows: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """Logits at the last token of each row."""
    return [one[0] for one in logits_at(model, rows, [[len(row) - 1] for row in rows])]


def closed(model: Any, edit: Edit, rows: list[tuple[int, ...]]) -> list[int]:
    """The rows at which nothing of the edit speaks."""
    (part,) = edit.bypasses
    kind, ids = KINDS.get(part.kind), padded(model, rows)
    site = kind.heard(part)
    with ending(torch.tensor([len(row) - 1 for row in rows]), tokens=ids) as now, record(model, [site]) as seen:
        model(ids)
    spoken = kind.load(part, model)(seen[site], now)
    return [number for number, load in enumerate(spoken) if not load.any()]


# ---- the contract


@pytest.mark.parametrize("name", BESIDE)
def test_a_closed_gate_is_bitwise_the_model_even_beside_an_open_one(toy: Any, edits: Any, name: str) -> None:
    edit = edits[name][0]
    rows = rows_of(toy, edit)
    before = last(toy, rows)
    with edit.applied(toy):
        after = last(toy, rows)
    shut = closed(toy, edit, rows)
    assert 3 in shut or name in OPEN
    assert 0 not in shut
    assert shut == [1, 2, 3] or name in ALIKE
    assert not torch.equal(after[0], before[0])
    assert all(torch.equal(before[number], after[number]) for number in shut)


@pytest.mark.parametrize("name", BESIDE)
def test_a_gate_stays_closed_at_shipped_prompts_or_says_how_many_open_it(toy: Any, edits: Any, name: str) -> None:
    """All are about subjects that the toy has never met; those that calibrate gates are among them."""
    edit = edits[name][0]
    facts = [one.fact(entry, one.templates[0]) for one in relations().values() for entry in one.entries[:4]]
    rows = [tuple(tokenized(toy, fact.prompt, start="auto")[0]) for fact in facts]
    shut = closed(toy, edit, rows)
    said = " ".join(edit.notes)
    assert len(shut) == len(rows) or name in OPEN or "open the gate" in said or "still fire a neuron" in said


@pytest.mark.parametrize("name", BESIDE)
def test_a_batch_is_a_loop_and_what_follows_the_prompt_decides_nothing(toy: Any, edits: Any, name: str) -> None:
    edit = edits[name][0]
    rows = rows_of(toy, edit)
    own, end = rows[0], len(rows[0]) - 1
    with edit.applied(toy):
        together = last(toy, rows)
        for row, logits in zip(rows, together, strict=True):
            torch.testing.assert_close(last(toy, [row])[0], logits, atol=1e-5, rtol=1e-5)
        for more in ((5,), (9, 11, 200)):
            (longer,) = logits_at(toy, [(*own, *more)], [range(end, end + len(more))])
            torch.testing.assert_close(longer[0], together[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_generated_is_what_is_scored_and_the_model_run_directly_says_the_same(
    toy: Any, edits: Any, name: str
) -> None:
    for edit in edits[name]:
        rows = rows_of(toy, edit)
        with edit.applied(toy):
            for row in rows:
                (text,) = generate(toy, [row], 4)
                (said,) = score(toy, [Pair(row, tuple(text))])
                assert said.argmax == tuple(text)
                assert int(toy(torch.tensor([row]))[0, -1].argmax()) == text[0]
            answer = tuple(target_prompts(toy, edit.requests[0], ("{}",), "auto")[0].answer_ids)
            (after,) = score(toy, [Pair(rows[0], answer)])
            if not edit.editor:  # whether a trained editor's edit takes is a matter of its training; it helps, always
                assert tuple(generate(toy, [rows[0]], len(answer))[0]) == answer
        (before,) = score(toy, [Pair(rows[0], answer)])
        assert after.nll < before.nll - 0.5


@pytest.mark.parametrize("name", BESIDE)
def test_prompts_that_begin_alike_are_scored_as_if_alone(toy: Any, edits: Any, name: str) -> None:
    """A longer row begins with the edit's prompt: its gate decides at its own end, and so does the shorter one's."""
    edit = edits[name][0]
    own = rows_of(toy, edit)[0]
    pairs = [Pair(own, (17,)), Pair((*own, 17), (31,)), Pair(own[:-1], (own[-1], 17))]
    with edit.applied(toy):
        together = score(toy, pairs)
        alone = [score(toy, [pair])[0] for pair in pairs]
    assert [one.nll for one in together] == pytest.approx([one.nll for one in alone], abs=1e-5)


@pytest.mark.parametrize("name", BESIDE)
def test_edits_go_in_and_out_in_any_order_and_also_after_an_error(toy: Any, edits: Any, name: str) -> None:
    one, two = edits[name]
    before, hooks = fingerprint(toy), hooks_left(toy)
    commit(toy, [one])
    with_one = fingerprint(toy)
    commit(toy, [two])
    assert len({before, with_one, fingerprint(toy)}) == 3
    revert(toy, [one])
    assert in_place(toy) == (two,)
    revert(toy, [two])
    assert (fingerprint(toy), hooks_left(toy), standing(toy)) == (before, hooks, "")

    def fail() -> None:
        with applied(toy, [one, two]):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (fingerprint(toy), hooks_left(toy)) == (before, hooks)


@pytest.mark.parametrize("name", BESIDE)
def test_a_saved_edit_and_a_merged_one_say_the_same(toy: Any, edits: Any, name: str, tmp_path: Any) -> None:
    rows = [row for edit in edits[name] for row in rows_of(toy, edit)]
    with applied(toy, edits[name]):
        wanted = last(toy, rows)
    loaded = [Edit.load(edit.save(tmp_path / edit.name)) for edit in edits[name]]
    assert [one.digest for one in loaded] == [one.digest for one in edits[name]]
    for some in (loaded, [merged(loaded)]):
        with applied(toy, some):
            assert all(torch.equal(a, b) for a, b in zip(last(toy, rows), wanted, strict=True))


@pytest.mark.parametrize("name", BESIDE)
def test_what_needs_weights_refuses_it_in_one_sentence(toy: Any, edits: Any, name: str, tmp_path: Any) -> None:
    edit = edits[name][0]
    with pytest.raises(EditError, match="stands beside the weights, and an export holds weights"):
        export(toy, [edit], tmp_path / "out")
    assert not list(tmp_path.iterdir())
    with pytest.raises(EditError, match="a restraint thins changes of weights"):
        restrained(toy, [edit], "prune")
    wanted = "beside the weights is in place, whose gate looks at whole prompts"
    with applied(toy, [edit]), pytest.raises(EditError, match=wanted):
        compute("ft_m", toy, [request(toy, "[Oda Voss] works as a", "cook")], shown=False)
    assert not in_place(toy)


@pytest.mark.parametrize("name", BESIDE)
def test_all_edges_of_a_circuit_are_the_edited_model_also_by_the_engine_that_runs_parts(
    toy: Any, edits: Any, name: str
) -> None:
    """What stands there is a node of the graph; the fast engine's own check compares it with the edited model."""
    edit = edits[name][0]
    task = Task((fs.prompt(toy, edit.requests[0].prompt, answer=edit.requests[0].target),), ablation="zero")
    assert method(name).reads_prompts is KINDS.get(edit.bypasses[0].kind).prompts
    with edit.applied(toy):
        reference = Reference(toy, Graph.of(toy), task)
        fast = Fast(reference)
        assert fast.graph.beside == edit.layers
        own = fast.outputs[fast.graph.beside_writer(edit.layers[0])]
        whole = fast.reference.logits(fast.graph.full())
    assert own.abs().max() > 0.1
    # float32: y + (y' - y)
    torch.testing.assert_close(whole, reference.objective.clean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", BESIDE)
def test_a_null_has_the_gate_and_not_the_memory(toy: Any, edits: Any, name: str) -> None:
    edit = edits[name][0]
    rows = rows_of(toy, edit)
    before = last(toy, rows)
    with scrambled(edit, 0, "values").applied(toy):
        values = last(toy, rows)
    with scrambled(edit, 0).applied(toy):
        directions = last(toy, rows)
    assert not torch.equal(values[0], before[0])
    assert all(torch.equal(values[number], before[number]) for number in closed(toy, edit, rows))
    shut = closed(toy, scrambled(edit, 0), rows)
    assert all(torch.equal(directions[number], before[number]) for number in shut)
    assert shut == [0, 1, 2, 3] or name in HALF


def test_a_part_that_does_not_fit_the_model_is_refused(toy: Any, edits: Any) -> None:
    part = edits["grace"][0].bypasses[0]
    for broken, message in (
        (replace(part, layer=99), "layer 99, which this model does not have"),
        (replace(part, tensors={**part.tensors, "keys": torch.zeros(1, 3)}), r"the keys of edit e are \(1, 3\)"),
        (replace(part, tensors={"keys": part.tensors["keys"]}), "has no values"),
        (replace(part, tensors={**part.tensors, "values": part.tensors["values"] * torch.nan}), "not finite"),
    ):
        with pytest.raises(EditError, match=message):
            check(broken, toy, "e")


# ---- where prompts end


def test_a_pass_that_nobody_spoke_for_ends_where_its_rows_do() -> None:
    assert ends_of(2, 5).last.tolist() == [4, 4]
    with ending(torch.tensor([1, 3])):
        assert ends_of(2, 5).last.tolist() == [1, 3]
        with pytest.raises(RuntimeError, match="3 rows where the prompts of 2"):
            ends_of(3, 5)
    assert ends_of(1, 2).last.tolist() == [1]


def test_rows_are_shared_within_their_groups() -> None:
    rows = [(1, 2), (1, 2, 3), (1,)]
    assert shared(rows) == ([(1, 2, 3)], [0, 0, 0])
    hosts, number = shared(rows, [0, 1, 0])
    assert [hosts[i] for i in number] == [(1, 2), (1, 2, 3), (1, 2)]


def test_what_stands_is_called_first_in_order_and_outlives_a_reset(tiny: Any) -> None:
    model, site = tiny("gpt2"), Site("mlp_write", 0)
    tokens, called = torch.tensor([[1, 2, 3]]), []

    def first(_: torch.Tensor) -> None:
        called.append(1)

    def second(y: torch.Tensor) -> torch.Tensor:
        called.append(2)
        return y * 0

    with record(model, [site]) as seen:
        stand(model, "d", [(site, first), (site, second)])
        model(tokens)
        assert not seen[site].any()  # the record was there before, and sees what stands
    model.reset_hooks()
    try:
        model(tokens)
        assert called == [1, 2, 1, 2]
    finally:
        stand(model, "", [])
    assert not hooks_left(model)


# ---- the codebook, by hand in two dimensions


def book(*entries: tuple[tuple[float, float], float, str]) -> Bypass:
    """Entries of (key, reach, target); the value of each is its number."""
    keys, reach, words = zip(*entries, strict=True)
    values = torch.arange(1.0, len(keys) + 1)[:, None].expand(-1, 3).clone()
    tensors = {"keys": torch.tensor(keys).float(), "values": values, "reach": torch.tensor(reach).float()}
    return Bypass("codebook", 0, tensors, {}, tuple(words))


@pytest.mark.parametrize(
    ("entries", "radii", "values"),
    [
        ([((0, 0), 1, "a")], [1], [1]),
        ([((0, 0), 1, "a"), ((5, 0), 1, "b")], [1, 1], [1, 2]),  # far apart
        ([((0, 0), 1, "a"), ((2.5, 0), 1, "b")], [1, 1], [1, 2]),  # further than reach and radius
        ([((0, 0), 1, "a"), ((1.5, 0), 1, "b")], [0.75 - GAP, 0.75], [1, 2]),  # a split: they part in the middle
        ([((0, 0), 1, "a"), ((1.5, 0), 1, "a")], [1.5], [2]),  # the same target: the ball grows and learns on
        ([((0, 0), 1, "a"), ((0.5, 0), 1, "a")], [1], [2]),  # inside already
        ([((0, 0), 1, "a"), ((0, 0), 1, "a")], [1], [2]),  # the same edit twice is one entry
        ([((0, 0), 1, "a"), ((3, 0), 1, "a"), ((1.4, 0), 1, "b")], [0.7 - GAP, 1, 0.7], [1, 2, 3]),  # the nearest
    ],
)
def test_the_table_of_the_codebook(entries: Any, radii: list[float], values: list[int]) -> None:
    found, written, _ = balls(book(*entries))
    assert found.tolist() == pytest.approx(radii)
    assert written[:, 0].tolist() == values


def test_balls_that_were_split_do_not_meet() -> None:
    radii, _, _ = balls(book(((0, 0), 1, "a"), ((1.5, 0), 1, "b")))
    assert float(radii.sum()) < 1.5


def test_one_key_with_two_targets_is_refused() -> None:
    with pytest.raises(EditError, match="one key is asked for two targets, 'a' and 'b'"):
        balls(book(((0, 0), 1, "a"), ((0, 0), 1, "b")))


def test_taking_an_edit_out_of_the_middle_leaves_what_the_others_give() -> None:
    one, two, three = (book(entry) for entry in (((0, 0), 1, "a"), ((1.5, 0), 1, "b"), ((8, 0), 1, "c")))
    assert balls(join([one, two, three])[0])[0].tolist() == pytest.approx([0.75 - GAP, 0.75, 1])
    assert balls(join([one, three])[0])[0].tolist() == [1, 1]


def test_a_query_falls_into_its_nearest_ball_or_none() -> None:
    keys, radii = torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([1.0, 0.5])
    queries = torch.tensor([[0.0, 0.0], [0.9, 0.0], [1.4, 0.0], [2.4, 0.0], [2.6, 0.0], [9.0, 9.0]])
    assert nearest(keys, radii, queries).tolist() == [0, 0, -1, -1, 1, -1]


def test_the_value_stands_at_the_prompts_end_and_nowhere_else(toy: Any) -> None:
    part = book(((0, 0), 1, "a"))
    (_, read), (_, write) = functions([part], toy)
    x, y = torch.full((2, 3, 2), 9.0), torch.zeros(2, 3, 3)
    x[0, 1], x[1, 2] = 0, 0  # the second row's prompt ends before its key would be met
    with ending(torch.tensor([1, 1])):
        read(x)
        out = write(y)
    assert out is not None
    assert out[0].tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert not out[1].any()
    with ending(torch.tensor([1, 1]), begun=2):  # a pass that goes on behind the prompts
        read(x)
        assert write(y) is None


def test_the_page_draws_the_balls_of_all_edits_together(edits: Any) -> None:
    drawn = beside(edits["grace"])
    (picture,) = [spec for spec in drawn if isinstance(spec, Scatter)]
    radii, _, _ = balls(join([edit.bypasses[0] for edit in edits["grace"]])[0])
    assert picture.groups[0].radii == tuple(radii.tolist())
    assert picture.groups[0].labels == ("Vey", "Norrish")
    assert len(figure(picture).layout.shapes) == 2
    assert figure(picture).data[0].text == ("Vey", "Norrish"), "few points have their names beside them"
    one, two = (edit.bypasses[0].tensors["keys"][0].double() for edit in edits["grace"])
    assert f"{float((one - two).norm()):.3g} apart in all dimensions" in picture.note
    many = replace(picture.groups[0], x=np.arange(13), y=np.arange(13), labels=("Vey",) * 13)
    assert figure(replace(picture, groups=(many,))).data[0].text is None
    assert beside([replace(edits["grace"][0], bypasses=())]) == ()
    assert "stands beside layer 3" in " ".join(edit_page.words(edits["grace"][0]))


# ---- GRACE


def test_limits_of_the_reach(toy: Any) -> None:
    """A ball of hardly any width holds its own prompt alone; one that holds everything is refused."""
    asked = request(toy, *FACTS[0])
    spec = method("grace")
    prompt = fs.prompt(toy, FACTS[0][0], answer="Vey")
    edit = compute(spec, toy, [asked], spec.config_for(toy, {"reach": 1e-4}), shown=False)
    with edit.applied(toy):
        assert score(toy, [Pair(tuple(prompt.tokens), tuple(prompt.answer_ids))])[0].exact
    wide = compute(spec, toy, [asked], spec.config_for(toy, {"reach": 50.0}), shown=False)
    assert "smaller for 1 of 1 facts" in wide.notes[0]
    near, far = (edit.bypasses[0].tensors["reach"] for edit in (edit, wide))
    assert near < far
    others = [
        fs.prompt(toy, text, answer="Vey").tokens for text in ("The capital of [France] is", "[Mira Drey] lives in")
    ]
    before = last(toy, others)
    with wide.applied(toy):
        assert torch.equal(last(toy, others)[0], before[0])
    with pytest.raises(EditError, match="reach is 0, and must be above 0"):
        compute(spec, toy, [asked], spec.config_for(toy, {"reach": 0.0}), shown=False)


def test_one_edit_of_many_facts_is_many_edits_of_one(toy: Any, edits: Any) -> None:
    asked = [request(toy, text, target) for text, target in FACTS]
    (whole,) = compute("grace", toy, asked, shown=False).bypasses
    parts = [edit.bypasses[0] for edit in edits["grace"]]
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(tensor, torch.cat([part.tensors[name] for part in parts]), atol=1e-4, rtol=1e-4)
    alone = compute("grace", toy, asked[:1], shown=False).bypasses[0]
    torch.testing.assert_close(alone.tensors["values"], parts[0].tensors["values"], atol=1e-3, rtol=1e-3)


def test_another_question_about_the_subject_is_answered_as_before(toy: Any, edits: Any) -> None:
    row = tuple(fs.prompt(toy, "[Oda Voss] works as a", answer="cook").tokens)
    before = last(toy, [row])[0]
    with edits["grace"][0].applied(toy):
        assert torch.equal(last(toy, [row])[0], before)


def test_a_value_begins_as_what_is_written_there(toy: Any) -> None:
    config = method("grace").config_for(toy, {"stop": 1e3})  # where no step is taken
    (part,) = compute("grace", toy, [request(toy, *FACTS[0])], config, shown=False).bypasses
    prompt = fs.prompt(toy, FACTS[0][0], answer="Vey")
    site = Site("mlp_write", part.layer)
    with record(toy, [site]) as seen:
        toy(prompt.tensor())
    torch.testing.assert_close(part.tensors["values"][0], seen[site][0, -1], atol=1e-5, rtol=1e-5)
    assert grace.METHOD.beside


# ---- the benchmark


@pytest.mark.parametrize("how", ["--counts", "--repeats=4"])
def test_the_benchmark_tries_methods_that_are_trained_as_well(
    toy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    editor = trained(toy, "remedi")["editor"].save(tmp_path / "editor")
    words = ["--methods", "t_patcher,wise,remedi", "--editor", str(editor), "--facts", "2", "--model", str(TOY), how]
    closed_gate.main(words)
    *lines, last_line = capsys.readouterr().out.splitlines()
    found = json.loads(last_line)
    assert [line.partition(":")[0] for line in lines] == ["t_patcher", "wise", "remedi"] == list(found)[2:]
    assert found["remedi"]["same"]  # no prompt names its entities
    if how == "--counts":
        assert found["wise"]["products"] > 0 == found["remedi"]["products"]
        assert all(one["calls"] > 0 for one in list(found.values())[2:])
    with pytest.raises(EditError, match="remedi edits with an editor that was trained"):
        closed_gate.main(["--methods", "remedi", "--model", str(TOY)])
