"""The list of runs as one HTML file: filters, links from a fact's trace to its circuit and edit, two pages at once.

Its links are relative, so it is the same from a file in the folder and from `factscope view`. Without JavaScript the
table and its links are all there; the script filters rows and opens two pages beside each other. As every page of ours
it forbids itself requests and foreign scripts; its frames show pages beside it, and nothing else.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from factscope.plots.escape import html_text, shortened, visible
from factscope.plots.fragments import style
from factscope.plots.page import script_hash
from studies.explorer.runs import PAGE, Entry, kept_file, same_facts

SHOWN = 3  # sentences of a run of many facts
LINKED = 8  # other runs of the same fact
NUMBER = ' class="number"'
WIDE = 90  # characters of a sentence


def index_html(title: str, runs: Sequence[Entry], missing: frozenset[Entry] = frozenset()) -> str:
    """The page; runs in `missing` have no page of their own, and are named without a link."""
    ours = (files("studies.explorer") / "explorer.js").read_text(encoding="utf-8")
    looks = (files("studies.explorer") / "explorer.css").read_text(encoding="utf-8")
    others = same_facts(runs)
    rows = "".join(_row(entry, others[entry], missing) for entry in runs)
    policy = (
        f"default-src 'none'; script-src {script_hash(ours)}; style-src 'unsafe-inline'; frame-src 'self' file:; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html_text(title)}</title>
<style>{style()}{looks}</style>
</head>
<body class="factscope explorer">
<header><h1>{html_text(title)}</h1><p class="subtitle">{_summary(runs)}</p></header>
<main>
<form id="filters" role="search">
<label>Find <input id="words" type="search" placeholder="a word of the fact, command, folder" accesskey="f"></label>
{_choice("kind", "What", sorted({entry.kind for entry in runs}))}
{_choice("model", "Model", sorted({entry.model for entry in runs if entry.model}))}
<output id="count" aria-live="polite"></output>
<button id="compare" type="button" disabled>Side by side</button>
</form>
<section id="beside" hidden aria-label="Two runs side by side"></section>
<div class="scroll" tabindex="0" role="region" aria-label="Runs">
<table><thead><tr><th scope="col"><span class="unseen">Choose</span></th>{_heads()}</tr></thead>
<tbody>
{rows}</tbody></table></div>
<p class="note">Keys: / finds, Tab and Space choose two runs, Enter opens them side by side, Esc closes.</p>
</main>
<script>{ours}</script>
</body>
</html>
"""


def href(entry: Entry) -> str:
    """The address of a run's page, from the list's."""
    return "/".join([quote(part, safe="", errors="surrogateescape") for part in entry.place] + [PAGE])


def _summary(runs: Sequence[Entry]) -> str:
    facts = len({fact for entry in runs for fact in entry.facts})
    return html_text(f"{_count(len(runs), 'run')} about {_count(facts, 'sentence')}, the newest first")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _heads() -> str:
    names = ("What", "About", "Of the same fact", "Model", "Started, UTC", "Took, s", "Command")
    return "".join(f'<th scope="col"{NUMBER if name == "Took, s" else ""}>{name}</th>' for name in names)


def _choice(name: str, label: str, values: Sequence[str]) -> str:
    options = "".join(f"<option>{html_text(value)}</option>" for value in values)
    return f'<label>{label} <select id="{name}"><option value="">all</option>{options}</select></label>'


def _row(entry: Entry, others: Sequence[Entry], missing: frozenset[Entry]) -> str:
    read = not entry.trouble and entry not in missing
    box = f'<input type="checkbox" data-page="{html_text(href(entry))}" aria-label="{html_text(_title(entry))}">'
    took = "–" if entry.seconds is None else f"{entry.seconds:.1f}"
    hidden = " ".join((entry.name, entry.command, *entry.facts, *entry.targets))
    return (
        f'<tr data-kind="{html_text(entry.kind)}" data-model="{html_text(entry.model)}" '
        f'data-words="{html_text(hidden.casefold())}"><td>{box if read else ""}</td>'
        f'<th scope="row">{_link(entry, entry.kind) if read else html_text(entry.kind)}</th>'
        f"<td>{_about(entry)}</td><td>{_linked(others, missing)}</td><td>{html_text(entry.model)}</td>"
        f'<td class="when">{html_text(entry.started[:16].replace("T", " "))}</td><td{NUMBER}>{took}</td>'
        f"<td><code>{html_text(shortened(visible(entry.command), WIDE))}</code></td></tr>\n"
    )


def _title(entry: Entry) -> str:
    return f"{entry.kind}: {_sentences(entry)[0] if entry.facts else entry.name}"


def _sentences(entry: Entry) -> list[str]:
    """What the run is about; of an edit with what the model is to say."""
    facts = [shortened(visible(fact), WIDE) for fact in entry.facts]
    targets = entry.targets or ("",) * len(facts)
    return [
        f"{fact} → {shortened(visible(target), WIDE)}" if target else fact
        for fact, target in zip(facts, targets, strict=True)
    ]


def _link(entry: Entry, words: str) -> str:
    return f'<a href="{html_text(href(entry))}" title="{html_text(entry.name)}">{html_text(words)}</a>'


def _about(entry: Entry) -> str:
    if entry.trouble:
        return f'<span class="trouble">{html_text(entry.trouble)}</span>'
    if not entry.facts:
        return html_text(entry.name)
    more = len(entry.facts) - SHOWN
    lines = [html_text(sentence) for sentence in _sentences(entry)[:SHOWN]]
    return "<br>".join([*lines, *([f"and {more} more"] if more > 0 else [])])


def _linked(others: Sequence[Entry], missing: frozenset[Entry]) -> str:
    """The other runs of the same fact, each kind once: the newest."""
    newest: dict[str, Entry] = {}
    for other in others:
        if other not in missing:
            newest.setdefault(other.kind, other)
    return " · ".join(_link(other, kind) for kind, other in list(newest.items())[:LINKED])


def missing_pages(folder: Path, runs: Sequence[Entry]) -> frozenset[Entry]:
    """The runs without a page file."""
    return frozenset(entry for entry in runs if kept_file(folder, entry.place, PAGE) is None)
