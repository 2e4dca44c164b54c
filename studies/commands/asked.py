"""What is asked about on the command line: a prompt or many facts, and what is to be edited."""

from pathlib import Path
from typing import Any

from factscope.errors import UserError
from studies.commands.app import note, tell_notes


def check_prompt_or_facts(options: Any, command: str, from_run: Any = None) -> None:
    """UserError unless the options name a prompt, or facts (or a run to draw), and what belongs to it."""
    asked = {"PROMPT": options.prompt, "--facts": options.facts, "--from": from_run}
    chosen = [name for name, value in asked.items() if value is not None]
    if len(chosen) != 1:
        given = " and ".join(chosen) if chosen else "nothing"
        raise UserError(f"give one of PROMPT and --facts, not {given}; see {command} --help")
    misplaced = {"--relation": options.relation, "--limit": options.limit, "--known": options.known or None}
    if options.facts is None and any(misplaced.values()):
        names = ", ".join(name for name, value in misplaced.items() if value)
        raise UserError(f"without --facts there is nothing for {names} to choose among")
    if options.facts is None and (options.workers > 1 or options.ray is not None or options.shard is not None):
        raise UserError("a single prompt is no work to be shared: --workers, --ray and --shard belong to --facts")
    own = {"--subject": options.subject, "--answer": options.answer}
    own |= {"--foil": options.foil} if hasattr(options, "foil") else {}
    if options.prompt is None and any(own.values()):
        *first, last = own
        raise UserError(f"{', '.join(first)} and {last} belong to a single PROMPT")
    if options.prompt is not None and not options.prompt.strip():
        raise UserError("the prompt is empty; write the beginning of a sentence whose next word is the answer")


def check_prompt(text: str | None, subject: str | None = None) -> None:
    """PromptError for a prompt whose subject cannot be told: no model is needed to see that."""
    from factscope.data.subjects import subject_in

    if text is not None:
        subject_in(text, subject)


def source_name(source: str) -> str:
    """What facts are called in a result and its folder: a file's stem, else the name they were asked for by."""
    return Path(source).stem if Path(source).exists() else source.replace("/", "-")


def prompt_from(model: Any, options: Any, *, foil: str | None = None, whole: bool = False) -> Any:
    """The prompt that PromptOptions name; its remarks are told, and its subject where that was guessed.

    `whole`: for what reads all tokens of an answer. PromptError as prompts raise it.
    """
    from factscope.model.prompts import as_a_whole, make_prompt

    prompt = make_prompt(
        model, options.prompt, subject=options.subject, answer=options.answer, foil=foil, start=options.start
    )
    prompt = as_a_whole(prompt) if whole else prompt
    tell_notes(prompt.notes)
    note_guess(prompt)
    return prompt


def note_guess(prompt: Any, whose: str = "the") -> None:
    """Say which subject was guessed, if it was."""
    if prompt.subject_from.startswith("guess"):
        how = f"{prompt.subject!r} ({prompt.subject_from})"
        note(f"Note: {whose} subject is taken to be {how}; [brackets] say otherwise.")


def note_own_answer(prompt: Any) -> None:
    """Say that nobody gave the answer, if so."""
    from factscope.model.prompts import OWN_ANSWER

    if prompt.answer_from == OWN_ANSWER:
        note(f"Note: the answer is taken to be the model's own, {prompt.answer!r}; --answer says otherwise.")


def request_from(
    model: Any, text: str, target: str, *, subject: str | None, answer: str | None, start: str, whose: str = "the"
) -> Any:
    """The request to say `target` after `text`; a subject that was guessed is said. PromptError as prompts raise it."""
    from editing.requests import request_at
    from factscope.model.prompts import make_prompt

    prompt = make_prompt(model, text, subject=subject, start=start)
    request = request_at(model, prompt, target, answer)
    if answer is None and request.fact is None and request.old is not None:
        note(
            f"Note: the old answer is taken to be the model's own next word, {request.old!r}; --answer says otherwise."
        )
    note_guess(prompt, whose)
    return request
