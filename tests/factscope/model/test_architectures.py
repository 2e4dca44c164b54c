"""The architecture table: every family and every verb, equal to plain transformers or refused in one sentence.

What is expected is what docs/models.md says (`python -m benchmarks.architectures` makes it), so that the page cannot
promise more than is so, and a family that could once be used is not refused without anybody noticing.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from factscope.errors import ModelError
from factscope.model.bridge import info
from helpers.architectures import FAMILIES, plain
from helpers.verbs import EQUAL, VERBS, difference

PAGE = Path(__file__).parents[3] / "docs" / "models.md"


def table() -> dict[str, dict[str, str]]:
    """The page's cells, by family and verb."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    head = next(row for row in rows if row[0] == "family")
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows if row[0] in FAMILIES}


TABLE = table()


@lru_cache(maxsize=1)
def own(folder: str) -> Any:
    """The family's model in plain transformers; its verbs follow one another."""
    return plain(folder)


def apart(family: Any, name: str, verb: str) -> float:
    """The largest difference of the verb on this family."""
    model = family(name)
    return difference(model, own(info(model).source), verb)


def test_every_family_and_verb_has_a_cell() -> None:
    assert list(TABLE) == list(FAMILIES)
    for cells in TABLE.values():
        assert list(cells) == list(VERBS)
        assert set(cells.values()) <= {"=", "-"}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_is_equal_to_plain_transformers_or_refused(family: Any, name: str, verb: str) -> None:
    if TABLE[name][verb] == "=":
        assert apart(family, name, verb) <= EQUAL
        return
    with pytest.raises(ModelError) as refusal:
        apart(family, name, verb)
    assert len(str(refusal.value)) < 400
    assert "\n" not in str(refusal.value)
