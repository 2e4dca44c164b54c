"""`factscope doctor`: what is installed, where work runs, what is kept, and what is wrong, each in one sentence.

What needs no torch is told first; devices and threads come last. The exit code is 1 where anything is wrong.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from factscope import __version__
from factscope.cache import cache_folder
from studies.commands.app import in_the_way, tell
from studies.commands.cache import in_words, kept
from studies.commands.command import command
from studies.commands.options import AsJson, Options

PACKAGES = (
    "torch",
    "transformer-lens",
    "transformers",
    "huggingface-hub",
    "datasets",
    "safetensors",
    "numpy",
    "plotly",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "firefox")
ROOM = 2_000_000_000  # bytes: the default model as downloaded and converted, and a few runs


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `wrong` says what to do about it."""

    name: str
    value: str
    wrong: str | None = None


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Options):
    """How it is told."""

    as_json: AsJson = False


@command("factscope doctor", DoctorOptions, "factscope doctor", "factscope doctor --json", bare=True)
def doctor(options: DoctorOptions) -> None:
    """Say which versions, devices, caches and room there are, and what is wrong; the exit code is 1 if anything is."""
    found = []
    for finding in findings():
        found.append(finding)
        if not options.as_json:
            tell(f"{finding.name:<18} {finding.value}")
    wrong = [finding for finding in found if finding.wrong]
    if options.as_json:
        body = {"findings": [asdict(finding) for finding in found], "wrong": [finding.wrong for finding in wrong]}
        tell(json.dumps(body, ensure_ascii=False))
    else:
        tell(*(f"Wrong: {finding.wrong}" for finding in wrong) if wrong else ["Nothing is wrong."])
    if wrong:
        raise typer.Exit(1)


def findings() -> Iterator[Finding]:
    """Everything that is looked at, the quick parts first."""
    yield from versions()
    for sentence in in_the_way():
        yield Finding("import", "another distribution is in the way", sentence)
    yield from places()
    yield from viewers()
    yield from devices()


def versions() -> Iterator[Finding]:
    """Python, factscope, and the packages that it stands on."""
    yield Finding("factscope", __version__)
    yield Finding("python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    for name in PACKAGES:
        try:
            yield Finding(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "missing", f"{name} is not installed; install it: pip install {name}")


def places() -> Iterator[Finding]:
    """The caches, the folder of runs: how big, with how much room, and whether they can be written."""
    kinds: dict[str, int] = {}
    for kind, _, size, _ in kept():
        kinds[kind] = kinds.get(kind, 0) + size
    sizes = ", ".join(f"{kind} {in_words(size)}" for kind, size in kinds.items()) or "empty"
    yield Finding("cache", f"{cache_folder()}: {sizes}")
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    yield Finding("Hugging Face", f"{home}: {in_words(_size(Path(home)))}")
    for name, folder, cure in (
        ("cache", cache_folder(), "point FACTSCOPE_CACHE at another folder"),
        ("runs", Path("runs"), "choose another folder with --out"),
    ):
        above = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        free, writable = shutil.disk_usage(above).free, os.access(above, os.W_OK | os.X_OK)
        wrong = None
        if not writable:
            wrong = f"{folder} cannot be written; {cure}"
        elif free < ROOM:
            wrong = f"{in_words(free)} are free for {folder}, and a model wants {in_words(ROOM)}; {cure}"
        yield Finding(f"room for {name}", f"{in_words(free)} free, {'' if writable else 'not '}writable", wrong)


def viewers() -> Iterator[Finding]:
    """What could show a page on this machine; a page is one file and can be opened anywhere."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    yield Finding("browser", browser or "none found; a page is one file, to be opened elsewhere")
    listing = shutil.which("fc-list")
    if listing is None:
        yield Finding("fonts", "not known: there is no fc-list")
        return
    done = subprocess.run([listing, ":", "family"], capture_output=True, text=True, check=False)
    yield Finding("fonts", f"{len(set(done.stdout.splitlines()))} families")


def devices() -> Iterator[Finding]:
    """Where models can run, on how many threads. Imports torch."""
    try:
        import torch
    except (ImportError, OSError) as trouble:
        yield Finding(
            "devices", "unknown", f"torch cannot be imported ({trouble}); install it again: pip install torch"
        )
        return
    found = ["cpu"]
    for number in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(number).total_memory
        found.append(f"cuda:{number} {torch.cuda.get_device_name(number)} ({in_words(memory)})")
    if torch.backends.mps.is_available():
        found.append("mps")
    yield Finding("devices", ", ".join(found))
    yield Finding("threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors")


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
