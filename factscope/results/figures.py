"""Figures as files for a paper: SVG by our own still pictures, PDF and PNG of the same by a Chromium that is there.

A browser is what draws SVG well and is on most machines already; so no library is added for it. The three forms show
the same drawing, without plotly's buttons; titles and captions are left to the paper.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from factscope.errors import StoreError, UserError
from factscope.files import write_text_atomically
from factscope.plots.escape import slug
from factscope.plots.specs import Spec
from factscope.plots.svg import svg

FORMS = ("svg", "pdf", "png")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SHARP = 3  # pixels of a PNG for each of the drawing's: 250 to the inch where a figure is as wide as a page
SECONDS = 120


def check(form: str) -> str:
    """The form of a figure; UserError for none of `FORMS`, or for one that needs a browser where there is none."""
    if form not in FORMS:
        raise UserError(f"there is no figure format {form!r}; choose one of {', '.join(FORMS)}")
    if form != "svg" and _browser() is None:
        raise UserError(f"a figure as {form} is made by Chromium or Chrome, and none is installed; svg needs neither")
    return form


def write(specs: Sequence[Spec], folder: str | Path, form: str = "svg") -> list[Path]:
    """Write each figure that has a still picture, named by its title; UserError as in `check`."""
    check(form)
    drawn = [(spec, text) for spec in specs if (text := svg(spec)) is not None]
    folder, names, out = Path(folder), set[str](), []
    folder.mkdir(parents=True, exist_ok=True)
    for spec, text in drawn:
        name = base = slug(spec.title)
        number = 1
        while name in names:
            number += 1
            name = f"{base}-{number}"
        names.add(name)
        place = folder / f"{name}.{form}"
        out.append(write_text_atomically(place, text) if form == "svg" else _printed(text, place, form))
    return out


def _browser() -> str | None:
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def _printed(text: str, place: Path, form: str) -> Path:
    """The drawing through a browser: vectors in a PDF of its own size, or pixels."""
    size = re.search(r'width="(\d+)" height="(\d+)"', text)
    assert size is not None  # every drawing of factscope.plots.svg begins so
    width, height = map(int, size.groups())
    with tempfile.TemporaryDirectory() as room:
        source, made = Path(room) / "figure.html", Path(room) / f"figure.{form}"
        style = f"@page{{size:{width}px {height}px;margin:0}}html,body{{margin:0;overflow:hidden}}svg{{display:block}}"
        source.write_text(f'<!doctype html><meta charset="utf-8"><style>{style}</style>{text}', encoding="utf-8")
        wanted = [f"--print-to-pdf={made}", "--no-pdf-header-footer"] if form == "pdf" else [f"--screenshot={made}"]
        _run([*wanted, f"--window-size={width},{height}", f"--force-device-scale-factor={SHARP}"], source, Path(room))
        if not made.is_file():
            raise StoreError(f"Chromium made no {place.name}; take svg, which needs none")
        shutil.copyfile(made, place)
    return place


def _run(wanted: Sequence[str], source: Path, room: Path) -> None:
    browser = _browser()
    assert browser is not None  # checked before any work
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    alone = ["--no-sandbox"] if root else []  # Chromium refuses to run as root with one
    command = [
        browser, "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions",
        "--disable-background-networking", f"--user-data-dir={room / 'profile'}", *alone, *wanted, source.as_uri(),
    ]  # fmt: skip
    try:
        subprocess.run(command, capture_output=True, timeout=SECONDS, check=True, env={**os.environ, "HOME": str(room)})
    except (OSError, subprocess.SubprocessError) as trouble:
        raise StoreError(f"Chromium could not draw the figure ({trouble}); take svg, which needs none") from trouble
