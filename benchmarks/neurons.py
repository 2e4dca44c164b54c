"""Are the neurons that carry a fact where tracing finds it? `python -m benchmarks.neurons`

For known facts of all shipped relations, on the prompt alone: what the neurons of each layer carry at the last token
(integrated gradients), and what restoring the MLPs of a window around the layer brings back, at the subject's last
token and at the last token. Printed as Markdown: the mean of each by layer; for each fact Spearman's correlation of the
two over layers, averaged, with the BCa interval over subjects; and the layer from which up half of each lies.
"""

import argparse

import numpy as np
import torch

from editing.requests import known
from factscope.data.load import load_facts
from factscope.errors import NoGap
from factscope.model.load import load
from factscope.model.neurons.attribution import Path
from factscope.model.prompts import prompt_of
from factscope.statistics import bca
from tracing.causal import Config as TraceConfig
from tracing.causal import trace
from tracing.neurons import Config, agreements, neurons

ROLES = ("last subject", "last token")


def halfway(by_layer: np.ndarray) -> int:
    """The layer from which up half of what is added lies."""
    up = by_layer.clip(0)[::-1]
    return len(up) - 1 - int(np.searchsorted(np.cumsum(up), up.sum() / 2))


def main() -> None:
    """Print the table."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--model", default="smollm2")
    reader.add_argument("--device")
    reader.add_argument("--facts", default="factscope")
    reader.add_argument("--limit", type=int, default=36)
    reader.add_argument("--samples", type=int, default=4)
    reader.add_argument("--window", type=int, default=10)
    reader.add_argument("--points", type=int, default=20)
    asked = reader.parse_args()
    model = load(asked.model, device=asked.device)
    facts = known(model, load_facts(asked.facts, limit=20 * asked.limit, seed=1), asked.limit)
    config = Config(Path(points=asked.points), wordings=1)
    tracing = TraceConfig(sites=("mlp",), samples=asked.samples, window=asked.window)
    subjects, rhos, carried, traced, gaps, chosen = [], [], [], [], [], []
    for fact in facts:
        prompt = prompt_of(model, fact)
        try:
            result = trace(model, prompt, tracing)
        except NoGap:
            continue
        found = neurons(model, prompt, config)
        both = agreements(result, found)
        places = (prompt.subject_span[1] - 1, len(prompt.tokens) - 1)
        subjects.append(fact.subject)
        rhos.append([one.rho for one in both])
        carried.append(found.by_layer.numpy())
        traced.append([result.grid("mlp").effect[:, place].numpy() for place in places])
        gaps.append(float(found.gap.max()))
        chosen += [neuron.layer for neuron in found.neurons]
        print(f"<!-- {len(subjects)} {fact.id}: {[round(one.rho, 2) for one in both]} -->", flush=True)
    attribution, effects = np.array(carried), np.array(traced)
    print(f"\n{len(subjects)} facts, {model.cfg.n_layers} layers, windows of {asked.window}, gaps to {max(gaps):.4f}\n")
    print("| restored at | Spearman's correlation with the attribution, over layers | half of it from layer up |")
    print("| --- | --- | ---: |")
    for number, role in enumerate(ROLES):
        values = np.array([pair[number] for pair in rhos])
        held = ~np.isnan(values)
        own = [subject for subject, kept in zip(subjects, held, strict=True) if kept]
        low, high = bca(values[held][None], groups=own)
        half = halfway(effects[:, number].mean(0))
        print(f"| {role} | {values[held].mean():+.2f} [{low:+.2f}, {high:+.2f}] | {half} |")
    without = attribution.copy()
    without[:, 0] = 0
    print(f"| neurons, last token | | {halfway(attribution.mean(0))}; without layer 0, {halfway(without.mean(0))} |")
    third = torch.tensor(chosen) * 3 // model.cfg.n_layers
    shares = [float((third == part).float().mean()) for part in range(3)]
    print(f"\nChosen neurons in the lower, middle and upper third of layers: {', '.join(f'{x:.0%}' for x in shares)}\n")
    print("| layer | attribution | restored, last subject | restored, last token |\n| ---: | ---: | ---: | ---: |")
    for layer, row in enumerate(attribution.mean(0)):
        print(f"| {layer} | {row:+.3f} | {effects[:, 0, layer].mean():+.3f} | {effects[:, 1, layer].mean():+.3f} |")


if __name__ == "__main__":
    main()
