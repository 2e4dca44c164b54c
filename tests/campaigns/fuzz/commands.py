"""The command tree as a grammar: every command with its arguments, and what its flags take."""

from dataclasses import dataclass
from typing import Any

import typer
from hypothesis import strategies as st

from campaigns.fuzz.grammar import NUMBERS, PROMPTS, WORDS
from helpers.models import TOY

TOWN = str(TOY / "toy_town.json")
PROMPT = "[Oda Voss] lives in"
MODEL = ("--model", str(TOY), "--device", "cpu")
QUICK = ("--samples", "1", "--sites", "mlp")
EDIT = ("--target", "Vey", "--method", "ft-m", "--layer", "0", "--set", "steps=1")
SOUND: dict[str, tuple[str, ...]] = {  # a command line that each command would take; what is not here has no need
    "estimate": ("64,2,4,2,128,60000", "--work", "load"),
    "merge": ("run", "run"),
    "view": ("runs", "--file"),
    "trace trace": (PROMPT, *QUICK),
    "trace flow": (PROMPT,),
    "trace patchscope": (PROMPT,),
    "trace relation": ("--facts", TOWN, "--set", "choice=3", "--set", "demonstrations=false"),
    "trace lens": (PROMPT,),
    "trace locating": ("--facts", TOWN, "--limit", "1"),
    "trace show": ("run",),
    "circuit find": (PROMPT, "--method", "eap", "--edges", "5"),
    "circuit evaluate": ("circuit",),
    "circuit show": ("circuit",),
    "circuit compare": ("circuit", "circuit"),
    "circuit diff": (PROMPT, "--target", "Vey", "--methods", "ft-m", "--samples", "1"),
    "circuit layers": ("runs",),
    "circuit patch": (PROMPT,),
    "circuit scorers": (PROMPT,),
    "circuit table": ("--facts", TOWN, "--limit", "1"),
    "circuit export": ("circuit", "--out", "c.graphml"),
    "circuit import": ("c.graphml",),
    "edit apply": (PROMPT, *EDIT),
    "edit evaluate": ("edit",),
    "edit layers": (TOWN, "--limit", "1", "--method", "ft-m"),
    "edit weights": ("edit",),
    "edit sequence": ("--facts", TOWN, "--limit", "1", *EDIT[2:]),
    "edit back": (PROMPT, *EDIT),
    "edit bench": (TOWN, "--methods", "ft-m", "--limit", "1"),
    "edit survey": (TOWN, "--methods", "ft-m", "--limit", "1", "--edits", "1"),
    "edit compare": ("edit", "edit"),
    "edit harness": ("edit",),
    "edit hops": ("--limit", "1", "--method", "ft-m"),
    "edit merge": ("edit", "edit"),
    "edit show": ("edit",),
    "edit undo": ("edit",),
    "edit export": ("edit", "--out", "model"),
    "edit moments": ("--tokens", "200"),
    "edit train": ("mend", "--facts", TOWN),
    "edit facts check": (TOWN,),
}
LEFT_OUT = ("upload", "doctor")  # one asks the network, the other this machine
NAMES = {"trace trace": "trace"}


@dataclass(frozen=True)
class Flag:
    """An option of a command: how it is spelt, and what it takes."""

    spelt: str
    takes: str  # "" for nothing, "number", "choice" or "text"
    choices: tuple[str, ...] = ()


def tree() -> dict[str, list[Flag]]:
    """Every command below `factscope` with its flags."""
    from studies.commands.main import app

    found: dict[str, list[Flag]] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        for name, below in getattr(command, "commands", {}).items():
            walk(below, (*path, name))
        if not getattr(command, "commands", {}):
            found[" ".join(path)] = [flag for one in command.params for flag in _flags(one)]

    walk(typer.main.get_command(app), ())
    return found


def _flags(param: Any) -> list[Flag]:
    if param.param_type_name != "option" or param.name in ("help", "config"):
        return []
    if param.is_flag:
        return [Flag(spelt, "") for spelt in (*param.opts, *param.secondary_opts)]
    metavar = str(param.make_metavar() if hasattr(param, "make_metavar") else param.metavar)
    kind = "number" if "int" in metavar.lower() or "float" in metavar.lower() else "text"
    choices = tuple(getattr(getattr(param, "_bare_type", None), "choices", None) or ())
    return [Flag(param.opts[0], "choice" if choices else kind, tuple(map(str, choices)))]


@st.composite
def lines(draw: st.DrawFn, commands: dict[str, list[Flag]]) -> tuple[str, ...]:
    """A command line: a command that would be taken, and one to three flags more, or arguments that are others."""
    name = draw(st.sampled_from(sorted(set(commands) - set(LEFT_OUT))))
    line = list(SOUND.get(name, ()))
    own = {flag.spelt for flag in commands[name]}
    if "--model" in own:
        line += MODEL
    flags = [flag for flag in commands[name] if flag.spelt not in ("--out", "--include", "--ray", "--workers")]
    for _ in range(draw(st.integers(1, 3))):
        if not flags or draw(st.integers(0, 5)) == 0:
            line = _other_argument(draw, line)
            continue
        flag = draw(st.sampled_from(flags))
        line += [flag.spelt, *([] if flag.takes == "" else [draw(_value(flag))])]
    return ("factscope", *name.split(), *line)


def _value(flag: Flag) -> st.SearchStrategy[str]:
    if flag.takes == "number":
        return st.one_of(NUMBERS, NUMBERS, WORDS)
    if flag.takes == "choice":
        return st.one_of(st.sampled_from(flag.choices), WORDS)
    return st.one_of(WORDS, NUMBERS, PROMPTS)


def _other_argument(draw: st.DrawFn, line: list[str]) -> list[str]:
    """One word another, gone, twice, or a strange flag."""
    at = draw(st.integers(0, max(0, len(line) - 1)))
    how = draw(st.sampled_from(["other", "gone", "twice", "strange"]))
    if how == "strange" or not line:
        return [*line, draw(st.one_of(WORDS, st.sampled_from(["--no", "-x", "--", "-", "--set", "--config"])))]
    new = {"other": [draw(WORDS)], "gone": [], "twice": [line[at], line[at]]}[how]
    return [*line[:at], *new, *line[at + 1 :]]
