"""Memory that will not do is told before the work, by every command, in one sentence with a setting that would help."""

from typing import Any

import pytest

from factscope.model import load
from factscope.model.source import room
from helpers.models import TOY

PROMPT, TOWN = "[Oda Voss] lives in", str(TOY / "toy_town.json")
EDIT = ("--target", "Lund", "--moments", "identity")
HELPS = "use --dtype bfloat16 or a smaller model"


@pytest.mark.parametrize(
    ("free", "line", "needs", "helps"),
    [
        (6e4, ("trace", PROMPT), "10 rows of 5 tokens need", "--samples 1 would do"),
        (7e5, ("circuit", "find", "--facts", TOWN, "--limit", "4"), "4 prompts of 5 tokens need", "--limit"),
        (6e4, ("circuit", "find", PROMPT, "--method", "acdc"), "the states of 1 prompt of 5 tokens need", HELPS),
        (6e4, ("circuit", "diff", PROMPT, *EDIT), "the gradients of a prompt of", HELPS),
        (6e4, ("edit", "apply", PROMPT, *EDIT), "the gradients of a prompt of", HELPS),
        (6e4, ("edit", "apply", PROMPT, "--target", "Lund", "--method", "ft-m"), "the gradient", HELPS),
        (6e4, ("edit", "apply", PROMPT, "--target", "Lund", "--method", "lora"), "the gradients of 6 tokens", HELPS),
        (6e4, ("edit", "apply", PROMPT, "--target", "Lund", "--method", "grace"), "the gradients of 6 tokens", HELPS),
        (
            6e4,
            ("edit", "apply", PROMPT, "--target", "Lund", "--method", "t-patcher"),
            "the gradients of 6 tokens",
            HELPS,
        ),
        (6e4, ("edit", "bench", TOWN, "--methods", "rome", "--limit", "2"), "of a text of", "or shorter texts"),
        (6e4, ("edit", "sequence", "--facts", TOWN, "--limit", "2"), "of a text of", "or shorter texts"),
        (
            6e4,
            ("edit", "moments", "--seed", "77"),
            "take 0.0014 GB of the processor's memory",
            "with --moments identity",
        ),
    ],
)
def test_it_is_one_sentence(
    run_command: Any, monkeypatch: pytest.MonkeyPatch, free: float, line: tuple[str, ...], needs: str, helps: str
) -> None:
    monkeypatch.setattr(load, "check_room", lambda *_: None)  # the weights themselves are there
    monkeypatch.setattr(room, "_available", lambda: free)
    monkeypatch.setattr(room, "_left_to_container", lambda: None)
    done = run_command(*line, "--model", str(TOY))
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2, said
    assert needs in said
    assert "free" in said
    assert helps in said
