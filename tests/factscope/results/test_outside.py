"""Results leave this machine as other programs take them: to the Hub and to trackers, through fakes of them."""

import contextlib
import importlib
import inspect
import json
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import yaml

import factscope as fs
from factscope.errors import StoreError, UserError
from factscope.results import hub, trackers
from factscope.runs import store
from helpers.commands import COMMANDS
from studies.commands.command import Command
from studies.commands.options import TRACKERS, OutputOptions
from studies.edit import EditScores, load_edits, score


@pytest.fixture(scope="module")
def edit(toy: Any) -> fs.Edit:
    return fs.edit(toy, fs.request(toy, "[Oda Voss] lives in", "Vey"), "ft_m", settings={"steps": 1})


def test_an_edit_goes_to_the_hub_and_comes_back(edit: fs.Edit, tmp_path: Path, monkeypatch: Any) -> None:
    run, there = edit.save(tmp_path / "run"), tmp_path / "hub"
    (run / "token.txt").write_text("secret")
    prepared = hub.prepare(run, tmp_path / "dry", "me/vey")
    assert sorted(file.name for file in prepared.iterdir()) == ["README.md", store.JSON, store.TENSORS]
    _, front, body = (prepared / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "factscope"
    assert "Oda Voss lives in **Vey**" in body
    assert "fs.load(fs.download('me/vey'))" in body
    calls = []

    class Api:
        def create_repo(self, repo: str, **how: Any) -> None:
            calls.append((repo, how["repo_type"], how["private"]))

        def upload_folder(self, repo_id: str, folder_path: str, **_: Any) -> str:
            Path(folder_path).rename(there)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert hub.upload(prepared, "me/vey") == "https://hub/me/vey"
    assert calls == [("me/vey", "model", True)]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(there))
    assert store.same(fs.load(fs.download("me/vey")), edit)
    asked: list[Any] = []

    def found(*_: Any, **how: Any) -> str:
        asked.append(how)
        return str(there)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", found)
    assert [store.same(one, edit) for one in load_edits(Path("hub:me/vey@v1"))] == [True]
    assert asked[0]["revision"] == "v1"
    assert load_edits(run)[0].digest == edit.digest  # a folder is a folder


def test_what_cannot_go_up_is_told_in_one_sentence(edit: fs.Edit, tmp_path: Path, monkeypatch: Any) -> None:
    run = edit.save(tmp_path / "run")
    with pytest.raises(UserError, match="'me' is no repository of the Hub: write owner/name"):
        hub.prepare(run, tmp_path / "dry", "me")
    for name in ("../..", "../x", "me/..", "me/a..b", "/me/x", "me/x/y", "me/.x", "me/x\0", "", "me\\x/y", "\u00fc/x"):
        with pytest.raises(UserError, match="is no repository of the Hub"):
            fs.download(name)
    for revision in ("..", "../../..", "a/../b", "/etc", "a\0", "refs//x", "a/", "."):
        with pytest.raises(UserError, match="is no revision"):
            fs.download("me/x", revision)
    with pytest.raises(UserError, match="is there already and not empty"):
        hub.prepare(run, run, "me/x")
    with pytest.raises(StoreError, match="is not a run folder"):
        hub.prepare(tmp_path, tmp_path / "dry", "me/x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "result.json").write_text("secret")  # a stranger's run may link to it
    (run / "report").symlink_to(tmp_path / "mine")
    (run / "config.yaml").unlink(missing_ok=True)
    (run / "config.yaml").symlink_to(tmp_path / "mine" / "result.json")
    prepared = hub.prepare(run, tmp_path / "linked", "me/x")
    assert "secret" not in "".join(one.read_text() for one in prepared.rglob("*.[jmy]*"))
    assert not (prepared / "config.yaml").exists()
    assert not (prepared / "report").exists()

    def refused(*_: Any, **__: Any) -> None:
        raise OSError("403 no\nright to write")

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(create_repo=refused))
    with pytest.raises(StoreError, match=r"could not be uploaded \(403 no right to write\)"):
        hub.upload(run, "me/x")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(StoreError, match=r"me/x cannot be had from the Hub \(403 no right to write\)"):
        fs.download("me/x")


def test_an_edit_of_the_hub_is_read_before_any_work_and_refused_in_a_sentence(
    run_command: Any, monkeypatch: Any
) -> None:
    """Without a network, without a repository, or by a name that cannot be one: wherever an edit's folder is taken."""
    monkeypatch.setattr("studies.commands.app.loader", lambda *_: lambda: pytest.fail("a model was loaded"))

    def offline(*_: Any, **__: Any) -> None:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nand nothing in the cache")

    def absent(*_: Any, **__: Any) -> None:
        answer: Any = SimpleNamespace(headers={}, request=None, status_code=404)
        raise huggingface_hub.errors.RepositoryNotFoundError("404", response=answer)

    for trouble, words in (
        (offline, "me/x cannot be had from the Hub (no connection and nothing in the cache)"),
        (absent, "there is no run of Factscope in me/x on the Hub that your login may read"),
    ):
        monkeypatch.setattr(huggingface_hub, "snapshot_download", trouble)
        for command in (
            ("circuit", "diff", "--edit", "hub:me/x"), ("edit", "evaluate", "hub:me/x"),
            ("edit", "weights", "hub:me/x"), ("edit", "export", "hub:me/x", "--out", "new"),
            ("edit", "harness", "hub:me/x", "--tasks", "a"), ("edit", "merge", "hub:me/x"),
        ):  # fmt: skip
            ended = run_command(*command)
            assert (ended.exit_code, words in ended.stderr) == (2, True), (command, ended.stderr)
            assert len(ended.stderr.splitlines()) == 1
    assert "is no repository of the Hub" in run_command("edit", "evaluate", "hub:x").stderr


def test_a_cards_text_from_prompts_is_harmless() -> None:
    body = {"requests": [{"prompt": "<script>\n# x | [a](b)", "target": "**y**"}], "run": {"command": "``` x"}}
    text = hub.card({"kind": "Edit", "result": body}, "me/x")
    assert "<script>" not in text
    assert "[a](b)" not in text
    assert text.count("```") == 4


def test_trackers_get_a_results_numbers(edit: fs.Edit, toy: Any, monkeypatch: Any) -> None:
    seen: list[Any] = []
    report = fs.evaluate(toy, [edit])
    fs.log(report, lambda *said: seen.append(said), name="one")
    name, settings, numbers = seen[0]
    assert (name, settings["kind"]) == ("one", "EditReport")
    assert numbers
    assert all(isinstance(value, float) for value in numbers.values())

    @contextmanager
    def run(**how: Any) -> Any:
        seen.append(how)
        yield SimpleNamespace(summary=kept)

    kept: dict[str, float] = {}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None, init=run))
    fs.log(report, "wandb", name="one")
    assert kept == numbers
    assert seen[-1]["config"] == settings
    got: dict[str, Any] = {}
    fake = SimpleNamespace(start_run=run, active_run=lambda: None, log_params=got.update, log_metrics=got.update)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    fs.log(report, "mlflow", name="one")
    assert set(numbers.values()) <= set(got.values())
    assert got["kind"] == "EditReport"


def test_a_command_logs_what_it_found_with_its_options(edit: fs.Edit, run_command: Any, monkeypatch: Any) -> None:
    """A flag and a config file say the same; what a library prints is no result; its trouble comes after the result."""
    seen: list[Any] = []

    def start(**how: Any) -> Any:
        print("a line of the library's own")
        seen.append(how)
        return contextlib.nullcontext(SimpleNamespace(summary={}))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None, init=start))
    edit.save("kept")
    ended = run_command("edit", "show", "kept", "--log", "WandB", "--json")
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout)["page"]  # one document and nothing else
    assert "a line of the library's own" in ended.stderr
    assert (seen[0]["name"], seen[0]["config"]["kind"]) == ("kept", "Edit")
    assert seen[0]["config"]["run"] == "kept"
    Path("c.yaml").write_text("log: wandb\n")
    assert run_command("edit", "show", "kept", "--config", "c.yaml").exit_code == 0
    assert seen[1] == seen[0]

    def refused(**_: Any) -> None:
        raise OSError("no\nlogin")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None, init=refused))
    ended = run_command("edit", "show", "kept", "--log", "wandb")
    assert ended.exit_code == 2
    assert "Page: " in ended.stdout
    assert ended.stderr == "edit: wandb did not take the numbers (no login); the result itself is as it was\n"


def test_every_command_that_takes_a_tracker_reaches_it() -> None:
    """By what the command's own file calls; and the flag's names are the tracker's."""
    assert set(TRACKERS) == set(trackers.HOOKS)
    takers = {one for name in COMMANDS for one in _files(importlib.import_module(COMMANDS[name]).app)}
    assert len(takers) > 20
    for file in takers:
        text = file.read_text(encoding="utf-8")
        assert re.search(r"\b(?:tell_result|track|SHARDED\[name\])\(", text), file
        assert not re.search(r"tell_result\([^)]*as_json", text), file  # it takes the options whole


def _files(app: Any) -> set[Path]:
    """The files of the commands of an app that have the flag."""
    bodies = (each.callback.__closure__ for each in app.registered_commands)
    mine = [cell.cell_contents for cells in bodies for cell in cells if isinstance(cell.cell_contents, Command)]
    files = {Path(str(inspect.getsourcefile(one.body))) for one in mine if issubclass(one.options, OutputOptions)}
    return files.union(*(_files(group.typer_instance) for group in app.registered_groups))


def test_a_tracker_that_is_not_there_is_told(edit: fs.Edit, run_command: Any, monkeypatch: Any) -> None:
    with pytest.raises(UserError, match="there is no tracker 'board'; choose wandb or mlflow"):
        fs.log(edit, "board")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        fs.log(edit, "wandb")
    ended = run_command("trace", "[Oda Voss] lives in", "--log", "wandb")
    assert (ended.exit_code, ended.stderr) == (2, "trace: --log wandb needs its library: pip install wandb\n")
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())
    ended = run_command("trace", "--facts", "country_capital", "--log", "wandb", "--shard", "1/2")
    assert (ended.exit_code, "give it to factscope merge" in ended.stderr) == (2, True)


def test_the_command_writes_the_folder_and_asks_no_network(
    edit: fs.Edit, toy: Any, tmp_path: Path, capsys: Any
) -> None:
    from studies.commands.runs.upload import UploadOptions, upload

    run = edit.save(tmp_path / "run")
    store.save(score(toy, [edit]), run / "report")
    upload(UploadOptions(run=run, repo="me/vey", dry_run=tmp_path / "dry"))
    assert "Nothing is uploaded" in capsys.readouterr().out
    assert json.loads((tmp_path / "dry" / store.JSON).read_text())["kind"] == "Edit"
    body = (tmp_path / "dry" / "README.md").read_text(encoding="utf-8")
    scores = store.load(run / "report", EditScores).report
    told = [one for one in scores.scores if one.when == "after" and one.value == one.value]
    assert "ES" in {one.metric for one in told}
    for one in told:
        assert f"| scores/ft&#95;m/{one.metric.replace('_', '&#95;')}/after | {one.value:.4g} |" in body
