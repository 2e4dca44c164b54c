"""The `edit` command as a user meets it: a table or JSON, folders that can be read again, one sentence for mistakes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from editing.edit import Edit, applied
from editing.method import method
from factscope.errors import UserError
from factscope.model.prompts import start_ids
from helpers.models import TOY
from studies.commands import app as common
from studies.commands.edit.saved import stack

PROMPT = "[Oda Voss] lives in"
QUICK = ("--moments", "identity", "--set", "contexts=2", "--layer", "0", "--light")


def read(body):
    """The scores that a command printed, by metric and time."""
    return {(one["metric"], one["when"]): one for one in body["scores"]}


@pytest.fixture
def edit(run_command, toy, monkeypatch):
    """edit(...) on the toy, already loaded."""
    monkeypatch.setattr(common, "loader", lambda *_: lambda: toy)
    return lambda *arguments: run_command("edit", *arguments)


def test_apply_evaluates_saves_and_draws(edit):
    out = edit("apply", PROMPT, "--target", "Vey", *QUICK, "--out", "here")
    assert out.exit_code == 0, out.stderr
    assert "Oda Voss lives in" in out.stdout
    assert "␣Vey" in out.stdout
    assert "Scores of one fact:" in out.stdout
    assert "95 %" not in out.stdout  # one fact has no interval
    assert "the identity stands in" in out.stderr
    saved = Edit.load("here")
    assert (saved.method, saved.requests[0].target, saved.moments) == ("rome", "Vey", "identity")
    page = Path("here/page.html").read_text(encoding="utf-8")
    assert all(clause in page for clause in (method("rome").good_for, method("rome").not_for))


def test_apply_speaks_json_and_takes_facts_from_a_file(edit):
    out = edit("apply", "--facts", TOY / "toy_town.json", "--limit", 3, "--method", "memit", *QUICK[:4],
               "--layer", "0,1", "--light", "--json")  # fmt: skip
    assert out.exit_code == 0, out.stderr
    body = json.loads(out.stdout)
    assert body["facts"] == 3
    assert read(body)["ES", "before"]["value"] == 0
    assert Edit.load(body["folder"]).name == body["edits"][0]


def test_one_fact_is_told_to_a_program_with_its_answers(edit, toy):
    """Prompt, target, before and after; the probability said of the next token is the model's own."""
    out = edit("apply", PROMPT, "--target", "Vey", *QUICK, "--out", "here", "--json")
    assert out.exit_code == 0, out.stderr
    body = json.loads(out.stdout)
    assert (body["prompt"], body["target"]) == ("Oda Voss lives in", "Vey")
    assert {"as a question", "after a sentence", "negation"} <= {one["kind"] for one in body["questions"]}
    assert all("Oda Voss lives in" in one["prompt"] for one in body["questions"])
    assert (body["before"]["next_token"], body["after"]["next_token"]) == (" Brask", " Vey")
    ids = [*start_ids(toy, "auto"), *toy.tokenizer("Oda Voss lives in", add_special_tokens=False)["input_ids"]]
    for when, edits in (("before", []), ("after", [Edit.load("here")])):
        with applied(toy, edits):
            top = float(toy(torch.tensor([ids]))[0, -1].softmax(-1).max())
        assert body[when]["probability"] == pytest.approx(top, abs=1e-4)
        assert body[when]["target_probability"] == pytest.approx(top if when == "after" else 0, abs=0.05)
    assert body["after"]["written"].split()[0] == "Vey"


def test_a_batch_size_makes_a_stack_of_edits_scored_at_once_and_at_the_end(edit):
    out = edit("apply", "--facts", TOY / "toy_town.json", "--limit", 4, "--batch", 2, *QUICK, "--out", "many", "--json")
    assert out.exit_code == 0, out.stderr
    body = json.loads(out.stdout)
    assert len(body["edits"]) == 2
    assert ("ES", "final") in read(body)
    second = Edit.load("many/edit-0002")
    assert second.below == (Edit.load("many/edit-0001").digest,)
    shutil.rmtree("many/report")  # as if it had been killed among its edits
    out = edit("evaluate", "many")
    assert out.exit_code == 2
    assert "many holds 2 edits and no report" in out.stderr


def test_a_restraint_makes_one_edit_of_them(edit):
    out = edit("apply", "--facts", TOY / "toy_town.json", "--limit", 4, "--batch", 2, "--restrain", "rect",
               "--set", "restrain.keep=0.5", *QUICK, "--out", "held")  # fmt: skip
    assert out.exit_code == 0, out.stderr
    assert Edit.load("held").restraints == ("rect 0.5",)


def test_stack_list_undo_and_export(edit):
    assert edit("apply", PROMPT, "--target", "Vey", "--stack", *QUICK, "--out", "runs/one").exit_code == 0
    assert (
        edit("apply", "[Mira Drey] lives in", "--target", "Vey", "--stack", *QUICK, "--out", "runs/two").exit_code == 0
    )
    assert Edit.load("runs/two").below == (Edit.load("runs/one").digest,)
    listed = json.loads(edit("list", "--json").stdout)
    assert [(one["folder"], one["stacked"]) for one in listed] == [("runs/one", True), ("runs/two", True)]
    exported = edit("export", "--out", "model", "--json")
    assert exported.exit_code == 0, exported.stderr
    assert Path("model/model.safetensors").is_file()
    adapter = edit("export", "--peft", "--out", "adapter")
    assert adapter.exit_code == 0, adapter.stderr
    assert adapter.stdout.startswith("Adapter in adapter; PEFT loads it on the unedited ")
    assert json.loads(Path("adapter/adapter_config.json").read_text())["r"] == 2  # a rank for each edit
    undone = edit("undo", "runs/one", "--json")
    assert undone.exit_code == 0, undone.stderr
    assert json.loads(undone.stdout)["stack"] == ["runs/two"]
    words = "Taken off the stack: runs/two; its folder stays. Tried on the weights: without it, bit for bit "
    assert edit("undo").stdout == f"{words}the unedited model\n"
    empty = edit("undo")
    assert (empty.exit_code, "nothing to undo" in empty.stderr) == (2, True)
    assert "*" not in edit("list").stdout


def test_edits_made_apart_are_merged_and_one_is_taken_out_exactly(edit):
    prompts = {"one": PROMPT, "two": "[Mira Drey] lives in"}
    for name, prompt in prompts.items():
        made = edit("apply", prompt, "--target", "Vey", *QUICK, "--out", f"runs/{name}")
        assert made.exit_code == 0, made.stderr
    both = edit("merge", "runs/one", "runs/two", "--out", "runs/both", "--json")
    assert both.exit_code == 0, both.stderr
    assert len(json.loads(both.stdout)["merged"]) == 2
    assert [len(delta.right) for delta in Edit.load("runs/both").deltas] == [2]
    assert edit("merge", "runs/both", "--without", "runs/one", "--out", "runs/rest").exit_code == 0
    assert edit("merge", "runs/two", "--out", "runs/alone").exit_code == 0
    assert Edit.load("runs/rest").digest == Edit.load("runs/alone").digest
    stranger = edit("merge", "runs/rest", "--without", "runs/one", "--out", "runs/none")
    assert (stranger.exit_code, "is not in the merge" in stranger.stderr) == (2, True)
    nothing = edit("merge", "runs/rest", "--without", "runs/two", "--out", "runs/none")
    assert (nothing.exit_code, "no edit is left to merge" in nothing.stderr) == (2, True)
    lost = edit("merge", "runs/both", "--runs", "elsewhere", "--out", "runs/none")
    assert (lost.exit_code, "is not in elsewhere: give it as well" in lost.stderr) == (2, True)


def test_an_edit_of_full_rank_is_no_adapter(edit):
    assert (
        edit("apply", PROMPT, "--target", "Vey", "--method", "ft-m", "--set", "steps=1", "--out", "full").exit_code == 0
    )
    said = edit("export", "full", "--peft", "--out", "adapter")
    assert said.exit_code == 2
    assert "is of full rank, and an adapter is two thin factors: leave --peft out" in said.stderr
    assert not Path("adapter").exists()


def test_the_stack_is_found_from_another_folder_and_moves_with_its_edits(edit, tmp_path, monkeypatch):
    edit("apply", PROMPT, "--target", "Vey", "--stack", *QUICK, "--out", "runs/one")
    edit("apply", "[Mira Drey] lives in", "--target", "Vey", "--stack", *QUICK, "--out", "elsewhere/two")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    assert edit("export", "--runs", "../runs", "--out", "model").exit_code == 0
    assert json.loads(edit("undo", "--runs", "../runs", "--json").stdout)["stack"] == ["../runs/one"]
    (tmp_path / "runs").rename(tmp_path / "moved")
    listed = json.loads(edit("list", "--runs", "../moved", "--json").stdout)
    assert [one["stacked"] for one in listed] == [True]


def test_a_stack_of_an_older_version_holds_paths_of_the_folder_above(edit, tmp_path, monkeypatch):
    edit("apply", PROMPT, "--target", "Vey", "--stack", *QUICK, "--out", "runs/one")
    Path("runs/edits.json").write_text(json.dumps({"stack": ["runs/one"]}))
    assert [one["stacked"] for one in json.loads(edit("list", "--json").stdout)] == [True]
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    said = edit("undo", "--runs", "../runs")
    assert said.exit_code == 0, said.stderr


def test_a_saved_edit_is_not_written_over(edit):
    """Neither by --out, nor on the stack, where those above were computed on top of it."""
    first = ("apply", PROMPT, "--target", "Vey", *QUICK, "--out", "here")
    assert edit(*first).exit_code == 0
    kept = Edit.load("here").digest
    again = edit("apply", "[Mira Drey] lives in", *first[2:])
    assert (again.exit_code, again.stderr) == (
        2, "edit: here holds a saved edit already; choose another folder with --out\n"
    )  # fmt: skip
    assert Edit.load("here").digest == kept
    many = ("apply", "--facts", TOY / "toy_town.json", "--limit", 2, "--batch", 1, "--stack", *QUICK)
    assert edit(*many).exit_code == 0
    assert "holds a saved edit already" in edit(*many).stderr
    assert len(json.loads(Path("runs/edits.json").read_text())["edits"]) == 1


def test_an_edit_that_was_saved_and_not_put_on_the_stack_is_put_there_by_the_same_command(edit):
    """As after a kill between the two, or before its report; an edit of other options is not taken for it."""
    first = ("apply", PROMPT, "--target", "Vey", *QUICK, "--stack", "--out", "here")
    assert edit(*first).exit_code == 0
    kept = Edit.load("here").digest
    Path("runs/edits.json").unlink()
    other = edit(*first, "--seed", 3)
    assert other.exit_code == 2
    assert "here holds a run of other settings (seed" in other.stderr
    again = edit(*first)
    assert again.exit_code == 0, again.stderr
    shutil.rmtree("here/report")
    Path("runs/edits.json").unlink()
    again = edit(*first)
    assert again.exit_code == 0, again.stderr
    assert Edit.load("here").digest == kept
    assert json.loads(Path("runs/edits.json").read_text())["edits"] == ["../here"]
    assert "holds a saved edit already" in edit(*first).stderr


def test_the_old_order_of_export_still_works_and_an_edit_is_not_written_over(edit):
    assert edit("apply", PROMPT, "--target", "Vey", *QUICK, "--out", "here").exit_code == 0
    said = edit("export", "here")
    assert (said.exit_code, "--out is missing" in said.stderr) == (2, True)
    said = edit("export", "model", "--edit", "here")
    assert (said.exit_code, "is now --out" in said.stderr) == (0, True)
    assert Path("model/model.safetensors").is_file()


def test_edits_on_the_stack_are_listed_wherever_they_are(edit):
    edit("apply", PROMPT, "--target", "Vey", "--stack", *QUICK, "--out", "elsewhere/one")
    edit("apply", PROMPT, "--target", "Vey", *QUICK, "--out", "runs/two")
    edit("apply", PROMPT, "--target", "Vey", *QUICK, "--out", "unknown/three")
    listed = json.loads(edit("list", "--json").stdout)
    assert [(one["folder"], one["stacked"]) for one in listed] == [("elsewhere/one", True), ("runs/two", False)]


def test_an_edit_that_did_not_take_is_told(edit):
    still = ("--set", "steps=1", "--set", "learning_rate=1e-9")
    assert "did not take" in edit("apply", PROMPT, "--target", "Vey", *QUICK, *still).stderr
    assert "did not take" not in edit("apply", PROMPT, "--target", "Vey", *QUICK).stderr


def test_half_precision_keeps_standard_output_to_the_result(run_command):
    """And of the libraries' remarks nothing, of ours one sentence."""
    how = ("--model", TOY, "--dtype", "float16", "--device", "cpu", "--json")
    out = run_command("edit", "apply", PROMPT, "--target", "Vey", *QUICK, *how, "--out", "half")
    assert out.exit_code == 0, out.stderr
    assert json.loads(out.stdout)["method"] == "rome"
    said = [line for line in out.stderr.splitlines() if "float16" in line]
    assert said == ["Note: the model is in float16; the edit is computed in float32."]
    assert "Warning" not in out.stderr
    exported = run_command("edit", "export", "half", "--out", "model", "--json")  # in the edit's own model and dtype
    assert (exported.exit_code, exported.stderr) == (0, "")
    assert json.loads(exported.stdout)["folder"] == "model"


def test_a_saved_edit_brings_its_own_model(edit, monkeypatch):
    assert edit("apply", PROMPT, "--target", "Vey", *QUICK, "--stack", "--out", "here").exit_code == 0
    asked: list[tuple[Any, ...]] = []
    load = common.loader

    def counted(*how: Any) -> Any:
        asked.append(how)
        return load(*how)

    monkeypatch.setattr(common, "loader", counted)
    for words in (("evaluate", "here"), ("export", "model", "--edit", "here"), ("evaluate", "here", "--model", "gpt2"),
                  ("undo",)):  # fmt: skip
        out = edit(*words)
        assert out.exit_code == 0, out.stderr
    assert [Path(name).name for name, *_ in asked] == ["toy", "toy", "gpt2", "toy"]
    assert {dtype for _, _, dtype, _ in asked} == {"float32"}


@pytest.mark.parametrize("command", ["apply", "sequence"])
def test_the_help_names_every_method(run_command, command, monkeypatch):
    from editing.method import method_names

    monkeypatch.setenv("COLUMNS", "200")
    said = run_command("edit", command, "--help").stdout
    assert [name for name in method_names() if name not in said] == []


def test_evaluate_reads_a_saved_edit_by_another_protocol_and_on_other_facts(edit):
    edit("apply", PROMPT, "--target", "Vey", *QUICK, "--out", "here")
    out = edit("evaluate", "here", "--facts", TOY / "toy_town.json", "--limit", 2, "--unrelated",
               TOY / "toy_trade.json", "--json")  # fmt: skip
    assert out.exit_code == 0, out.stderr
    scores = read(json.loads(out.stdout))
    assert scores["ES", "after"]["n"] == 2
    assert scores["unrelated, unchanged", "after"]["n"] > 1
    out = edit("evaluate", "here", "--facts", TOY / "toy_town.json", "--order", "single")
    assert out.exit_code == 2
    assert "not of each in 'single': leave the order out" in out.stderr


def test_layers_recommends_one_that_it_tried(edit):
    out = edit("layers", TOY / "toy_town.json", "--limit", 2, "--layer", "0,1", "--moments", "identity", "--json")
    assert out.exit_code == 0, out.stderr
    body = json.loads(out.stdout)
    assert body["best"] in (0, 1)
    assert len(body["trials"]) == 2


def test_moments_are_collected_once(edit, tmp_path):
    first = edit("moments", "--layer", "1", "--tokens", 256, "--out", tmp_path / "kept", "--json")
    assert first.exit_code == 0, first.stderr
    assert json.loads(first.stdout)["tokens"] >= 256
    assert edit("moments", "--layer", "1", "--tokens", 256, "--out", tmp_path / "kept", "--json").stdout == first.stdout
    assert "condition" in edit("moments", "--layer", "1", "--tokens", 256, "--out", tmp_path / "kept").stdout


def test_moments_of_a_start_token_that_the_model_does_not_have_are_refused_in_words(edit, tmp_path):
    out = edit("moments", "--layer", "1", "--tokens", 256, "--start", "<nope>", "--out", tmp_path / "kept")
    assert (out.exit_code, "'<nope>' is not a token of this model" in out.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seed", "1"], "either a PROMPT"),
        ([PROMPT], "--target is missing"),
        ([PROMPT, "--target", ""], "target is empty"),
        ([PROMPT, "--target", "Brask"], "edited away from"),
        ([PROMPT, "--target", "Vey", "--layer", "9"], "no layer 9: this model has layers 0 to 3"),
        ([PROMPT, "--target", "Vey", "--layer", "one"], "write whole numbers"),
        ([PROMPT, "--target", "Vey", "--layer", "1", "--method", "ice"], "writes to no layer"),
        ([PROMPT, "--target", "Vey", "--method", "roam"], "no method 'roam'"),
        ([PROMPT, "--target", "Vey", "--set", "stepps=3"], "no setting 'stepps'"),
        ([PROMPT, "--target", "Vey", "--subject", "Nobody"], "--subject names 'Nobody'"),
        ([PROMPT, "--target", "Vey", "--restrain", "hug"], "no restraint 'hug'"),
        ([PROMPT, "--target", "Vey", "--tokens", "5"], "cannot fill"),
        ([PROMPT, "--target", "Vey", "--set", "learning_rate=inf", "--set", "clamp=inf"], "NaN or infinity at step"),
        (["--facts", "nowhere.json"], "nowhere.json"),
        (["--facts", str(TOY / "toy_town.json"), "--target", "Vey"], "belong to a single PROMPT"),
        (["--facts", str(TOY / "toy_town.json"), "--batch", "0"], "--batch must be"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(edit, arguments, sentence):
    quick = [] if "--tokens" in arguments else ["--moments", "identity"]
    out = edit("apply", *arguments, *quick)
    assert out.exit_code == 2
    assert sentence in out.stderr
    assert "Traceback" not in out.stderr
    assert out.stdout == ""


def test_a_damaged_edit_and_two_targets_are_told(edit):
    edit("apply", PROMPT, "--target", "Vey", *QUICK, "--out", "here")
    tensors = Path("here/result.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-4])
    out = edit("evaluate", "here")
    assert (out.exit_code, "damaged" in out.stderr) == (2, True)
    record = {"subject": "Oda Voss", "prompt": "Oda Voss lives in", "ground_truth": "Brask"}
    records = [record | {"target_new": name, "case_id": i} for i, name in enumerate(("Vey", "Dunvale"))]
    Path("two.json").write_text(json.dumps(records))
    out = edit("apply", "--facts", "two.json", *QUICK)
    assert (out.exit_code, "two targets, 'Vey' and 'Dunvale'" in out.stderr) == (2, True)


def test_ctrl_c_in_a_batch_leaves_the_weights_and_what_is_done(edit, monkeypatch):
    from editing import method as methods

    def stopping(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(methods, "find_values", stopping)
    out = edit("apply", "--facts", TOY / "toy_town.json", "--limit", 4, "--batch", 2, *QUICK)
    assert out.exit_code == 130  # the fixture of the toy checks its weights and hooks
    assert "Traceback" not in out.stderr


def test_any_saved_run_is_shown_again_by_any_group(edit, run_command):
    made = edit("apply", PROMPT, "--target", "Vey", *QUICK, "--out", "here")
    table = [line for line in made.stdout.splitlines() if line.startswith(("metric", "ES,"))]
    Path("here/page.html").unlink()
    for group in ("edit", "trace"):
        out = run_command(group, "show", "here", "--light")
        assert out.exit_code == 0, out.stderr
        assert [line for line in out.stdout.splitlines() if line.startswith(("metric", "ES,"))] == table
    assert "How it was made" in Path("here/page.html").read_text()  # the page of the edit, not of its scores alone
    out = run_command("edit", "show", "nowhere")
    assert out.exit_code == 2
    assert "not a run folder" in out.stderr


def test_an_edit_is_put_on_the_stack_that_it_was_made_on_alone(tmp_path):
    (tmp_path / "one").mkdir()
    stack.put_on(tmp_path, tmp_path / "one", [])
    with pytest.raises(UserError, match="changed while the edit was made"):
        stack.put_on(tmp_path, tmp_path / "two", [])
    assert [Path(place).name for place in stack.read_stack(tmp_path)] == ["one"]
    stack.put_on(tmp_path, tmp_path / "two", stack.read_stack(tmp_path))
    assert [Path(place).name for place in stack.read_stack(tmp_path)] == ["one", "two"]
