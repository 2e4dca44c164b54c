"""What travels with a model beside its weights: the token that begins a document.

The same weights know more or fewer facts with another start token, so it must not depend on the name that a model is
loaded by.
"""

from pathlib import Path
from typing import Any

from factscope.errors import ModelError
from factscope.files import read_json

CARRIED = "factscope.json"  # beside an exported model: what transformers' files have no place for
SEPARATOR = "<|endoftext|>"


def start_of(folder: Path, tokenizer: Any) -> str | None:
    """The token that begins a document for a model that is not listed; the same by name, from a folder, once exported.

    An exported folder says it. Else it is the tokenizer's beginning-of-text token, unless the chat template writes that
    token before each role: then it begins a turn of a chat (SmolLM2), and documents were parted by the separator
    <|endoftext|>, where the tokenizer has it. Raises ModelError for a file that does not say it as we write it.
    """
    if (folder / CARRIED).is_file():
        return _said(folder / CARRIED)
    token: str | None = getattr(tokenizer, "bos_token", None)
    if token is None or f"{token}' + message" not in str(getattr(tokenizer, "chat_template", None)):
        return token
    return SEPARATOR if SEPARATOR in tokenizer.get_vocab() else None


def _said(file: Path) -> str | None:
    """What an exported folder says; to go on without it would be to measure the model with another start token."""
    try:
        start = read_json(file)["start_token"]
    except (OSError, ValueError, KeyError, TypeError):
        start = 0
    if start is not None and not isinstance(start, str):
        raise ModelError(f"{file} does not say the start token as edit export writes it; delete it, or export again")
    return start or None
