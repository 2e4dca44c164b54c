"""What travels with a model beside its weights: the token that begins a document.

The same weights know more or fewer facts with another start token, so it must not depend on the name that a model is
loaded by.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

CARRIED = "factscope.json"  # beside an exported model: what transformers' files have no place for
SEPARATOR = "<|endoftext|>"


def start_of(folder: Path, tokenizer: Any) -> str | None:
    """The token that begins a document for a model that is not listed; the same by name, from a folder, once exported.

    An exported folder says it. Else it is the tokenizer's beginning-of-text token, unless the chat template writes that
    token before each role: then it begins a turn of a chat (SmolLM2), and documents were parted by the separator
    <|endoftext|>, where the tokenizer has it.
    """
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(start) if (start := json.loads((folder / CARRIED).read_text("utf-8"))["start_token"]) else None
    token: str | None = getattr(tokenizer, "bos_token", None)
    if token is None or f"{token}' + message" not in str(getattr(tokenizer, "chat_template", None)):
        return token
    return SEPARATOR if SEPARATOR in tokenizer.get_vocab() else None
