"""The contract of every result: it goes out as a table, a page, figures and a folder, and comes back the same."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import pandas

from factscope.plots.show import records_of
from factscope.results import tables
from factscope.runs import store
from studies.cite import cite
from studies.saved import load

REPR = 6000  # characters of a result in a terminal: a screen or two, and never a tensor


def check_latex(text: str) -> None:
    """The text is balanced as LaTeX reads it: groups, environments, and as many cells in each row as columns.

    This stands in for a run of LaTeX, which is on few machines; the first column specification counts the columns.
    """
    plain, depth, open_ones = re.sub(r"\\[^a-zA-Z]", lambda found: "\n" if found[0] == r"\\" else "", text), 0, []
    for sign in re.findall(r"\\(?:begin|end)\{\w+\}|[{}]", plain):
        if sign in "{}":
            depth += 1 if sign == "{" else -1
            assert depth >= 0, text
        elif sign.startswith(r"\begin"):
            open_ones.append(sign[7:-1])
        else:
            assert open_ones.pop() == sign[5:-1], text
    assert (depth, open_ones) == (0, [])
    (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    for row in (line for line in plain.splitlines() if "&" in line):
        assert row.count("&") == len(columns) - 1, row
    assert not re.search(r"[$#%_^~]", re.sub(r"\\[a-zA-Z]+", "", plain)), text  # each of these means something to LaTeX


def check_bibtex(text: str) -> None:
    """Entries with keys that are told apart, each with an author, a title and a year, and braces in balance."""
    entries = re.findall(r"^@\w+\{([\w:-]+),(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    assert len(entries) == len({key for key, _ in entries}) >= 2, text
    for key, body in entries:
        assert body.count("{") == body.count("}"), key
        assert {"author", "title", "year"} <= set(re.findall(r"^\s*(\w+)\s*=", body, re.MULTILINE)), key


def check_result(result: Any, folder: Path, kind: str) -> None:
    """Called where a test has a result of some kind at hand, so that every kind is held and none is made for it.

    The kind is named in the call: tests/factscope/results/test_result.py reads from the calls that none is left out.
    """
    assert type(result).__name__ == kind
    frame, records = result.to_frame(), records_of(result)
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == len(records) > 0
    assert all(isinstance(name, str) and name for name in frame.columns)
    for place, record in enumerate(records):
        for name, value in record.items():
            assert value is None or isinstance(value, str | int | float), (name, value)  # plain: any program reads it
            seen = frame[name].iloc[place]
            assert (pandas.isna(seen) and (value is None or value != value)) or seen == value, (name, value, seen)
    read = list(csv.DictReader(io.StringIO(frame.to_csv(index=False))))
    assert len(read) == len(records)
    packed = pandas.read_parquet(tables.write(records, folder / "table.parquet"))
    assert (list(packed.columns), len(packed)) == (list(frame.columns), len(frame))
    text = tables.latex(frame.head(3))
    assert "\\toprule" in text
    assert "\\bottomrule" in text
    assert text.count("\\\\") == min(3, len(frame)) + 1
    check_latex(text)
    check_bibtex(cite(result))
    assert 0 < len(repr(result)) < REPR
    html = result.to_html()
    assert html.startswith("<!doctype html>")
    assert "Content-Security-Policy" in html
    for figure in result.save_figures(folder / "figures"):
        assert figure.read_text(encoding="utf-8").startswith("<svg")
    again = load(result.save(folder / "saved"))
    again.save(folder / "again")
    for name in (store.JSON, store.TENSORS):  # byte for byte: NaN is equal to itself there
        assert (folder / "again" / name).read_bytes() == (folder / "saved" / name).read_bytes()
    assert records_of(again) == records or any(value != value for record in records for value in record.values())
