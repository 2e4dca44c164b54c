"""Lenses side by side: what each state says by the logit lens, and by the Jacobian lens.

Both end in the model's own final norm and unembedding (`factscope.model.readout`); they differ in what stands before:
nothing, or the state's mean first-order effect on the final states (`tracing.states.jacobian_lens`). A lens is good
where it says early what the model will say: so the rank of the answer is told, and for each position of the prompt
KL(final || lens) in nats, and whether the lens's first token is the model's own.
"""

from dataclasses import asdict

import torch

from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt
from factscope.model.readout import rank, readout
from factscope.runs.provenance import Run, stopwatch
from tracing.states.clean import CleanRun
from tracing.states.jacobian_lens import JacobianLens
from tracing.states.results import LensesResult

READERS = ("logit lens", "Jacobian lens")


@torch.no_grad()
def lenses(model: Bridge, prompt: Prompt, fitted: JacobianLens) -> LensesResult:
    """Every state of the prompt by both lenses; without an answer, the model's own next token is followed.

    `fitted` is what `jacobian_lens(model)` gives.
    """
    with stopwatch() as seconds:
        clean = CleanRun.of(model, prompt.tokens)
        prompt = clean.answered(model, prompt)
        answer, read, decode = prompt.answer_ids[0], readout(model).logits, model.tokenizer.decode
        own = torch.log_softmax(clean.logits.float().cpu(), -1)
        found: dict[str, list[torch.Tensor]] = {"log_probability": [], "rank": [], "kl": [], "chance": [], "top": []}
        for reader in READERS:
            for state, values in enumerate(clean.states):
                moved = values if reader == READERS[0] else fitted.moved(state, values)
                logits = read(moved).float().cpu()
                logs = torch.log_softmax(logits, -1)
                found["log_probability"].append(logs[:, answer])
                found["rank"].append(rank(logits, answer))
                found["kl"].append((own.exp() * (own - logs)).sum(-1))
                found["chance"].append(logs.max(-1).values.exp())
                found["top"].append(logits.argmax(-1))
        n_states, shape = len(clean.states), (len(READERS), len(clean.states), len(prompt.tokens))
        grids = {name: torch.stack(values).reshape(shape) for name, values in found.items()}
    top = grids["top"].tolist()
    return LensesResult(
        prompt=prompt,
        readers=READERS,
        settings=asdict(fitted.config),
        log_probability=grids["log_probability"],
        rank=grids["rank"],
        kl=grids["kl"],
        same=grids["top"] == own.argmax(-1),
        top=tuple(tuple(tuple(decode([token]) for token in row) for row in grid) for grid in top),
        top_probability=grids["chance"],
        held_out=fitted.kl.reshape(len(READERS), n_states),
        run=Run.of(model, fitted.config.seed).ended(seconds[0]),
    )
