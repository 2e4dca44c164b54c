"""Who answers the second hop: answers that are told apart by hand, the toy edited."""

import json
from pathlib import Path
from typing import Any

import pytest

from editing.method import method
from factscope.data.load import load_facts
from factscope.data.questions import chains as sources
from factscope.data.questions.chains import Chain
from factscope.data.request import EditRequest
from factscope.errors import UserError
from factscope.runs.provenance import Run
from helpers.models import TOY
from helpers.records import MQUAKE
from helpers.results import check_result
from studies.edit import MethodRun
from studies.pages.multi_hop import words
from studies.tables.multi_hop import Heard, HopOptions, HopRow, HopStudy, kind_of, multi_hop, shares

NO_REQUEST: tuple[EditRequest, ...] = ()


def _chain(name: str, new: str, old: str, edited: str, **more: Any) -> Chain:
    return Chain(name, more.pop("requests", NO_REQUEST), **{"question": "q", "bare": ""} | more,
                 new=(new,), old=(old,), edited=(edited,))  # fmt: skip


def test_the_first_of_the_three_counts() -> None:
    chain = Chain("x", (), "q", "", ("yen", "Japanese yen"), ("euro",), ("Japan",))
    assert kind_of(chain, " the yen of Japan") == "new"
    assert kind_of(chain, " Japan, and the yen") == "edited"
    assert kind_of(chain, " not the EURO but yen") == "old"
    assert kind_of(chain, " dollar. Then the yen") == "other"  # behind the stop
    assert kind_of(chain, " Japanese") == "other"  # whole words


def test_shares_by_hand(toy: Any) -> None:
    """Three chains of two subjects: new, edited, new; the second hop alone gives the first its answer, too."""

    def row(number: int, subject: str, said: str, bare: str | None) -> HopRow:
        none, heard = Heard("old", "old", "x"), Heard(said, "new", "x")
        alone = None if bare is None else Heard(bare, "old", "x")
        return HopRow(
            str(number), subject, "q", "b" if bare else "", "n", "o", "e", number < 2, none, heard, alone, alone
        )

    rows = (row(0, "a", "new", "new"), row(1, "a", "edited", "other"), row(2, "b", "new", None))
    found = shares(rows, "after")
    assert {kind: share.count for kind, share in found.items()} == {"new": 2, "old": 0, "edited": 1, "other": 0}
    assert found["new"].value == pytest.approx(2 / 3)
    assert found["new"].low < 2 / 3 < found["new"].high
    assert shares(rows, "bare_after")["other"].n == 2
    assert shares(rows[2:], "bare_after") == {}
    said = "\n".join(words(HopStudy("s", "m", rows, 3, 1, {}, Run.of(toy, 0))))
    assert "in 2 (67%" in said
    assert "The edit itself took in 2 of 3; of these, new 1, old 0, edited 1, other 0." in said
    assert "2 answers: new 1, old 0, edited 0, other 1; in 1 the answer to the whole chain is the same" in said
    assert "1 further chain was asked and not edited" in said


@pytest.fixture(scope="module")
def facts() -> Any:
    return load_facts(TOY / "toy_town.json")


def test_an_edited_toy_is_counted_and_the_work_taken_up(toy: Any, facts: Any, tmp_path: Path) -> None:
    """Chains whose question is the edit's own prompt, so that what is said after the edit is known."""
    fact, other = facts[0], next(one for one in facts if one.answer not in (facts[0].answer, facts[0].foil))
    asked = {"requests": (EditRequest.of(fact),), "question": fact.prompt, "bare": other.prompt}
    foil = str(fact.foil)
    chains = [
        _chain("new", foil, fact.answer, "nothing", **asked),
        _chain("edited", "nothing", fact.answer, foil, **asked),
        _chain("unknown", foil, "nobody", "nothing", **asked),  # the unedited model does not say it
        _chain("alike", "x", "X", "y", **asked),
    ]
    spec = method("ft_m")
    calls: list[Any] = []
    run = MethodRun(spec, spec.config_for(toy, ["steps=60"]))

    def edit(model: Any, requests: Any) -> Any:
        calls.append(requests)
        return run.compute(model, requests, shown=False)

    how = HopOptions(edit, "ft_m")
    study = multi_hop(toy, chains, how, folder=tmp_path, source="the toy", shown=False)
    assert [(row.id, row.before.said, row.after.said, row.after.preferred) for row in study.rows] == [
        ("new", "old", "new", "new"),
        ("edited", "old", "edited", "edited"),
    ]
    assert [row.took for row in study.rows] == [False, True]  # of the first the edited object is another word
    assert {row.bare_before.said for row in study.rows if row.bare_before} == {"other"}
    assert (study.chains, study.unknown, len(calls)) == (3, 1, 2)
    assert multi_hop(toy, chains, how, folder=tmp_path, source="the toy", shown=False).rows == study.rows
    assert len(calls) == 2  # all was in the journal
    check_result(study, tmp_path / "kept", "HopStudy")
    with pytest.raises(UserError, match="the unedited model answers the second hop of none of the 1 chain"):
        multi_hop(toy, chains[2:], how, folder=tmp_path / "other", shown=False)
    with pytest.raises(UserError, match="none of the 1 chains of factscope has three different answers"):
        multi_hop(toy, chains[3:], how, folder=tmp_path / "other", shown=False)


def test_the_command(run_command: Any, tmp_path: Path, facts: Any, toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.commands.app.loader", lambda *_: lambda: toy)
    fact = facts[0]
    chain = _chain(
        "one", str(fact.foil), fact.answer, "nothing", requests=(EditRequest.of(fact),), question=fact.prompt
    )
    monkeypatch.setattr(sources, "shipped_chains", lambda *_: (chain,))
    asked = ("edit", "hops", "--model", TOY, "--method", "ft-m", "--set", "steps=60", "--limit", 1, "--json")
    done = run_command(*asked)
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["chains"], said["answers"]["after"]["new"], said["answers"]["bare_after"]) == (1, 1, {})
    file = tmp_path / "m.json"
    file.write_text(json.dumps([MQUAKE]))
    done = run_command(*asked, file, "--relations", "book_author")
    assert (done.exit_code, "a file of MQuAKE brings its own" in done.stderr) == (2, True)
