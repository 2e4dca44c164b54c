"""A page as a reader's browser sees it: the document after all scripts ran, the console's complaints, a picture."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=f"no browser: none of {', '.join(NAMES)} is installed")

QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions"),
    *("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--v=0"),
)


@dataclass(frozen=True)
class Opened:
    """What was seen."""

    dom: str
    console: tuple[str, ...]
    png: Path | None


def open_page(
    path: Path, folder: Path, *, dark: bool = False, width: int = 1400, height: int = 1000, picture: bool = False,
    patience: int = 10_000,
) -> Opened:  # fmt: skip
    """Open a file in headless Chromium with an empty profile under `folder`; the picture costs a second visit.

    `patience`: milliseconds that pass in the page before it is read, by its own clock, which stands while it works.
    """
    wanted = ["--dump-dom", f"--virtual-time-budget={patience}"]
    dom = _visit(path, folder, wanted, dark, width, height)
    png = folder / f"{path.stem}-{'dark' if dark else 'light'}-{width}.png" if picture else None
    if png is not None:
        _visit(path, folder, [f"--screenshot={png}", f"--virtual-time-budget={patience}"], dark, width, height)
    return Opened(dom.stdout, _console(dom.stderr), png)


def with_script(path: Path, script: str) -> Path:
    """A copy of a page in which a reader acts: the script runs once all is drawn, in a page that lets it."""
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text(encoding="utf-8"))
    acting = f"const act = () => {{ {script} }}; setTimeout(act, 3000);"
    copy = path.with_name(f"{path.stem}-acting.html")
    copy.write_text(html.replace("</body>", f"<script>{acting}</script></body>"), encoding="utf-8")
    return copy


def _visit(
    path: Path, folder: Path, wanted: list[str], dark: bool, width: int, height: int
) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None, "mark the test with `needs_chromium`"
    command = [
        CHROMIUM,
        *QUIET,
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},{height}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        *wanted,
        path.resolve().as_uri(),
    ]
    environment = {**os.environ, "HOME": str(folder)}  # a browser writes into the home folder even with a profile
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=180, check=True, env=environment
    )


def _console(log: str) -> tuple[str, ...]:
    """Every message on the console; our pages have nothing to say there, and Chromium logs all levels as one."""
    return tuple(line.partition("CONSOLE")[2] for line in log.splitlines() if re.search(r":CONSOLE[:(]", line))
