"""Edits one after another: killed is the same as not killed, scores are evaluate's, and what breaks is told."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from editing import compute as computing
from editing import method as methods
from editing.edit import Edit, applied, in_place
from editing.evaluation.evaluate import evaluate
from editing.methods.fine_tuning import ft_m
from editing.pages.sequence.page import ENDS, forgetting, headline, moved_share, page, score_table
from editing.pages.sequence.page import words as in_words
from editing.restraint import restraint
from editing.sequence.result import Config, SequenceResult
from editing.sequence.rules import Rule
from editing.sequence.run import sequence
from editing.sequence.yardstick import Yardstick, fixed_text, token_nats, unrelated_facts
from factscope.data.load import load_facts
from factscope.errors import EditError, StoreError
from factscope.model.weights import fingerprint, live_weights
from factscope.plots.page import page_html, write_page
from factscope.runs import store
from factscope.statistics import principal_plane
from helpers.browser import needs_chromium, open_page, with_script
from helpers.models import TOY
from helpers.results import check_result
from helpers.schema_2 import row_as_schema_2, table_as_schema_2
from studies.commands import app as common

LINEAR = restraint("prune").Config(mode="linear")
CONTEXTS = ("{}", "Today, {}")


@pytest.fixture(scope="module")
def yardstick(toy) -> Yardstick:
    facts = load_facts(TOY / "toy_town.json", limit=8)
    others = unrelated_facts(toy, facts, TOY / "toy_trade.json", count=6)
    return Yardstick.of(toy, others, *fixed_text(toy, documents=4, tokens=12), "auto")


@pytest.fixture(scope="module")
def run(toy, yardstick):
    """run(folder, settings, ...) edits the first six toy towns with ROME at layer 0, quickly and without moments."""

    def run_(folder, settings=Config(every=2), count=6, method="rome", **how) -> SequenceResult:
        spec = methods.method(method)
        config: Any = spec.at_layers(spec.Config(), (0, 1) if spec.layer_setting == "layers" else (0,))
        if hasattr(config, "descent"):
            config = replace(config, descent=replace(config.descent, steps=8))
        config = how.pop("config", config)
        facts = how.pop("facts", load_facts(TOY / "toy_town.json", limit=count))
        return sequence(
            toy, facts, method, settings, folder, how.pop("yardstick", yardstick), config=config,
            contexts=CONTEXTS, say=how.pop("say", lambda _: None), shown=False, **how,
        )  # fmt: skip

    return run_


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory) -> tuple[SequenceResult, Path]:
    """One sequence that was never stopped, restrained at the end, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder, Config(every=2, restrain="prune"), restraint_config=LINEAR), folder


def test_a_sequence_says_of_second_moments_what_its_edits_say(run, whole, tmp_path):
    tuned = run(tmp_path, Config(every=2), count=2, method="ft_m", config=ft_m.Config(layer=0, steps=1))
    edits = [Edit.load(folder / "edits" / "edit-00001") for folder in (whole[1], tmp_path)]
    assert [whole[0].moments, tuned.moments] == [edit.moments for edit in edits] == ["identity", "none"]


class Killed(BaseException):
    """Not an Exception: nothing in between may catch it."""


def stops_at(monkeypatch, count):
    """The process dies in the middle of the `count`-th computation of an edit."""
    real, calls = computing.compute, []

    def compute(*arguments, **how):
        calls.append(1)
        if len(calls) == count:
            raise Killed
        return real(*arguments, **how)

    monkeypatch.setattr(computing, "compute", compute)
    return lambda: monkeypatch.setattr(computing, "compute", real)


# ---- going on ----


@pytest.mark.parametrize(("batch", "restrain_at"), [(1, "end"), (2, "checkpoint")])
def test_a_killed_sequence_goes_on_to_bitwise_the_same_weights(toy, run, tmp_path, monkeypatch, batch, restrain_at):
    settings = Config(batch, 2, "prune", restrain_at)
    straight = run(tmp_path / "straight", settings, restraint_config=LINEAR)
    before = fingerprint(toy)
    random = np.random.default_rng(0)
    for attempt in range(2):
        again = stops_at(monkeypatch, int(random.integers(1, 4 // batch + 1)))
        with pytest.raises(Killed):
            run(tmp_path / "killed", settings, restraint_config=LINEAR)
        again()
        assert fingerprint(toy) == before, attempt
        assert in_place(toy) == ()
    resumed = run(tmp_path / "killed", settings, restraint_config=LINEAR)
    assert resumed.edits == straight.edits  # the digest of an edit holds every byte of its factors
    assert [one.weights for one in resumed.checkpoints] == [one.weights for one in straight.checkpoints]
    assert resumed.rows == straight.rows
    assert all(torch.equal(resumed.values[name], straight.values[name]) for name in straight.values)


def test_a_line_cut_off_by_a_kill_is_done_again(whole, run, tmp_path):
    result, folder = whole
    journal = (folder / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(journal[: int(0.6 * len(journal))])
    (tmp_path / "edits").symlink_to(folder / "edits")
    again = run(tmp_path, Config(every=2, restrain="prune"), restraint_config=LINEAR)
    assert again.last.weights == result.last.weights


def test_a_finished_sequence_is_only_read(run, tmp_path, monkeypatch):
    looks = []
    result = run(tmp_path, Config(every=2), count=2, on_checkpoint=lambda model, _: looks.append(model))
    stops_at(monkeypatch, 1)
    seen = []
    again = run(tmp_path, Config(every=2), count=2, on_checkpoint=lambda model, _: seen.append(model))
    assert looks
    assert seen == []
    assert again.last.weights == result.last.weights
    with pytest.raises(StoreError, match="looked at: true, not false"):
        run(tmp_path, Config(every=2), count=2)


def test_an_altered_edit_and_other_settings_are_refused(whole, run, tmp_path):
    _, folder = whole
    with pytest.raises(StoreError, match="other settings"):
        run(folder, Config(every=3, restrain="prune"), restraint_config=LINEAR)
    (tmp_path / "journal.jsonl").write_bytes((folder / "journal.jsonl").read_bytes())
    first, second = (folder / "edits" / f"edit-{n:05d}" for n in (1, 2))
    for name in (store.JSON, store.TENSORS):
        target = tmp_path / "edits" / first.name / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((second / name).read_bytes())
    with pytest.raises(StoreError, match="not the edit that the journal names"):
        run(tmp_path, Config(every=2, restrain="prune"), restraint_config=LINEAR)


def test_facts_that_changed_under_their_ids_are_refused(run, tmp_path):
    first, second = load_facts(TOY / "toy_town.json", limit=2)
    run(tmp_path, facts=(first, second))
    asked = ({"subject": "Zed Voss"}, {"foil": "Senn"})
    for change in (*asked, {"paraphrases": ("Where is Oda? In",)}, {"neighbours": ()}):
        with pytest.raises(StoreError, match="other settings"):
            run(tmp_path, facts=(replace(first, **change), second))


# ---- what is read ----


def test_scores_are_those_of_the_sequence_protocol(toy, whole):
    """Two programs for one definition: immediate is evaluate's after, now before the restraint its final."""
    result, folder = whole
    edits = [Edit.load(path) for path in sorted((folder / "edits").glob("edit-*"))]
    report = evaluate(toy, edits, protocol="sequence", shown=False)
    end = result.checkpoints[-2]
    assert not end.restrained
    for score in report.scores:
        if score.metric != "generation entropy" and not score.metric.startswith("said"):  # a sequence writes nothing
            assert end.score(score.metric, score.when).value == pytest.approx(score.value, abs=1e-4), score
    final = [row.final for row in report.rows if row.kind == "rewrite"]
    assert end.held == tuple(bool(one and one.nll_other and one.nll < one.nll_other) for one in final)
    restrained = evaluate(toy, [Edit.load(folder / "edits" / "restrained-00006")], protocol="together", shown=False)
    assert result.last.score("ES").value == restrained.score("ES").value
    assert [row.final and row.final.nll for row in result.rows] == pytest.approx(
        [row.after and row.after.nll for row in restrained.rows], abs=1e-4
    )


def test_each_edit_is_computed_on_those_before_it(whole):
    _, folder = whole
    edits = [Edit.load(path) for path in sorted((folder / "edits").glob("edit-*"))]
    for number, edit in enumerate(edits):
        assert edit.below == tuple(one.digest for one in edits[:number])


def test_the_first_checkpoint_is_the_unedited_model(toy, whole):
    first = whole[0].checkpoints[0]
    matrix = live_weights(toy)["blocks.0.mlp.W_out"].double()
    assert first.weights == fingerprint(toy)
    assert (first.quantities["perplexity"], first.quantities["condition"], first.quantities["norm"]) == (1, 1, 0)
    assert (first.quantities["unchanged"], first.quantities["kl"]) == (1, pytest.approx(0, abs=1e-6))
    assert first.spectra[0].condition == pytest.approx(float(torch.linalg.cond(matrix)), rel=1e-9)


def test_prune_lowers_a_condition_number_that_editing_raised(toy, whole):
    result, folder = whole
    first, end, restrained = result.checkpoints[0], result.checkpoints[-2], result.checkpoints[-1]
    condition = [point.spectra[0].condition for point in (first, end, restrained)]
    assert condition[1] > condition[2] > condition[0]
    with applied(toy, [Edit.load(folder / "edits" / "restrained-00006")]):
        now = live_weights(toy)["blocks.0.mlp.W_out"].double()
        assert condition[2] == pytest.approx(float(torch.linalg.cond(now)), rel=1e-4)  # weights are float32
        assert fingerprint(toy) == restrained.weights


def test_at_every_checkpoint_means_that_later_edits_stand_on_the_restrained_sum(run, tmp_path):
    result = run(tmp_path, Config(every=2, restrain="prune", restrain_at="checkpoint"), 4, restraint_config=LINEAR)
    assert [point.restrained for point in result.checkpoints] == [False, True, True]
    held = Edit.load(tmp_path / "edits" / "restrained-00002")
    assert Edit.load(tmp_path / "edits" / "edit-00003").below == (held.digest,)
    assert set(result.values) == {"before", "written", "restrained"}


def test_perplexity_of_the_models_own_text_is_the_probability_it_was_drawn_with(toy):
    rows, words = fixed_text(toy, documents=3, tokens=10, seed=1)
    assert "unedited model" in words
    assert rows == fixed_text(toy, documents=3, tokens=10, seed=1)[0]
    plain = [
        -toy(torch.tensor([row]))[0].log_softmax(-1)[at, token].item()
        for row in rows
        for at, token in enumerate(row[1:])
    ]
    assert token_nats(toy, rows).tolist() == pytest.approx(plain, abs=1e-4)
    stick = Yardstick.of(toy, (), rows, words, "auto")
    assert stick.perplexity(toy) == pytest.approx(math.exp(sum(plain) / len(plain)), rel=1e-4)


def test_unrelated_facts_are_known_and_about_nobody_who_is_edited(toy, yardstick):
    edited = {fact.subject for fact in load_facts(TOY / "toy_town.json", limit=8)}
    assert not edited & {fact.subject for fact in yardstick.facts}
    assert len(yardstick.facts) == 6
    assert all(one.exact for one in yardstick.read(toy))
    everyone = load_facts(TOY / "toy_town.json")
    with pytest.raises(EditError, match="no fact of"):
        unrelated_facts(toy, everyone, TOY / "toy_trade.json")


@pytest.mark.parametrize("method", ["memit", "r_rome"])
def test_batches_in_sequence(run, tmp_path, method):
    result = run(tmp_path, Config(batch=3, every=3), 5, method)
    assert [point.facts for point in result.checkpoints] == [0, 3, 5]
    assert [point.edits for point in result.checkpoints] == [0, 1, 2]
    assert [len(Edit.load(path).requests) for path in sorted((tmp_path / "edits").iterdir())] == [3, 2]
    assert result.last.score("ES").n == 5
    assert result.values["written"].shape == result.values["end"].shape == (5, 48)


def test_a_hook_sees_the_edited_model_and_its_words_are_kept(run, tmp_path):
    def hook(model, point):
        assert fingerprint(model) == point.weights
        return {"facts": point.facts, "names": ["a", "b"]}

    result = run(tmp_path, Config(every=2), 2, on_checkpoint=hook)
    assert [point.extra["facts"] for point in result.checkpoints] == [0, 2]
    again = store.load(store.save(result, tmp_path), SequenceResult)
    assert store.same(result, again)
    check_result(result, tmp_path / "out", "SequenceResult")
    with pytest.raises(StoreError, match="looked at: true, not false"):  # half of it would lack what was looked at
        run(tmp_path, Config(every=2), 2)


def test_what_is_looked_at_is_the_unedited_model_before_the_first_edit(edit):
    """Nothing has changed before an edit, bitwise; the edited fact's trace and circuit change with it."""
    out = edit("sequence", *QUICK, "--limit", 2, "--every", 2, "--look", "--json")
    assert out.exit_code == 0, out.stderr
    before, after = (point["look"] for point in json.loads(out.stdout)["checkpoints"])
    assert set(before) == set(after)
    assert set(before.values()) == {0.0}
    assert all(after[name] > 0 for name in after if name.startswith("edited first: edge effects"))
    page = Path(json.loads(out.stdout)["page"]).read_text()
    assert "Inside the model" in page
    assert "Largest change of the trace, mlp" in page


# ---- stopping ----


def test_a_rule_stops_the_sequence_and_the_restraint_still_comes(run, tmp_path):
    told: list[str] = []
    settings = Config(every=2, restrain="prune", stop_when=("condition>1.01",))
    result = run(tmp_path, settings, restraint_config=LINEAR, say=told.append)
    assert [(point.facts, point.restrained) for point in result.checkpoints] == [(0, False), (2, False), (2, True)]
    assert (result.asked, len(result.facts), len(result.edits)) == (6, 2, 2)
    assert result.stopped.startswith("condition>1.01 was met after 2 facts")
    assert run(tmp_path, settings, restraint_config=LINEAR).stopped == result.stopped  # and does not go on
    assert set(result.values) == {"before", "written", "end", "restrained"}
    assert len(told) == len(set(told))
    assert all("after 2 facts the model begins to break" in text for text in told)


def test_a_rule_is_crossed_where_it_says():
    rule = Rule.of(" retention < 0.5 ")
    assert str(rule) == "retention<0.5"
    assert [rule.broken({"retention": x}) for x in (0.4, 0.5, 0.6, math.nan)] == [True, False, False, True]
    assert not rule.broken({"perplexity": 9.0})
    for text in ("retention", "retention=1", "memory<2", "retention<x", "retention<1e999", "kl>-", ""):
        with pytest.raises(EditError, match="is no rule"):
            Rule.of(text)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"every": 0}, "every must be at least 1"),
        ({"restrain": "hug"}, "no restraint 'hug'"),
        ({"restrain": "prune"}, "larger, not smaller"),  # the toy's s_max is below 1
        ({"restrain": "rect", "restrain_at": "noon"}, "not at 'noon'"),
        ({"stop_when": ("joy<1",)}, "is no rule"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_done(run, tmp_path, settings, sentence):
    with pytest.raises(EditError, match=sentence):
        run(tmp_path / "new", Config(**settings))
    assert not (tmp_path / "new").exists()


def test_a_method_that_writes_nowhere_is_refused(run, tmp_path):
    with pytest.raises(EditError, match="changes no weight"):
        run(tmp_path, method="memit", config=replace(methods.method("memit").Config(), layers=()))


def test_a_rule_about_what_is_not_measured_is_refused(toy, run, tmp_path):
    bare = [replace(fact, paraphrases=()) for fact in load_facts(TOY / "toy_town.json", limit=2)]
    with pytest.raises(EditError, match="never be looked at"):
        run(tmp_path, Config(stop_when=("paraphrase<0.5",)), facts=bare)
    alone = Yardstick.of(toy, (), *fixed_text(toy, documents=2, tokens=6), "auto")
    with pytest.raises(EditError, match="never be looked at"):
        run(tmp_path, Config(stop_when=("unchanged<0.5",)), yardstick=alone)
    assert "unchanged" not in run(tmp_path, Config(every=2), 2, yardstick=alone).last.quantities


# ---- the page ----


def test_the_plane_is_that_of_most_variance():
    values = np.zeros((5, 3))
    values[:, 1] = [3.0, -3, 3, -3, 0]
    values[:, 2] = [1.0, 1, -1, -1, 0]
    plane, shares = principal_plane(values + 7)
    assert abs(plane[:, 0]) == pytest.approx([0, 1, 0])
    assert shares == pytest.approx((0.9, 0.1))
    assert principal_plane(np.ones((1, 3)))[1] == (0.0, 0.0)


def test_forgetting_and_moved_values_follow_their_definitions(whole):
    result, _ = whole
    grid = forgetting(result)
    assert grid.values.shape == (3, 3)
    assert np.isnan(grid.values[0, 1])
    assert grid.values[2, 0] == np.mean(result.checkpoints[-2].held[:2])
    assert np.nanmean(grid.values[2]) == pytest.approx(result.checkpoints[-2].quantities["retention"])
    values = {name: torch.zeros(2, 3) for name in ("before", "written", "end")}
    values["written"][:, 0], values["end"][:, 0], values["end"][:, 1] = 2.0, 2.0, 1.0
    assert moved_share(replace(result, values=values)) == {ENDS["end"]: 0.5}
    table = score_table(result)
    row = next(row for row in table.rows if row[0] == "ES, efficacy success")
    beside = result.last.score("locality, unchanged")
    assert beside is not None
    assert f"{beside.value:.0%}" in [number.value for number in headline(result).numbers]  # the worst is not hidden
    assert any(f"Tokens of neighbours' answers unchanged in {beside.value:.0%}" in line for line in in_words(result))
    column = table.columns.index("restrained")
    assert row[column] == pytest.approx(result.last.quantities["retention"], abs=1e-3)


def test_a_sequence_of_schema_2_loads_with_the_numbers_that_it_had(whole, tmp_path):
    result, _ = whole
    store.save(result, tmp_path)
    place = tmp_path / store.JSON
    document = json.loads(place.read_text())
    document["schema"] = 2
    body = document["result"]
    body["rows"] = [row_as_schema_2(row) for row in body["rows"]]
    for point in body["checkpoints"]:
        lines = point.pop("scores")
        point |= {"immediate": table_as_schema_2(lines, "after"), "now": table_as_schema_2(lines, "final")}
    place.write_text(json.dumps(document))
    again = store.load(tmp_path, SequenceResult)
    for old, new in zip(again.checkpoints, result.checkpoints, strict=True):
        for metric in ("ES", "PS", "NS", "unrelated, unchanged"):
            for when in ("before", "after", "final"):
                one, other = old.score(metric, when), new.score(metric, when)
                assert (one and (one.value, one.n)) == (other and (other.value, other.n)), (metric, when)
        assert old.held == new.held
    said = [line for line in repr(result).splitlines() if not line.startswith("Tokens of neighbours'")]  # of all tokens
    assert repr(again).splitlines() == said  # schema 2 knew the next token alone
    assert page_html(page(again), light=True)


@needs_chromium
@pytest.mark.browser
def test_the_page_opens_and_its_slider_moves(whole, tmp_path):
    drawn = write_page(page(whole[0]), tmp_path / "page.html")
    slide = """
        const plot = [...document.querySelectorAll(".plot")].find((each) => each.layout.sliders);
        const shown = () => plot._fullData.map((trace) => trace.visible).join();
        document.body.dataset.before = shown();
        const move = plot.layout.sliders[0].steps[0];
        Plotly.update(plot, ...move.args).then(() => (document.body.dataset.moved = shown()));
    """
    seen = open_page(with_script(drawn, slide), tmp_path)
    assert seen.console == ()
    assert 'data-before="false,false,' in seen.dom
    assert 'data-moved="true,true,false' in seen.dom
    assert seen.dom.count("js-plotly-plot") >= 10


def test_a_page_can_be_made_of_one_edit(run, tmp_path):
    html = page_html(page(run(tmp_path, Config(), 1)), light=True)
    assert "1 fact edited" in html
    assert methods.method("rome").not_for in html  # the card says what the method is and is not for
    assert "of the tokens of neighbours" in html  # where an edit leaks first: no headline is without it


# ---- the command ----


@pytest.fixture
def edit(run_command, toy, monkeypatch):
    """edit(...) on the toy, already loaded."""
    monkeypatch.setattr(common, "loader", lambda *_: lambda: toy)
    return lambda *arguments: run_command("edit", *arguments)


QUICK = ("--facts", TOY / "toy_town.json", "--unrelated", TOY / "toy_trade.json", "--moments", "identity",
         "--layer", "0", "--set", "contexts=1", "--set", "steps=6", "--light")  # fmt: skip


def test_the_command_edits_saves_draws_and_goes_on(edit, monkeypatch):
    rest = ("--limit", 4, "--every", 2, "--batch", 2, "--restrain", "prune", "--set", "restrain.mode=linear")
    again = stops_at(monkeypatch, 2)
    with pytest.raises(Killed):
        edit("sequence", *QUICK, *rest)
    again()
    out = edit("sequence", *QUICK, *rest, "--json")
    assert out.exit_code == 0, out.stderr
    body = json.loads(out.stdout)
    assert (body["facts"], body["edits"], body["stopped"]) == (4, 2, "")
    assert [point["facts"] for point in body["checkpoints"]] == [0, 2, 4, 4]
    read = {(one["metric"], one["when"]): one["value"] for one in body["scores"]}
    assert {("ES", "before"), ("ES", "after"), ("ES", "final"), ("unrelated, unchanged", "final")} <= set(read)
    folder = Path(body["folder"])
    assert [path.name for path in Path("runs").iterdir()] == [folder.name]  # the same command, the same folder
    assert store.load(folder, SequenceResult).last.weights == body["weights"]
    assert Path(body["page"]).is_file()
    spoken = edit("sequence", *QUICK, *rest)
    assert "right after their edit" in spoken.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--limit", "0"], "--limit must be at least 1"),
        (["--stop-when", "retention"], "is no rule"),
        (["--method", "roam"], "no method 'roam'"),
        (["--every", "0"], "every must be at least 1"),
        (["--method", "ice"], "changes no weight"),
        (["--restrain", "prune"], "larger, not smaller"),
        (["--restrain", "rect", "--restrain-at", "noon"], "no moment 'noon'"),
        (["--restrain", "rect", "--set", "restrain.kept=1"], "one of these keys: keep"),
        (["--layer", "9"], "no layer 9"),
        (["--unrelated", str(TOY / "toy_town.json"), "--limit", "24"], "about a subject that is not edited"),
        (["--text", "nowhere.txt"], "no text at nowhere.txt"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_folder(edit, arguments, sentence):
    out = edit("sequence", *QUICK, "--limit", "4", *arguments)
    assert (out.exit_code, out.stdout) == (2, "")
    assert sentence in out.stderr
    assert "Traceback" not in out.stderr
    assert not list(Path().glob("runs/*/result.json"))
