"""Many edits in sequence on facts that the model knows: what is kept, what breaks, and what a restraint saves.

    python -m benchmarks.sequence [--facts COUNTERFACT.json] [--n 100] [--runs rome,memit:batch=10,rome:restrain=prune]
                                  [--every 10] [--out runs/sequences] [--model smollm2]

A run is a method and, after colons, batch=, restrain=, restrain_at= or a setting of the method. Without --facts, the
shipped facts are edited to their foils. A fact is known when the greedy next token after its prompt is the first token
of its true answer; they are taken in the order of the file. Unrelated facts are 50 shipped ones that the model knows,
perplexity is of its own text (editing/sequence/yardstick.py). Interrupt it whenever you like: every run goes on where
it stopped.
"""

import argparse
from pathlib import Path

from editing import method as methods
from editing.pages.sequence.page import page
from editing.requests import known
from editing.sequence.result import Config
from editing.sequence.run import sequence
from editing.sequence.yardstick import Config as YardstickConfig
from editing.sequence.yardstick import yardstick as measured_by
from editing.solve import corpus, moments
from factscope.data.load import load_facts
from factscope.data.request import distinct
from factscope.model import load as models
from factscope.plots.page import write_page
from factscope.runs import store

OURS = ("batch", "restrain", "restrain_at")
SCORES = ("ES", "PS", "NS")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", default=None)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--runs", default="rome,memit:batch=10")
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--start", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=corpus.Config.tokens)
    parser.add_argument("--identity", action="store_true", help="the identity instead of second moments")
    parser.add_argument("--out", type=Path, default=Path("runs/sequences"))
    args = parser.parse_args()
    model = models.load(args.model)
    facts = known(model, editable(args.facts), args.n, args.start)
    yardstick = measured_by(model, facts, YardstickConfig(seed=args.seed, start=args.start))
    print(f"{len(facts)} facts of {args.facts or 'the shipped ones'}; {len(yardstick.facts)} unrelated")
    print(f"Text: {yardstick.source}")
    heading = ["run", "facts", *SCORES, "unrelated same", "KL, nats", "perplexity ×", "condition ×", "s per edit"]
    print("| " + " | ".join(heading) + " |\n|" + " --- |" * len(heading), flush=True)
    for tag in args.runs.split(","):
        name, *pairs = tag.split(":")
        chosen = dict(pair.split("=", 1) for pair in pairs)
        how = {key: chosen.pop(key) for key in OURS if key in chosen}
        settings = Config(
            every=args.every, seed=args.seed, start=args.start, **how | {"batch": int(how.get("batch", 1))}
        )
        spec = methods.method(name)
        config = spec.config_for(model, chosen)
        moment = None
        if spec.needs_moments and not args.identity:
            wanted = corpus.Config(tokens=args.tokens)
            moment = moments.collect(model, spec.layers(config), wanted, shown=False)
        folder = args.out / f"{tag.replace(':', '-')}-{len(facts)}"
        result = sequence(model, facts, spec, settings, folder, yardstick, config=config, moments=moment)
        store.save(result, folder)
        write_page(page(result), folder / "page.html")
        for point in result.checkpoints:
            print("| " + " | ".join(row(tag, point, result)) + " |", flush=True)


def editable(source):
    """Facts with a target, the first of those that ask the same."""
    return distinct([fact for fact in load_facts(source, on_bad="skip") if fact.foil is not None])


def row(tag, point, result):
    """Right after the edit → now, with the interval of now."""
    cells = [tag + " restrained" * point.restrained, str(point.facts)]
    for name in SCORES:
        soon, now = point.score(name, "after"), point.score(name)
        cells.append("" if now is None else f"{soon.value:.2f} → {now.value:.2f} [{now.low:.2f}, {now.high:.2f}]")
    numbers = [point.quantities.get(name, float("nan")) for name in ("unchanged", "kl", "perplexity", "condition")]
    seconds = sorted(result.seconds[: point.edits])
    return [*cells, *(f"{number:.3g}" for number in numbers), f"{seconds[len(seconds) // 2]:.1f}" if seconds else ""]


if __name__ == "__main__":
    main()
