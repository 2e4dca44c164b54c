"""`trace`: where in the model a fact is found; one prompt, a sweep over many facts, or a saved run drawn again."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from factscope.errors import UserError
from factscope.runs.folders import new_folder, settled_folder, writable
from factscope.settings import configured
from studies.commands import cache
from studies.commands.app import JOURNAL, given_flags, listed, loader, note, run_app, show_version, tell

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich")

EXAMPLES = """[bold]Examples[/bold]

trace "The Eiffel Tower is located in the city of"

trace "[Marie Curie] won the Nobel Prize in" --answer Physics --corruption noise --set noise=5

trace "The capital of France is" --foil London --metric logit_difference --corruption swap

trace --facts country_capital --known --limit 20

trace --from runs/20261121-140000-trace-the-eiffel-tower

trace cache
"""


@app.command(epilog=EXAMPLES)
def trace(
    context: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(help="A sentence that stops before the answer; \\[brackets] mark the subject.")
    ] = None,
    model: Annotated[str, typer.Option(help="Registry name, Hugging Face name, folder or .gguf file.")] = "smollm2",
    subject: Annotated[str | None, typer.Option(help="The subject, as it stands in the prompt.")] = None,
    answer: Annotated[
        str | None, typer.Option(help="The answer to trace  [dim](default: the model's own)[/dim]")
    ] = None,
    foil: Annotated[str | None, typer.Option(help="A wrong answer to compare with.")] = None,
    facts: Annotated[
        str | None, typer.Option(help="Trace many facts: shipped relation, file, folder or Hugging Face data set.")
    ] = None,
    relation: Annotated[str | None, typer.Option(help="Of --facts, only this relation.")] = None,
    known: Annotated[
        bool, typer.Option("--known", help="Of --facts, only those whose answer the model puts first.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Of --facts, at most so many, drawn with the seed.")] = None,
    from_run: Annotated[Path | None, typer.Option("--from", help="Draw a saved run again, without the model.")] = None,
    corruption: Annotated[str | None, typer.Option(help="noise or swap  [dim](default: noise)[/dim]")] = None,
    samples: Annotated[int | None, typer.Option(help="Corrupted runs  [dim](default: 10)[/dim]")] = None,
    window: Annotated[int | None, typer.Option(help="Layers restored at a time  [dim](default: 10)[/dim]")] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="probability, log_probability, logit_difference or kl  [dim](default: probability)[/dim]"),
    ] = None,
    sites: Annotated[
        str | None,
        typer.Option(
            help="Among resid, mlp, attn, head, severed_mlp, severed_attn  [dim](default: resid,mlp,attn)[/dim]"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise and of --limit  [dim](default: 1)[/dim]")] = None,
    start: Annotated[str, typer.Option(help="What begins the text: auto, none, or a token of the model.")] = "auto",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 ...  [dim](default: a GPU if any)[/dim]")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    norm: Annotated[str, typer.Option(help="The lens's norm: per-state or final-scale.")] = "per-state",
    out: Annotated[
        Path | None, typer.Option(help="Where to write  [dim](default: a new folder in runs/)[/dim]")
    ] = None,
    light: Annotated[
        bool, typer.Option("--light", help="A small page, with plotly.js beside it and not inside.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary for programs.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting; repeat for several.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Find where a model recalls a fact: corrupt the subject, restore one state at a time, and draw what comes back."""
    chosen = [
        name for name, value in (("PROMPT", prompt), ("--facts", facts), ("--from", from_run)) if value is not None
    ]
    if len(chosen) != 1:
        given = " and ".join(chosen) if chosen else "nothing"
        raise UserError(f"give one of PROMPT, --facts or --from, not {given}; see trace --help")
    misplaced = {"--relation": relation, "--limit": limit, "--known": known or None}
    if facts is None and any(misplaced.values()):
        names = ", ".join(name for name, value in misplaced.items() if value)
        raise UserError(f"without --facts there is nothing for {names} to choose among")
    if prompt is None and any((subject, answer, foil)):
        raise UserError("--subject, --answer and --foil belong to a single PROMPT")
    if norm not in ("per-state", "final-scale"):
        raise UserError(f"there is no lens norm {norm!r}; choose per-state or final-scale")
    if from_run is not None:
        drawing = {"from_run", "out", "light", "as_json"}
        idle = [flag for name, flag in given_flags(context).items() if name not in drawing]
        if idle:
            raise UserError(f"--from draws what was saved, so {', '.join(idle)} would change nothing; leave it out")
        _redraw(from_run, out, light, as_json)
        return
    from tracing.causal import Config

    flags: dict[str, object] = {"corruption": corruption, "samples": samples, "window": window, "metric": metric}
    flags |= {"sites": listed(sites), "seed": seed}
    config = configured(Config, settings or [], flags=flags)
    load = loader(model, device, dtype)
    if prompt is not None:
        _one(load, prompt, subject, answer, foil, start, config, norm, out, light, as_json)
    else:
        assert facts is not None
        _many(load, facts, relation, known, limit, start, config, out, light, as_json, model)


def _one(
    load: Any,
    text: str,
    subject: str | None,
    answer: str | None,
    foil: str | None,
    start: str,
    config: Any,
    norm: Any,
    out: Path | None,
    light: bool,
    as_json: bool,
) -> None:
    from factscope.data.shipped import find_fact
    from factscope.model.prompts import make_prompt
    from studies.trace import trace_study
    from tracing.pages.trace import doubts, summary, trace_in_words

    if not text.strip():
        raise UserError("the prompt is empty; write the beginning of a sentence whose next word is the answer")
    with writable(out or new_folder("trace", text), fresh=True) as folder:
        loaded = load()
        prompt = make_prompt(loaded, text, subject=subject, answer=answer, foil=foil, start=start)
        for remark in prompt.notes:
            note(f"Note: {remark}.")
        if prompt.subject_from.startswith("guess"):
            note(f"Note: the subject is taken to be {prompt.subject!r} ({prompt.subject_from}); [brackets] set it.")
        study = trace_study(loaded, prompt, config, norm)
        page = study.save(folder, light)
    result = study.trace
    fact = find_fact(prompt.text)
    if answer is None and fact is not None and str(result.prompt.answer).strip() != fact.answer:
        note(f"Note: the model answers {result.prompt.answer!r}, the shipped fact {fact.answer!r}; --answer chooses.")
    if as_json:
        tell(json.dumps(summary(result) | {"folder": str(folder), "page": str(page)}, ensure_ascii=False))
        return
    for doubt in doubts(result):
        note(f"Note: {doubt}.")
    tell(*trace_in_words(result), f"Page: {page}")


def _many(
    load: Any,
    source: str,
    relation: str | None,
    known: bool,
    limit: int | None,
    start: str,
    config: Any,
    out: Path | None,
    light: bool,
    as_json: bool,
    model: str,
) -> None:
    from factscope.data.load import load_facts
    from factscope.plots.page import write_page
    from factscope.runs import store
    from tracing.average import average
    from tracing.pages.average import average_in_words, average_page

    if limit is not None and limit < 1:
        raise UserError(f"--limit must be at least 1, not {limit}")
    # With --known, the limit counts facts that are known, so all are candidates.
    drawn = None if known else limit
    chosen = load_facts(source, relation=relation, limit=drawn, seed=config.seed if limit else None)
    # The same command finds the same folder, and so takes up where it was stopped.
    name = Path(source).stem if Path(source).exists() else source.replace("/", "-")
    own = settled_folder("trace", name, source, relation, known, limit, start, config, model)
    with writable(out or own) as folder:
        loaded = load()
        try:
            result = average(
                loaded,
                chosen,
                config,
                source=name,
                journal=folder / JOURNAL,
                known=known,
                wanted=limit if known else None,
                start=start,
            )
        except KeyboardInterrupt:
            note(f"Stopped; the facts done so far are in {folder}, and the same command goes on from there.")
            raise
        store.save(result, folder)
        page = write_page(average_page(result), folder / "page.html", light=light)
    if as_json:
        body = {"facts": len(result.facts), "skipped": result.skipped, "total_effect": float(result.total.mean())}
        body |= {"clean": float(result.clean.mean()), "corrupted": float(result.corrupted.mean())}
        body |= {"roles": result.roles, "kinds": result.kinds, "folder": str(folder), "page": str(page)}
        tell(json.dumps(body, ensure_ascii=False))
        return
    tell(*average_in_words(result), f"Page: {page}")


def _redraw(run: Path, out: Path | None, light: bool, as_json: bool) -> None:
    from factscope.plots.page import write_page
    from factscope.runs import store
    from studies.trace import TraceStudy
    from tracing.pages.average import average_in_words, average_page
    from tracing.pages.trace import summary, trace_in_words
    from tracing.results import AverageResult

    if store.header(run)["kind"] == "AverageResult":
        average = store.load(run, AverageResult)
        page, lines, said = average_page(average), average_in_words(average), {"facts": len(average.facts)}
    else:
        study = store.load(run, TraceStudy)
        page, lines, said = study.page(), trace_in_words(study.trace), summary(study.trace)
    with writable(out or run) as folder:
        path = write_page(page, folder / "page.html", light=light)
    if as_json:
        tell(json.dumps(said | {"page": str(path)}, ensure_ascii=False))
    else:
        tell(*lines, f"Page: {path}")


def main() -> None:
    """Entry point. `trace cache` looks after what is kept; one word alone is no prompt to trace."""
    if sys.argv[1:2] == ["cache"]:
        cache.run(sys.argv[2:])
    else:
        run_app(app, "trace")


if __name__ == "__main__":
    main()
