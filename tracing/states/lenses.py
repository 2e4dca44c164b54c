"""Lenses side by side: what each state says by the logit lens, by the Jacobian lens, and by the tuned lens.

All end in the model's own final norm and unembedding (`factscope.model.readout`); they differ in what stands before:
nothing, the state's mean first-order effect on the final states (`tracing.states.jacobian_lens`), or a map of its layer
that was trained to say what the model will say (`tracing.states.tuned_lens`). A lens is good where it says early what
the model will say: so the rank of the answer is told, and for each position of the prompt KL(final || lens) in nats,
and whether the lens's first token is the model's own.
"""

from dataclasses import asdict

import torch

from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt, as_prompt
from factscope.model.readout import rank, readout
from factscope.runs.provenance import Run, stopwatch
from tracing.states.clean import CleanRun
from tracing.states.held_out import Moved, as_it_is, held_out
from tracing.states.jacobian_lens import JacobianLens, texts
from tracing.states.results import LensesResult
from tracing.states.tuned_lens import TunedLens

READERS = ("logit lens", "Jacobian lens", "tuned lens")


@torch.no_grad()
def lenses(model: Bridge, prompt: str | Prompt, fitted: JacobianLens, tuned: TunedLens | None = None) -> LensesResult:
    """Every state of the prompt by all lenses; without an answer, the model's own next token is followed.

    A text is made a prompt first.

    Args:
        fitted: what `jacobian_lens(model)` gives.
        tuned: what `tuned_lens(model)` gives; it is judged on the Jacobian lens's held-out texts, too.
    """
    moves: list[Moved] = [as_it_is, fitted.moved, *([tuned.moved] if tuned else [])]
    readers, prompt = READERS[: len(moves)], as_prompt(model, prompt)
    with stopwatch() as seconds:
        clean = CleanRun.of(model, prompt.tokens)
        prompt = clean.answered(model, prompt)
        answer, read, decode = prompt.answer_ids[0], readout(model).logits, model.tokenizer.decode
        own = torch.log_softmax(clean.logits.float().cpu(), -1)
        found: dict[str, list[torch.Tensor]] = {"log_probability": [], "rank": [], "kl": [], "chance": [], "top": []}
        for move in moves:
            for state, values in enumerate(clean.states):
                logits = read(move(state, values)).float().cpu()
                logs = torch.log_softmax(logits, -1)
                found["log_probability"].append(logs[:, answer])
                found["rank"].append(rank(logits, answer))
                found["kl"].append((own.exp() * (own - logs)).sum(-1))
                found["chance"].append(logs.max(-1).values.exp())
                found["top"].append(logits.argmax(-1))
        shape = (len(readers), len(clean.states), len(prompt.tokens))
        grids = {name: torch.stack(values).reshape(shape) for name, values in found.items()}
        judged = fitted.kl
        if tuned is not None:
            config = fitted.config
            rows = list(texts(model, config))[config.texts :]
            judged = torch.cat([judged, held_out(model, [tuned.moved], rows, config.skip)])
    top = grids["top"].tolist()
    return LensesResult(
        prompt=prompt,
        readers=readers,
        settings=asdict(fitted.config),
        log_probability=grids["log_probability"],
        rank=grids["rank"],
        kl=grids["kl"],
        same=grids["top"] == own.argmax(-1),
        top=tuple(tuple(tuple(decode([token]) for token in row) for row in grid) for grid in top),
        top_probability=grids["chance"],
        held_out=judged,
        run=Run.of(model, fitted.config.seed).ended(seconds[0]),
        tuned_settings=None if tuned is None else asdict(tuned.config),
        held_out_documents=None if tuned is None else tuned.kl,
    )
