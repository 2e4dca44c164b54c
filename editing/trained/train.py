"""Facts in, an editor out: the model is only read, and bitwise as it was."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from editing.edit import in_place
from editing.method import MethodConfig, MethodSpec, method
from editing.trained.editor import Trained
from editing.trained.examples import TrainingInputs
from editing.trained.facts import split, training_facts
from editing.trained.learning import Schedule, learn
from editing.weights.lent import in_float32
from factscope.cache import digest
from factscope.data.fact import Fact
from factscope.data.load import load_facts
from factscope.errors import EditError
from factscope.model.bridge import Bridge, info, without_gradients
from factscope.runs.provenance import Run, stopwatch


def train_editor(
    model: Bridge,
    name: str | MethodSpec,
    facts: Sequence[Fact] | None = None,
    config: MethodConfig | None = None,
    *,
    seed: int = 0,
    start: str = "auto",
    folder: str | Path | None = None,
    shown: bool | None = None,
) -> Trained:
    """Train the editor of a method on facts: the shipped ones, where none are given.

    With `folder`, a training that was stopped goes on there, to the very numbers that it would have come to.

    Raises EditError: a method that is not trained, an edited model, too few facts, a loss that is not finite; and
    StoreError for a folder that holds other work.
    """
    spec = method(name)
    if spec.train is None:
        raise EditError(f"{spec.name} needs no training: edit with it at once")
    if in_place(model):
        raise EditError("an edit is in place, and an editor is trained on the unedited model: take it out first")
    config = config or spec.config_for(model)
    spec.check(model, config)
    given = tuple(load_facts() if facts is None else facts)
    parted = split(training_facts(given), seed)
    run = Run.of(model, seed)
    work = {"method": spec.name, "config": asdict(config), "model": run.fingerprint, "seed": seed, "start": start}
    work["facts"] = digest([[fact.digests for fact in parted.pool(kind)] for kind in ("trained", *parted.asked)])
    with without_gradients(model), in_float32(model), stopwatch() as seconds:
        learner = spec.train(TrainingInputs(model, parted, seed, start, shown), config)
        place = Path(folder) if folder is not None else None
        learnt = learn(learner, parted, Schedule.of(config, seed), place, work, shown)
    return Trained(
        method=spec.name,
        config=asdict(config),
        base=run.fingerprint,
        model=info(model).name,
        start_token=start,
        seed=seed,
        tensors={name: part.cpu() for name, part in (learnt.best | learner.state).items()},
        seen=parted.seen,
        counts={kind: len(parted.pool(kind)) for kind in ("trained", *parted.asked)},
        new_relations=parted.new_relations,
        curve=learnt.curve,
        scores=learnt.scores,
        together=learner.together if learner.joint else 1,
        best=learnt.best_step,
        run=run.ended(seconds[0]),
    )
