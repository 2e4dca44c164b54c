"""`circuit` as a user meets it, on the trained toy: results, resuming, and every mistake in one sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from circuits.by_role.formats import read
from factscope.errors import ModelError
from factscope.plots.specs import Text
from factscope.runs import store
from helpers.models import TOY
from studies.circuit import CircuitStudy
from studies.pages.circuit import page

FACT = ("--model", str(TOY), "--no-split-qkv")
ACDC = (*FACT, "--method", "acdc")


@pytest.fixture
def prompt() -> tuple[str, str]:
    first = json.loads((TOY / "toy_town.json").read_text())["facts"][0]
    return f"[{first['subject']}] lives in", first["answer"]


def test_find_show_evaluate_compare_export(run_command: Any, tmp_path: Path, prompt: tuple[str, str]) -> None:
    text, answer = prompt
    run = tmp_path / "one"
    done = run_command(
        "circuit", "find", text, "--answer", answer, *ACDC, "--threshold", 0.05, "--out", run, "--certify", 0.1
    )
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 3
    assert {"result.json", "result.safetensors", "page.html", "journal.jsonl"} <= {f.name for f in run.iterdir()}
    again = run_command(
        "circuit",
        "find",
        text,
        "--answer",
        answer,
        *ACDC,
        "--threshold",
        0.05,
        "--out",
        run,
        "--certify",
        0.1,
        "--json",
    )
    assert json.loads(again.stdout)["edges"] > 0
    assert (run_command("circuit", "show", run, "--json")).exit_code == 0
    facts = TOY / "toy_town.json"
    done = run_command("circuit", "evaluate", run, "--facts", facts, "--model", TOY, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["evaluation"]["hit10_held_out"]["n"] > 3
    other = tmp_path / "two"
    done = run_command(
        "circuit", "find", text, "--answer", answer, *FACT, "--method", "eap-ig", "--edges", 60, "--set", "steps=3",
        "--out", other, "--no-evaluate",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "cut to zero, because no other subject" in done.stderr
    done = run_command("circuit", "compare", run, other, "--out", tmp_path / "diff", "--json")
    assert 0 <= json.loads(done.stdout)["jaccard"] <= 1
    assert "found differently" in done.stderr
    assert "method (acdc and eap_ig)" in done.stderr
    for form in ("json", "graphml", "gexf", "dot", "html"):
        assert run_command("circuit", "export", run, "--format", form).exit_code == 0
        assert (run / f"circuit.{form}").stat().st_size > 100
    done = run_command("circuit", "layers", run, run, "--out", tmp_path / "layers")
    assert (done.exit_code, "named twice" in done.stderr) == (2, True)
    copied = shutil.copytree(run, tmp_path / "copy")
    done = run_command("circuit", "layers", run, copied, "--out", tmp_path / "layers", "--json")
    assert len(json.loads(done.stdout)["heads"]) == len(json.loads(done.stdout)["mlps"])
    done = run_command("circuit", "layers", run, other, "--out", tmp_path / "layers")
    assert done.exit_code == 2
    assert "holds no roles" in done.stderr
    done = run_command("circuit", "import", run / "circuit.json", "--out", tmp_path / "back")
    assert done.exit_code == 0, done.stderr


def test_many_facts_are_split_into_found_and_held_out(run_command: Any, tmp_path: Path) -> None:
    done = run_command(
        "circuit", "find", "--facts", TOY / "toy_town.json", *FACT, "--examples", 4, "--method", "eap", "--edges", 80,
        "--ablation", "mean", "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)["evaluation"]
    assert said["hit10_found"]["n"] == 4
    assert said["hit10_held_out"]["n"] > 4
    assert "known to the model" in done.stderr


def test_a_sentence_and_other_subjects_are_all_it_takes(run_command: Any, tmp_path: Path) -> None:
    """`circuit "..."` is `circuit find`, for the fact and others like it, grown until it is faithful."""
    others = ("--others", "Oda Drey,Mira Drey,Ilse Senn,Pello Hallin,Ilse Voss,Oda Tavi,Oda Hallin,Pello Senn")
    common = ("[Oda Voss] lives in", *others, *FACT, "--json")
    done = run_command("circuit", *common, "--out", tmp_path / "a")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["method"] == "eap_ig"
    assert said["faithfulness"] >= 0.6
    assert said["stability"]["examples"] == said["evaluation"]["hit10_found"]["n"] > 1
    assert said["evaluation"]["hit10_held_out"]["n"] > 0
    assert "this fact and" in done.stderr
    assert "model's own" in done.stderr
    study = store.load(tmp_path / "a", CircuitStudy)
    found = study.circuit
    assert found.task.ablation == "mean"
    assert study.errors is not None
    assert "error of the scores" in (tmp_path / "a" / "page.html").read_text()
    sized = run_command("circuit", "find", *common, "--edges", found.settings["edges"], "--out", tmp_path / "b")
    assert json.loads(sized.stdout)["loss"] == said["loss"]


def test_edges_at_token_roles_join_facts_of_all_lengths(run_command: Any, tmp_path: Path) -> None:
    facts = ("--facts", TOY / "toy_town.json", *FACT, "--by-role", "--limit", 4)
    done = run_command("circuit", "find", *facts, "--edges", 60, "--set", "steps=2", "--out", tmp_path / "a", "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["prompts"] == 4
    assert said["edges"] == sum(said["edges_by_role"].values())
    assert "by token role" in done.stderr
    shown = run_command("circuit", "show", tmp_path / "a")
    assert "edges at roles" in shown.stdout
    written = run_command("circuit", "export", tmp_path / "a", "--format", "graphml", "--out", tmp_path / "a.graphml")
    assert written.exit_code == 0, written.stderr
    _, kept, _ = read(tmp_path / "a.graphml")
    assert int(kept.sum()) == json.loads(done.stdout)["edges"]
    for flags, said in (
        (("--method", "acdc"), "choose eap, eap-ig or relp"),
        (("--split-positions",), "has no use for --split-positions"),
        (("--pairs",), "leave out --no-split-qkv"),
        (("--metric", "logit_difference"), "needs a wrong answer for each"),
    ):
        done = run_command("circuit", "find", *facts, *flags, "--out", tmp_path / "b")
        assert (done.exit_code, said in done.stderr) == (2, True), done.stderr


def test_edges_between_roles_are_those_of_a_circuit_by_roles(run_command: Any, tmp_path: Path) -> None:
    facts = ("--facts", TOY / "toy_town.json", "--model", TOY, "--pairs", "--limit", 2, "--no-evaluate")
    alone = run_command("circuit", "find", *facts, "--out", tmp_path / "a")
    assert (alone.exit_code, "it goes with --by-role" in alone.stderr) == (2, True), alone.stderr
    done = run_command(
        "circuit", "find", *facts, "--by-role", "--edges", 60, "--method", "eap", "--out", tmp_path / "b", "--json"
    )
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert sum(said["edges_by_pair"].values()) < said["edges"] <= 60
    assert any(" -> last token" in pair for pair in said["edges_by_pair"])


def test_one_prompt_and_others_of_its_wording_are_a_circuit_by_roles(run_command: Any, tmp_path: Path) -> None:
    others = ("--others", "Oda Drey,Mira Drey,Ilse Senn,Pello Hallin,Ilse Voss,Oda Tavi")
    done = run_command(
        "circuit", "[Oda Voss] lives in", *others, *FACT, "--by-role", "--set", "steps=2", "--out", tmp_path / "a"
    )
    assert done.exit_code == 0, done.stderr
    assert "this fact and" in done.stderr
    assert "Random circuits of the same degrees" in done.stdout


def test_a_circuit_is_kept_before_it_is_evaluated(
    run_command: Any, tmp_path: Path, prompt: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails after the search does not take the circuit with it, and what was guessed stands in the result."""

    def fails(*_: Any, **__: Any) -> None:
        raise ModelError("no roles")

    monkeypatch.setattr("studies.circuit.roles", fails)
    text, answer = prompt
    done = run_command(
        "circuit", "find", text, "--answer", answer, *FACT, "--method", "eap-ig", "--edges", 60, "--out", tmp_path / "a"
    )
    assert done.exit_code == 2
    found = store.load(tmp_path / "a", CircuitStudy)
    assert found.evaluation is None
    assert found.circuit.n_edges > 0
    assert any("cut to zero, because no other subject" in note for note in found.circuit.notes)
    drawn = [spec.text for spec in page(found).sections[0].specs if isinstance(spec, Text)]
    assert "Edges are cut to zero, because no other subject" in drawn[0]


def test_a_threshold_takes_over_anothers_decisions(run_command: Any, tmp_path: Path, prompt: tuple[str, str]) -> None:
    text, answer = prompt
    common = ("find", text, "--answer", answer, *ACDC, "--no-evaluate", "--json")
    first = run_command("circuit", *common, "--threshold", 0.05, "--out", tmp_path / "a")
    alone = run_command("circuit", *common, "--threshold", 0.1, "--out", tmp_path / "b")
    like = run_command("circuit", *common, "--threshold", 0.1, "--out", tmp_path / "c", "--like", tmp_path / "a")
    assert first.exit_code == like.exit_code == 0, like.stderr
    assert json.loads(alone.stdout)["edges"] == json.loads(like.stdout)["edges"]
    other = run_command("circuit", *common, "--metric", "kl", "--out", tmp_path / "d", "--like", tmp_path / "a")
    assert other.exit_code == 2
    assert "another metric" in other.stderr
    assert not (tmp_path / "d" / "result.json").exists()


def test_a_foil_that_is_the_models_own_answer_is_refused(
    run_command: Any, tmp_path: Path, prompt: tuple[str, str]
) -> None:
    """In the same sentence, whether the answer is named or the model's own."""
    text, answer = prompt
    common = ("circuit", "find", text, "--foil", answer, *FACT, "--metric", "logit_difference", "--out", tmp_path / "r")
    said = [run_command(*common), run_command(*common, "--answer", answer)]
    assert [done.exit_code for done in said] == [2, 2]
    assert said[0].stderr.strip().splitlines()[-1] == said[1].stderr.strip().splitlines()[-1]
    assert "choose another foil" in said[0].stderr


def test_only_the_facts_that_the_circuit_was_found_on_are_none_to_evaluate_with(
    run_command: Any, tmp_path: Path, prompt: tuple[str, str]
) -> None:
    text, answer = prompt
    run, facts = tmp_path / "run", tmp_path / "facts.json"
    done = run_command(
        "circuit", "find", text, "--answer", answer, *FACT, "--method", "eap", "--edges", 60, "--ablation", "zero",
        "--no-evaluate", "--out", run,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    town = json.loads((TOY / "toy_town.json").read_text())
    facts.write_text(json.dumps(town | {"facts": town["facts"][:1]}))
    done = run_command("circuit", "evaluate", run, "--facts", facts, "--model", TOY)
    assert done.exit_code == 2
    assert "nothing of" in done.stderr
    assert "taken out" in done.stderr


NO_MODEL = ("--model", "nowhere")  # so what is said first was seen before one was loaded


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("find", "--seed", "1"), "either a PROMPT or --facts"),
        (("fnd", "[Oda Voss] lives in"), "did you mean circuit find?"),
        (("[Oda Voss] lives in", "--method", "magic"), "no circuit method"),
        (("--method", "magic", "[Oda Voss] lives in"), "no circuit method"),
        (("find", "[Oda Voss] lives in", "--method", "magic"), "no circuit method"),
        (("find", "[Oda Voss] lives in", *NO_MODEL, "--method", "acdc", "--engine", "warp"), "no engine 'warp'"),
        (("find", "[Oda Voss] lives in", *NO_MODEL, "--threshold", "nan"), "--threshold cannot be 'nan'"),
        (("find", "[Oda Voss] lives in", *NO_MODEL, "--ablation", "burn"), "no ablation"),
        (("find", "[Oda Voss] lives in", *NO_MODEL, "--metric", "length"), "no metric"),
        (("find", "[Oda Voss] lives in", *NO_MODEL, "--method", "eap", "--select", "threshold"), "needs one"),
        (("find", "[Oda Voss] lives in", "--method", "eap", "--set", "x=1"), "--set"),
        (("find", "[Oda Voss] lives in", "--set", "x=1"), "--set"),
        (("find", "[Oda Voss] lives in", *NO_MODEL, "--method", "acdc", "--edges", "9"), "acdc has no 'edges'"),
        (("find", "[Oda Voss] lives in", *NO_MODEL, "--faithful", "2"), "up to 1"),
        (("find", "[Oda Voss] lives in", *NO_MODEL, "--faithful", ".5", "--edges", "9"), "not both"),
        (("find", "[Oda Voss] lives in", *NO_MODEL, "--swap", "A", "--others", "B,C"), "one of the two"),
        (("find", "[Oda Voss] lives in", *NO_MODEL, "--method", "acdc", "--others", "B"), "change nothing"),
        (("find", "[Oda Voss] lives in", *FACT, "--others", "Oda Voss"), "own subject"),
        (("find", "[Oda Voss] lives in", *FACT, "--confident"), "one example has no spread"),
        (("find", "[Oda Voss] lives in", *NO_MODEL, "--method", "eap", "--engine", "fast"), "eap has no 'engine'"),
        (("find", "[Oda Voss] lives in", "--method", "acdc", "--certify", "2"), "share"),
        (("find", "[Oda Voss] lives in", "--method", "eap", "--like", "x"), "ACDC"),
        (("find", "--facts", "x", "--examples", "0"), "at least 1"),
        (("find", "--facts", "x", "--answer", "y"), "single PROMPT"),
        (("find", "[Oda Voss] lives in", "--answer", "weaver", *FACT), "where it says ' Brask'"),
        (("find", "[Oda Voss] lives in", *FACT, "--ablation", "counterfactual"), "--swap"),
        (("find", "[Oda Voss] lives in", *FACT, "--ablation", "mean"), "reference prompts"),
        (("find", "[Oda Voss] lives in", *ACDC, "--threshold", "1e9"), "nothing"),
        (("show", "nowhere"), "not a run folder"),
        (("compare", "nowhere", "here"), "not a run folder"),
        (("export", "nowhere"), "not a run folder"),
        (("import", "nowhere.gv"), "cannot be read"),
    ],
)
def test_mistakes_are_one_sentence_and_code_2(run_command: Any, arguments: tuple[str, ...], said: str) -> None:
    done = run_command("circuit", *arguments)
    assert done.exit_code == 2, done.stderr
    assert said in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_journal_of_another_search_is_refused_and_intact(
    run_command: Any, tmp_path: Path, prompt: tuple[str, str]
) -> None:
    text, answer = prompt
    common = ("find", text, "--answer", answer, *ACDC, "--no-evaluate", "--out", tmp_path / "run")
    assert run_command("circuit", *common, "--threshold", 0.05).exit_code == 0
    journal = tmp_path / "run" / "journal.jsonl"
    before = journal.read_bytes()
    done = run_command("circuit", *common, "--threshold", 0.06)
    assert done.exit_code == 2
    assert "threshold" in done.stderr
    assert journal.read_bytes() == before


def test_paths_are_patched_and_scorers_are_measured(run_command: Any, tmp_path: Path) -> None:
    asked = ("[Oda Voss] lives in", "--swap", "Mira Drey", "--model", TOY, "--json")
    done = run_command(
        "circuit", "patch", *asked, "--from", "a0.*,m0", "--to", "a1.*.q,logits", "--together", "--direction",
        "denoising", "--out", tmp_path / "paths",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["direction"] == "denoising"
    assert len(said["strongest"]) > 3
    assert "Direct effect" in (tmp_path / "paths" / "page.html").read_text()
    done = run_command(
        "circuit", "scorers", *asked, "--methods", "eap,eap-ig", "--edges", 30, "--out", tmp_path / "scorers"
    )
    assert done.exit_code == 0, done.stderr
    assert set(json.loads(done.stdout)["scorers"]) == {"eap", "eap_ig"}
    for wrong, words in (
        (("patch", *asked, "--from", "a7.h9"), "no sender 'a7.h9'"),
        (("patch", *asked, "--direction", "denoising", "--ablation", "zero"), "leave --ablation out"),
        (("scorers", *asked, "--methods", "acdc"), "no scorer 'acdc'"),
        (("scorers", *asked, "--edges", 3), "too few"),
    ):
        done = run_command("circuit", *wrong, "--out", tmp_path / "no")
        assert (done.exit_code, words in done.stderr) == (2, True), done.stderr
