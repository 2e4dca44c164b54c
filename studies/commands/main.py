"""`factscope`: all commands under one name; `trace`, `circuit` and `edit` are short for `factscope trace` and so on."""

from studies.commands import cache, trace
from studies.commands.app import run_app
from studies.commands.circuit import command as circuit
from studies.commands.command import group
from studies.commands.doctor import doctor
from studies.commands.edit import command as edit
from studies.commands.runs.estimate import estimate
from studies.commands.runs.merge import merge
from studies.commands.runs.upload import upload
from studies.commands.runs.view import view

app = group(
    "factscope",
    "Trace a fact in a language model, find its circuit, edit it, and see what changed.",
    (doctor, estimate, merge, upload, view),
    'factscope trace "The Eiffel Tower is located in the city of"',
    'factscope circuit find "The Eiffel Tower is located in the city of"',
    'factscope edit apply "[The Eiffel Tower] is located in the city of" --target Rome',
    "factscope view",
    "factscope doctor",
)
for each in (trace, circuit, edit, cache):
    app.add_typer(each.app)


def main() -> None:
    """Entry point."""
    run_app(app, "factscope")


if __name__ == "__main__":
    main()
