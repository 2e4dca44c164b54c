"""What is kept of a circuit: evaluation, roles, files, pages; saved and loaded, exported and imported, drawn."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
import torch

from circuits.analysis.diff import diff
from circuits.analysis.faithfulness import Evaluation, by_length, evaluate, random_circuit, random_degrees
from circuits.analysis.head_roles import ROLES, AnswerReading, Roles, roles, source_writes
from circuits.analysis.layers import Profile, profile
from circuits.circuit import Circuit
from circuits.engine.incremental import Fast
from circuits.engine.reference import Reference
from circuits.engine.writes import attention_biases, writes
from circuits.find import find
from circuits.formats import FORMATS, export, graph_of, imported, read_edges, to_json, to_networkx, unknown_task
from circuits.graph import Graph
from circuits.pages import diff as diff_pages
from circuits.pages import layers as layer_pages
from circuits.pages.circuit import page, summary, words
from circuits.scorers.eap import EAP
from circuits.search.acdc import ACDC
from factscope.errors import GraphError, StoreError, UserError
from factscope.model.known import Known
from factscope.model.prompts import make_prompt
from factscope.model.readout import readout
from factscope.plots.page import write_page
from factscope.runs import store
from helpers.browser import needs_chromium, open_page, with_script
from helpers.circuits import double, task
from helpers.results import check_result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return double("llama", tmp_path_factory.mktemp("double"), "float32")


@pytest.fixture(scope="module")
def circuit(model: Any) -> Circuit:
    return find(model, task(model, rows=2), ACDC(0.02, certify=0.1))


def test_a_circuit_is_saved_and_loaded(circuit: Circuit, tmp_path: Path) -> None:
    back = store.load(store.save(circuit, tmp_path / "run"), Circuit)
    assert store.same(back, circuit)
    assert [vars(d) | {"tie": False} for d in back.decisions()] == [
        vars(d) | {"tie": False} for d in circuit.decisions()
    ]
    assert back.nodes() == circuit.nodes()


def test_the_full_graph_is_perfectly_faithful_and_the_empty_one_not_at_all(model: Any, circuit: Circuit) -> None:
    graph = circuit.graph
    for mask, wanted in ((graph.full(), 1.0), (graph.empty(), 0.0)):
        mask[0, -1] = True if wanted else mask[0, -1]
        whole = replace(circuit, kept=torch.from_numpy(mask))
        if wanted:
            found = evaluate(model, whole, n_random=1)
            assert abs(found.faithfulness - wanted) < 1e-4
            assert found.kl < 1e-5
            assert found.found.circuit == found.found.full
            assert abs(float(found.faithfulness_by_size[-1]) - 1) < 1e-4
    assert abs(replace(circuit, loss_circuit=circuit.loss_empty).faithfulness) < 1e-9


def test_an_evaluation_adds_up(model: Any, circuit: Circuit, tmp_path: Path) -> None:
    held_out = (make_prompt(model, "Today, [Oda Voss] lives in", answer="Brask"),)
    found = evaluate(model, circuit, held_out, known=Known.top(10**6), n_random=3)
    assert found.held_out is not None
    assert (found.found.n, found.held_out.n) == (2, 1)
    assert found.held_out_all == found.held_out
    neither = evaluate(model, circuit, held_out, n_random=3)
    assert neither.held_out is None  # the answer is not among the first ten
    assert neither.held_out_all == found.held_out  # and is asked for all the same
    assert len(found.minimality) == circuit.n_edges
    reference = Reference(model, circuit.graph, circuit.task)
    for place, (number, writer) in list(enumerate(np.argwhere(circuit.mask.T)))[::7]:
        cut = circuit.mask
        cut[writer, number] = False
        measured = abs(reference.loss(cut) - reference.loss(circuit.mask))
        assert abs(measured - float(found.minimality[place])) < 1e-4
    assert found.faithfulness_by_signed_size is not None
    assert abs(found.cpr - float(torch.trapezoid(found.faithfulness_by_signed_size, found.sizes))) < 1e-6
    assert set(found.by_ablation) == {"zero", "mean", "mean_overall", "counterfactual"}
    assert abs(found.by_ablation["zero"] - found.faithfulness) < 1e-4
    assert store.same(store.load(store.save(found, tmp_path / "run"), Evaluation), found)


@pytest.mark.parametrize("ablation", ["counterfactual", "mean"])
def test_held_out_prompts_are_ablated_as_the_circuits_own(model: Any, ablation: str) -> None:
    """With all edges kept nothing is ablated; with none kept a prompt gives what its own twin or mean gives."""
    own = task(model, "nll", ablation, 2)
    answers = {
        "Oda Voss": "Brask",
        "Mira Drey": "Vey",
        "Ilse Senn": "Brask",
        "Pello Hallin": "Vey",
        "Oda Drey": "Brask",
        "Ilse Voss": "Vey",
    }
    prompts = [make_prompt(model, f"[{name}] lives in", answer=answer) for name, answer in answers.items()]
    alone = make_prompt(model, "Today and tomorrow, [Oda Voss] lives in", answer="Brask")
    notes: list[str] = []
    (tried,) = by_length(replace(own, reference=tuple(prompts), corrupt=tuple(prompts[:2])), [*prompts, alone], notes)
    assert tried.ablation == ablation
    assert tried.prompts == tuple(prompts)
    assert len(notes) == 1 and "1 of 7" in notes[0]  # noqa: PT018
    reference = Reference(model, Graph.of(model), tried)
    nothing = reference.logits(reference.graph.empty())
    if ablation == "counterfactual":
        assert all(a.answer_ids[0] != b.answer_ids[0] for a, b in zip(tried.prompts, tried.corrupt, strict=True))
        twins = model(torch.tensor([prompt.tokens for prompt in tried.corrupt]), use_cache=False)[:, -1]
        torch.testing.assert_close(nothing, twins, atol=1e-4, rtol=0)  # float32
    else:
        seen = writes(model, reference.graph, torch.tensor([prompt.tokens for prompt in prompts]))
        for row in range(len(prompts)):  # the mean of the others
            state = sum(attention_biases(model)) + seen[:, [i for i in range(len(prompts)) if i != row], -1].mean(
                1
            ).sum(0)
            wanted = model.unembed(model.ln_final(state[None, None]))[0, 0]
            torch.testing.assert_close(nothing[row], wanted, atol=1e-4, rtol=0)  # float32
    assert reference.objective.hit(reference.logits(reference.graph.full())) == reference.objective.hit(
        reference.objective.clean
    )


def test_the_areas_are_mibs(model: Any) -> None:
    """CPR takes edges by signed score, CMD by its size, the largest wherever they are, less those on no path."""
    circuit = find(model, task(model, rows=2), EAP(edges=40))
    found, graph = evaluate(model, circuit, n_random=1), circuit.graph
    reference = Reference(model, graph, circuit.task)
    ends = reference.loss(graph.full()), reference.loss(graph.empty())
    areas = []
    for order in (circuit.scores, circuit.scores.abs()):
        ranked = [tuple(pair) for pair in torch.argwhere(torch.from_numpy(graph.allowed)).tolist()]
        ranked.sort(key=lambda pair: -float(order[pair]))
        values = []
        for share in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
            kept = graph.empty()
            for pair in ranked[: max(1, round(share * graph.n_edges))]:
                kept[pair] = True
            values.append((reference.loss(graph.pruned(kept)) - ends[1]) / (ends[0] - ends[1]))
        steps = np.diff([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
        values = values if order is circuit.scores else [abs(1 - value) for value in values]
        areas.append(sum(step * (a + b) / 2 for step, a, b in zip(steps, values, values[1:], strict=False)))
    assert found.cpr == pytest.approx(areas[0], abs=1e-4)
    assert found.cmd == pytest.approx(areas[1], abs=1e-4)


def test_a_tie_counts_against_the_answer(model: Any) -> None:
    """All logits alike: the answer is no more probable than any other token, so it is the last, not the first."""
    objective = Reference(model, Graph.of(model), task(model)).objective
    alike = torch.zeros_like(objective.clean)
    assert objective.ranks(alike) == (alike.shape[-1],)
    alike[0, objective.targets[0].answer] = 1.0
    assert objective.ranks(alike) == (1,)


def test_random_circuits_keep_size_and_degrees() -> None:
    graph, generator = Graph(3, 4, 2), np.random.default_rng(0)
    kept = random_circuit(graph, 40, generator)
    assert kept.sum() == 40
    assert not (kept & ~graph.allowed).any()
    again = random_degrees(graph, kept, generator)
    assert (again.sum(0) == kept.sum(0)).all()
    assert not (again & ~graph.allowed).any()
    assert (again != kept).any()


def test_circuits_are_averaged_by_layer(model: Any, circuit: Circuit, tmp_path: Path) -> None:
    """Twice the same circuit averages to itself, with no error; two different ones to their mean."""
    one = roles(model, circuit, shuffles=2)
    same = profile(["a", "b"], [one, one])
    torch.testing.assert_close(same.active_heads.value, one.active_heads)
    torch.testing.assert_close(same.curves["rank, full"].value, one.curves["rank, full"])
    assert float(same.curves["probability, full"].error.abs().max()) == 0
    whole = roles(model, replace(circuit, kept=torch.from_numpy(circuit.graph.full())), shuffles=2)
    both = profile(["a", "b"], [one, whole])
    assert (whole.active_heads == 1).all() and (whole.active_mlps == 1).all()  # noqa: PT018
    torch.testing.assert_close(both.active_heads.value, (one.active_heads + 1) / 2)
    product = one.curves["rank, circuit"] * whole.curves["rank, circuit"]
    torch.testing.assert_close(both.curves["rank, circuit"].value, product.sqrt())
    assert store.same(store.load(store.save(both, tmp_path / "run"), Profile), both)
    check_result(both, tmp_path, "Profile")
    alone = profile(["a"], [one])
    assert alone.active_heads.error.isnan().all()
    assert write_page(layer_pages.page(both), tmp_path / "page.html").exists()
    assert one.run is not None
    other = replace(one, run=replace(one.run, fingerprint="another"))
    with pytest.raises(UserError, match="2 models"):
        profile(["a", "b"], [one, other])


def test_a_circuit_of_another_model_is_not_evaluated(circuit: Circuit, tmp_path: Path) -> None:
    other = double("gpt2", tmp_path, "float32")
    with pytest.raises(UserError, match="other weights"):
        evaluate(other, circuit)
    for ask in (lambda: evaluate(other, replace(circuit, run=None)), lambda: roles(other, circuit)):
        with pytest.raises(GraphError, match=r"another model: they are of the graph of \d+ layers .* this model's are"):
            ask()


def test_attribution_by_source_adds_up_to_the_heads_own(model: Any, circuit: Circuit, tmp_path: Path) -> None:
    """D_S + D_R + D_rest, with what the head read at the sink, is its whole direct attribution."""
    circuit = replace(circuit, task=replace(circuit.task, prompts=circuit.task.prompts[:1], corrupt=()))
    found = roles(model, circuit, ("Brask", "Vey"), shuffles=20)
    assert sum(found.counts.values()) == len(found.heads)
    assert set(found.counts) == set(ROLES)
    fast = Fast(Reference(model, circuit.graph, circuit.task))
    end = circuit.task.n_positions - 1
    final = fast.inputs[circuit.graph.reader_index["logits"]][0, end]
    reading = AnswerReading(readout(model), final, circuit.task.prompts[0].answer_ids[0])
    for head in found.heads:
        assert 0 <= head.attention_subject + head.attention_relation <= 1 + 1e-6
        whole = next(part.direct_effect for part in found.components if part.name == head.name)
        parts = head.direct_subject + head.direct_relation + head.direct_rest
        sink = float(reading.direct(source_writes(fast, head.name, end)[1][0]))
        assert parts + sink == pytest.approx(whole, abs=1e-5)  # float32, eight source tokens
    first = circuit.task.prompts[0]
    written = writes(model, circuit.graph, torch.tensor([first.tokens]))
    last = written.sum(0)[0, -1]
    logits = model.unembed(model.ln_final(last[None, None]))[0, 0]
    rank = 1 + int((logits > logits[first.answer_ids[0]]).sum())
    assert int(found.curves["rank, full"][-1]) == rank  # the last state's lens is the model
    assert found.curves["probability, full"][-1] == pytest.approx(
        float(logits.softmax(-1)[first.answer_ids[0]]), abs=1e-5
    )
    assert store.same(store.load(store.save(found, tmp_path / "run"), Roles), found)


@pytest.mark.parametrize("form", FORMATS)
def test_exports_hold_every_drawn_edge(circuit: Circuit, tmp_path: Path, form: str) -> None:
    path = export(circuit, tmp_path / f"c.{form}", form)
    wanted = to_networkx(circuit)
    if form in ("graphml", "gexf"):
        back = networkx.read_graphml(path) if form == "graphml" else networkx.read_gexf(path)
        assert set(back.edges) == set(wanted.edges)
        for one, other, data in back.edges(data=True):
            assert data["score"] == pytest.approx(wanted[one][other]["score"])
        if form == "gexf":
            with pytest.raises(StoreError, match="is GEXF, which is for drawing"):
                read_edges(path.read_text(), str(path))
            return
        assert back.graph["ablation"] == "zero"
        again = imported(path, graph_of(path.read_text()), circuit.task)
        assert again.graph == circuit.graph
        assert (again.mask == circuit.drawn).all()
    elif form == "json":
        back_circuit = imported(path, circuit.graph, circuit.task)
        assert (back_circuit.mask == circuit.mask).all()
        assert torch.equal(back_circuit.scores[back_circuit.kept], circuit.scores[circuit.kept])
        assert graph_of(path.read_text()) == circuit.graph
    else:
        with pytest.raises(StoreError, match="Factscope's own DOT"):
            read_edges(path.read_text(), str(path))
        lines = re.findall(r'"(\S+)" -> "(\S+)" \[score="([^"]+)"', path.read_text())
        assert {f"{a}->{b}" for a, b, _ in lines} == set(circuit.graph.names(circuit.drawn))


def test_a_drawing_of_eap_calls_the_embedding_input(tmp_path: Path) -> None:
    text = """strict digraph "" {
    "input" -> "a0.h1" [penwidth=5.0];
    "a0.h1" -> "m1" [color="#000000",
        penwidth=0.6];
    "m1" -> "logits" [penwidth=2.5];
}"""
    assert read_edges(text, "x")[0] == {"embed->a0.h1": 2.5, "a0.h1->m1": 0.3, "m1->logits": 1.25}
    (tmp_path / "g.gv").write_text(text)
    assert imported(tmp_path / "g.gv", graph_of(text), unknown_task("The capital")).kept.sum() == 3


def test_a_drawing_of_knowledge_circuits_is_read(tmp_path: Path) -> None:
    text = """digraph "" {
    embed [color="#ff0000", pos="1,2"];
    embed -> "<a0.1>" [color="#e", penwidth=0.6];
    "<a0.1>" -> "<m1>" [penwidth="1.7", pos="e,1,2 3,4"];
    "<m1>" -> "<resid_post>" [color=red, penwidth=2];
    embed -> "<resid_post>";
}"""
    edges, source, notes = read_edges(text, "x")
    assert source == "Knowledge Circuits"
    assert edges == {"embed->a0.h1": 0.3, "a0.h1->m1": 0.85, "m1->logits": 1.0, "embed->logits": 0.0}
    assert notes
    graph = graph_of(text)
    assert (graph.n_layers, graph.n_heads, graph.split) == (2, 2, False)
    (tmp_path / "g.gv").write_text(text)
    found = imported(tmp_path / "g.gv", graph, unknown_task("The capital"))
    assert found.n_edges == 4
    split = imported(tmp_path / "g.gv", Graph(2, 2, 2), unknown_task("The capital"))
    assert split.n_edges == 4 + 2  # one whole head becomes q, k and v


def test_a_graph_of_eap_ig_is_read(tmp_path: Path) -> None:
    document = {
        "cfg": {"n_layers": 2, "n_heads": 4, "parallel_attn_mlp": False},
        "nodes": {"input": {"in_graph": True}},
        "edges": {
            "input->a0.h3<k>": {"score": 0.5, "in_graph": True},
            "input->m0": {"score": -0.2, "in_graph": False},
            "a0.h3->logits": {"score": -1.5, "in_graph": True},
        },
    }
    path = tmp_path / "g.json"
    path.write_text(json.dumps(document))
    graph = graph_of(path.read_text())
    found = imported(path, graph, unknown_task("x"))
    assert found.graph.names(found.mask) == ["embed->a0.h3.k", "a0.h3->logits"]
    assert float(found.scores[graph.edge("a0.h3->logits")]) == -1.5
    grouped = imported(path, Graph(2, 4, 2), unknown_task("x"))
    assert "embed->a0.h1.k" in grouped.graph.names(grouped.mask)  # head 3 reads the keys of group 1


OWN = '{"kind": "factscope circuit", "graph": {"n_layers": 2, "n_heads": 2, "n_kv_heads": 2}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not readable JSON"),
        ("{}", "neither"),
        ("hello", "neither"),
        ("digraph {}", "no edges"),
        ("digraph circuit {", "JSON of circuit export"),
        ("<p>hello", "no GraphML"),
        ("<graphml></graphml>", "GraphML"),
        (OWN + "}", 'no list "edges"'),
        (OWN + ', "edges": {"embed->logits": 1}}', 'no list "edges"'),
        (OWN + ', "edges": [7]}', "edge 1 .* no name"),
        (OWN + ', "edges": [{"score": 1}]}', "edge 1 .* no name"),
        (OWN + ', "edges": [{"edge": "embed->m0", "score": 1}, {"edge": "embed->logits"}]}', "edge 2 .*embed->logits"),
        (OWN + ', "edges": [{"edge": "embed->logits", "score": "much"}]}', "edge 1 .*embed->logits.* no number"),
        ('{"edges": {"input->a0.h9<q>": {"in_graph": true}}}', "a0.h9"),
        ('{"edges": {"input->mlp7": {"in_graph": true}}}', "mlp7"),
    ],
)
def test_a_bad_file_is_told_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "g.json"
    path.write_text(text)
    with pytest.raises((StoreError, GraphError), match=said):
        imported(path, Graph(2, 2, 2), unknown_task("x"))


def test_a_difference_is_symmetric_and_zero_with_itself(model: Any, circuit: Circuit) -> None:
    other = find(model, task(model, rows=2), EAP(edges=40))
    there, back = diff(circuit, other), diff(other, circuit)
    assert there.gained == back.lost
    assert there.jaccard == back.jaccard
    assert len(there.shared) + len(there.gained) == other.n_edges
    assert float(there.by_layer.sum()) == len(there.shared) + len(there.gained) + len(there.lost)
    same = diff(circuit, circuit)
    assert (same.gained, same.lost, same.jaccard) == ((), (), 1.0)
    assert same.jaccard_random < 1.0
    whole = find(model, task(model), ACDC(0.02), split=False)
    with pytest.raises(GraphError, match="different graphs"):
        diff(circuit, whole)


def test_a_file_without_its_graph_is_told_in_a_sentence() -> None:
    for graph in ("", ', "graph": {"heads": 2}', ', "graph": 3'):
        with pytest.raises(StoreError, match='"graph"'):
            graph_of('{"kind": "factscope circuit", "edges": []' + graph + "}")


def test_several_prompts_are_summed_up_by_their_share(circuit: Circuit) -> None:
    """Two prompts: answers at 3 and 11 in the circuit are half; one prompt has its rank."""
    said = words(replace(circuit, rank_circuit=(3, 11), rank_full=(1, 10)))
    assert "50% of 2 prompts (full model: 100%)" in said
    assert "Brask" not in said
    one = replace(circuit.task, prompts=circuit.task.prompts[:1], corrupt=())
    assert "Brask at rank 3 (full model: 1)" in words(replace(circuit, task=one, rank_circuit=(3,), rank_full=(1,)))


def test_the_summary_is_for_programs(circuit: Circuit) -> None:
    said = json.loads(json.dumps(summary(circuit)))
    assert said["edges"] == circuit.n_edges
    assert json.loads(json.dumps(to_json(circuit)))["convention"] == circuit.convention


CLICK = """
const figure = document.querySelector(".network");
const name = (mark) => mark.querySelector("text").textContent;
const stage = figure.querySelector(".stage:not([hidden])");
const mark = [...stage.querySelectorAll(".node")].find((each) => name(each) === "logits");
mark.dispatchEvent(new MouseEvent("click", { bubbles: true }));
document.body.dataset.lit = stage.querySelectorAll(".edge.on").length;
document.body.dataset.lines = stage.querySelectorAll(".edge").length;
document.body.dataset.told = figure.querySelector(".told").textContent;
document.body.dataset.height = document.documentElement.scrollHeight;
"""


@needs_chromium
@pytest.mark.browser
def test_the_page_opens_and_a_chosen_node_shows_its_paths(model: Any, circuit: Circuit, tmp_path: Path) -> None:
    evaluation, found = evaluate(model, circuit, n_random=2), roles(model, circuit, shuffles=5)
    path = write_page(page(circuit, evaluation, found), tmp_path / "page.html")
    opened = open_page(with_script(path, CLICK), tmp_path)
    assert "drawn-all" in opened.dom
    lit, lines, height = (
        int(re.search(rf'data-{name}="(\d+)"', opened.dom)[1])  # type: ignore[index]
        for name in ("lit", "lines", "height")
    )
    assert lit == lines > 0  # all that is drawn leads to the logits
    assert height < 6000
    assert path.stat().st_size < 3e6
    drawn = to_networkx(circuit)
    assert f"reads from: {drawn.in_degree('logits')}" in opened.dom
    assert not [line for line in opened.console if "Error" in line]
    diff_path = write_page(diff_pages.page(diff(circuit, circuit)), tmp_path / "diff.html")
    assert "drawn-all" in open_page(diff_path, tmp_path).dom
