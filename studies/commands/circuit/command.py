"""`circuit`: which heads and MLPs, wired how, produce a fact; a file for each of its commands."""

from studies.commands.app import run_app
from studies.commands.circuit.compare import compare
from studies.commands.circuit.diff import diff
from studies.commands.circuit.evaluate import evaluate
from studies.commands.circuit.export import export
from studies.commands.circuit.find import find
from studies.commands.circuit.import_ import import_
from studies.commands.circuit.layers import layers
from studies.commands.circuit.patch import patch
from studies.commands.circuit.scorers import scorers
from studies.commands.command import OfSentence, group
from studies.commands.papers.mib import mib
from studies.commands.papers.table import table
from studies.commands.show import show_command

app = group(
    "circuit",
    "Find the circuit of a fact: the edges between heads and MLPs that produce it, and a test of whether they do.",
    (find, evaluate, show_command("circuit"), compare, diff, layers, patch, scorers, table, mib, export, import_),
    'circuit "The Eiffel Tower is located in the city of"',
    'circuit find "The Eiffel Tower is located in the city of" --method acdc --threshold 0.05 --no-split-qkv',
    "circuit find --facts country_capital --limit 8 --method eap-ig --edges 3000",
    "circuit evaluate runs/20261121-140000-circuit-the-eiffel-tower --facts landmark_city",
    "circuit table --relations country_capital,country_language",
    "circuit compare runs/one runs/other",
    "circuit export runs/one --out circuit.graphml --format graphml",
    cls=OfSentence,
)


def main() -> None:
    """Entry point."""
    run_app(app, "circuit")


if __name__ == "__main__":
    main()
