"""How wrong scorers of edges are, beside exact single cuts: `python -m benchmarks.scorers`, on the default model.

For each fact (a prompt and the subject that it is swapped with) and both directions, edges are drawn uniformly and cut
one at a time; one JSON line for each scorer, with Spearman's rank correlation of signed scores and of sizes, the mean
absolute error beside the mean size of an exact effect, the share of the tenth that matters most that is found, and the
seconds that the scorer took for all edges.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from circuits.analysis.scorer_errors import scorer_errors
from circuits.method import Scorer
from circuits.scorers.atp_star import AtPStar
from circuits.scorers.eap import EAP
from circuits.scorers.eap_ig import EAPIG
from circuits.scorers.relp import RelP
from factscope.model.load import load
from studies.circuit_inputs import TaskOptions, about_prompt

FACTS = (
    ("The Eiffel Tower is located in the city of", "The Colosseum"),
    ("The capital of France is", "Italy"),
    ("The capital of Japan is", "China"),
)


def measured(edges: int, model_name: str) -> Iterator[dict[str, Any]]:
    """One row for each fact, direction and scorer."""
    model = load(model_name, device="cpu")
    for prompt, swap in FACTS:
        task = about_prompt(model, prompt, swap=swap, options=TaskOptions(ablation="counterfactual")).task
        for direction in ("noising", "denoising"):
            scorers: dict[str, Scorer] = {
                "eap": EAP(direction=direction),
                "eap_ig": EAPIG(direction=direction),
                "atp_star": AtPStar(direction=direction),
                "atp_star, no drops": AtPStar(direction=direction, grad_drop=False),
                "relp": RelP(direction=direction),
                "relp, attention held": RelP(direction=direction, attention="held"),
            }
            found = scorer_errors(model, task, scorers, edges=edges, direction=direction)
            for each in found.agreements:
                yield {
                    "prompt": prompt,
                    "direction": direction,
                    "scorer": each.scorer,
                    "rank correlation": [round(each.rank_correlation.value, 3), round(each.rank_correlation.error, 3)],
                    "of sizes": round(each.by_size.value, 3),
                    "mean absolute error": each.mean_error.value,
                    "mean exact size": float(found.exact.abs().mean()),
                    "largest tenth found": round(each.top_found.value, 3),
                    "seconds": round(each.seconds, 2),
                }


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=400, help="drawn for each fact and direction")
    parser.add_argument("--model", default="smollm2")
    given = parser.parse_args()
    for row in measured(given.edges, given.model):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
