"""What a terminal shows while values are found: mean loss and probability, facts done, and the time left."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def learning(config: Any, facts: int) -> Iterator[tuple[Any, Any]]:
    """Shows, at a terminal, the mean loss and probability while values are found, and how many facts are done."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None, None
        return
    steps, done, left = getattr(getattr(config, "descent", config), "steps", 0), 0, ""
    taken_up, begun = 0, time.monotonic()
    with console.status("Finding values ...") as status:

        def on_step(step: int, loss: Any, probability: Any) -> None:
            known = loss[~loss.isnan()]
            mean = float(known.mean()) if len(known) else 0.0
            said = f"loss {mean:.3f} nats, P(target) {float(probability.mean()):.3f}"
            status.update(f"{done} of {facts} facts done{left}; step {step + 1} of at most {steps}: {said}")

        def on_piece(count: int) -> None:
            nonlocal done, left, taken_up, begun
            done += count
            spent = time.monotonic() - begun
            if spent < 1:  # it was done before, by an interrupted run
                taken_up, begun = done, time.monotonic()
            else:
                left = f", about {spent / (done - taken_up) * (facts - done) / 60:.0f} min left"

        yield on_step, on_piece
