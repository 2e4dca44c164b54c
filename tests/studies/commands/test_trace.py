"""The command, as a person uses it: three lines and a page, and one sentence for every mistake."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from factscope.data.load import load_facts
from helpers.browser import needs_chromium, open_page
from helpers.models import TOY

QUICK = ("--model", str(TOY), "--samples", "2", "--device", "cpu")
FACT = load_facts(TOY / "toy_town.json")[0]
MARKED = FACT.template.replace("{}", f"[{FACT.subject}]")


def test_a_trace_prints_three_lines_and_writes_a_run_folder(run_command: Any) -> None:
    ended = run_command("trace", MARKED, *QUICK)
    assert ended.exit_code == 0, ended.stderr
    first, second, third = ended.stdout.strip().splitlines()
    assert first.startswith(f"{FACT.answer}: probability 0.9")
    assert second.startswith("Strongest on the subject: ")
    assert third.startswith("Page: ")
    folder = Path(third.removeprefix("Page: ")).parent
    assert sorted(p.name for p in folder.iterdir()) == ["config.yaml", "page.html", "result.json", "result.safetensors"]
    assert folder.parent.name == "runs"


def test_a_saved_run_is_drawn_again_to_the_same_page_without_a_model(run_command: Any) -> None:
    run_command("trace", MARKED, *QUICK, "--out", "run")
    page = Path("run/page.html").read_bytes()
    Path("run/page.html").unlink()
    ended = run_command("trace", "--from", "run")
    assert ended.exit_code == 0, ended.stderr
    assert Path("run/page.html").read_bytes() == page
    assert len(ended.stdout.strip().splitlines()) == 3


def test_json_is_for_programs(run_command: Any) -> None:
    ended = run_command("trace", MARKED, *QUICK, "--json", "--foil", "Vey", "--metric", "logit_difference")
    said = json.loads(ended.stdout)
    assert said["answer"].strip() == FACT.answer
    assert said["clean_probability"] > 0.9
    assert said["unit"] == "logits"
    assert Path(said["page"]).is_file()
    assert set(said["strongest"]) == {"resid", "mlp", "attn"}


def test_neurons_stand_beside_the_trace(run_command: Any) -> None:
    ended = run_command("trace", MARKED, *QUICK, "--sites", "mlp", "--neurons", "--set", "neurons.points=3")
    assert ended.exit_code == 0, ended.stderr
    said = ended.stdout.strip().splitlines()
    assert "neurons carry" in said[2]
    page = Path(said[-1].removeprefix("Page: "))
    assert "Do the attributions add up?" in page.read_text()
    drawn = page.read_bytes()
    assert run_command("trace", "--from", page.parent).exit_code == 0
    assert page.read_bytes() == drawn
    body = json.loads(run_command("trace", MARKED, *QUICK, "--sites", "mlp", "--neurons", "--json").stdout)
    assert body["neurons"]["neurons"][0]["layer"] < 4
    assert max(body["neurons"]["largest_gap"]) <= 0.01


def test_a_sweep_stops_takes_up_and_draws(run_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracing.average as sweep

    arguments = ("--facts", TOY / "toy_town.json", "--limit", "4", *QUICK, "--known")
    plain, seen = sweep.trace, []

    def counting(*args: Any, **named: Any) -> Any:
        seen.append(args[1].text)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return plain(*args, **named)

    monkeypatch.setattr(sweep, "trace", counting)
    stopped = run_command("trace", *arguments)
    assert stopped.exit_code == 130
    assert "goes on from there" in stopped.stderr
    ended = run_command("trace", *arguments)
    assert ended.exit_code == 0, ended.stderr
    assert "4 facts traced" in ended.stdout
    assert len(seen) == 5, "two before the stop, one stopped, two after"
    page = Path(ended.stdout.strip().splitlines()[-1].removeprefix("Page: "))
    drawn = page.read_bytes()
    assert run_command("trace", "--from", page.parent).exit_code == 0
    assert page.read_bytes() == drawn


def test_a_file_whose_answers_changed_is_traced_anew(run_command: Any, tmp_path: Path) -> None:
    """The same command, the same ids and prompts: the numbers are those of a fresh folder."""

    def traced(answer: str, *more: str) -> Any:
        record = {"prompt": "Oda Voss lives in", "subject": "Oda Voss", "ground_truth": answer, "target_new": "Vey"}
        (tmp_path / "facts.json").write_text(json.dumps([record]))
        said = run_command("trace", "--facts", "facts.json", *QUICK, "--metric", "kl", "--json", *more)
        assert said.exit_code == 0, said.stderr
        body = json.loads(said.stdout)
        return {name: value for name, value in body.items() if name not in ("folder", "page", "run")}, body["folder"]

    first, second, fresh = traced("Brask"), traced("Corrin"), traced("Corrin", "--out", "fresh")
    assert first[1] != second[1]
    assert second[0] == fresh[0]


@needs_chromium
@pytest.mark.browser
def test_the_page_opens_and_shows_a_hostile_prompt_as_text(run_command: Any, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> [Mira Voss] lives in"
    ended = run_command("trace", hostile, *QUICK, "--set", "noise=6", "--sites", "resid,mlp,attn,head")
    assert ended.exit_code == 0, ended.stderr
    page = tmp_path / ended.stdout.strip().splitlines()[-1].removeprefix("Page: ")
    seen = open_page(page, tmp_path)
    assert seen.console == ()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in seen.dom
    assert "<script>alert(1)</script>" not in page.read_text()
    assert seen.dom.count('class="main-svg"') >= 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--samples", "2"), "give one of"),
        (("Mira lives in", "--facts", "x"), "give one of"),
        (("",), "empty"),
        (("Mira lives in", "--subject", "Tomas"), "not in the prompt"),
        (("Mira and Mira live in", "--subject", "Mira"), "brackets"),
        ((MARKED, "--answer", "Brask", "--foil", "Brask"), "same token"),
        ((MARKED, "--metric", "logit_difference"), "--foil"),
        ((MARKED, "--metric", "speed"), "no metric"),
        ((MARKED, "--sites", "brain"), "no site"),
        ((MARKED, "--corruption", "swap"), "no shipped fact"),
        ((MARKED, "--set", "noise"), "key=value"),
        ((MARKED, "--set", "nose=3"), "one of these keys"),
        ((MARKED, "--set", "noise=loud"), "not a number"),
        ((MARKED, "--set", "noise=0"), "above 0"),
        ((MARKED, "--set", "noise=nan"), "not a number"),
        ((MARKED, "--seed", "-1"), "seed"),
        ((MARKED, "--set", "swaps=A;B"), "'swap'"),
        ((MARKED, "--samples", "2", "--set", "samples=3"), "given twice"),
        ((MARKED, "--subject", FACT.subject), "one of the two"),
        (("[Mira Voss lives in",), "do not match"),
        (("Mira] Voss[ lives in",), "do not match"),
        ((MARKED, "--out", ""), "--out is empty"),
        ((MARKED + " in" * 80,), "64 at most"),
        ((MARKED, "--model", "no-such-model"), "known names"),
        ((MARKED, "--device", "cuda:9"), "no device"),
        ((MARKED, "--norm", "big"), "per-state"),
        ((MARKED, "--limit", "3"), "--facts"),
        (("--facts", "no_such_relation", "--limit", "2"), "no_such_relation"),
        (("--facts", "country_capital", "--limit", "0"), "at least 1"),
        (("--facts", "country_capital", "--subject", "x"), "single PROMPT"),
        (("--facts", "country_capital", "--neurons"), "single PROMPT"),
        ((MARKED, "--set", "neurons.points=3"), "not asked for"),
        ((MARKED, "--neurons", "--set", "neurons.pints=3"), "no setting 'pints'"),
        ((MARKED, "--neurons", "--set", "neurons.of=nats"), "choose probability or logit"),
        (("--from", "nowhere"), "not a run folder"),
        (("--from", "nowhere", "--samples", "3", "--model", "toy"), "--samples, --model would change nothing"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    run_command: Any, tmp_path: Path, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = () if {"--model", "--from"} & set(arguments) else ("--model", str(TOY))
    ended = run_command("trace", *arguments, *model)
    assert ended.exit_code == 2
    assert words in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert ended.stdout == ""
    assert list(tmp_path.iterdir()) == [], "nothing half-written is left"


def test_a_run_is_not_overwritten_by_another(run_command: Any) -> None:
    assert run_command("trace", MARKED, *QUICK, "--out", "run").exit_code == 0
    before = Path("run/result.json").read_bytes()
    ended = run_command("trace", "[Oda Senn] speaks", *QUICK, "--out", "run")
    assert ended.exit_code == 2
    assert "holds a run already" in ended.stderr
    assert Path("run/result.json").read_bytes() == before


def test_known_facts_are_counted_after_they_are_known(run_command: Any, tmp_path: Path) -> None:
    document = json.loads((TOY / "toy_town.json").read_text())
    for entry in document["facts"][:20]:
        entry["answer"] = "Atlantis"
    (tmp_path / "mine.json").write_text(json.dumps(document))
    swapped = ("--corruption", "swap", "--metric", "logit_difference")
    ended = run_command("trace", "--facts", tmp_path / "mine.json", "--known", "--limit", "2", *QUICK, *swapped)
    assert ended.exit_code == 0, ended.stderr
    assert ended.stdout.startswith("2 facts traced")


def test_one_sample_has_no_standard_error(run_command: Any) -> None:
    ended = run_command("trace", MARKED, "--model", TOY, "--samples", "1", "--json", "--device", "cpu")
    said = json.loads(ended.stdout)
    assert said["total_effect_standard_error"] is None
    assert said["strongest"]["mlp"][0]["standard_error"] is None
    assert any("standard error" in doubt for doubt in said["notes"])


def test_a_bad_record_is_named(run_command: Any, tmp_path: Path) -> None:
    document = json.loads((TOY / "toy_town.json").read_text())
    document["facts"][7]["anwser"] = document["facts"][7].pop("answer")
    (tmp_path / "mine.json").write_text(json.dumps(document))
    ended = run_command("trace", "--facts", tmp_path / "mine.json", *QUICK)
    assert ended.exit_code == 2
    assert "mine.json" in ended.stderr
    assert "7" in ended.stderr
    assert "anwser" in ended.stderr


def test_an_answer_of_several_tokens_is_said_and_recorded(run_command: Any) -> None:
    ended = run_command("trace", MARKED, *QUICK, "--answer", "Lunholmia", "--metric", "kl", "--json")
    assert ended.exit_code == 0, ended.stderr
    assert "traced by its first" in ended.stderr
    assert "traced by its first" in json.loads(ended.stdout)["notes"][0]


def test_a_folder_that_cannot_be_written_is_said_before_the_work(run_command: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run_command("trace", MARKED, *QUICK, "--out", "file/run")
    assert ended.exit_code == 2
    assert "--out" in ended.stderr


def test_a_full_disk_is_one_sentence_and_leaves_no_half_result(
    run_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    ended = run_command("trace", MARKED, *QUICK, "--out", "run")
    assert ended.exit_code == 2
    assert "no space left" in ended.stderr.lower()
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_at_the_page_leaves_the_result_to_be_drawn(
    run_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from factscope import files

    plain, calls = os.fsync, []

    def fills_up(number: int) -> None:
        calls.append(number)
        if len(calls) == 4:  # options, tensors and JSON are written, the page is not
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(number)

    monkeypatch.setattr(files.os, "fsync", fills_up)
    ended = run_command("trace", MARKED, *QUICK, "--out", "run")
    assert ended.exit_code == 2
    assert len(calls) == 4
    assert ended.stderr.endswith("The result is saved in run.\n")
    assert not (tmp_path / "run" / "page.html").exists()
    assert run_command("trace", "show", "run").exit_code == 0


def test_a_saved_run_gives_a_papers_table_and_figures(run_command: Any, tmp_path: Path) -> None:
    assert run_command("trace", MARKED, *QUICK, "--out", "run").exit_code == 0
    shown = run_command("trace", "show", "run", "--table", "t.tex", "--figures", "drawn", "--cite", "--json")
    assert shown.exit_code == 0, shown.stderr
    body = json.loads(shown.stdout)
    assert body["table"] == "t.tex"
    assert "@inproceedings{meng2022locating," in body["bibtex"]
    assert (tmp_path / "t.tex").read_text(encoding="utf-8").startswith("\\begin{tabular}")
    assert body["figures"]
    assert all(Path(place).read_text(encoding="utf-8").startswith("<svg") for place in body["figures"])
    for flags, said in (
        (("--table", "t.xlsx"), "t.xlsx ends in '.xlsx'; a table is one of .csv, .parquet, .tex"),
        (("--figures", "x", "--figure-format", "gif"), "there is no figure format 'gif'; choose one of svg, pdf, png"),
    ):
        refused = run_command("trace", "show", "run", *flags)
        assert (refused.exit_code, said in refused.stderr) == (2, True), refused.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_do_not_import_torch(flag: str) -> None:
    code = (
        "import sys; sys.argv = ['trace', sys.argv[1]]\n"
        "from studies.commands.trace import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "assert not code, code\n"
        "heavy = {'torch', 'transformers', 'plotly', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parents[3]
    ended = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True, cwd=root, check=False)
    assert ended.returncode == 0, ended.stderr
    assert bool(re.search(r"factscope \d", ended.stdout)) == (flag == "--version")
