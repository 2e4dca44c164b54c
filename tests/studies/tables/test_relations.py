"""Circuits of many relations: counts that can be made by hand, and the toy from end to end."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits.scorers.eap import EAP
from factscope.data.fact import Fact
from factscope.errors import StoreError, UserError
from factscope.model.prompts import prompt_of
from factscope.runs.provenance import Run
from helpers.models import TOY
from helpers.results import check_result
from studies.pages.relations import records, words
from studies.tables import relations as recipe
from studies.tables.relations import (
    Curve,
    Hit10,
    RelationCircuit,
    RelationTable,
    TableOptions,
    by_relation,
    curves_of,
    domain_of,
    hit10,
    overlap,
    pooled,
    relation_table,
    shared_by_chance,
    shared_heads,
)
from tracing.logit_lens import lens

HOW = TableOptions(method=EAP(edges=40), split=False, examples=2, held_out=4, random=1)
HIT = Hit10(4, 0.5, 1.0, 0.25, 0.25)


def _row(relation: str, heads: dict[str, str], known: int = 1, curve: Curve | None = None) -> RelationCircuit:
    flat = curve or Curve((0.0,), (0.0,))
    curves = dict.fromkeys(recipe.CURVES, flat)
    return RelationCircuit(
        relation, "all", 9, known, 5, 0.1, 0.9, HIT, None, HIT, heads, (0.5,), (1.0,), curves, 1.0, ()
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as LRE's: relations below kinds of knowledge, and one that the toy knows nothing of."""
    top = tmp_path_factory.mktemp("facts")
    for name, kind in (("town", "where"), ("trade", "what")):
        (top / kind).mkdir()
        shutil.copy(TOY / f"toy_{name}.json", top / kind)
    nothing = json.loads((TOY / "toy_town.json").read_text())
    nothing["facts"] = [{"subject": "Oda Voss", "answer": answer} for answer in ("zq",)]
    (top / "what" / "nothing.json").write_text(json.dumps(nothing | {"relation": "nothing"}))
    return top


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the table's journal is."""
    return tmp_path_factory.mktemp("table")


@pytest.fixture(scope="module")
def table(toy: Any, folder: Path, kept: Path) -> RelationTable:
    """Of two relations first, then of all three."""
    part = relation_table(toy, str(folder), ("toy_town", "nothing"), HOW, folder=kept, shown=False)
    assert [row.relation for row in part.rows] == ["toy_town"]
    return relation_table(toy, str(folder), (), HOW, folder=kept, shown=False)


def test_every_relation_has_a_row_or_a_reason(table: RelationTable, tmp_path: Path) -> None:
    assert {row.relation: row.domain for row in table.rows} == {"toy_trade": "what", "toy_town": "where"}
    assert "the model knows none of the 1 facts" in table.left_out["nothing"]
    for row in table.rows:
        assert (row.found.n, row.all_test is not None and row.all_test.n) == (2, 4)
        assert 0 < row.edges <= 40
        assert row.found.model == 1.0  # known facts, by definition
    said = "\n".join(words(table))
    assert "Without a circuit: nothing (" in said
    check_result(table, tmp_path, "RelationTable")


def test_what_is_in_the_journal_is_not_searched_again(
    toy: Any, folder: Path, table: RelationTable, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def counted(*given: Any) -> RelationCircuit:
        asked.append(given[2][0].relation)
        raise UserError("none")

    monkeypatch.setattr(recipe, "relation_circuit", counted)
    assert relation_table(toy, str(folder), (), HOW, folder=kept, shown=False).rows == table.rows
    part = relation_table(toy, str(folder), ("toy_town",), HOW, folder=kept, shown=False)
    assert part.rows == (table.rows[-1],)
    lines = [json.loads(line) for line in (kept / "journal.jsonl").read_text().splitlines()]
    assert [line.get("row", {}).get("relation") for line in lines[1:]] == ["toy_town", None, "toy_trade"]
    assert asked == []
    other = replace(HOW, examples=3)
    with pytest.raises(StoreError, match="begun with other settings"):
        relation_table(toy, str(folder), (), other, folder=kept, shown=False)


def test_hits_are_those_of_the_engines_ranks() -> None:
    """The circuit has two of three, the model one; random circuits by which mask they are."""
    ranks = {1: (1, 10, 11), 2: (1, 99, 99), 3: (10, 10, 10)}  # by the number of kept edges

    class Engine:
        def clean_ranks(self) -> tuple[int, ...]:
            return (10, 11, 12)

        def ranks(self, kept: np.ndarray) -> tuple[int, ...]:
            return ranks[int(kept.sum())]

    one, two, three = (np.arange(3) < n for n in (1, 2, 3))
    assert hit10([Engine()], one, [two, three], [two]) == Hit10(3, 1 / 3, 2 / 3, 4 / 6, 1 / 3)
    empty = hit10([], one, [two], [two])
    assert empty.n == 0
    assert np.isnan([empty.model, empty.circuit, empty.random, empty.degrees]).all()


def test_the_way_up_is_the_lens_of_every_prompt(toy: Any, folder: Path) -> None:
    prompts = [prompt_of(toy, fact) for fact in by_relation(str(folder), ("toy_town",))["toy_town"][:3]]
    found = curves_of(toy, prompts)
    own = [lens(toy, prompt) for prompt in prompts]
    chance = torch.stack([one.log_probability[:, -1].double().exp() for one in own])
    np.testing.assert_allclose(found["probability"].mean, chance.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["probability"].square, chance.square().mean(0), atol=1e-6)
    places = [list(prompt.subject_positions) for prompt in prompts]
    best = torch.stack([one.rank[:, at].amin(1).double().log() for one, at in zip(own, places, strict=True)])
    np.testing.assert_allclose(found["log rank at the subject"].mean, best.mean(0), atol=1e-6)


def test_prompts_and_not_relations_are_averaged() -> None:
    """One relation of one fact at 4, one of three facts at 0, 0 and 2: the mean is 1.5 of four."""
    three = Curve((2 / 3,), (4 / 3,))
    rows = [_row("a", {}, 1, Curve((4.0,), (16.0,))), _row("b", {}, 3, three)]
    mean, error = pooled(rows, "probability")
    values = np.array([4.0, 0.0, 0.0, 2.0])
    np.testing.assert_allclose([mean[0], error[0]], [values.mean(), values.std(ddof=1) / 2])


def test_shared_heads_beside_chance(toy: Any) -> None:
    """Two circuits of two of four heads: a head is in both by chance with 1/4, so one head is expected."""
    rows = (_row("a", {"a0.h1": "mover", "a1.h0": "none"}), _row("b", {"a0.h1": "relation", "a0.h0": "none"}))
    made = RelationTable("x", rows, {}, 4, 50, {}, Run.of(toy, 0))
    assert [(head.name, len(head.relations)) for head in shared_heads(made)] == [
        ("a0.h1", 2), ("a0.h0", 1), ("a1.h0", 1),
    ]  # fmt: skip
    assert shared_by_chance(made, 2) == pytest.approx(1.0)
    assert shared_by_chance(made, 1) == pytest.approx(3.0)  # 1 - (1/2)^2 of four
    np.testing.assert_allclose(overlap(made), [[1, 1 / 3], [1 / 3, 1]])
    said = "\n".join(words(made))
    assert "1 head is in the circuits of at least 2 of 2 relations, where chance would have 1.0" in said
    assert "more often than the model in 2 of 2 relations: a, b." in said  # 1.0 of the circuit, 0.5 of the model
    assert records(made)[0]["test, all: circuit"] == 1.0


def test_kinds_are_compared_by_what_their_circuits_share(toy: Any) -> None:
    """Within a kind all heads, between the two kinds one of three."""
    one, other = {"a0.h0": "none", "a0.h1": "none"}, {"a0.h1": "none", "a1.h0": "none"}
    rows = [_row("a", one), _row("b", one), replace(_row("c", other), domain="bias")]
    made = RelationTable("x", tuple(rows), {}, 4, 50, {}, Run.of(toy, 0))
    assert "of one kind of knowledge share 1.00 of their heads (Jaccard), of two kinds 0.33." in "\n".join(words(made))
    alone = RelationTable("x", tuple(rows[:2]), {}, 4, 50, {}, Run.of(toy, 0))
    assert "of one kind" not in "\n".join(words(alone))


def test_kinds_of_knowledge() -> None:
    def fact(relation: str, source: str) -> Fact:
        return Fact("x", relation, "s", "{} is", "a", source=source)

    assert domain_of(fact("verb_past_tense", "factscope")) == "linguistic"
    assert domain_of(fact("country_capital", "factscope")) == "factual"
    assert domain_of(fact("country_capital", "bias/name.json")) == "bias"
    assert domain_of(fact("country_capital", "name.json")) == "all"


def test_mistakes(run_command: Any, folder: Path, toy: Any, tmp_path: Path) -> None:
    asked = ("circuit", "table", "--model", TOY, "--facts", folder, "--no-split-qkv", "--method", "eap", "--edges", 40)
    done = run_command(*asked, "--relations", "toy_twn")
    assert (done.exit_code, "there is no relation 'toy_twn'" in done.stderr, "toy_town" in done.stderr) == (
        2,
        True,
        True,
    )
    done = run_command(*asked, "--relations", "toy_town,toy_town")
    assert (done.exit_code, "names toy-town twice" in done.stderr) == (2, True)
    with pytest.raises(UserError, match="none of the 1 relations has a circuit; of nothing"):
        relation_table(toy, str(folder), ("nothing",), HOW, folder=tmp_path, shown=False)
    with pytest.raises(UserError, match="examples of 1 or more"):
        TableOptions(examples=0)


def test_the_command_goes_on_with_further_relations(
    run_command: Any, folder: Path, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.commands.app.loader", lambda *_: lambda: toy)
    asked = ("circuit", "table", "--model", TOY, "--facts", folder, "--no-split-qkv", "--method", "eap", "--edges", 40)
    more = ("--limit", 2, "--held-out", 2, "--random", 1, "--json")
    first = run_command(*asked, *more, "--relations", "toy_town")
    assert first.exit_code == 0, first.stderr
    second = run_command(*asked, *more, "--relations", "toy_town,nothing")
    assert second.exit_code == 0, second.stderr
    one, both = json.loads(first.stdout), json.loads(second.stdout)
    assert one["folder"] == both["folder"]
    assert (one["left_out"], both["relations"], list(both["left_out"])) == ({}, ["toy_town"], ["nothing"])
    assert both["edges"] == one["edges"]
