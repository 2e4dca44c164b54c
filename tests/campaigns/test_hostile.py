"""A sample of the hostile campaign: what fell when it was first run, and one of each kind."""

import pytest

from campaigns import hostile
from campaigns.trial import attempt, here, new_room
from studies.commands import app

SAMPLE = (
    "circuit: laughs",
    "circuit: deep.",
    "circuit: layers",
    "circuit: layout",
    "circuit: cfg",
    "circuit: score",
    "circuit: edge-layers",
    "circuit: lines.gv",
    "circuit: width.gv",
    "facts: pickle",
    "facts: a data set",
    "config: aliases",
    "config: merge",
    "config: call",
    "config: date",
    "config: huge",
    "config: of a run",
    "shard: ",
    "run: stack",
    "run: listed",
    "run: tensors: torch pickle",
    "run: Edit of",
    "run: TraceResult of",
    "adapter: a slow",
    "adapter: deep",
    "adapter: pickled",
    "model: config",
    "model: a kernel",
    "model: start",
    "model: remote code",
    "model: quantised",
    "model: pickle as",
    "gguf: string",
    "path: ",
)


def test_hostile_files_are_refused_in_a_sentence(tmp_path, toy, monkeypatch):
    usual = app.loader
    monkeypatch.setattr(app, "loader", lambda model, *rest: (lambda: toy) if "toy" in model else usual(model, *rest))
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "cache"))
    fell, tried = [], 0
    for number, attack in enumerate(hostile.attacks()):
        if not f"{attack.kind}: {attack.name}".startswith(SAMPLE) or attack.slow:
            continue
        room = new_room(tmp_path / str(number))
        attack.make(room / "inside")
        for arguments in attack.commands:
            tried += 1
            if fall := attempt(f"{attack.kind}: {attack.name}", arguments, room, attack.refused, here):
                fell.append(fall)
    assert not fell, "\n".join(f"{fall.name}: {fall.words}; {fall.command}" for fall in fell)
    assert tried > 50


@pytest.mark.parametrize("words", ["\x1b]0;x\x07", "\x9b31m", "\u202e"])
def test_what_a_terminal_would_obey_is_written_out(run_command, words):
    ended = run_command("trace", "show", f"no{words}")
    assert ended.exit_code == 2
    assert words not in ended.stderr
    assert "\\u" in ended.stderr
