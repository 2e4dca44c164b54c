"""`circuit`: which heads and MLPs, wired how, produce a fact: find, evaluate, show, compare, export, import."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from factscope.errors import UserError
from factscope.runs.folders import new_folder, settled_folder, writable
from studies.commands.app import examples, loader, note, run_app, show_version, tell
from studies.commands.circuit import diff, layers

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", no_args_is_help=True)

EXAMPLES = """[bold]Examples[/bold]

circuit find "The Eiffel Tower is located in the city of" --threshold 0.05 --no-split-qkv

circuit find "The capital of France is" --method eap-ig --edges 1000 --ablation counterfactual

circuit find --facts country_capital --examples 8 --method eap-ig --edges 3000

circuit evaluate runs/20261121-140000-circuit-the-eiffel-tower --facts landmark_city

circuit compare runs/one runs/other

circuit export runs/one --format graphml --out circuit.graphml
"""

Model = Annotated[str, typer.Option("--model", help="Registry name, Hugging Face name, folder or .gguf file.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda ...  [dim](default: a GPU if any)[/dim]")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16 or float64.")]
Out = Annotated[Path | None, typer.Option("--out", help="Where to write.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary for programs.")]
Light = Annotated[bool, typer.Option("--light", help="A small page, with plotly.js beside it.")]
RunFolder = Annotated[Path, typer.Argument(help="A run folder of `circuit find`.")]


@app.callback(epilog=EXAMPLES)
def circuit(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Find the circuit of a fact: the edges between heads and MLPs that produce it, and a test of whether they do."""


@app.command("find", epilog=EXAMPLES)
def find_command(
    prompt: Annotated[
        str | None, typer.Argument(help="A sentence that stops before the answer; \\[brackets] mark the subject.")
    ] = None,
    model: Model = "smollm2",
    subject: Annotated[str | None, typer.Option(help="The subject, as it stands in the prompt.")] = None,
    answer: Annotated[
        str | None, typer.Option(help="The answer  [dim](default: the fact's or the model's)[/dim]")
    ] = None,
    foil: Annotated[str | None, typer.Option(help="A wrong answer, for the logit difference.")] = None,
    swap: Annotated[str | None, typer.Option(help="The other subject of the counterfactual ablation.")] = None,
    facts: Annotated[str | None, typer.Option(help="Many facts: shipped relation, file, folder or data set.")] = None,
    relation: Annotated[str | None, typer.Option(help="Of --facts, this relation.")] = None,
    examples: Annotated[int, typer.Option(help="Of --facts, so many known ones of one length; others held out.")] = 5,
    method: Annotated[str, typer.Option(help="acdc, eap, eap-ig or exact.")] = "acdc",
    threshold: Annotated[
        float | None, typer.Option(help="Edges that cost less are cut  [dim](acdc: 0.1)[/dim]")
    ] = None,
    edges: Annotated[int | None, typer.Option(help="Of a scorer, so many edges  [dim](default: 5 %)[/dim]")] = None,
    select: Annotated[
        str | None, typer.Option(help="Of a scorer: greedy, top or threshold  [dim](default: greedy)[/dim]")
    ] = None,
    signed: Annotated[bool, typer.Option("--signed", help="Choose by signed score: edges that help.")] = False,
    ablation: Annotated[
        str | None,
        typer.Option(
            help="zero, mean, mean_overall or counterfactual  [dim](default: counterfactual for eap and eap-ig where "
            "another subject fits, else zero)[/dim]"
        ),
    ] = None,
    metric: Annotated[str, typer.Option(help="nll, logit_difference, kl or probability.")] = "nll",
    split_qkv: Annotated[
        bool, typer.Option("--split-qkv/--no-split-qkv", help="Queries, keys and values apart, or whole heads.")
    ] = True,
    split_positions: Annotated[bool, typer.Option("--split-positions", help="Position embeddings apart.")] = False,
    engine: Annotated[
        str | None, typer.Option(help="Of acdc: fast, or reference, the plain one  [dim](default: fast)[/dim]")
    ] = None,
    certify: Annotated[
        float | None, typer.Option(help="Share of ACDC's decisions that the plain engine measures again.")
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="An ACDC run with another threshold, whose first decisions are taken over.")
    ] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate/--no-evaluate", help="Evaluate and name roles.")] = True,
    unknown: Annotated[bool, typer.Option("--unknown", help="Go on with a fact that the model does not know.")] = False,
    seed: Annotated[int, typer.Option(help="Of the choice of facts and the random circuits.")] = 0,
    start: Annotated[str, typer.Option(help="What begins the text: auto, none, or a token of the model.")] = "auto",
    device: Device = None,
    dtype: Dtype = "float32",
    out: Out = None,
    light: Light = False,
    as_json: Json = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the method.")
    ] = None,
) -> None:
    """Find the circuit of one prompt, or of several facts of a relation."""
    if (prompt is None) == (facts is None):
        raise UserError("give either a PROMPT or --facts; see circuit find --help")
    if facts is not None and any((subject, answer, foil, swap)):
        raise UserError("--subject, --answer, --foil and --swap belong to a single PROMPT")
    if examples < 1:
        raise UserError(f"--examples must be at least 1, not {examples}")
    method = method.replace("-", "_")
    if method != "acdc" and like is not None:
        raise UserError("--like takes over the decisions of ACDC; a scorer makes none")
    asked = (
        model,
        prompt,
        subject,
        answer,
        foil,
        swap,
        facts,
        relation,
        examples,
        threshold,
        ablation or "zero",
        metric,
    )
    # The same search finds the same folder, and so takes up where it was stopped.
    own = (
        settled_folder(
            "circuit", prompt or str(facts), *asked, split_qkv, split_positions, engine or "fast", seed, start, dtype
        )
        if method == "acdc"
        else new_folder("circuit", prompt or str(facts))
    )
    with writable(out or own) as folder:
        from circuits.find import decisions_of, find
        from circuits.method import method as method_of
        from circuits.pages.circuit import in_words
        from circuits.pages.diff import summary
        from circuits.search.acdc import ACDC
        from studies import circuit as circuit_study

        task_options = circuit_study.TaskOptions(metric, ablation or "auto", start, unknown, evaluate)
        flags = {"threshold": threshold, "edges": edges, "select": select, "signed": signed or None}
        chosen = method_of(method, flags | {"engine": engine, "certify": certify}, settings or [])
        loaded = loader(model, device, dtype)()
        how: dict[str, Any] = {"method": chosen, "options": task_options}
        work = (
            circuit_study.about_prompt(
                loaded,
                prompt,
                subject=subject,
                answer=answer,
                foil=foil,
                swap=swap,
                **how,
            )
            if prompt is not None
            else circuit_study.about_facts(loaded, str(facts), relation, examples, seed=seed, **how)
        )
        for remark in work.notes:
            note(f"Note: {remark}.")
        of = {"split": split_qkv, "positions": split_positions}
        if like is not None and isinstance(chosen, ACDC):
            chosen = replace(chosen, earlier=decisions_of(_study(like).circuit, loaded, work.task, **of))
        found = find(
            loaded,
            work.task,
            chosen,
            split=split_qkv,
            positions=split_positions,
            journal=folder / "journal.jsonl" if method == "acdc" else None,
            seed=seed,
            shown=None,
        )
        for remark in found.notes:
            note(f"Note: {remark}.")
        study = circuit_study.CircuitStudy(found, answers=work.answers)
        if evaluate:
            study = circuit_study.evaluated(loaded, study, work.held_out, seed)
        page = study.save(folder, light)
    if as_json:
        said = summary(study.circuit, study.evaluation, study.roles) | {"folder": str(folder), "page": str(page)}
        tell(json.dumps(said, ensure_ascii=False))
        return
    tell(in_words(found), _second_line(study), f"Page: {page}")


@app.command(
    "evaluate", epilog=examples("circuit evaluate runs/one --facts landmark_city", "circuit evaluate runs/one")
)
def evaluate_command(
    run: RunFolder,
    facts: Annotated[str | None, typer.Option(help="Held-out facts: shipped relation, file, folder.")] = None,
    relation: Annotated[str | None, typer.Option(help="Of --facts, this relation.")] = None,
    model: Annotated[str | None, typer.Option(help="The model  [dim](default: the run's)[/dim]")] = None,
    seed: Annotated[int, typer.Option(help="Of the random circuits.")] = 0,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option(help="float32, ...  [dim](default: the run's)[/dim]")] = None,
    out: Out = None,
    light: Light = False,
    as_json: Json = False,
) -> None:
    """Evaluate a circuit again, on other held-out facts or with another seed."""
    from circuits.pages.circuit import in_words
    from circuits.pages.diff import summary
    from studies import circuit as circuit_study

    study = _study(run)
    with writable(out or run) as folder:
        known = study.circuit.run
        if known is None and model is None:
            raise UserError(f"{run} does not say which model it is of; name it with --model")
        name = model or (known.source if known and known.source not in ("", "unknown") else "smollm2")
        if model is None and known is not None and known.model in _registry():
            name = known.model
        loaded = loader(name, device, dtype or (known.dtype if known else "float32"))()
        prompts = circuit_study.other_prompts(loaded, study.circuit, facts, relation)
        study = circuit_study.evaluated(loaded, study, prompts, seed)
        page = study.save(folder, light)
    if as_json:
        tell(
            json.dumps(summary(study.circuit, study.evaluation, study.roles) | {"page": str(page)}, ensure_ascii=False)
        )
        return
    tell(in_words(study.circuit), _second_line(study), f"Page: {page}")


@app.command("show", epilog=examples("circuit show runs/one", "circuit show runs/one --light --json"))
def show_command(run: RunFolder, out: Out = None, light: Light = False, as_json: Json = False) -> None:
    """Draw a saved run again, without the model."""
    from circuits.pages.circuit import in_words, page
    from circuits.pages.diff import summary
    from factscope.plots.page import write_page

    study = _study(run)
    with writable(out or run) as folder:
        path = write_page(page(study.circuit, study.evaluation, study.roles), folder / "page.html", light=light)
    if as_json:
        said = summary(study.circuit, study.evaluation, study.roles) | {"page": str(path)}
        tell(json.dumps(said, ensure_ascii=False))
        return
    tell(in_words(study.circuit), _second_line(study), f"Page: {path}")


@app.command("compare", epilog=examples("circuit compare runs/one runs/other"))
def compare_command(
    before: RunFolder,
    after: Annotated[Path, typer.Argument(help="Another run folder.")],
    out: Out = None,
    light: Light = False,
    as_json: Json = False,
) -> None:
    """Edges gained, lost and shared between two runs, next to what random circuits would share."""
    from circuits.analysis.diff import diff, differences
    from circuits.pages.diff import diff_page
    from factscope.plots.page import write_page
    from factscope.runs import store

    one, other = _study(before), _study(after)
    found = diff(one.circuit, other.circuit)
    apart = differences(one.circuit, other.circuit)
    if apart:
        note(f"Note: the two were found differently, and what they differ in may be that: {'; '.join(apart)}.")
    counts = (one.roles.counts, other.roles.counts) if one.roles and other.roles else None
    with writable(out or new_folder("circuit-compare", before.name)) as folder:
        store.save(found, folder)
        page = diff_page(found, (before.name, after.name), counts, apart)
        path = write_page(page, folder / "page.html", light=light)
    if as_json:
        said = {
            "shared": len(found.shared),
            "gained": found.gained,
            "lost": found.lost,
            "jaccard": found.jaccard,
            "differences": apart,
        }
        tell(json.dumps(said | {"jaccard_random": found.jaccard_random, "page": str(path)}, ensure_ascii=False))
        return
    tell(
        f"{len(found.shared)} edges shared, {len(found.gained)} gained, {len(found.lost)} lost; Jaccard "
        f"{found.jaccard:.3f}, random circuits {found.jaccard_random:.3f}",
        f"Nodes gained: {', '.join(found.nodes_gained) or 'none'}; lost: {', '.join(found.nodes_lost) or 'none'}",
        f"Page: {path}",
    )


app.command("diff", epilog=diff.EXAMPLES)(diff.diff_command)
app.command("layers", epilog=layers.EXAMPLES)(layers.layers_command)


@app.command("export", epilog=examples("circuit export runs/one --format graphml --out circuit.graphml"))
def export_command(
    run: RunFolder,
    form: Annotated[str, typer.Option("--format", help="json, graphml, gexf, dot or html.")] = "json",
    out: Annotated[Path | None, typer.Option(help="The file  [dim](default: circuit.FORMAT in the run)[/dim]")] = None,
    light: Light = False,
) -> None:
    """Write a circuit for other programs; no GraphViz is needed."""
    from circuits.formats import export
    from circuits.pages.circuit import page
    from factscope.plots.page import write_page

    study = _study(run)
    path = out or run / f"circuit.{form}"
    if form == "html":
        write_page(page(study.circuit, study.evaluation, study.roles), path, light=light)
    else:
        export(study.circuit, path, form)
    tell(f"Written: {path}")


@app.command("import", epilog=examples("circuit import graph.gv"))
def import_command(
    file: Annotated[
        Path, typer.Argument(help="A .gv of Knowledge Circuits, a .json of EAP-IG, or our own .json or .graphml.")
    ],
    prompt: Annotated[str | None, typer.Option(help="The prompt that it is a circuit of.")] = None,
    out: Out = None,
    light: Light = False,
) -> None:
    """Read a circuit that another program found, and draw it."""
    from circuits.formats import graph_of, imported, unknown_task
    from circuits.pages.circuit import in_words
    from factscope.errors import StoreError
    from studies.circuit import CircuitStudy

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as trouble:
        raise StoreError(f"{file} cannot be read ({trouble})") from trouble
    with writable(out or new_folder("circuit-import", file.stem)) as folder:
        found = imported(file, graph_of(text), unknown_task(prompt or file.stem))
        page = CircuitStudy(found).save(folder, light)
    for remark in found.notes:
        note(f"Note: {remark}.")
    tell(in_words(found), f"Read as: {found.settings['format']}", f"Page: {page}")


# ---- lines ----


def _second_line(study: Any) -> str:
    evaluation, roles = study.evaluation, study.roles
    if evaluation is None:
        nodes = study.circuit.nodes()
        return f"Nodes: {', '.join(nodes[:20])}{', ...' if len(nodes) > 20 else ''}"
    held = evaluation.held_out
    parts = [
        f"Faithfulness {evaluation.faithfulness:.2f} (random circuits {evaluation.random_size.mean:.2f})",
        f"Hit@10 {evaluation.found.circuit:.2f} of {evaluation.found.full:.2f}",
    ]
    if held is not None:
        parts.append(f"held out {held.circuit:.2f} of {held.full:.2f} (n {held.n}, random {held.random:.2f})")
    if roles is not None:
        parts.append(", ".join(f"{count} {role}" for role, count in roles.counts.items() if role != "none"))
    return "; ".join(parts)


def _study(run: Path) -> Any:
    from factscope.runs import store
    from studies.circuit import CircuitStudy

    return store.load(run, CircuitStudy)


def _registry() -> tuple[str, ...]:
    from factscope.model.registry import REGISTRY

    return tuple(REGISTRY)


def main() -> None:
    """Entry point."""
    run_app(app, "circuit")


if __name__ == "__main__":
    main()
