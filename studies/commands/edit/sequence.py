"""`edit sequence`: edit after edit, with checkpoints, until all are in or the model breaks; resumable at any edit.

With `--seeds` the same facts in several orders, which workers and shards share.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import settled_folder
from studies.commands.app import going_on, listed, load, note, tell_result, tell_shard
from studies.commands.command import command, run_folder
from studies.commands.edit.apply import note_identity, note_neighbours
from studies.commands.options import (
    DETAILS,
    FACTS,
    OWN_TASKS,
    EditOptions,
    EditorOptions,
    KnownFactsOptions,
    ModelOptions,
    OneOf,
    RunOptions,
    Runs,
    ShardOptions,
    Was,
    key,
    option,
    parted,
    shipped,
    starting,
)

if TYPE_CHECKING:
    from editing.trained.editor import Trained


@dataclass(frozen=True, kw_only=True)
class SequenceOptions(EditOptions, EditorOptions, KnownFactsOptions, ModelOptions, ShardOptions, RunOptions):
    """What is edited, when it is looked at, and when it ends."""

    facts: Annotated[
        str,
        option(
            "Edit them to their foils: shipped relation, file, folder or data set.", autocompletion=starting(shipped)
        ),
    ]
    limit: Annotated[int, option("Facts to edit, at most.", panel=FACTS), Was("--n")] = 200
    batch: Annotated[int, option("Facts of one edit.")] = 1
    every: Annotated[int, option("Facts between two checkpoints.")] = 10
    seeds: Annotated[
        int | None, option("So many sequences, each of the same facts in an order of its own, from --seed on.")
    ] = None
    stop_when: Annotated[
        tuple[str, ...],
        option("When to stop: retention<0.5, perplexity>2; repeat for several.", metavar="RULE"),
    ] = ()
    restrain_at: Annotated[
        str,
        option(
            "When to restrain: at the end, at every checkpoint, or a copy beside each.",
            of=OneOf("moment", ("end", "checkpoint", "beside")),
        ),
    ] = "end"
    sweep: Annotated[
        tuple[str, ...],
        option("A further setting of the restraint, beside; as alpha=2, repeated.", metavar="KEY=VALUE"),
    ] = ()
    look: Annotated[
        bool, option("Trace and circuit of an edited and an unrelated fact at every checkpoint.", "--look")
    ] = False
    tasks: Annotated[
        str | None,
        option(f"Read at every checkpoint: {', '.join(OWN_TASKS)}, or tasks of lm-eval; with commas between."),
    ] = None
    task_limit: Annotated[int, option("Questions of each task, at most.", panel=DETAILS)] = 50
    include: Annotated[Path | None, option("A folder with task files of your own, for lm-eval.", panel=DETAILS)] = None
    unrelated: Annotated[
        str | None,
        option("Facts that must not change, or none  [dim](default: shipped ones)[/dim]", panel=DETAILS),
    ] = None
    text: Annotated[str, option("What perplexity is measured on: self, a text file, a data set.", panel=DETAILS)] = (
        "self"
    )
    runs: Runs = Path("runs")


@command(
    "edit sequence",
    SequenceOptions,
    "edit sequence --facts counterfact.json --known --limit 200 --method rome",
    "edit sequence --facts counterfact.json --limit 500 --method memit --batch 10 --every 50 --restrain prune",
    "edit sequence --facts counterfact.json --method memit --restrain prune --restrain-at beside --sweep alpha=4",
    'edit sequence --facts counterfact.json --limit 200 --stop-when "retention<0.5" --stop-when "perplexity>2"',
    "edit sequence --facts counterfact.json --known --limit 100 --method memit --seeds 5 --workers 2",
)
def sequence(options: SequenceOptions) -> None:
    """Edit many facts one after another, and see what is kept, what is forgotten, and when the model breaks."""
    if options.seeds is None and (options.workers > 1 or options.ray or options.shard):
        raise UserError(
            "one sequence is one chain of edits, which nobody can share: give --seeds for several orders of the facts"
        )
    # The same command finds the same folder, and so takes up where it was stopped.
    shard, own = options.part(settled_folder("sequence", Path(options.facts).stem, key(options), options.runs))
    crew = options.crew()
    with run_folder("edit sequence", options, own) as folder:
        from factscope.data.request import requests_of
        from studies.saved import save_with_page

        editor = _check(options)
        with going_on(folder, "the edits done so far are"):
            model = load(options)
            chosen = _chosen(model, options)
            note_identity(options.method_with_settings()[0], options.moments)
            note_neighbours(requests_of(chosen))
            if options.seeds is None:
                result: Any = _run(model, options, editor, folder, chosen)
            else:
                result = _in_orders(model, options, editor, folder, chosen, workers=crew, shard=shard)
        if shard is not None:
            tell_shard(shard, folder)
            return
        page = save_with_page(result, folder, options.light)
    tell_result(result, page, options, _where(options, folder), folder=str(folder))


def _where(options: SequenceOptions, folder: Path) -> str:
    """Where the edits are."""
    if options.seeds is None:
        return f"Edits in {folder / 'edits'}"
    return f"Edits in {folder / 'seed-N'}" if any(folder.glob("seed-*")) else "Edits in the folders of the shards"


def _check(options: SequenceOptions) -> "Trained | None":
    """Everything that can be wrong before a model is loaded; the editor of a method that is trained."""
    from editing.method import method
    from editing.sequence.rules import Rule
    from editing.sequence.run import check_method
    from editing.trained.fitting import belongs

    check_method(method(options.method))
    spec, _ = options.method_with_settings()
    editor = options.loaded()
    belongs(spec, editor)
    for rule in options.stop_when:
        Rule.of(rule)
    options.restraint_with_config()
    if options.sweep and (options.restrain is None or options.restrain_at != "beside"):
        raise UserError("--sweep reads restrained copies beside the sequence: give --restrain and --restrain-at beside")
    _swept(options)
    if options.tasks is not None and not listed(options.tasks):
        raise UserError("--tasks is empty; name some, as --tasks repeat,past_tense")
    if options.include is not None and (options.tasks is None or not options.include.is_dir()):
        raise UserError(f"--include {options.include} is for --tasks of lm-eval, and must be a folder")
    return editor


def _swept(options: SequenceOptions) -> tuple[Any, ...]:
    """The restraint's further configurations, each with one setting more than that of the sequence."""
    restraint, _ = options.restraint_with_config()
    if restraint is None:
        return ()
    own = [(pair.partition("=")[0], pair) for pair in parted(options.settings, options.restrain)[1]]
    swept = [(pair.partition("=")[0], pair) for pair in options.sweep]
    return tuple(restraint.config_for([*(one for key, one in own if key != new), pair]) for new, pair in swept)


@dataclass(frozen=True)
class _OneOrder:
    """A whole sequence by a seed, as this process or a worker makes it."""

    options: SequenceOptions
    editor: "Trained | None"

    def __call__(self, model: Any, chosen: Sequence[Any], seed: int, folder: Path) -> Any:
        def say(sentence: str) -> None:
            warnings.warn(f"seed {seed}: {sentence}", stacklevel=2)  # a worker's, too, are told by who asked for it

        return _run(model, replace(self.options, seed=seed), self.editor, folder, chosen, say)


def _in_orders(
    model: Any, options: SequenceOptions, editor: "Trained | None", folder: Path, chosen: Any, **who: Any
) -> Any:
    """The same facts in as many orders as were asked for; nothing of a shard."""
    from editing.sequence.seeds import Orders, over_seeds
    from studies.commands.options import by_content, settled

    asked = by_content(settled(options))
    said: dict[str, Any] = {"editor": editor.digest} if editor is not None else {}
    said["options"] = {name: asked[name] for name in asked if name not in ("seed", "seeds", "facts", "model")}
    orders = Orders(tuple(range(options.seed, options.seed + (options.seeds or 1))), **who)
    return over_seeds(model, chosen, _OneOrder(options, editor), orders, folder, said)


def _run(
    model: Any,
    options: SequenceOptions,
    editor: "Trained | None",
    folder: Path,
    chosen: Any,
    say: Callable[[str], None] = lambda sentence: note(f"Note: {sentence}."),
) -> Any:
    """All edits, with the yardstick and the watch that were asked for."""
    from editing.evaluation.tasks import Tasks
    from editing.sequence.result import Config
    from editing.sequence.run import sequence as run
    from editing.sequence.yardstick import Config as YardstickConfig
    from editing.sequence.yardstick import yardstick as measured_by
    from studies.edit import moments_for
    from studies.sequence_watch import SequenceWatch

    (spec, pairs), seed, start = options.method_with_settings(), options.seed, options.start
    how = Config(options.batch, options.every, options.restrain, options.restrain_at, options.stop_when, seed, start)
    config = spec.config_for(model, pairs, editor)
    held = YardstickConfig(options.unrelated, text=options.text, seed=seed, start=start)
    yardstick = measured_by(model, chosen, held)
    hooks: list[Any] = []
    if options.tasks is not None:
        named = listed(options.tasks) or ()
        hooks.append(Tasks.of(model, named, limit=options.task_limit, include=options.include, seed=seed, start=start))
    if options.look:
        hooks.append(SequenceWatch.of(model, chosen, yardstick.facts, start, seed))
    return run(
        model, chosen, spec, how, folder, yardstick, config=config, restraint_config=options.restraint_with_config()[1],
        sweep=_swept(options),
        moments=moments_for(model, spec, config, options.moments, options.tokens, seed, options.start),
        say=say, on_checkpoint=_all_of(hooks),
        editor=editor, allow_trained=options.allow_trained,
    )  # fmt: skip


def _all_of(hooks: list[Any]) -> Any:
    """One hook that gives what all of them give; None of none."""

    def hook(*now: Any) -> dict[str, Any]:
        return {name: value for each in hooks for name, value in each(*now).items()}

    return hook if hooks else None


def _chosen(model: Any, options: SequenceOptions) -> Any:
    """The first facts that can be edited one after another; of two about the same prompt, the first."""
    from editing.requests import known as known_facts
    from factscope.data.load import load_facts
    from factscope.data.request import distinct

    every = load_facts(options.facts, relation=options.relation, extra=options.extra)
    found = distinct(every)
    if len(found) < len(every):
        note(f"Note: {len(every) - len(found)} facts ask the same prompt as one before them and are left out.")
    limit = options.limit
    found = known_facts(model, found, limit, options.start) if options.known else found[:limit]
    if not found:
        raise UserError(
            f"{options.model} knows none of the facts in {options.facts}; leave --known out to edit what it does not "
            "know"
        )
    if len(found) < limit:
        note(f"Note: {len(found)} facts are edited, not {limit}: there are no more.")
    return found
