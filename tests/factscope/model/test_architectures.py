"""The architecture table: every family and every verb, equal to plain transformers or refused in one sentence.

What is expected is what docs/models.md says (`python -m benchmarks.architectures` makes it), so that the page cannot
promise more than is so, and a family that could once be used is not refused without anybody noticing.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from factscope.errors import ModelError
from factscope.model.bridge import info, last_logits
from factscope.model.hooks import hooked
from factscope.model.sites import Site
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


@pytest.mark.parametrize("name", [name for name, cells in TABLE.items() if cells["circuit"] == "="])
def test_the_last_logits_alone_are_those_of_the_whole_pass(family: Any, name: str) -> None:
    """And so are the gradients at what the last block gives."""
    model, tokens = family(name), torch.tensor([[0, 17, 200, 31, 5], [0, 3, 99, 41, 7]])
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for run in (lambda: model(tokens, use_cache=False)[:, -1], lambda: last_logits(model, tokens)):
        states: list[torch.Tensor] = []

        def leaf(resid: torch.Tensor, states: list[torch.Tensor] = states) -> torch.Tensor:
            states.append(resid.detach().requires_grad_())
            return states[-1]

        with hooked(model, [(Site("resid", model.cfg.n_layers - 1), leaf)]):
            logits = run()
        (slope,) = torch.autograd.grad(logits[:, 3].sum(), states)
        seen.append((logits.detach(), slope))
    (whole, slopes), (last, own) = seen
    torch.testing.assert_close(last, whole, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(own, slopes, atol=1e-6, rtol=1e-6)
    assert not own[:, :-1].any()
