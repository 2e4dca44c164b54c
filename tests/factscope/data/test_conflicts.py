"""What a file asks for twice or in two ways is said before it is edited, once for each kind."""

import json
from types import SimpleNamespace

import pytest

from editing.evaluation.protocol import PROTOCOLS
from editing.evaluation.read import check_together
from editing.requests import check
from factscope.data.case import Case
from factscope.data.conflicts import changed_neighbours, conflicts, summary
from factscope.data.fact import Fact, Neighbour
from factscope.data.load import load_cases
from factscope.data.request import EditRequest
from factscope.errors import EditError
from studies.bench.bench import check_askable
from studies.commands.edit.apply import note_neighbours


def record(number, subject, prompt, target, **more):
    own = {"case_id": number, "subject": subject, "prompt": prompt.format(subject), "target_new": target}
    return {**own, "ground_truth": "Rome", **more}


HOME = [
    record(0, "Ann", "{} lives in", "Oslo"),
    record(1, "ann", "{} lives in", "Bern"),
    record(2, "Bo", "{} lives in", "Oslo"),
    record(3, "Bo", "{} lives in", "oslo"),
    record(4, "Cy", "{} lives in", "Oslo"),
    record(5, "Cy", "Today, {} lives in", "Bern"),
]


@pytest.fixture
def read(tmp_path):
    def read(records):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(records))
        return load_cases(path)

    return read


def test_one_prompt_twice_is_told_as_it_is_refused_together(read):
    cases = read(HOME)
    found = conflicts(cases)
    assert [(one.kind, one.facts) for one in found] == [
        ("two targets", ("counterfact/0", "counterfact/1")),
        ("twice", ("counterfact/2", "counterfact/3")),
    ]
    for one in found:
        some = [case for case in cases if case.id in one.facts]
        with pytest.raises(EditError):
            check_together(some)
        with pytest.raises(EditError):
            check([case.requests[0] for case in some])


def test_other_words_count_where_the_record_names_the_relation_and_may_contradict(read):
    assert all("Cy" not in one.prompts[0] for one in conflicts(read(HOME)))  # "counterfact" is no relation
    cases = read([{**one, "relation_id": "P551"} for one in HOME])
    last = conflicts(cases)[-1]
    assert (last.kind, last.targets) == ("other words", ("Oslo", "Bern"))
    check_together([case for case in cases if case.id in last.facts])  # not refused
    elsewhere = read([{**one, "relation_id": f"P{number}"} for number, one in enumerate(HOME)])
    assert {one.kind for one in conflicts(elsewhere)} == {"two targets", "twice"}
    same = read([{**one, "relation_id": "P551", "target_new": "Oslo"} for one in HOME[4:]])
    assert conflicts(same) == ()


@pytest.mark.parametrize(("relation", "kinds"), [({}, []), ({"relation": "home"}, ["other words"])])
def test_our_own_facts_name_their_relation_or_not(read, relation, kinds):
    own = [{"subject": "Cy", "answer": "Rome", **relation} for _ in range(2)]
    own = [{**one, "template": text, "foil": foil} for one, text, foil in zip(own, ("{} is", "{}:"), "ab", strict=True)]
    assert [one.kind for one in conflicts(read(own))] == kinds


def test_three_targets_of_a_prompt_are_one_conflict_and_many_are_one_sentence(read):
    cases = read([record(n, f"S{n // 3}", "{} is", f"thing {n}") for n in range(9)])
    found = conflicts(cases)
    assert len(found) == 3
    (said,) = summary(found)
    assert said.startswith(
        "3 prompts are given two targets: an edit of both at once is refused; the first: 'S0 is' with"
    )
    assert "'thing 0' and 'thing 1' and 'thing 2' (facts counterfact/0, counterfact/1, counterfact/2)" in said
    (one,) = summary(found[:1])
    assert one.startswith("1 prompt is given")
    assert "--json" not in one


def test_the_command_tells_each_kind_once_and_json_has_them_all(run_command, tmp_path):
    records = [{**record(n, f"S{n // 2}", "{} is", f"thing {n}"), "relation_id": "P1"} for n in range(8)]
    records += [{**record(8, "S0", "What {} is:", "thing"), "relation_id": "P1"}]
    (tmp_path / "mine.json").write_text(json.dumps(records))
    out = run_command("edit", "facts", "check", "mine.json")
    assert out.exit_code == 0
    notes = [line for line in out.stderr.splitlines() if line.startswith("Note:")]
    assert ["4 prompts are given two targets" in notes[0], "may contradict" in notes[1], len(notes)] == [True, True, 2]
    body = json.loads(run_command("edit", "facts", "check", "mine.json", "--json").stdout)
    assert [one["kind"] for one in body["conflicts"]] == ["two targets"] * 4 + ["other words"]
    assert body["conflicts"][0] == {
        "kind": "two targets",
        "facts": ["counterfact/0", "counterfact/1"],
        "prompts": ["S0 is", "S0 is"],
        "targets": ["thing 0", "thing 1"],
    }


def test_a_neighbour_that_another_fact_changes_is_counted_where_both_are_in_the_model(capsys):
    def asked(subject, target, *near, old="Rome"):
        around = tuple(Neighbour(f"{one} lives in", "Rome", one) for one in near)
        return EditRequest.of(Fact(subject, "home", subject, "{} lives in", old, target, neighbours=around))

    first, other = asked("Ann", "Oslo", "Bo", "Cy"), asked("bo", "Bern", "Dan")
    same = asked("Cy", "rome", old="Milan")  # becomes what its neighbour wants to keep
    assert changed_neighbours([first]) == (0, 2)
    assert changed_neighbours([first, other, same]) == (1, 3)
    note_neighbours([first], [other])
    assert not capsys.readouterr().err
    note_neighbours([first, other])
    assert "1 of 3 neighbours ask what another of these facts changes" in capsys.readouterr().err
    cases = [Case.of(each) for each in (first, other, same)]
    for name, told in (("counterfact", 0), ("memit", 1), ("sequential", 1), ("batch-30", 1)):
        said: list[str] = []
        check_askable(SimpleNamespace(cfg=SimpleNamespace(n_ctx=2048)), cases, PROTOCOLS[name], said.append)
        assert sum("neighbours ask what another of these facts changes" in words for words in said) == told
