"""Which models can be used for what: every causal family against plain transformers, or refused.

    python -m benchmarks.architectures [FAMILY ...]

Each family is a random model of two layers (tests/helpers/architectures.py), and each verb is what it says there
(tests/helpers/verbs.py). In the table `=` says that the largest difference from plain transformers is below 2e-5, and
`-` that the verb refuses the family in one sentence. Anything else is a mistake of ours, and the command ends with it.
The table stands in docs/models.md, where the tests hold it against what they find.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from factscope.errors import UserError
from factscope.model.load import load
from helpers.architectures import FAMILIES, plain, save_family
from helpers.verbs import EQUAL, VERBS, difference


def row(name: str, folder: Path) -> tuple[list[str], list[str]]:
    """The cells of one family, and the sentences in which it is refused."""
    try:
        model = load(str(save_family(name, folder)), device="cpu")
    except UserError as refusal:
        return ["-"] * len(VERBS), [str(refusal).replace(str(folder), name)]
    cells, refusals = [], []
    for verb in VERBS:
        try:
            apart = difference(model, plain(folder), verb)
            cells.append("=" if apart <= EQUAL else f"{apart:.1e}")
        except UserError as refusal:
            cells.append("-")
            refusals.append(str(refusal))
    return cells, list(dict.fromkeys(refusals))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", choices=[[], *FAMILIES])
    names = parser.parse_args().families or list(FAMILIES)
    warnings.simplefilter("ignore")
    sentences: dict[str, list[str]] = {}
    print(f"| family | {' | '.join(VERBS)} |\n| --- |{' :-: |' * len(VERBS)}")
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            cells, sentences[name] = row(name, Path(scratch) / "model")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    for name, refusals in sentences.items():
        for sentence in refusals:
            print(f"{name}: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    main()
