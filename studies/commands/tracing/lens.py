"""`trace lens`: the logit lens, the Jacobian lens and the tuned lens of one prompt, side by side."""

from dataclasses import dataclass
from typing import Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import new_folder
from factscope.settings import configured
from studies.commands.app import load, tell_result
from studies.commands.asked import check_prompt, note_own_answer, prompt_from
from studies.commands.command import command, run_folder
from studies.commands.options import DETAILS, ModelOptions, PromptOptions, RunOptions, option


@dataclass(frozen=True, kw_only=True)
class LensOptions(PromptOptions, ModelOptions, RunOptions):
    """Which prompt is read, and of how many texts the lens is made; None: as the lens's own config has it."""

    texts: Annotated[int | None, option("Texts whose Jacobians are averaged  [dim](default: 4)[/dim]")] = None
    tuned: Annotated[
        bool,
        option("Beside them the tuned lens, which is trained once for a model: minutes.", "--tuned/--no-tuned"),
    ] = False
    settings: Annotated[
        tuple[str, ...],
        option(
            "Any other setting of the Jacobian lens; repeat for several.", "--set", metavar="KEY=VALUE", panel=DETAILS
        ),
    ] = ()


@command("trace lens", LensOptions, 'trace lens "The Eiffel Tower is located in the city of"')
def lens(options: LensOptions) -> None:
    """Read every state by the logit lens and by the Jacobian lens, which is fitted once for a model and kept.

    With --tuned, by the tuned lens as well.
    """
    if options.prompt is None:
        raise UserError("give a PROMPT; see trace lens --help")
    text = options.prompt
    check_prompt(text, options.subject)
    from tracing.states.jacobian_lens import JacobianConfig

    given: dict[str, Any] = {"texts": options.texts, "seed": options.seed, "start": options.start}
    config = configured(JacobianConfig, options.settings, flags=given)
    from studies.saved import save_with_page
    from tracing.states.jacobian_lens import jacobian_lens
    from tracing.states.lenses import lenses
    from tracing.states.tuned_lens import TunedConfig, tuned_lens

    with run_folder("trace lens", options, new_folder("lens", text), fresh=True) as folder:
        model = load(options)
        prompt = prompt_from(model, options)
        trained = tuned_lens(model, TunedConfig(seed=options.seed, start=options.start)) if options.tuned else None
        result = lenses(model, prompt, jacobian_lens(model, config), trained)
        page = save_with_page(result, folder, options.light)
    note_own_answer(result.prompt)
    tell_result(result, page, options, folder=str(folder))
