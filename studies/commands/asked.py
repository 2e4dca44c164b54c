"""What is to be edited, from a prompt on the command line."""

from typing import Any

from studies.commands.app import note


def check_prompt(text: str | None, subject: str | None = None) -> None:
    """PromptError for a prompt whose subject cannot be told: no model is needed to see that."""
    from factscope.model.prompts import subject_in

    if text is not None:
        subject_in(text, subject)


def request_from(
    model: Any, text: str, target: str, *, subject: str | None, answer: str | None, start: str, whose: str = "the"
) -> Any:
    """The request to say `target` after `text`; a subject that was guessed is said. PromptError as prompts raise it."""
    from editing.requests import request_at
    from factscope.model.prompts import make_prompt

    prompt = make_prompt(model, text, subject=subject, start=start)
    request = request_at(model, prompt, target, answer)
    if prompt.subject_from.startswith("guess"):
        how = f"{prompt.subject!r} ({prompt.subject_from})"
        note(f"Note: {whose} subject is taken to be {how}; [brackets] say otherwise.")
    return request
