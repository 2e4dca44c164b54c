"""The list of runs: what it finds, whom it answers, and how a reader goes through it in a real browser."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from factscope.errors import StoreError
from helpers.browser import needs_chromium, open_page, with_script
from helpers.plots import Elements
from studies.explorer.page import index_html, missing_pages
from studies.explorer.runs import asked_of, entries, same_facts
from studies.explorer.server import server

HOSTILE = '<img src=x onerror="alert(1)">'


def run(folder: Path, kind: str, body: dict[str, Any], page: bool = True) -> None:
    """A run folder by hand: the list reads no tensors."""
    folder.mkdir(parents=True)
    document = {"kind": kind, "schema": 3, "tensors_sha256": "", "tensors": {}, "result": body}
    (folder / "result.json").write_text(json.dumps(document), encoding="utf-8")
    if page:
        (folder / "page.html").write_text(f"<title>{folder.name}</title>", encoding="utf-8")


def ran(day: int, model: str = "toy") -> dict[str, Any]:
    started = f"2026-01-0{day}T10:00:00+00:00"
    return {"model": model, "command": f"trace --day {day}", "started": started, "seconds": 1.5}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("some") / "runs"
    prompt = {"text": "Oda  Voss lives in", "subject": "Oda Voss"}
    run(folder / "a trace", "TraceStudy", {"trace": {"prompt": prompt, "run": ran(1)}})
    edit = {"prompt": "oda voss lives in", "subject": "Oda Voss", "target": "Vey"}
    run(folder / "deep" / "edit", "Edit", {"requests": [edit, {"prompt": HOSTILE}], "run": ran(3, "other")})
    run(folder / "deep" / "edit" / "report", "EditScores", {"requests": [edit]})  # a part of the run above it
    run(folder / "bench", "Bench", {"run": ran(2)}, page=False)
    (folder / "cut").mkdir()
    (folder / "cut" / "result.json").write_text("{", encoding="utf-8")
    return folder


def test_the_list_says_what_each_run_is_about_and_links_those_of_one_fact(runs: Path) -> None:
    found = entries(runs)
    assert [entry.name for entry in found] == ["deep/edit", "bench", "a trace", "cut"]
    edit, bench, trace, cut = found
    assert (trace.kind, trace.facts, trace.model, trace.seconds) == ("a trace", ("Oda  Voss lives in",), "toy", 1.5)
    assert bench.facts == ()
    assert (edit.targets, trace.targets) == (("Vey", ""), ("",))
    assert "not readable JSON" in cut.trouble
    assert same_facts(found) == {edit: (trace,), bench: (), trace: (edit,), cut: ()}


def test_a_result_is_about_the_shallowest_of_its_requests() -> None:
    task = {"prompts": [{"text": "A"}, {"text": "B"}, {"text": "A"}]}
    other = {"circuit": {"task": task}, "again": [{"deep": {"prompt": {"text": "C"}}}]}
    assert asked_of(other) == {"A": "", "B": ""}
    assert asked_of({"request": {"prompt": "D", "target": "E"}, "circuit": {"task": task}}) == {"D": "E"}
    assert asked_of({"prompt": None, "prompts": []}) == {}


def test_a_folder_of_no_runs_is_one_sentence(tmp_path: Path, run_command: Any) -> None:
    with pytest.raises(StoreError, match="there is no folder"):
        entries(tmp_path / "none")
    done = run_command("factscope", "view", tmp_path)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "holds no run" in done.stderr


def test_the_list_is_written_as_a_file(runs: Path, run_command: Any) -> None:
    done = run_command("factscope", "view", runs, "--file")
    assert done.exit_code == 0, done.stderr
    text = (runs / "index.html").read_text(encoding="utf-8")
    (runs / "index.html").unlink()
    assert 'href="a%20trace/page.html"' in text
    assert "oda voss lives in → Vey" in text
    assert 'href="bench/page.html"' not in text  # it has no page
    assert HOSTILE not in text


def test_a_port_that_is_taken_or_none_is_one_sentence(runs: Path, run_command: Any) -> None:
    with server(runs, 0) as other:
        done = run_command("factscope", "view", runs, "--no-browser", "--port", other.server_address[1])
    assert (done.exit_code, "give another with --port" in done.stderr) == (2, True)
    assert run_command("factscope", "view", runs, "--port", "70000").exit_code == 2


@pytest.fixture
def address(runs: Path) -> Iterator[tuple[str, int]]:
    with server(runs, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield str(serving.server_address[0]), int(serving.server_address[1])
        serving.shutdown()
        thread.join()


def asked(address: tuple[str, int], path: str, method: str = "GET", host: str | None = None) -> tuple[int, str]:
    line = http.client.HTTPConnection(*address, timeout=20)
    line.putrequest(method, path, skip_host=True)
    line.putheader("Host", host or f"{address[0]}:{address[1]}")
    line.endheaders()
    answer = line.getresponse()
    found = answer.status, answer.read().decode()
    line.close()
    return found


def test_it_answers_for_what_is_in_the_list_and_nothing_else(address: tuple[str, int], runs: Path) -> None:
    assert address[0] == "127.0.0.1"
    before = sorted(runs.rglob("*"))
    status, text = asked(address, "/")
    assert (status, "4 runs" in text) == (200, True)
    assert asked(address, "/a%20trace/page.html") == (200, "<title>a trace</title>")
    assert asked(address, "/a%20trace/page.html", "HEAD") == (200, "")
    for path in ("/a%20trace/result.json", "/../secret", "/deep/%2e%2e/%2e%2e/secret", "/deep/edit/report/page.html"):
        assert asked(address, path)[0] == 404, path
    assert asked(address, "/bench/page.html")[0] == 404  # it cannot be drawn: not a whole result
    assert asked(address, "/", host="example.org")[0] == 403
    assert asked(address, "/", "POST")[0] == 501
    assert sorted(runs.rglob("*")) == before


READS = """
const type = (value) => { words.value = value; words.dispatchEvent(new Event("input")); };
const key = (target, key) => target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const said = [];
type("voss LIVES"); said.push(count.textContent);
kind.value = "an edit"; kind.dispatchEvent(new Event("input")); said.push(count.textContent);
kind.value = ""; type(""); said.push(count.textContent);
key(document.body, "/"); said.push(document.activeElement.id);
const two = [...document.querySelectorAll("tbody input")].slice(0, 2);
two[0].click(); said.push(compare.disabled); two[1].click(); said.push(compare.disabled);
key(two[1], "Enter");
said.push([...beside.querySelectorAll("iframe")].map((frame) => frame.getAttribute("src")).join(" "));
key(document.body, "Escape"); said.push(beside.hidden);
document.title = said.join("|");
"""


@pytest.mark.browser
@needs_chromium
def test_a_reader_filters_and_sets_two_runs_side_by_side_with_the_keyboard(runs: Path, tmp_path: Path) -> None:
    found = entries(runs)
    page = runs / "index.html"
    page.write_text(index_html("Runs", found, missing_pages(runs, found)), encoding="utf-8")
    try:
        quiet = open_page(page, tmp_path)
        acting = open_page(with_script(page, READS), tmp_path)
    finally:
        for file in runs.glob("index*.html"):
            file.unlink()
    assert (quiet.console, acting.console) == ((), ())
    assert not [tag for tag, _ in Elements(quiet.dom).tags if tag == "img"]
    title = acting.dom.partition("<title>")[2].partition("</title>")[0]
    beside = "deep/edit/page.html a%20trace/page.html"
    assert title.split("|") == ["2 of 4", "1 of 4", "4 of 4", "words", "true", "false", beside, "true"]
