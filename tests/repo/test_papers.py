"""Every table and figure of the papers has a command that there is, or a reason why there is none."""

import re
from collections.abc import Iterator

import pytest

from helpers.shown_commands import NAMES, ROOT, Shown, command, parse

ROW = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \| (.*?)\|$")


def _rows() -> Iterator[tuple[str, str, str]]:
    """Paper, table or figure, and the cell that says what ours is."""
    paper = ""
    for line in (ROOT / "docs" / "papers.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            paper = line[3:]
        found = ROW.match(line)
        if found and found[1] not in ("there", "---"):
            yield paper, found[1], found[3]


WANTED = {  # tables, figures
    "Knowledge circuits in pretrained transformers": ({1, 3}, {1, 2, 3, 4, 5, 6, 8}),
    "A comprehensive study of knowledge editing": (set(range(1, 8)), set(range(1, 12))),
    "Perturbation-restrained sequential model editing": ({1}, set(range(1, 6))),
    "MEMoE": (set(range(1, 5)), set(range(1, 5))),
}


@pytest.mark.parametrize("paper", WANTED)
def test_every_table_and_figure_has_its_row(paper: str) -> None:
    found: dict[str, set[int]] = {"Table": set(), "Figure": set()}
    for which, named, _ in _rows():
        if which == paper:
            for word, numbers in re.findall(r"(Table|Figure)s? ([\d, ]+)", named):
                found[word] |= {int(one) for one in re.findall(r"\d+", numbers)}
    assert (found["Table"], found["Figure"]) == WANTED[paper]


@pytest.mark.parametrize(("paper", "named", "ours"), list(_rows()))
def test_a_row_names_a_command_that_there_is_or_says_why_not(paper: str, named: str, ours: str) -> None:
    lines = [code for code in re.findall(r"`([^`]+)`", ours) if code.split()[0] in (*NAMES, "python")]
    assert lines or ours.startswith("none: "), (paper, named)
    for line in lines:
        words = line.split()
        if words[0] == "python":
            assert words[1:2] == ["-m"], line
            assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), line
            continue
        group = command(words[0])
        assert words[1] in group.commands or words[1].startswith(('"', "-")), line
        parse(Shown("", line).words)
