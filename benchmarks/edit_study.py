"""How long a full study of an edit takes, and where the time goes.

    python -m benchmarks.edit_study [--method rome] [--nulls 3] [--samples 4] [--circuit eap_ig]

The default model and prompt: the edit itself, then traces of three kinds, circuits, heads and the lens before, after
and under each null, evaluation cards and spectra. Second moments are taken from the cache, or collected first and not
timed. Shares are of the study without the edit. The last line says how much of a trace after the edit repeats blocks
below the edited layer, which could be taken from the trace before.
"""

import argparse
import json
import time

from editing import compute as computing
from editing.method import method
from editing.requests import request
from factscope.model import load as models
from factscope.runs.provenance import peak_memory
from studies.edit import moments_for
from studies.edit_effects.model_state import Config
from studies.edit_effects.study import edit_studies


def repeated_below(layer: int, n_layers: int) -> float:
    """Share of a residual trace's block runs that are below `layer` and so as before: a cell of s runs s+1 and up."""
    runs = n_layers * (n_layers - 1) / 2
    return layer * (layer - 1) / 2 / runs


def main() -> None:
    """Run it once and print a JSON line and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--method", default="rome")
    parser.add_argument("--circuit", default="eap_ig")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--nulls", type=int, default=3)
    parser.add_argument("--value-nulls", type=int, default=0)
    parser.add_argument("--again", type=int, default=1)
    parser.add_argument("--neighbours", type=int, default=1)
    given = parser.parse_args()
    model = models.load(given.model)
    asked = request(model, "[The Eiffel Tower] is located in the city of", "Rome")
    spec = method(given.method)
    config = spec.config_for(model)
    moments = moments_for(model, spec, config, "self", None, 0, "auto")
    start = time.perf_counter()
    edit = computing.compute(spec, model, [asked], config, moments=moments)
    editing = time.perf_counter() - start
    chosen = Config(
        circuit=given.circuit, samples=given.samples, nulls=given.nulls, value_nulls=given.value_nulls,
        again=given.again, neighbours=given.neighbours,
    )  # fmt: skip
    start = time.perf_counter()
    (study,) = edit_studies(model, [edit], chosen)
    whole = time.perf_counter() - start
    parts: dict[str, list[float]] = {}
    for name, took in study.seconds.items():
        parts.setdefault(name.partition(": ")[2].rstrip(" 0123456789"), []).append(took)
    print(json.dumps({"edit": round(editing, 1), "study": round(whole, 1), "peak GB": round(peak_memory(), 2)}))
    print(f"{'part':<22}{'runs':>5}{'seconds':>9}{'share':>8}")
    for name, spent in sorted(parts.items(), key=lambda part: -sum(part[1])):
        print(f"{name:<22}{len(spent):>5}{sum(spent):>9.1f}{sum(spent) / whole:>8.1%}")
    print(f"{'rest':<22}{'':>5}{whole - sum(map(sum, parts.values())):>9.1f}")
    below = repeated_below(min(study.layers), model.cfg.n_layers)
    print(f"blocks below layer {min(study.layers)} in each further trace: {below:.1%} of its block runs")


if __name__ == "__main__":
    main()
