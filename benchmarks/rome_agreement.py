"""Do we agree with ROME's own tracer, number by number?

    python benchmarks/rome_agreement.py SCORES.npz

SCORES.npz is what kmeng01/rome's `experiments/causal_trace.py` computed on the same model: `scores_hidden`,
`scores_mlp`, `scores_attn` [token, layer] (mean probability of the answer when restored), `noise_level`, `low_score`,
`high_score`, `prompt`, `subject`, `samples`, `window`, and no start token. The noise draws are ours by construction:
both come from NumPy's RandomState(1).
"""

import argparse

import numpy as np
import torch

from factscope.model.load import load
from factscope.model.prompts import make_prompt
from tracing.causal import Config, trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device")
    options = parser.parse_args()
    theirs = np.load(options.scores, allow_pickle=False)
    model = load(options.model, device=options.device)
    prompt = make_prompt(model, str(theirs["prompt"]), subject=str(theirs["subject"]), start="none")
    config = Config(
        noise_level=float(theirs["noise_level"]),
        samples=int(theirs["samples"]),
        window=int(theirs["window"]),
        seed=int(theirs["seed"]),
    )
    result = trace(model, prompt, config)
    print("| quantity | ROME's tracer | ours | largest difference |\n| --- | ---: | ---: | ---: |")
    clean, low = float(theirs["high_score"]), float(theirs["low_score"])
    ours = result.clean_probability
    print(f"| clean probability | {clean:.6f} | {ours:.6f} | {abs(clean - ours):.1e} |")
    ours = float(result.corrupted.mean())
    print(f"| corrupted probability | {low:.6f} | {ours:.6f} | {abs(low - ours):.1e} |")
    for name, kind in (("hidden", "resid"), ("mlp", "mlp"), ("attn", "attn")):
        grid, reference = result.restored(kind), torch.from_numpy(theirs[f"scores_{name}"]).T
        best = f"{float(reference.max()):.6f} | {float(grid.max()):.6f}"
        print(
            f"| restored, {kind}: best of {grid.numel()} cells | {best} | {float((grid - reference).abs().max()):.1e} |"
        )


if __name__ == "__main__":
    main()
