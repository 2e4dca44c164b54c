"""Every method on families that were refused or wrong; cut edges of all families are in the architecture table."""

from typing import Any

import numpy as np
import pytest

from circuits.analysis.faithfulness import evaluate
from circuits.analysis.head_roles import roles
from circuits.find import find
from circuits.scorers.eap import EAP
from circuits.scorers.eap_ig import EAPIG
from circuits.scorers.exact import Exact
from circuits.search.acdc import ACDC
from helpers.circuits import task


@pytest.mark.parametrize("name", ["qwen2", "smollm3"])
def test_every_method_serves_what_was_refused_or_wrong(family: Any, name: str) -> None:
    """Biases under grouped queries, and layers without rotary angles: every verb works."""
    model = family(name)
    asked = task(model, "logit_difference", "counterfactual")
    for method in (EAP(edges=20), EAPIG(edges=20, steps=2), Exact(edges=20), ACDC(1e-4)):
        circuit = find(model, asked, method)
        assert circuit.n_edges > 0
    assert np.isfinite(evaluate(model, circuit, n_random=1).kl)
    assert roles(model, circuit, shuffles=1).components
