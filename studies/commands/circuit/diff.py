"""`circuit diff`: edit a fact and show what changed inside, beside what edits that mean nothing change."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from factscope.errors import StoreError, UserError
from factscope.runs.folders import settled_folder, writable
from factscope.settings import configured
from studies.commands.app import listed, loader, note, tell
from studies.commands.options import at_layer, parted

EXAMPLES = """[bold]Examples[/bold]

circuit diff "[The Eiffel Tower] is located in the city of" --target Rome

circuit diff "[The Eiffel Tower] is located in the city of" --target Rome --methods rome,ft-m,memit

circuit diff --edit runs/20261121-140000-edit-the-eiffel-tower --ask "[The Louvre] is located in the city of" --old Paris --new Rome
"""  # noqa: E501


def diff_command(
    prompt: Annotated[
        str | None, typer.Argument(help="A sentence that stops before the answer; \\[brackets] mark the subject.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="What the model shall say instead.")] = None,
    edit: Annotated[Path | None, typer.Option(help="A saved edit, instead of a new one.")] = None,
    method: Annotated[str, typer.Option(help="How to edit: rome, memit, ft-m, ...")] = "rome",
    methods: Annotated[str | None, typer.Option(help="Several, side by side: rome,ft-m,memit.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer, or layers 4,5,6  [dim](default: the model's)[/dim]")] = None,
    subject: Annotated[str | None, typer.Option(help="The subject, as it stands in the prompt.")] = None,
    answer: Annotated[str | None, typer.Option(help="What it says now  [dim](default: the model's own)[/dim]")] = None,
    ask: Annotated[
        str | None, typer.Option(help="Another prompt to look at than the edited one: a neighbour, a second hop.")
    ] = None,
    old: Annotated[str | None, typer.Option(help="Of --ask: the answer before.")] = None,
    new: Annotated[str | None, typer.Option(help="Of --ask: the answer that the edit may bring.")] = None,
    circuit_method: Annotated[str, typer.Option(help="acdc, eap, eap-ig or exact.")] = "eap-ig",
    edges: Annotated[int | None, typer.Option(help="Of a scorer, so many edges  [dim](default: 5 %)[/dim]")] = None,
    threshold: Annotated[float | None, typer.Option(help="Edges that cost less are cut.")] = None,
    ablation: Annotated[
        str,
        typer.Option(
            help="zero, mean, mean_overall or counterfactual  [dim](default: counterfactual for eap and eap-ig where "
            "another subject fits, else zero)[/dim]"
        ),
    ] = "",
    metric: Annotated[str, typer.Option(help="Of the circuit  [dim](default: logit_difference; acdc: kl)[/dim]")] = "",
    split_qkv: Annotated[
        bool, typer.Option("--split-qkv/--no-split-qkv", help="Queries, keys and values apart, or whole heads.")
    ] = True,
    samples: Annotated[int, typer.Option(help="Noise draws of each trace.")] = 4,
    nulls: Annotated[int, typer.Option(help="Scrambled edits of equal norm.")] = 3,
    value_nulls: Annotated[int, typer.Option(help="Further nulls that read as the edit does and write at random.")] = 1,
    again: Annotated[int, typer.Option(help="Searches again in the unedited model, on other wordings.")] = 3,
    neighbours: Annotated[int, typer.Option(help="Neighbour prompts whose circuits are compared, too.")] = 2,
    restrain: Annotated[
        str | None, typer.Option(help="Look at the edit after prune or rect has made it gentler.")
    ] = None,
    moments: Annotated[str, typer.Option(help="self, a text file, a folder, a data set, or identity.")] = "self",
    model: Annotated[str, typer.Option("--model", help="Registry name, Hugging Face name, folder, .gguf.")] = "smollm2",
    seed: Annotated[int, typer.Option(help="Of the edit and its nulls.")] = 0,
    start: Annotated[str, typer.Option(help="What begins the text: auto, none, or a token of the model.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda ...  [dim](default: a GPU if any)[/dim]")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    out: Annotated[Path | None, typer.Option(help="Where to write; the same folder goes on from where it was.")] = None,
    light: Annotated[bool, typer.Option("--light", help="A small page, with plotly.js beside it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary for programs.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method, or restrain.KEY of the restraint."),
    ] = None,
) -> None:
    """Edit a fact, and compare trace, circuit, heads and lens before and after with edits that mean nothing."""
    if (prompt is None) == (edit is None):
        raise UserError("give either a PROMPT with --target, or --edit; see circuit diff --help")
    if prompt is not None and target is None:
        raise UserError("--target is missing: what shall the model say instead?")
    if edit is not None and any((target, methods, layer, subject, answer)):
        raise UserError("--target, --methods, --layer, --subject and --answer are of a new edit; --edit brings its own")
    if (ask is None) != (old is None) or (ask is None) != (new is None):
        raise UserError("--ask, --old and --new belong together: the other prompt, its answer, and the edit's")
    chosen = tuple(one.replace("-", "_") for one in listed(methods) or (method,))
    said = (prompt, target, edit, chosen, layer, ask, old, new, circuit_method, edges, threshold, ablation, metric)
    rest: tuple[Any, ...] = (split_qkv, samples, nulls, value_nulls, again, neighbours, restrain, moments)
    rest += (model, seed, start, dtype, settings)
    with writable(out or settled_folder("circuit-diff", prompt or str(edit), said, rest)) as folder:
        from editing.method import method as method_of
        from editing.restraint import restrained, restraint
        from studies.edit_effects.model_state import Config
        from studies.edit_effects.page import save
        from studies.edit_effects.study import edit_studies
        from studies.edit_effects.words import in_words

        pairs, aside = parted(settings or [], restrain)
        gentler = configured(restraint(restrain).Config, aside) if restrain is not None else None
        circuit = circuit_method.replace("-", "_")
        config = Config(
            circuit=circuit, edges=edges, threshold=threshold, ablation=ablation, metric=metric, split=split_qkv,
            samples=samples, nulls=nulls, value_nulls=value_nulls, again=again, neighbours=neighbours, seed=seed,
        )  # fmt: skip
        for one in chosen if edit is None else ():
            at_layer([], method_of(one), layer)
        loaded = loader(model, device, dtype)()
        if edit is not None:
            from studies.edit import load_edits

            edits = load_edits(edit)
        else:
            how = {"layer": layer, "settings": pairs, "moments": moments, "seed": seed, "start": start}
            edits = _made(loaded, folder, (str(prompt), str(target), subject, answer), chosen, how)
        if restrain is not None:
            edits = [restrained(loaded, [made], restrain, gentler) for made in edits]
        asked = _asked(loaded, ask, str(old), str(new), edits[0].start_token) if ask is not None else None
        fact = asked or edits[0].facts[0]
        if neighbours and not fact.neighbours:
            note(
                f"Note: no prompts are known that should stay as they are beside {fact.prompt!r}, so none is compared."
            )
        found = edit_studies(loaded, edits, config, asked=asked, folder=folder, shown=None)
        pages = save(found, folder, light)
    if as_json:
        _as_json(found, folder, pages)
        return
    for study in found:
        name = f"{study.method}: " if len(found) > 1 else ""
        tell(f"{name}{in_words(study)}")
    tell(_heads(found[0]), f"Page: {pages[-1]}")


def _made(
    model: Any, folder: Path, fact_of: tuple[str, str, str | None, str | None], names: tuple[str, ...], how: Any
) -> list[Any]:
    """One edit for each method, kept in the folder as soon as it is made, and taken from there."""
    from dataclasses import asdict

    from editing import method as methods
    from editing.edit import Edit, base_of
    from editing.method import layers_of
    from editing.requests import check, request
    from editing.solve.values import check_layer
    from studies import edit as edit_apply

    text, target, subject, answer = fact_of
    fact, found = request(model, text, target, subject=subject, answer=answer, start=how["start"])
    check((fact,))
    if found.subject_from.startswith("guess"):
        note(f"Note: the subject is taken to be {found.subject!r} ({found.subject_from}); [brackets] say otherwise.")
    edits = []
    for name in names:
        config = methods.config_for(name, model, at_layer(how["settings"], methods.method(name), how["layer"]))
        for one in layers_of(config):
            check_layer(model, one)
        place = folder / "edits" / name
        if (place / "result.json").is_file():
            made = Edit.load(place)
            if (made.config, made.facts, made.base) != (asdict(config), (fact,), base_of(model)):
                raise StoreError(f"{place} holds another edit than was asked for; begin anew with another --out")
        else:
            stats = edit_apply.moments_for(model, name, config, how["moments"], None, how["seed"])
            (made,) = edit_apply.make(model, (fact,), name, config, stats, seed=how["seed"], start=how["start"])
            made.save(place)
        edits.append(made)
    return edits


def _asked(model: Any, text: str, old: str, new: str, start: str) -> Any:
    """The other prompt as a fact: what it answers, and what the edit may make of it."""
    from editing.requests import request

    fact, found = request(model, text, new, answer=old, start=start)
    if found.subject_from.startswith("guess"):
        note(f"Note: its subject is taken to be {found.subject!r} ({found.subject_from}); [brackets] say otherwise.")
    return fact


def _heads(study: Any) -> str:
    """Which heads turned beyond every null, the greatest first."""
    turned = [head for head in study.heads if head.out_of_nulls is not False][:6]
    words = ", ".join(f"{head.name} {head.shift:+.2g}" for head in turned)
    return f"Heads that turned further than in any null, in logits towards the new answer: {words or 'none'}"


def _as_json(found: Any, folder: Path, pages: Any) -> None:
    from studies.edit_effects.words import summary

    said = [summary(study) | {"page": str(page)} for study, page in zip(found, pages, strict=False)]
    body = said[0] if len(said) == 1 else {"methods": said, "page": str(pages[-1])}
    tell(json.dumps(body | {"folder": str(folder)}, ensure_ascii=False))
