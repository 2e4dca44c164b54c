"""Every command line that README and docs show, and how to ask the real commands whether they would take it.

Shown are: lines of `sh` blocks, lines that begin with "$ " in `text` blocks, lines of unnamed and of indented blocks
that begin with one of our commands, and whole commands in `code` in tables and sentences. Wide spaces part two on one
line.
"""

import importlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from helpers.commands import COMMANDS

ROOT = Path(__file__).parents[2]
NAMES = ("trace", "circuit", "edit", "factscope")
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md",
                *(ROOT / "docs").rglob("*.md")])  # fmt: skip
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
DEEDS = ("--help", "--version", "--install-completion", "--show-completion")  # done as soon as they are read
OURS = re.compile(rf"(?:.*[/\s])?({'|'.join(NAMES)})$")


@dataclass(frozen=True)
class Shown:
    """One command line, and the page that shows it."""

    page: str
    line: str

    @property
    def words(self) -> list[str]:
        """The line as a shell parts it."""
        return shlex.split(self.line, comments=True)


def shown_commands() -> list[Shown]:
    """All of them, each once a page."""
    found: dict[Shown, None] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for language, body in BLOCK.findall(text):
            for line in body.splitlines():
                found |= {Shown(_name(page), one): None for one in _in_line(language, line)}
        for line in re.findall(r"^(?: {4}|\t)(\S.*)$", BLOCK.sub("", text), re.MULTILINE):
            found |= {Shown(_name(page), one): None for one in _in_line("", line.removeprefix("$ "))}
        for code in re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)):
            words = code.split()
            # A bare `circuit` or `edit list` names a command; an option or a quoted prompt makes it a command line.
            if words[0] in NAMES and re.search(r'\s(--\w|")', code) and "..." not in words[1:2]:
                found[Shown(_name(page), code)] = None
    return list(found)


def _in_line(language: str, line: str) -> list[str]:
    if language == "sh":
        parts = [part.strip() for part in line.split("&&")]
        return [part for part in parts if part and OURS.match(part.split()[0])]
    if language == "text":
        line = line[2:] if line.startswith("$ ") else ""
    elif language:
        return []
    return [part for part in re.split(r"\s{3,}", line) if part.split() and part.split()[0] in NAMES]


def shown_flags() -> list[tuple[str, str]]:
    """(page, option): options that stand alone in code, as in `--foil France`."""
    found: dict[tuple[str, str], None] = {}
    for page in PAGES:
        for code in re.findall(r"`(--[^`\n]+)`", BLOCK.sub("", page.read_text(encoding="utf-8"))):
            found |= {(_name(page), option): None for option in re.findall(r"--[a-z][a-z-]*", code)}
    return list(found)


def command(name: str) -> Any:
    """The real command, as typer builds it."""
    return typer.main.get_command(importlib.import_module(COMMANDS[name]).app)


def parse(words: list[str]) -> Any:
    """The context of the innermost command, its options converted; nothing is run. Raises what typer raises."""
    match = OURS.match(words[0])
    assert match is not None, words
    name, arguments = match[1], [word for word in words[1:] if word not in DEEDS]
    found = command(name)
    if "--config" in arguments:  # a file of the reader's
        where = arguments.index("--config")
        del arguments[where : where + 2]
    context = found.make_context(name, arguments, resilient_parsing=not arguments)  # without words, it shows its help
    while hasattr(found, "resolve_command") and (rest := [*context._protected_args, *context.args]):
        name, found, rest = found.resolve_command(context, rest)
        context = found.make_context(name, rest, parent=context)
    return context


def every_option() -> set[str]:
    """The options of all commands and sub-commands."""
    waiting, found = [command(name) for name in NAMES], set()
    while waiting:
        one = waiting.pop()
        waiting += list(getattr(one, "commands", {}).values())
        found |= {option for each in one.params for option in (*each.opts, *each.secondary_opts)}
    return found | set(DEEDS)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))
