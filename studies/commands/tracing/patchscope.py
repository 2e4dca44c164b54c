"""`trace patchscope`: a state of a prompt, put into another prompt that tells what it holds."""

from dataclasses import dataclass
from typing import Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import new_folder
from factscope.settings import configured
from studies.commands.app import listed, load, tell_notes, tell_result
from studies.commands.asked import check_prompt, note_own_answer, prompt_from
from studies.commands.command import command, run_folder
from studies.commands.options import ModelOptions, OtherSettings, PromptOptions, RunOptions, option


@dataclass(frozen=True, kw_only=True)
class PatchscopeOptions(PromptOptions, ModelOptions, RunOptions):
    """Which state, and where it goes; None: as the patchscope's own config has it."""

    target: Annotated[
        str | None,
        option("description, identity, or a sentence with its \\[placeholder]  [dim](default: description)[/dim]"),
    ] = None
    position: Annotated[
        str | None, option("Whose state: last subject, or last token  [dim](default: last subject)[/dim]")
    ] = None
    into: Annotated[
        int | None, option("The layer whose output is written over  [dim](default: the state's own)[/dim]")
    ] = None
    words: Annotated[int | None, option("Tokens that the target is continued by  [dim](default: 12)[/dim]")] = None
    others: Annotated[
        str | None, option("Other subjects to compare with, a,b,c  [dim](default: of the shipped relation)[/dim]")
    ] = None
    settings: OtherSettings = ()


@command(
    "trace patchscope",
    PatchscopeOptions,
    'trace patchscope "The Eiffel Tower is located in the city of"',
    'trace patchscope "The Eiffel Tower is located in the city of" --target identity --position "last token"',
    'trace patchscope "The Eiffel Tower is located in the city of" --target "The city of [x] is in the country of"',
)
def patchscope(options: PatchscopeOptions) -> None:
    """Put a state into another prompt, layer by layer, and read what that prompt then says of it."""
    if options.prompt is None:
        raise UserError("give a PROMPT; see trace patchscope --help")
    text = options.prompt
    check_prompt(text, options.subject)
    from tracing.states.patchscope import PatchscopeConfig

    given: dict[str, Any] = {"target": options.target, "position": options.position, "into": options.into}
    given |= {"tokens": options.words, "seed": options.seed}
    config = configured(PatchscopeConfig, options.settings, flags=given)
    from studies.saved import save_with_page
    from tracing.states.patchscope import patchscope as read

    with run_folder("trace patchscope", options, new_folder("patchscope", text), fresh=True) as folder:
        model = load(options)
        prompt = prompt_from(model, options)
        result = read(model, prompt, config, others=listed(options.others))
        page = save_with_page(result, folder, options.light)
    note_own_answer(result.prompt)
    tell_notes(result.notes)
    tell_result(result, page, options, folder=str(folder))
