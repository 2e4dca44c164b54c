"""Text as it is: visible where it would not be seen, harmless where it would be obeyed.

Prompts and tokens are other people's text. A page has four places that would obey it: HTML, a script block, plotly's
own little markup (`<b>`, `<a href>`, `%{z}` in templates, `$...$` for formulas) and the eye, which a newline, a
zero-width character or a change of direction can deceive. One function for each.
"""

import html
import json
import re
import unicodedata
from typing import Any

SIGNS = {" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽"}
SHAPELESS = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode categories: control, format, surrogate, separators of lines


def visible(token: str) -> str:
    """A token with its outer spaces, line ends and unprintable characters drawn; the spaces between words stay."""
    if token == "":
        return "∅"
    start, end = len(token) - len(token.lstrip(" ")), len(token.rstrip(" "))
    if start >= end:
        return SIGNS[" "] * len(token)
    inner = "".join(SIGNS.get(sign, sign) if sign != " " else sign for sign in token[start:end])
    return SIGNS[" "] * start + _printable(inner) + SIGNS[" "] * (len(token) - end)


def html_text(text: str) -> str:
    """Text for HTML, between tags or inside a quoted attribute."""
    return html.escape(_printable(text, keep="\n\t"), quote=True)


def plotly_text(text: str) -> str:
    """Text for any plotly label: no tag, no template, no formula; entities are the last thing that plotly resolves."""
    plain = html.escape(_printable(text, keep="\n\t"), quote=False)
    return plain.replace("$", "&#36;").replace("%", "&#37;")


def script_json(value: Any) -> str:
    """JSON that cannot leave the script block it stands in, in pure ASCII (so without U+2028 and U+2029)."""
    plain = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def slug(text: str, fallback: str = "figure") -> str:
    """A short file name that says what is inside, in letters, digits and hyphens."""
    words = re.sub(r"[^a-z0-9]+", "-", unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower())
    return words.strip("-")[:60].rstrip("-") or fallback


def shortened(label: str, most: int) -> str:
    """A label that fits on an axis; the whole one is in the hover text."""
    return label if len(label) <= most else label[: most - 1] + "…"


def _printable(text: str, keep: str = "") -> str:
    """Control, format and half characters as their code points: they have no shape, or change that of others."""
    return "".join(
        sign if sign in keep or unicodedata.category(sign) not in SHAPELESS else f"⟨U+{ord(sign):04X}⟩" for sign in text
    )
