"""Kept parts of a study: what a kill left half of is made again, and what is whole is not."""

from dataclasses import dataclass

import pytest

from factscope.runs import store
from factscope.runs.parts import JOURNAL, PARTS, parts_in


@dataclass(frozen=True)
class Number:
    """A part."""

    value: float


@pytest.mark.parametrize(("gone", "value"), [(None, 1.0), (store.TENSORS, 2.0), (store.JSON, 2.0)])
def test_a_part_of_which_a_file_is_gone_is_made_again(tmp_path, gone, value):
    with parts_in(tmp_path, {"of": "numbers"}, [1.0], False) as parts:
        parts.get("one", Number, lambda: Number(1.0))
    if gone is not None:
        (tmp_path / PARTS / "one" / gone).unlink()
    with parts_in(tmp_path, {"of": "numbers"}, [1.0], False) as parts:
        assert parts.get("one", Number, lambda: Number(2.0)).value == value
    assert (tmp_path / JOURNAL).read_text().count('"one"') == 1
