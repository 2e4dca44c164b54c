"""What a result used is cited: every method that ships has its sources, a study cites what its parts do, once each."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

import factscope as fs
from circuits import scorers, search
from editing import restraints
from editing.method import method_names
from editing.sequence.result import SequenceResult
from factscope.catalogue import places
from factscope.results.papers import PAPERS, bibtex
from studies import cite as citing


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{(\w+),", text, re.MULTILINE)


def test_everything_that_ships_has_its_sources() -> None:
    from editing import methods

    ours = {name for name in method_names() if name in places(methods, "no.such.group", "METHOD")}
    assert ours <= set(citing.METHODS)
    assert set(places(restraints, "no.such.group", "RESTRAINT")) <= set(citing.RESTRAINTS)
    for folder in (scorers, search):
        assert set(places(folder, "no.such.group", "METHOD")) <= set(citing.CIRCUITS)
    tables = (citing.KINDS, citing.CIRCUITS, citing.METHODS, citing.RESTRAINTS, citing.SUITES, citing.ABLATIONS)
    named = {key for table in tables for some in table.values() for key in some} | set(citing.PROGRAMS)
    assert named == set(PAPERS)  # and no paper stands there that nobody cites


def test_entries_are_bibtex() -> None:
    text = bibtex(list(PAPERS))
    assert keys(text) == list(PAPERS)
    assert text.count("{") == text.count("}")
    for paper in PAPERS.values():
        assert re.fullmatch(r"(\d{4}\.\d{4,5})?", paper.arxiv), paper.key
        assert paper.arxiv or paper.url or paper.where or paper.key == "factscope", paper.key
        assert not re.search(r"(?<!\\)[&%$#_]", paper.author + paper.title), paper.key


def test_an_edit_and_its_report_cite_their_method_and_scores_once(toy: Any) -> None:
    edit = fs.edit(toy, fs.request(toy, "[Oda Voss] lives in", "Vey"), "ft_l", settings={"steps": 1}, restrain="rect")
    assert keys(fs.cite(edit)) == [*citing.PROGRAMS, "meng2022locating", "gu2024harms"]
    cited = keys(fs.cite(fs.evaluate(toy, [edit])))
    assert "yang2025mirage" in cited
    assert len(cited) == len(set(cited))
    assert keys(fs.cite(fs.lens(toy, fs.prompt(toy, "[Oda Voss] lives in"))))[2:] == ["nostalgebraist2020logit"]


def test_a_sequence_cites_its_restraint_and_a_strange_method_is_named() -> None:
    def sequence(method: str, settings: dict[str, str]) -> SequenceResult:
        result = object.__new__(SequenceResult)
        for field in SequenceResult.__dataclass_fields__:
            object.__setattr__(result, field, {"method": method, "settings": settings}.get(field, ()))
        return result

    assert keys(fs.cite(sequence("memit", {"restrain": "prune"})))[2:] == ["meng2023mass", "ma2024perturbation"]
    assert keys(fs.cite(sequence("simie of rome+ft_m", {})))[2:] == [
        "guo2025towards",
        "meng2022locating",
        "zhang2024comprehensive",
    ]
    assert fs.cite(sequence("mine", {})).endswith("% mine: no source is known here; its own documentation names it\n")


@pytest.mark.parametrize("suite", ["CounterFact, flat (EasyEdit)", "zsRE", "KnowEdit WikiBio", "MQuAKE", "RippleEdits"])
def test_a_suite_is_cited(suite: str) -> None:
    found = [key for table, name in citing._named(SimpleNamespace(suite=suite)) for key in table[name]]
    assert found
