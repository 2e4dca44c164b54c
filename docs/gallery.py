"""Make the pictures of docs/gallery.md from the commands that stand above them.

    python docs/gallery.py [--only trace,edit] [--runs FOLDER]

Each command of the page runs as it is shown, in FOLDER, on the default model, and Chromium takes the top of its page at
half its size. A run that is there is not computed again but drawn again by today's code, so that a stopped session
goes on, and a change of looks needs no model. From nothing it takes hours on two cores, most of them for tables and
benches; counterfact.json is the public file, to be put into FOLDER.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SHOWN = re.compile(
    r"^```text\n(?P<lines>(?:(?!^```).)*)^```\n(?:(?!^```).)*?\((?P<image>images/gallery/[\w-]+\.png)\)", re.M | re.S
)
WIDE, HIGH, SCALE = 1280, 1240, 0.5  # CSS pixels of the window, and pixels of the picture for each of them


def shown() -> list[tuple[Path, list[list[str]]]]:
    """(picture, the words of the commands above it), in the page's order; of the last command's page is the picture."""
    text = (HERE / "gallery.md").read_text(encoding="utf-8")
    lines = [(HERE / found["image"], found["lines"].strip().splitlines()) for found in SHOWN.finditer(text)]
    return [(image, [shlex.split(line.removeprefix("$ ")) for line in block]) for image, block in lines]


def page_of(name: str, words: list[str], runs: Path) -> Path:
    """The page of a command's run, which is computed now or was before; `name` is its folder, if it names none."""
    from factscope.plots.page import write_page
    from studies.saved import saved_run

    if words[:2] == ["factscope", "view"]:
        subprocess.run([sys.executable, "-m", *words], cwd=runs, check=True)
        return runs / words[2] / "index.html"
    if "--out" not in words:
        words = [*words, "--out", f"runs/{name}"]
    folder = runs / words[words.index("--out") + 1]
    if not (folder / "result.json").is_file():
        print(shlex.join(words), flush=True)
        subprocess.run([sys.executable, "-m", "factscope", *words], cwd=runs, check=True)
    return write_page(saved_run(folder)[1], folder / "page.html", light=True)


def picture(page: Path, to: Path, browser: str) -> None:
    """The top of a page."""
    to.parent.mkdir(parents=True, exist_ok=True)
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=10000")
    size = (f"--window-size={WIDE},{HIGH}", f"--force-device-scale-factor={SCALE}", f"--screenshot={to}")
    subprocess.run([browser, *quiet, *size, page.resolve().as_uri()], check=True, stderr=subprocess.DEVNULL)
    print(f"{to.relative_to(HERE)}: {to.stat().st_size // 1000} kB", flush=True)


def main() -> None:
    """Entry point."""
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("--only", default="", help="names of pictures, with commas between; all where none is given")
    read.add_argument("--runs", type=Path, default=Path("gallery"), help="where the commands run")
    asked = read.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        sys.exit("no chromium or google-chrome on the path")
    chosen = [name for name in asked.only.split(",") if name]
    (asked.runs / "runs").mkdir(parents=True, exist_ok=True)
    for image, commands in shown():
        if not chosen or image.stem in chosen:
            pages = [page_of(image.stem, words, asked.runs) for words in commands]
            picture(pages[-1], image, browser)


if __name__ == "__main__":
    main()
