"""Whether locating finds the fact: methods whose answer is known by construction, and the toy from end to end."""

import json
from typing import Any

import numpy as np
import pytest

from factscope.data.load import load_facts
from factscope.errors import UserError
from factscope.model.prompts import Prompt
from factscope.plots.page import page_html
from helpers.models import TOY
from helpers.results import check_result
from studies.pages.locating import page, records
from studies.tables.locating import Asked, agreement, locating, pair_kinds, prompts_of

SUBJECTS, RELATIONS, PLACES = [f"s{i}" for i in range(6)], ["r0", "r1", "r2"], 40


ANY = Prompt("x", (0,), ("x",), None, "x", (0, 1), (0, 1), "flag", None, (), "")  # what is asked plays no part


def _asked() -> list[Asked]:
    return [Asked(s, r, wording, ANY) for s in SUBJECTS for r in RELATIONS for wording in range(2)]


def _profiles(key: Any, noise: float = 0.1) -> np.ndarray:
    """Places that a method finds by `key` of a prompt alone, whatever the rest of it says."""
    rng, made = np.random.default_rng(0), dict[Any, np.ndarray]()
    rows = []
    for one in _asked():
        base = made.setdefault(key(one), rng.normal(size=PLACES))
        rows.append(base + noise * rng.normal(size=PLACES))
    return np.stack(rows)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (lambda one: (one.subject, one.relation), "the fact"),
        (lambda one: one.subject, "the subject"),
        (lambda one: one.relation, "the relation"),
        (lambda one: (one.subject, one.relation, one.wording), "no common places"),
        (lambda _: 0, "no common places"),
    ],
    ids=["fact", "subject", "relation", "prompt", "nothing"],
)
def test_a_method_that_looks_at_one_thing_is_found_out(key: Any, found: str) -> None:
    asked = _asked()
    result = agreement("made", "layers", _profiles(key), asked)
    assert result.found == found
    fact, subject, relation = result.rsim.mean(1).tolist()
    if found == "the fact":
        assert fact > 0.7 > 0.3 > max(subject, relation)
    if found == "the subject":
        assert abs(fact - subject) < 0.1
    assert bool(((result.low <= result.rsim + 0.05) & (result.rsim <= result.high + 0.05)).all())


def test_the_formula_by_hand() -> None:
    """Two subjects, two relations; the two highest of four places."""
    asked = [Asked(s, r, w, ANY) for s in ("a", "b") for r in ("x", "y") for w in (0, 1)]
    top = {("a", "x"): (0, 1), ("a", "y"): (0, 2), ("b", "x"): (1, 3), ("b", "y"): (2, 3)}
    profiles = np.array([[float(place in top[one.subject, one.relation]) for place in range(4)] for one in asked])
    result = agreement("made", "layers", profiles, asked)
    assert result.sizes == (1, 2)
    # two wordings share both; one subject shares place 0 or 3, one relation place 1 or 2; a-x and b-y share nothing
    np.testing.assert_allclose(result.similarity[:, 1].numpy(), [1, 0.5, 0.5, 0.0])
    np.testing.assert_allclose(result.rsim[:, 1].numpy(), [1, 0.5, 0.5])
    kinds = pair_kinds(asked)
    assert [(kinds == kind).sum() for kind in range(4)] == [8, 16, 16, 16]


def test_facts_of_the_toy_are_located_and_compared(toy: Any, tmp_path: Any) -> None:
    facts = [fact for name in ("town", "tongue", "trade") for fact in load_facts(TOY / f"toy_{name}.json")]
    study = locating(toy, facts, subjects=2, samples=2)
    assert {(each.method, each.place) for each in study.located} == {
        ("trace", "layers"),
        ("neurons", "layers"),
        ("neurons", "neurons"),
        ("circuit", "heads and MLPs"),
        ("circuit", "edges"),
    }
    assert study.pairs == {"same fact": 6, "same subject": 24, "same relation": 12, "unrelated": 24}
    check_result(study, tmp_path, "LocatingStudy")
    assert "Does locating find the fact?" in page_html(page(study))
    assert len(records(study)) == sum(3 * len(each.sizes) for each in study.located)
    edges = study.located[-1]
    assert float(edges.rsim[0].mean()) > 0  # two wordings of a fact share more edges than unrelated prompts do


def test_what_cannot_be_compared(toy: Any) -> None:
    facts = load_facts(TOY / "toy_town.json")
    with pytest.raises(UserError, match="two relations or more"):
        locating(toy, facts)
    with pytest.raises(UserError, match="not by magic"):
        locating(toy, facts, ["magic"])
    both = [*facts, *load_facts(TOY / "toy_tongue.json")]
    asked, others = prompts_of(toy, both, 2, None)
    assert len(asked) == 2 * 2 * 2
    assert all(one.prompt in others[one.relation, one.wording] for one in asked)


def test_the_command(run_command: Any, tmp_path: Any) -> None:
    town, tongue = (str(TOY / f"toy_{name}.json") for name in ("town", "tongue"))
    asked = ("trace", "locating", "--model", TOY, "--by", "circuit", "--limit", 2, "--out", tmp_path / "run")
    done = run_command(*asked, "--facts", f"{town},{tongue}", "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert [each["place"] for each in said["located"]] == ["heads and MLPs", "edges"]
    assert (tmp_path / "run" / "page.html").exists()
    done = run_command(*asked, "--facts", town)
    assert (done.exit_code, "name two or more" in done.stderr) == (2, True)
