"""Many pages in one start of a browser: what is cut off, what is too pale to be read, and what axe says of them.

Each page stands in a frame as wide as a reader's window, is measured there by a script of ours or by axe, and says what
was found. axe (Deque's, MPL-2.0) asks what a reader needs who hears a page or has no mouse: names, roles, labels, the
order of headings, contrast. "Printed" is the page under the rules that it has for paper, as wide as a sheet: the rules
for print hold for all media, and the page is told that it is about to be printed.
"""

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from helpers.browser import open_page

SHEET = 718  # A4 less its margins, in CSS pixels
LEAST = 4.5  # contrast of text, WCAG 2 AA; 3 for large letters

MEASURE = """
const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgba = (text) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const under = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const colour = rgba(getComputedStyle(each).backgroundColor);
    if (colour[3] > 250) return colour;
  }
  return rgba("Canvas");
};
const seen = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
const named = (e) => `${e.tagName}.${e.getAttribute("class") || ""}: ${e.textContent.trim().slice(0, 40)}`;
const measure = () => {
  const wide = document.documentElement;
  const found = { cut: [...wider], pale: [], texts: 0 };
  if (wide.scrollWidth > wide.clientWidth + 1) {
    const beyond = (e) => e.getBoundingClientRect().right > innerWidth + 1;
    const last = [...document.body.querySelectorAll("*")].filter(beyond).at(-1);
    found.cut.push(`the page, by ${wide.scrollWidth - wide.clientWidth}: ${last ? named(last) : ""}`);
  }
  for (const e of document.body.querySelectorAll("*")) {
    if (!(e instanceof HTMLElement) || !seen(e)) continue;
    const { overflowX: overflow, scrollbarWidth: bar } = getComputedStyle(e);
    const hides = PRINTED ? overflow !== "visible" : /hidden|clip/.test(overflow) || bar === "none";
    if (hides && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 1) found.cut.push(named(e));
  }
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement, svg = e.ownerSVGElement;
    if (!texts.currentNode.data.trim() || !e.checkVisibility || !seen(e) || e.closest("script, style")) continue;
    if (svg && !e.closest(".xtick, .ytick, .g-xtitle, .g-ytitle, .legendtext, .cbaxis")) continue;
    found.texts += 1;
    const style = getComputedStyle(e), back = under(svg ? svg.parentElement : e);
    const ink = rgba(svg ? style.fill : style.color), part = ink[3] / 255;
    const mixed = back.map((value, at) => part * ink[at] + (1 - part) * value);
    const [high, low] = [light(mixed), light(back)].sort((a, b) => b - a), ratio = (high + 0.05) / (low + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 600);
    if (ratio < (large ? 3 : LEAST) - 0.01) found.pale.push(`${ratio.toFixed(2)} ${named(e)}`);
  }
  parent.postMessage({ at: AT, found }, "*");
};
const drawn = () => {
  for (const e of document.querySelectorAll(".plot .main-svg")) {
    const plot = e.closest(".plot"), room = plot.closest(".drawn").clientWidth;
    if (e.getBoundingClientRect().width > room + 1) wider.push(`${plot.ariaLabel}: drawn wider than its place`);
  }
};
const wider = [];
setTimeout(() => { if (PRINTED) { dispatchEvent(new Event("beforeprint")); drawn(); } measure(); }, 4000);
"""


AXE = """
const told = (rules) => rules.map(({ impact, id, nodes }) =>
  `${impact} ${id} (${nodes.length}): ` +
  nodes.slice(0, 3).map(({ target, html }) => `${target} ${html.slice(0, 200)}`).join("; "));
const run = async () => {
  const { violations, incomplete, passes } = await axe.run(document, { preload: false });
  return { violations: told(violations), unsure: told(incomplete), passed: passes.map((rule) => rule.id) };
};
const say = (found) => parent.postMessage({ at: AT, found }, "*");
const reader = () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  document.querySelector(".stage:not([hidden]) .node")?.dispatchEvent(new MouseEvent("click", { bubbles: true }));
};
setTimeout(() => { reader(); run().then(say, (error) => say({ lost: [`${error}`] })); }, 4000);
"""


def looks(
    pages: Sequence[Path], folder: Path, widths: Sequence[int], *, dark: bool = False
) -> dict[str, dict[str, Any]]:
    """What is wrong with each page at each width (SHEET: printed), by "name at width"; one start of the browser."""
    return _framed(pages, folder, widths, MEASURE.replace("LEAST", str(LEAST)), dark)


def axe(pages: Sequence[Path], folder: Path, widths: Sequence[int], *, dark: bool = False) -> dict[str, dict[str, Any]]:
    """The `violations` that axe finds, what it is `unsure` of and which rules `passed`, by "name at width".

    What is folded is opened before, and a node of each kind of network chosen. A rule that is unsure of 0 places has
    not been tried: axe stumbled over something.
    """
    library = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    (folder / "axe.min.js").write_text(library, encoding="utf-8")
    return _framed(pages, folder, widths, AXE, dark, "axe.min.js")


def _framed(
    pages: Sequence[Path], folder: Path, widths: Sequence[int], script: str, dark: bool, library: str = ""
) -> dict[str, dict[str, Any]]:
    """What a script posts from each page, in a frame of each width."""
    frames, names = list[str](), list[str]()
    loaded = f'<script src="{library}"></script>' if library else ""
    for page in pages:
        html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
        for width in widths:
            printed = width == SHEET
            text = html.replace("@media print", "@media all") if printed else html
            acting = script.replace("PRINTED", str(printed).lower()).replace("AT,", f"{len(names)},")
            copy = folder / f"{page.parent.name}-{page.stem}-{width}.html"
            copy.write_text(text.replace("</body>", f"{loaded}<script>{acting}</script></body>"), encoding="utf-8")
            frames.append(f'<iframe src="{copy.name}" title="{copy.name}" width="{width}" height="900"></iframe>')
            names.append(f"{page.parent.name}/{page.stem} at {width}")
    whole = folder / f"looks-{'dark' if dark else 'light'}.html"
    whole.write_text(
        "<!doctype html><meta charset=utf-8><body><script>const all = {}; onmessage = (event) => { "
        "all[event.data.at] = event.data.found; document.title = JSON.stringify(all); };</script>" + "".join(frames),
        encoding="utf-8",
    )
    dom = open_page(whole, folder, dark=dark, width=1500, patience=60_000).dom
    title = dom.partition("<title>")[2].partition("</title>")[0]
    for name, letter in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        title = title.replace(name, letter)
    told = json.loads(title or "{}")
    return {name: told.get(str(at)) or {"lost": ["the page said nothing"]} for at, name in enumerate(names)}
