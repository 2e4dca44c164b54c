"""What the commands of `circuit` share: a saved study, and one prompt whose edges are exchanged."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from factscope.errors import UserError
from studies.commands.app import tell_notes
from studies.commands.asked import check_prompt
from studies.commands.options import (
    ABLATIONS,
    CIRCUIT_METRICS,
    DIRECTIONS,
    Foil,
    ModelOptions,
    OneOf,
    PromptOptions,
    SplitQkv,
    Unknown,
    argument,
    option,
)

if TYPE_CHECKING:
    from studies.circuit_inputs import CircuitInputs

RunFolder = Annotated[Path, argument("A run folder of `circuit find`.", metavar="RUN")]


def study_of(run: Path) -> Any:
    """The study in a run folder."""
    from factscope.runs import store
    from studies.circuit import CircuitStudy

    return store.load(run, CircuitStudy)


@dataclass(frozen=True, kw_only=True)
class ExchangeOptions(PromptOptions, ModelOptions):
    """One prompt, what stands for a cut edge, and from which run edges are cut."""

    swap: Annotated[
        str | None, option("The subject of the corrupt prompt  [dim](default: of the shipped facts)[/dim]")
    ] = None
    foil: Foil = None
    metric: Annotated[str, option("What an effect is measured in.", of=OneOf("metric", CIRCUIT_METRICS))] = "nll"
    ablation: Annotated[str, option("What stands for a cut edge.", of=OneOf("ablation", ABLATIONS))] = "counterfactual"
    direction: Annotated[
        str,
        option("Cuts from the clean run, or clean values into the corrupt run.", of=OneOf("direction", DIRECTIONS)),
    ] = "noising"
    unknown: Unknown = False
    split_qkv: SplitQkv = True

    def asked(self, command: str) -> str:
        """The prompt; UserError where there is none, or no run to begin from. Needs no model."""
        if self.prompt is None:
            raise UserError(f"give a PROMPT; see {command} --help")
        if self.direction == "denoising" and self.ablation != "counterfactual":
            raise UserError("denoising puts clean values into the run of the corrupt prompt: leave --ablation out")
        check_prompt(self.prompt, self.subject)
        return self.prompt

    def inputs(self, model: Any) -> "CircuitInputs":
        """The prompt's task, alone; what was guessed is told."""
        from circuits.scorers.eap import EAP
        from studies import circuit_inputs as recipe

        known = None if self.unknown else recipe.KNOWN
        how = recipe.TaskOptions(self.metric, self.ablation, self.start, known, held_out=False, facts=1)
        found = recipe.about_prompt(
            model, str(self.prompt), subject=self.subject, answer=self.answer, foil=self.foil, swap=self.swap,
            method=EAP(), options=how,
        )  # fmt: skip
        tell_notes(found.notes)
        return found
