"""Options of what is asked about: a prompt, or many facts."""

from dataclasses import dataclass
from typing import Annotated

from studies.commands.options.flags import EXTRA, FACTS, SHIPPED, OneOf, argument, option
from studies.commands.options.values import Options

Extra = Annotated[
    str,
    option(
        "Columns of your own in a file of facts: refuse them, or keep them unused.", panel=FACTS, of=OneOf("way", EXTRA)
    ),
]


@dataclass(frozen=True, kw_only=True)
class PromptOptions(Options):
    """One prompt, its subject and its answer."""

    prompt: Annotated[
        str | None,
        argument("A sentence that stops before the answer; \\[brackets] mark the subject.", metavar="PROMPT"),
    ] = None
    subject: Annotated[str | None, option("The subject, as it stands in the prompt.")] = None
    answer: Annotated[str | None, option("The answer  [dim](default: the fact's or the model's own)[/dim]")] = None


@dataclass(frozen=True, kw_only=True)
class FactsOptions(Options):
    """Many facts, and which of them."""

    facts: Annotated[
        str | None,
        option("Many facts: shipped relation, file, folder or Hugging Face data set.", panel=FACTS, **SHIPPED),
    ] = None
    relation: Annotated[str | None, option("Only this relation (with --facts).", panel=FACTS, **SHIPPED)] = None
    limit: Annotated[int | None, option("At most so many (with --facts).", panel=FACTS)] = None
    extra: Extra = "refuse"


@dataclass(frozen=True, kw_only=True)
class KnownFactsOptions(FactsOptions):
    """Many facts, of which those can be chosen that the model knows."""

    known: Annotated[
        bool, option("Only those whose answer the model puts first (with --facts).", "--known", panel=FACTS)
    ] = False
