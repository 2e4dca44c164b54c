"""`edit train`: train the editor of a method on facts, once for a model; resumable."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factscope.errors import UserError
from factscope.runs.folders import settled_folder
from studies.commands.app import load, tell_result
from studies.commands.command import command, run_folder
from studies.commands.options import (
    FactsOptions,
    ModelOptions,
    OneOf,
    RunOptions,
    Runs,
    argument,
    key,
    methods,
    option,
)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(FactsOptions, ModelOptions, RunOptions):
    """Which method's editor, on which facts."""

    method: Annotated[
        str, argument("A method that is trained, as mend.", metavar="METHOD", parser=OneOf("method", methods))
    ]
    settings: Annotated[tuple[str, ...], option("A setting of the method.", "--set", metavar="KEY=VALUE")] = ()
    runs: Runs = Path("runs")


@command(
    "edit train",
    TrainOptions,
    "edit train mend",
    "edit train mend --facts counterfact.json --limit 5000 --set steps=5000",
)
def train(options: TrainOptions) -> None:
    """Train an editor on facts, and score it on facts that it never met; the same command goes on after a stop."""
    from editing.method import method

    spec = method(options.method)
    if spec.train is None:
        trained = ", ".join(name for name in methods() if method(name).train is not None)
        raise UserError(f"{spec.name} needs no training; {trained} does")
    own = settled_folder("editor", spec.name, key(options), options.runs)
    with run_folder("edit train", options, own) as folder:
        from editing.trained.train import train_editor
        from factscope.data.load import load_facts
        from studies.saved import save_with_page

        facts = load_facts(options.facts, relation=options.relation, limit=options.limit, extra=options.extra)
        model = load(options)
        config = spec.config_for(model, options.settings)
        editor = train_editor(
            model, spec, facts, config, seed=options.seed, start=options.start, folder=folder / "training"
        )
        page = save_with_page(editor, folder, options.light)
        shutil.rmtree(folder / "training", ignore_errors=True)  # it was kept to go on from, and it is done
    said = {"editor": editor.name, "method": spec.name, "folder": str(folder)}
    tell_result(editor, page, options, f"Editor {editor.name} in {folder}", **said)
