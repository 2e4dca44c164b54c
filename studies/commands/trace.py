"""`trace`: where in the model a fact is found; one prompt, a sweep over many facts, or a saved run drawn again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from factscope.errors import UserError
from factscope.runs.folders import new_folder
from factscope.settings import configured, owned
from studies.commands import cache
from studies.commands.app import listed, load, note, run_app, tell_result
from studies.commands.asked import check_prompt, check_prompt_or_facts, note_own_answer, prompt_from
from studies.commands.command import OwnForm, command, group, run_folder
from studies.commands.options import (
    DETAILS,
    METRICS,
    KnownFactsOptions,
    ModelOptions,
    OneOf,
    PromptOptions,
    RunOptions,
    ShardOptions,
    changed,
    option,
)
from studies.commands.papers.locating import locating
from studies.commands.show import ShowOptions, show_command
from studies.commands.tracing.average import average_facts
from studies.commands.tracing.flow import flow
from studies.commands.tracing.lens import lens
from studies.commands.tracing.patchscope import patchscope
from studies.commands.tracing.relation import relation

EXAMPLES = (
    'trace "The Eiffel Tower is located in the city of"',
    'trace "[Marie Curie] won the Nobel Prize in" --answer Physics --corruption noise --set noise=5',
    'trace "The capital of France is" --foil London --metric logit_difference --corruption swap',
    'trace "The capital of France is" --neurons --set neurons.wordings=4',
    "trace --facts country_capital --known --limit 20",
    'trace flow "The Eiffel Tower is located in the city of"',
    'trace patchscope "The Eiffel Tower is located in the city of"',
    "trace show runs/20261121-140000-trace-the-eiffel-tower",
    "trace cache",
)


@dataclass(frozen=True, kw_only=True)
class TraceOptions(PromptOptions, KnownFactsOptions, ModelOptions, ShardOptions, RunOptions):
    """What is traced, and how; None: as the trace's own Config has it."""

    foil: Annotated[str | None, option("A wrong answer to compare with.")] = None
    corruption: Annotated[
        str | None,
        option("How the subject is corrupted  [dim](default: noise)[/dim]", of=OneOf("corruption", ("noise", "swap"))),
    ] = None
    samples: Annotated[int | None, option("Corrupted runs  [dim](default: 10)[/dim]")] = None
    window: Annotated[int | None, option("Layers restored at a time  [dim](default: 10)[/dim]")] = None
    metric: Annotated[
        str | None,
        option("What an effect is measured in  [dim](default: probability)[/dim]", of=OneOf("metric", METRICS)),
    ] = None
    sites: Annotated[
        str | None,
        option("Among resid, mlp, attn, head, severed_mlp, severed_attn  [dim](default: resid,mlp,attn)[/dim]"),
    ] = None
    neurons: Annotated[
        bool, option("Also the neurons that carry the answer, by integrated gradients, beside the trace.", "--neurons")
    ] = False
    norm: Annotated[
        str, option("The lens's norm.", panel=DETAILS, of=OneOf("lens norm", ("per-state", "final-scale")))
    ] = "per-state"
    seed: Annotated[int, option("The seed of the noise (0: ROME's draws) and of --limit.", panel=DETAILS)] = 0
    settings: Annotated[
        tuple[str, ...],
        option(
            "Any other setting, or neurons.KEY of --neurons; repeat for several.",
            "--set",
            metavar="KEY=VALUE",
            panel=DETAILS,
        ),
    ] = ()
    from_run: Annotated[Path | None, option("The same as trace show RUN.", "--from", panel=DETAILS)] = None


show = show_command("trace")


@command("trace", TraceOptions, *EXAMPLES)
def trace(options: TraceOptions) -> None:
    """Find where a model recalls a fact: corrupt the subject, restore one state at a time, and draw what comes back.

    Also: trace flow knocks out attention; trace patchscope reads a state by another prompt; trace show RUN draws a
    saved run again; trace cache shows what is kept.
    """
    check(options)
    if options.from_run is not None:
        how = {each: getattr(options, each) for each in ("out", "light", "as_json", "log")}
        show(ShowOptions(run=options.from_run, **how))
        return
    from tracing.causal import Config

    given = {name: getattr(options, name) for name in ("corruption", "samples", "window", "metric")}
    given |= {"sites": listed(options.sites), "seed": options.seed}
    own, settings = owned(options.settings, "neurons")
    config = configured(Config, settings, flags=given)
    if options.prompt is not None:
        _one(options, config, _neurons(options, own))
        return
    from tracing.average import average, trace_each

    average_facts("trace", options, config, seed=config.stream, average=average, each=trace_each)


def check(options: TraceOptions) -> None:
    """UserError for options that do not go together."""
    check_prompt_or_facts(options, "trace", options.from_run)
    if options.prompt is None and options.neurons:
        raise UserError("--neurons are those of one fact: give a single PROMPT")
    if options.from_run is not None:
        idle = ", ".join(changed(options, besides=("out", "light", "as_json", "log", "from_run")))
        if idle:
            raise UserError(f"--from draws what was saved, so {idle} would change nothing; leave it out")


def _neurons(options: TraceOptions, settings: Sequence[str]) -> Any:
    """How neurons are found; None where they are not asked for."""
    if not options.neurons:
        if settings:
            raise UserError(f"--set neurons.{settings[0]} is a setting of --neurons, which is not asked for: add it")
        return None
    from tracing.neurons import Config

    return configured(Config, settings)


def _one(options: TraceOptions, config: Any, neuron_config: Any) -> None:
    from factscope.data.shipped import find_fact
    from studies.saved import save_with_page
    from studies.trace import trace_study
    from tracing.pages.trace import doubts

    text, answer = str(options.prompt), options.answer
    check_prompt(text, options.subject)
    with run_folder("trace", options, new_folder("trace", text), fresh=True) as folder:
        model = load(options)
        prompt = prompt_from(model, options, foil=options.foil)
        study = trace_study(model, prompt, config, cast(Any, options.norm), neuron_config=neuron_config)
        page = save_with_page(study, folder, options.light)
    result = study.trace
    fact = find_fact(prompt.text)
    if answer is None and fact is not None and str(result.prompt.answer).strip() != fact.answer:
        note(f"Note: the model answers {result.prompt.answer!r}, the shipped fact {fact.answer!r}; --answer chooses.")
    elif fact is None:
        note_own_answer(result.prompt)
    for doubt in () if options.as_json else doubts(result):
        note(f"Note: {doubt}.")
    tell_result(study, page, options, folder=str(folder))


app = group(
    "trace",
    "Find where a model recalls a fact.",
    (trace, flow, patchscope, relation, lens, locating, show),
    *EXAMPLES,
    cls=OwnForm,
)
app.add_typer(cache.app, name="cache")


def main() -> None:
    """Entry point."""
    run_app(app, "trace")


if __name__ == "__main__":
    main()
