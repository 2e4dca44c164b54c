"""`edit`: change what the model knows, score it, stack edits, undo them; a file for each of its commands."""

from studies.commands.app import run_app
from studies.commands.command import group
from studies.commands.edit import facts
from studies.commands.edit.apply import apply
from studies.commands.edit.layers import layers
from studies.commands.edit.methods import methods
from studies.commands.edit.moments import moments
from studies.commands.edit.saved.export import export
from studies.commands.edit.saved.list_ import list_
from studies.commands.edit.saved.merge import merge
from studies.commands.edit.saved.undo import undo
from studies.commands.edit.saved.weights import weights
from studies.commands.edit.scored.bench import bench
from studies.commands.edit.scored.compare import compare
from studies.commands.edit.scored.evaluate import evaluate
from studies.commands.edit.scored.harness import harness
from studies.commands.edit.sequence import sequence
from studies.commands.edit.train import train
from studies.commands.papers.back import back
from studies.commands.papers.hops import hops
from studies.commands.papers.survey import survey
from studies.commands.show import show_command

app = group(
    "edit",
    "Edit what the model knows.",
    (
        apply,
        evaluate,
        layers,
        weights,
        sequence,
        back,
        bench,
        survey,
        compare,
        harness,
        hops,
        list_,
        merge,
        show_command("edit"),
        undo,
        export,
        methods,
        moments,
        train,
    ),
    'edit apply "[The Eiffel Tower] is located in the city of" --target Rome --method rome',
    "edit apply --facts counterfact.json --limit 100 --method memit --batch 100",
    'edit apply "[The Louvre] is located in the city of" --target Berlin --stack',
)
app.add_typer(facts.app, name="facts")


def main() -> None:
    """Entry point."""
    run_app(app, "edit")


if __name__ == "__main__":
    main()
