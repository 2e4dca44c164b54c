"""The contract of every result: it goes out as a table, a page, figures and a folder, and comes back the same."""

import csv
import io
from pathlib import Path
from typing import Any

import pandas

from factscope.plots.show import records_of
from factscope.results import tables
from factscope.runs import store
from studies.saved import load


def check_result(result: Any, folder: Path) -> None:
    """Called where a test has a result of some kind at hand, so that every kind is held and none is made for it."""
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
    text = tables.latex(frame.head(3))
    assert "\\toprule" in text
    assert "\\bottomrule" in text
    assert (text.count("{"), text.count("\\\\")) == (text.count("}"), min(3, len(frame)) + 1)
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
