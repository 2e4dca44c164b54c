"""`edit methods`: a list, one of them with its settings, the same for programs; no model is loaded."""

import json

import pytest

from editing.method import method, method_names
from studies.commands import app as common


@pytest.fixture
def methods(run_command, monkeypatch):
    """methods(...) where a model would be missed."""
    monkeypatch.setattr(common, "loader", lambda *_: pytest.fail("a model was loaded"))
    return lambda *arguments: run_command("edit", "methods", *arguments)


def test_all_are_listed_in_words_and_for_programs(methods):
    out = methods()
    assert (out.exit_code, out.stderr) == (0, "")
    assert all(f"  {name} " in out.stdout for name in method_names())
    body = json.loads(methods("--json").stdout)
    assert [one["method"] for one in body] == list(method_names())
    assert body[0]["kind"] == method(body[0]["method"]).kind


def test_one_is_told_with_its_papers_and_every_setting(methods):
    out = methods("R-ROME").stdout
    assert "good for" in out
    assert "not for" in out
    assert "Rebuilding ROME" in out
    assert "arXiv" in out
    assert not {"{", "}"} & set(out), "the braces of BibTeX"
    assert "\n  descent.steps=40\n" in out
    assert json.loads(methods("memoe", "--json").stdout)["settings"]["experts"] == "4"


def test_another_is_refused(methods):
    out = methods("memeo")
    assert out.exit_code == 2
    assert "there is no method 'memeo'; did you mean memoe?" in out.stderr
