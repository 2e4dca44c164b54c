"""The bench end to end on the toy: extreme editors, an interrupted grid, results that must not be subtracted."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from editing import compute, methods
from editing.edit import in_place
from editing.evaluation import read as suite
from editing.evaluation.protocol import comparable_with, protocol
from editing.evaluation.tasks import Tasks
from editing.method import method
from editing.pages.scores import ordered
from factscope.data.load import load_cases
from factscope.data.request import EditRequest
from factscope.errors import EditError, StoreError
from factscope.model.forward.scoring import AnswerScore
from factscope.runs import store
from helpers.models import TOY
from helpers.results import check_result
from studies.bench import compare as bench_compare
from studies.bench import page as bench_view
from studies.bench.bench import bench, suite_of
from studies.commands import app as common

NULL = '''"""No edit at all."""
from dataclasses import dataclass

import torch

from editing.edit import Delta
from editing.method import MethodOutput, MethodSpec


@dataclass(frozen=True)
class Config:
    layer: int = 0

    @classmethod
    def for_model(cls, model):
        return cls()


def compute(inputs, config):
    size = inputs.model.cfg
    return MethodOutput((Delta("blocks.0.mlp.W_out", torch.zeros(1, size.d_model), torch.zeros(size.d_mlp, 1)),))


def compute_each(inputs, config):
    return [compute(inputs, config) for _ in inputs.requests]


METHOD = MethodSpec("null", "nothing", Config, compute, compute_each, place="mlp")
'''
TOWN = TOY / "toy_town.json"


@pytest.fixture
def null(tmp_path, monkeypatch):
    """A method named null, found because its file lies in a folder of methods."""
    (tmp_path / "null.py").write_text(NULL)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])


def run(model, folder, how="easyedit", names=("null",), count=3, **more):
    cases = load_cases(TOWN, limit=count)
    return bench(
        model, cases, names, protocol(how, words=4), folder, source="toy", moments="identity", shown=False, **more
    )


@pytest.mark.usefixtures("null")
def test_a_null_editor_changes_nothing_and_a_perfect_one_only_what_it_should(toy, tmp_path, monkeypatch):
    found = run(toy, tmp_path / "a")
    nothing = {s.metric: s.value for s in found.scores if s.when == "after"}
    assert nothing == {s.metric: s.value for s in found.scores if s.when == "before"}
    assert (nothing["locality, unchanged"], nothing["locality KL"], nothing["ES"], nothing["NS"]) == (1, 0, 0, 1)
    assert len(found.trials[0].failures) == 3  # it says the old answer, over and over

    real = suite.score
    wanted = load_cases(TOWN, limit=1)[0].requests[0].target

    def perfect(model, pairs):
        said = real(model, pairs)
        if not in_place(model):
            return said
        return [
            AnswerScore(0.0, (True,) * len(pair.answer), pair.answer, one.logp)
            if model.tokenizer.decode(list(pair.answer)).strip() == wanted
            else one
            for pair, one in zip(pairs, said, strict=True)
        ]

    monkeypatch.setattr(suite, "score", perfect)
    best = {s.metric: s.value for s in run(toy, tmp_path / "b", count=1).scores if s.when == "after"}
    assert [best[name] for name in ("ES", "PS", "reliability", "generality")] == [1, 1, 1, 1]
    assert best["locality, unchanged"] == 1


@pytest.mark.parametrize("how", ["easyedit", "sequential"])
def test_an_interrupted_grid_goes_on_to_the_identical_result(toy, tmp_path, monkeypatch, how):
    settings = {"ft_m": {"layer": "0", "steps": "5"}}
    names = ("ft_m", "ice") if how == "easyedit" else ("ft_m",)
    whole = run(toy, tmp_path / "whole", how, names, settings=settings)
    calls, real = [], suite.readings

    def stopping(*given):
        calls.append(1)
        if len(calls) == 6:  # in the middle of the first method's second or third case
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr("studies.bench.step.readings", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(toy, tmp_path / "part", how, names, settings=settings)
    assert not in_place(toy)
    monkeypatch.setattr("studies.bench.step.readings", real)
    again = run(toy, tmp_path / "part", how, names, settings=settings)
    assert again.scores == whole.scores
    assert [trial.rows for trial in again.trials] == [trial.rows for trial in whole.trials]
    with pytest.raises(StoreError, match="begun with other settings"):
        run(toy, tmp_path / "part", how, names, settings={"ft_m": {"layer": "0", "steps": "6"}})


@pytest.mark.parametrize("how", ["easyedit", "sequential"])
def test_a_resumed_grid_takes_moments_of_the_unedited_model(toy, tmp_path, monkeypatch, how):
    settings = {"ft_m": {"layer": "0", "steps": "5"}}
    run(toy, tmp_path, how, ("ft_m",), settings=settings)
    journal = tmp_path / "ft_m.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))  # the first of three edits
    seen = []
    monkeypatch.setattr("studies.bench.runner.moments_for", lambda model, *_: seen.append(len(in_place(model))))
    run(toy, tmp_path, how, ("ft_m",), settings=settings)
    assert seen == [0]


def test_edits_that_stay_are_read_at_once_and_at_the_end(toy, tmp_path):
    found = run(toy, tmp_path, "sequential", ("ft_m",), settings={"ft_m": {"layer": "0", "steps": "5"}})
    last = [row for row in found.trials[0].rows if row.case == found.cases[-1]]
    assert all(row.final.nll == pytest.approx(row.after.nll, abs=1e-5) for row in last)  # nothing came after it
    first = [row for row in found.trials[0].rows if row.case == found.cases[0]]
    assert any(abs(row.final.nll - row.after.nll) > 1e-3 for row in first)


@pytest.mark.usefixtures("null")
def test_a_result_survives_the_disk_and_its_scores_can_be_computed_from_its_rows(toy, tmp_path):
    from editing.evaluation.table import table

    found = run(toy, tmp_path / "run", "counterfact")
    store.save(found, tmp_path / "saved")
    back = bench_compare.load(tmp_path / "saved")
    assert store.same(found, back)
    check_result(found, tmp_path / "out", "Bench")
    trial = back.trials[0]
    assert table("null", trial.rows, back.protocol, trial.speech) == found.scores
    bench_view.write_tables(back, tmp_path)
    rows, scores = (
        list(csv.DictReader((tmp_path / name).read_text().splitlines(keepends=True)))
        for name in ("rows.csv", "scores.csv")
    )
    assert [row["prompt"] for row in rows] == parquet.read_table(tmp_path / "rows.parquet")["prompt"].to_pylist()
    assert [float(row["value"]) for row in scores] == [score.value for score in found.scores]
    assert [float(row["after_nll"]) for row in rows] == [row.after.nll for row in trial.rows if row.after is not None]


def test_the_picture_holds_the_scores_that_were_read_last(toy, tmp_path):
    found = run(toy, tmp_path, "sequential", ("ft_m",), count=2, settings={"ft_m": {"layer": "0", "steps": "5"}})
    drawn = bench_view.picture(found)
    unedited, edited = drawn.groups
    assert (unedited.name, unedited.aside, edited.name) == ("unedited", True, "ft_m")
    shares = ordered({one.metric for one in found.scores if one.unit == "share"})
    assert list(drawn.rows) == shares
    for row, metric in enumerate(shares):
        now, before = found.score("ft_m", metric, "final"), found.score("ft_m", metric, "before")
        drawn_now = (edited.low[row], edited.values[row], edited.high[row])
        assert drawn_now == pytest.approx((now.low, now.value, now.high), rel=0, abs=0, nan_ok=True)
        assert unedited.values[row] == before.value


@pytest.mark.usefixtures("null")
def test_the_page_says_in_words_what_each_method_did(toy, tmp_path):
    found = run(toy, tmp_path)
    (line,) = bench_view.outcomes(found)
    values = {one.metric: one.value for one in found.scores if one.when == "after"}
    said = (
        f"{values['reliability']:.0%} answered anew behind the edited prompt, {values['generality']:.0%} in other words"
    )
    assert line.startswith(f"null: {said}")
    assert "as before where nothing must change" in line
    assert line in str(bench_view.page(found).sections[0].specs[1])


def test_the_page_and_the_markdown_say_what_each_method_is_and_is_not_for(toy, tmp_path):
    found = run(toy, tmp_path, names=("ft_m",), count=1, settings={"ft_m": {"steps": "1"}})
    spec = method("ft_m")
    for clause in (spec.about, spec.good_for, spec.not_for):
        assert clause in str(bench_view.page(found).sections)
        assert clause in bench_view.markdown(found)


@pytest.mark.usefixtures("null")
def test_only_numbers_of_one_protocol_are_subtracted(toy, tmp_path):
    one, other = run(toy, tmp_path / "a"), run(toy, tmp_path / "b", "strict")
    assert not bench_compare.obstacles(one, one)
    assert not bench_compare.unlike(one, one)
    assert all(row[-1] in (0, None) for row in bench_compare.side_by_side(one, one).rows)
    assert bench_compare.obstacles(one, other) == ["scorer is 'token accuracy' in one and 'strict' in the other"]
    assert "difference" not in bench_compare.side_by_side(one, other).columns
    fewer = run(toy, tmp_path / "c", count=2)
    assert bench_compare.obstacles(one, fewer) == ["the cases or their questions are not the same"]


@pytest.mark.usefixtures("null")
def test_what_may_be_subtracted_but_is_not_alike_is_named(toy, tmp_path):
    one = run(toy, tmp_path / "a", seed=0)
    other = run(toy, tmp_path / "b", seed=3, settings={"null": {"layer": "1"}})
    assert not bench_compare.obstacles(one, other)
    assert bench_compare.unlike(one, other) == ["the seed is 0 and 3", "null's layer: 0, not 1"]


@pytest.mark.usefixtures("null")
def test_the_unedited_model_is_read_once_for_all_methods(toy, tmp_path, monkeypatch):
    calls = []
    real = suite.listen

    def counted(model, *given):
        calls.append(len(in_place(model)))
        return real(model, *given)

    monkeypatch.setattr("studies.bench.setting.listen", counted)
    run(toy, tmp_path, names=("null", "ice"), count=3)
    assert calls == [0, 1, 1, 1, 1, 1, 1]  # once for all three cases, then each case under each method's edit


@pytest.mark.parametrize(
    ("name", "of", "known", "start", "said"),
    [
        ("counterfact", "CounterFact", False, "none", "ES, PS, NS, their magnitudes"),
        ("counterfact", "CounterFact, flat (EasyEdit)", False, "none", "published for CounterFact, and this is"),
        ("counterfact", "CounterFact", True, "none", "those whose facts the model knows"),
        ("easyedit", "KnowEdit WikiBio", False, "none", "EasyEdit's rewrite_acc"),
        ("easyedit", "zsRE (MEND's form)", False, "<s>", "no start token is put before a prompt, and here it is <s>"),
        ("strict", "CounterFact", False, "none", "results of the same settings only"),
    ],
)
def test_comparable_is_what_was_really_done(name, of, known, start, said):
    assert said in comparable_with(protocol(name), of, start, known)


@pytest.mark.usefixtures("null")
def test_where_likelihoods_are_compared_whole_answers_are_scored_too_and_a_missing_old_answer_is_told(toy, tmp_path):
    found = run(toy, tmp_path / "a", "counterfact")
    assert {"ES", "NS", "locality KL", "reliability", "locality, right"} <= {one.metric for one in found.scores}
    assert "reliability, tokens" not in {one.metric for one in found.scores}
    cases = load_cases(TOWN, limit=2, target="true")
    lone = [map(EditRequest.of_truth, (replace(fact, neighbours=()) for fact in case.facts)) for case in cases]
    bare = [replace(case, requests=tuple(some)) for case, some in zip(cases, lone, strict=True)]
    told: list[str] = []
    how: dict[str, Any] = {"source": "toy", "moments": "identity", "shown": False, "say": told.append}
    found = bench(toy, bare, ("null",), protocol("counterfact"), tmp_path / "b", **how)
    assert {one.metric for one in found.scores if one.unit == "share"} == {"reliability", "generality"}
    assert told == [
        "these cases do not say the old answer, so nothing is compared with it (ES, PS, NS): only answers given in "
        "full are scored; --scorer 'token accuracy' scores their tokens too"
    ]


def test_a_case_that_a_method_cannot_edit_is_told_before_any_is_edited(toy, tmp_path):
    *before, last = load_cases(TOWN, limit=3)
    unknown = replace(last, requests=tuple(EditRequest.of_truth(fact) for fact in last.facts))
    how: dict[str, Any] = {"source": "toy", "moments": "identity", "shown": False, "say": lambda _: None}
    with pytest.raises(EditError, match="does not say its old answer, so there is nothing to forget"):
        bench(toy, [*before, unknown], ("ft-m", "ga"), protocol("counterfact"), tmp_path, **how)
    assert not list(tmp_path.glob("*.jsonl"))


# ---- the commands


@pytest.fixture
def edit(run_command, toy, monkeypatch):
    monkeypatch.setattr(common, "loader", lambda *_: lambda: toy)
    return lambda *arguments: run_command("edit", *arguments)


def test_the_command_writes_a_table_for_every_reader_and_refuses_to_mix(edit):
    base = ("bench", TOWN, "--methods", "ice", "--n", "2", "--moments", "identity", "--light")
    out = edit(*base, "--protocol", "easyedit", "--out", "one")
    assert out.exit_code == 0, out.stderr
    assert "reliability" in out.stdout
    assert "comparable with: results of the same settings only: the numbers of this protocol are" in out.stdout
    for name in ("table.md", "scores.csv", "rows.csv", "rows.parquet", "page.html", "result.json"):
        assert Path("one", name).is_file()
    assert "Wilson's for a share, else the BCa bootstrap over facts" in Path("one/table.md").read_text()
    out = edit(*base, "--protocol", "strict", "--out", "two", "--compare", "one", "--json")
    assert out.exit_code == 2
    assert "scorer is 'strict' in one and 'token accuracy' in the other" in out.stderr
    assert not Path("two").exists()  # known before anything is edited
    assert edit(*base, "--protocol", "strict", "--out", "two").exit_code == 0
    out = edit("compare", "two", "one")
    assert out.exit_code == 2
    assert "ice" in out.stdout
    assert "difference" not in out.stdout
    out = edit(*base, "--protocol", "easyedit", "--out", "three", "--compare", "one", "--json")
    body = json.loads(out.stdout)
    assert {row["difference"] for row in body["comparison"]["rows"]} == {0}
    assert body["costs"]["ice"]["kB stored"] > 0


def test_what_else_changed_is_said_wherever_scores_are(edit):
    base: tuple[Any, ...] = ("bench", TOWN, "--methods", "ft-m", "--set", "ft-m.steps=2", "--n", "2", "--light")
    base += ("--general",)
    base += ("--unrelated", "none", "--protocol", "memit", "--words", "4", "--out", "one")
    out = edit(*base)
    assert out.exit_code == 0, out.stderr
    for said in (out.stdout, Path("one/table.md").read_text()):
        assert "With all edits in" in said
        assert "perplexity before" in said
        assert "Failed edits by kind" in said
    body = json.loads(edit(*base, "--json").stdout)
    assert body["general"]["ft_m"]["perplexity"] > 0


def test_conflicting_cases_are_refused_together_or_left_out(edit, tmp_path):
    town = json.loads(TOWN.read_text())
    one, other = town["facts"][:2]
    records = [
        {"case_id": n, "prompt": town["templates"][0].format(fact["subject"]), "subject": fact["subject"],
         "target_new": new, "ground_truth": fact["answer"]}
        for n, (fact, new) in enumerate([(one, "Vey"), (one, "Ostmar"), (other, "Vey")])
    ]  # fmt: skip
    (tmp_path / "two.json").write_text(json.dumps(records))
    base = ("bench", tmp_path / "two.json", "--methods", "ice", "--protocol", "memit", "--light", "--out", "one")
    out = edit(*base)
    assert (out.exit_code, "all such with --skip-conflicts" in out.stderr) == (2, True), out.stderr
    out = edit(*base, "--skip-conflicts", "--json")
    assert out.exit_code == 0, out.stderr
    assert "1 cases are left out" in out.stderr
    assert json.loads(out.stdout)["cases"] == 2


def test_mistakes_are_told_before_the_model_is_asked(edit):
    for given, said in (
        (("--methods", "romeo"), "no method 'romeo'"),
        (("--methods", "ice", "--protocol", "mine"), "no protocol 'mine'"),
        (("--methods", "ice", "--set", "layer=3"), "say whose setting it is"),
        (("--methods", "ice", "--limit", "0"), "--limit must be at least 1"),
        (("--methods", "ice", "--batch", "0"), "--batch must be at least 1, not 0"),
        (("--methods", "ice", "--speech", "-3"), "a text of -3 tokens cannot be written"),
        (("--methods", "ice", "--speech", "9999"), "texts of 9999 tokens are asked for, and the model reads"),
        (("--methods", "ice", "--text", "x.txt"), "--unrelated and --text are for --general"),
        (("--methods", "rome", "--set", "rome.layer=99"), "there is no layer 99"),
        (("--methods", "ike", "--n", "1"), "ike: the in-context edits are"),
        (("--methods", "rome", "--set", "memit.layers=1"), "settings are given for memit, and the methods are rome"),
    ):
        out = edit("bench", TOWN, *given)
        assert (out.exit_code, said in out.stderr) == (2, True), out.stderr
        assert not list(Path().glob("runs/*/result.json"))


def test_facts_check_counts_what_a_file_holds_and_names_what_is_wrong(edit, tmp_path):
    out = edit("facts", "check", TOWN, "--json")
    assert out.exit_code == 0, out.stderr
    body = json.loads(out.stdout)
    assert body["cases"] == body["trials"]["rewrite"] == 24
    (tmp_path / "cut.json").write_text('[{"subject":')
    out = edit("facts", "check", tmp_path / "cut.json")
    assert out.exit_code == 2
    assert "cut.json, line 1" in out.stderr


def test_a_curve_is_the_end_of_shorter_sequences_and_goes_on_where_it_stopped(toy, tmp_path, monkeypatch):
    """After one case and after three: what a bench of one case, and of three, says at its end."""
    how = {"settings": {"ft_m": {"layer": "0", "steps": "5"}}, "tasks": Tasks.of(toy, ["repeat"], limit=2)}
    real = compute.compute
    calls = []

    def stops(*arguments, **more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    monkeypatch.setattr(compute, "compute", stops)
    with pytest.raises(KeyboardInterrupt):
        run(toy, tmp_path / "a", "sequential", ("ft_m",), at=(1, 3), **how)
    monkeypatch.setattr(compute, "compute", real)
    whole = run(toy, tmp_path / "a", "sequential", ("ft_m",), at=(1, 3), **how)
    one, three = whole.trials[0].curve
    assert (one.cases, three.cases) == (1, 3)
    last = {score.metric: score.value for score in whole.scores if score.when == "final"}
    assert {score.metric: score.value for score in three.scores if score.when == "final"} == pytest.approx(last)
    alone = run(toy, tmp_path / "b", "sequential", ("ft_m",), count=1, settings=how["settings"])
    last = {score.metric: score.value for score in alone.scores if score.when == "final"}
    assert {score.metric: score.value for score in one.scores if score.when == "final"} == pytest.approx(last, abs=1e-4)
    assert 0 <= one.general["task/repeat"] <= 1
    table = bench_view.curve_table(whole)
    assert [row[1] for row in table.rows] == [1, 3]
    assert bench_view.CURVE_TITLE in [section.heading for section in bench_view.page(whole).sections]
    again = store.load(store.save(whole, tmp_path / "saved"), type(whole))
    assert str(again.trials[0].curve) == str(whole.trials[0].curve)  # an interval that is not known is no number
    mixed = suite_of(load_cases(TOWN, limit=2), mixed=True)
    assert comparable_with(protocol("easyedit"), mixed, "none").startswith("results of the same settings only")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--at", "1"], "every edit is taken out again, so there is no checkpoint and no curve"),
        (["--at", "2", "--protocol", "sequential"], "no edit ends after 2 cases"),
        (["--at", "0", "--protocol", "sequential"], "write numbers of cases"),
        (["--tasks", "repeat"], "--tasks are asked at checkpoints, and there is none"),
        (["--mix", "CONFLICT", "--protocol", "sequential"], "give 'Oda Voss lives in' targets"),
    ],
)
def test_a_curve_without_checkpoints_and_a_mixture_that_contradicts_are_refused(run_command, tmp_path, given, said):
    record = {"prompt": "Oda Voss lives in", "subject": "Oda Voss", "ground_truth": "Brask"}
    files = [tmp_path / name for name in ("one.json", "other.json")]
    for file, target in zip(files, ("Vey", "Corrin"), strict=True):
        file.write_text(json.dumps([record | {"target_new": target}]))
    given = [str(files[1]) if word == "CONFLICT" else word for word in given]
    found = run_command("edit", "bench", files[0], "--methods", "ice", "--model", TOY, *given)
    assert found.exit_code == 2
    errors = [line for line in found.stderr.splitlines() if not line.startswith(("Note:", "Protocol:"))]
    assert len(errors) == 1
    assert said in errors[0]
