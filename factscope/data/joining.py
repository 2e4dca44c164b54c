"""What stands between a text and its answer: mostly a space, and nothing where a person would write none."""

import unicodedata

_OPENING, _CLOSING = "([{<“‘«‹„$£€¥#@「『（【《〈〔［｛", ",;:!?)]}>”’»›%"
_QUOTES, _PARTING = "\"'`", "-–—/\\_=+~^"
_SPACELESS = (
    *("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "BOPOMOFO", "FULLWIDTH"),
    *("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"),
)  # how the names of such characters begin


def between(text: str, answer: str) -> str:
    """What stands between a text and its continuation: a space, or nothing.

    Nothing stands after an opening quote or bracket, a sign that opens a number or a name ($, #), a hyphen, dash or
    slash that touches the word before it, or a character of a script without spaces; and before punctuation that
    closes. A quote opens where a space or nothing stands before it.
    """
    last, before = text[-1:], text[-2:-1] or " "
    opens = last in _OPENING or (last in _QUOTES and (before.isspace() or before in _OPENING))
    touches = last in _PARTING and not before.isspace()
    spaceless = unicodedata.name(last, "").startswith(_SPACELESS)
    closes = answer[0] in _CLOSING or (answer[0] == "." and not answer[1:2].isalnum())
    return "" if opens or touches or spaceless or closes else " "


def spelled(text: str, answer: str) -> str:
    """An answer without spaces around it, but for that which it brings where none would stand before it."""
    bare = answer.strip()
    return f" {bare}" if answer[:1].isspace() and bare and not between(text, bare) else bare
