"""What a result rests on, as BibTeX: the papers of its methods, restraints, scores and suites, and the programs.

A result is walked to its last part, so that a study cites what its traces, circuits and edits cite.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from factscope.errors import ArgumentError
from factscope.results.papers import bibtex

KINDS = {  # by the class of a part
    "TraceResult": ("meng2022locating",),
    "AverageResult": ("meng2022locating",),
    "LensResult": ("nostalgebraist2020logit",),
    "LensesResult": ("nostalgebraist2020logit", "gurnee2026verbalizable"),
    "TunedLens": ("belrose2023eliciting",),
    "FlowResult": ("geva2023dissecting",),
    "FlowAverage": ("geva2023dissecting",),
    "NeuronResult": ("dai2022knowledge",),
    "PatchscopeResult": ("ghandeharioun2024patchscopes",),
    "PathEffects": ("wang2023interpretability",),
    "RelationResult": ("hernandez2024linearity",),
    "RoleCircuit": ("haklay2025position",),
    "Roles": ("yao2024circuits",),
    "LocatingStudy": ("zhang2024comprehensive", "meng2022locating", "dai2022knowledge", "syed2023attribution"),
    "LayerStudy": ("hase2023localization",),
    "EditReport": ("meng2022locating", "yao2023editing", "yang2025mirage"),
    "RoundTrip": ("zhang2024comprehensive",),
    "Survey": ("zhang2024comprehensive",),
    "TaskReport": ("gao2023framework",),
}
CIRCUITS = {
    "acdc": ("conmy2023automated",),
    "atp_star": ("kramar2024atp", "syed2023attribution"),
    "eap": ("syed2023attribution",),
    "eap_ig": ("hanna2024faith", "syed2023attribution"),
    "relp": ("jafari2025relp", "syed2023attribution"),
    "exact": (),  # ours: nothing but the definition of an edge's effect
    "imported": (),
}
ABLATIONS = {"optimal": ("li2024optimal",)}
METHODS = {
    "rome": ("meng2022locating",),
    "r_rome": ("gupta2024rebuilding", "meng2022locating"),
    "memit": ("meng2023mass",),
    "emmet": ("gupta2024unified", "meng2023mass"),
    "pmet": ("li2024pmet", "meng2023mass"),
    "alphaedit": ("fang2024alphaedit", "meng2023mass"),
    "rls": ("wang2026soft", "gupta2025lifelong", "meng2023mass"),
    "ultraedit": ("gu2025ultraedit",),
    "ft_m": ("zhang2024comprehensive",),
    "ft_l": ("meng2022locating",),
    "ft_bf": ("yang2025right",),
    "ga": ("jang2023knowledge",),
    "npo": ("zhang2024negative",),
    "crispedit": ("ikram2026crispedit",),
    "lora": ("hu2021lora",),
    "adalora": ("zhang2023adaptive", "hu2021lora"),
    "kn": ("dai2022knowledge",),
    "grace": ("hartvigsen2023grace",),
    "memoe": ("wang2024memoe",),
    "memoir": ("wang2025memoir",),
    "wise": ("wang2024wise",),
    "melo": ("yu2024melo", "hu2021lora"),
    "calinet": ("dong2022calibrating",),
    "simie": ("guo2025towards",),  # a merge of edits, whose methods its name says too
    "mend": ("mitchell2022fast",),
    "ke": ("decao2021editing",),
    "remedi": ("hernandez2023inspecting",),
    "malmen": ("tan2024massive", "mitchell2022fast"),
    "serac": ("mitchell2022memory",),
    "t_patcher": ("huang2023patcher",),
    "ice": ("cohen2024evaluating",),
    "ike": ("zheng2023edit",),
    "retrieval": ("madaan2022memory", "zheng2023edit"),
}
RESTRAINTS = {"prune": ("ma2024perturbation",), "rect": ("gu2024harms",), "sphere": ("liu2025energy",)}
SUITES = {  # by what the name of a suite begins with
    "CounterFact": ("meng2022locating",),
    "zsRE": ("levy2017zero", "mitchell2022fast"),
    "KnowEdit": ("zhang2024comprehensive",),
    "MQuAKE": ("zhong2023mquake",),
    "RippleEdits": ("cohen2024evaluating",),
}
PROGRAMS = ("factscope", "nanda2022transformerlens")


def cite(result: Any) -> str:
    """The BibTeX of everything that a result used, each source once; a comment names what has none here.

    Raises ArgumentError for what is no result, nor a list of results.
    """
    if not all(is_dataclass(one) and not isinstance(one, type) for one in _each(result)):
        kind = type(result).__name__
        raise ArgumentError(f"fs.cite: a value of type {kind} is no result: give what a call of fs returned")
    keys, unknown = list[str](PROGRAMS), dict[str, None]()
    for table, name in _used(result):
        if name in table:
            keys += table[name]
        elif table is not KINDS:
            unknown[name] = None
    missing = "".join(f"% {name}: no source is known here; its own documentation names it\n" for name in unknown)
    return bibtex(keys) + missing


def _each(result: Any) -> list[Any]:
    return list(result) if isinstance(result, list | tuple) else [result]


Used = tuple[Mapping[str, tuple[str, ...]], str]


def _used(value: Any) -> Iterator[Used]:
    """Every method, restraint, suite and kind of part in a result, by the table that has its sources."""
    if is_dataclass(value) and not isinstance(value, type):
        yield KINDS, type(value).__name__
        yield from _named(value)
        for field in fields(value):
            yield from _used(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _used(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _used(part)


def _named(part: Any) -> Iterator[Used]:
    """What one part says of itself by name."""
    names = [*getattr(part, "methods", ()), getattr(part, "method", "")]
    table = CIRCUITS if type(part).__name__ == "Circuit" else METHODS
    yield from ((table, name) for each in names if isinstance(each, str) for name in _split(each))
    settings = getattr(part, "settings", {})
    held = settings.get("restrain") if isinstance(settings, Mapping) else None
    for words in (*getattr(part, "restraints", ()), *((held,) if held else ())):
        yield RESTRAINTS, str(words).split()[0]
    ablation = getattr(part, "ablation", "")
    if getattr(part, "tuned_settings", None) is not None:
        yield KINDS, "TunedLens"
    if isinstance(ablation, str) and ablation in ABLATIONS:
        yield ABLATIONS, ablation
    suite = getattr(part, "suite", "")
    yield from ((SUITES, name) for name in SUITES if isinstance(suite, str) and suite.startswith(name))


def _split(method: str) -> list[str]:
    """The methods of "rome+memit" (a stack), "rome, memit" (a table), "simie of rome" (a merge), "scrambled rome"."""
    return [name for name in re.findall(r"\w+", method) if name not in ("of", "scrambled", "unedited")]
