"""The text that ships with us, made anew: documents that a model writes by itself.

    python -m benchmarks.shipped_text --out written.json [--model smollm2]
    python -m benchmarks.shipped_text --against factscope/data/text/written.json

Plain sampling at temperature 1, at most 128 tokens for each document, 96 documents at a time, each piece by a seed of
its own (`editing.solve.corpus`). Four pieces begin at the start token; then one piece each begins at the first opening
words (`editing.contexts.OPENINGS`), for a start token alone brings much code and many lists. Documents that hold
addresses, numbers of telephones or words that hurt, and those of a few words, are left out; the first 512 stay.

`--against` says how many documents of a file the model writes again, character by character. Sampling follows the
last bit of a logit now and then, so another processor or another number of threads writes some documents to another
end. The words that were left out of the file that ships were not kept; those below leave out none of its documents.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from editing.contexts import OPENINGS
from editing.solve import corpus
from factscope.files import write_text_atomically
from factscope.model.bridge import Bridge, info
from factscope.model.prompts import start_ids

DOCUMENTS, SHORTEST = 512, 50  # kept in all; characters of a document
PIECES = (("auto", 4), ("none", 3))  # start token as asked for -> pieces of text
ADDRESS = re.compile(r"\S@\S|https?://|www\.|\d{3}[-. ]\d{3}[-. ]\d{4}")
HURTFUL = re.compile(r"\b(kill|murder|rap(e|ist)|sex|suicid|nazi|terroris|porn|fuck|shit|slave|drug)", re.IGNORECASE)


def documents(model: Bridge, place: Path, rows: int = 96, length: int = 128, seed: int = 0) -> Iterator[str]:
    """What the model writes, piece by piece, before anything is left out; pieces are kept in `place`."""
    enough = rows * length * max(number for _, number in PIECES) + 1
    for start, number in PIECES:
        config = corpus.Config("self", enough, length, rows, seed, start)
        begun = len(start_ids(model, start))  # the start token is no text
        for piece, _ in islice(corpus.pieces(model, config, place / start, corpus.NOTHING), number):
            yield from (model.tokenizer.decode(ids[begun:]) for ids in piece)


def fit(text: str) -> bool:
    """Whether a document may ship."""
    return len(text) >= SHORTEST and not ADDRESS.search(text) and not HURTFUL.search(text)


def file_of(model: Bridge, texts: list[str]) -> str:
    """The file: one document a line, below a sentence that says what they are."""
    about = (
        f"Documents that {info(model).source} wrote by itself, sampled at temperature 1 from its start token or from "
        f"an opening word ({', '.join(OPENINGS[: PIECES[1][1]])}), at most 128 tokens each; documents with addresses, "
        "numbers of telephones or words that hurt were left out (benchmarks/shipped_text.py). Ordinary text for second "
        "moments of keys; nothing in it is a fact."
    )
    lines = ",\n".join(json.dumps(text, ensure_ascii=False) for text in texts)
    return f'{{\n"about": {json.dumps(about)},\n"documents": [\n{lines}\n]\n}}\n'


def main():
    from factscope.model import load as models

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--out", type=Path, help="where the text goes")
    parser.add_argument("--against", type=Path, help="a file that was made before")
    args = parser.parse_args()
    if args.out is None and args.against is None:
        parser.error("say --out or --against")
    model = models.load(args.model)
    with tempfile.TemporaryDirectory() as place:
        written = [text for text in documents(model, Path(place)) if fit(text)][:DOCUMENTS]
    if args.against is not None:
        before = set(json.loads(args.against.read_text(encoding="utf-8"))["documents"])
        print(json.dumps({"documents": len(before), "written again": len(before & set(written))}))
    if args.out is not None:
        print(write_text_atomically(args.out, file_of(model, written)))


if __name__ == "__main__":
    main()
