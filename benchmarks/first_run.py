"""A newcomer's first minutes: the README's first line from a clean clone on empty caches, and a first edit after it.

    python -m benchmarks.first_run [--here] [--model MODEL]

The clone, its environment, pip's cache and Factscope's are new, and are deleted afterwards. A row for each stage, in
wall seconds: `venv`, `install` (pip, with its downloads), `trace` (the first, with the model's download and conversion,
which are told apart), `again` (the same command, all of it cached), `edit` (the first, which collects second moments)
and `edit again`. Downloads are the network's seconds and not ours; --here leaves them out: it takes the environment
that runs it and, with --model, a GGUF file or a folder, so that only Factscope's own caches are empty.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parents[1]
PROMPT = "The Eiffel Tower is located in the city of"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--here", action="store_true")
    parser.add_argument("--model", default=None)
    given = parser.parse_args()
    place = given.model and (str(Path(given.model).resolve()) if Path(given.model).exists() else given.model)
    model = ["--model", place] if place else []
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        subprocess.run(["git", "clone", "-q", HERE, clone], check=True)
        caches = {name: str(Path(folder, name)) for name in ("FACTSCOPE_CACHE", "HF_HOME", "PIP_CACHE_DIR")}
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | caches
        lines = re.search(r"^```sh\n(.*?)\n```", (clone / "README.md").read_text(encoding="utf-8"), re.M | re.S)
        assert lines is not None, "the README shows no command"
        *before, _ = lines[1].split(" && ")
        program = [str(clone / ".venv" / "bin" / "python"), "-m", "factscope"]
        if given.here:
            before, program = [], [sys.executable, "-m", "factscope"]
        for name, line in zip(("venv", "install"), before, strict=False):
            tell(name, *stages(["bash", "-c", line], clone, environment))
        trace = [*program, "trace", PROMPT, *model]
        edit = [*program, "edit", "apply", f"[{PROMPT[:16]}]{PROMPT[16:]}", "--target", "Rome", *model]
        for name, command in (("trace", trace), ("again", trace), ("edit", edit), ("edit again", edit)):
            tell(name, *stages(command, clone, environment))


def stages(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, dict[str, float]]:
    """Wall seconds of a command, and of what went before the lines by which it says that it downloads or converts."""
    began, found = time.perf_counter(), {}
    running = subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert running.stderr is not None
    said = []
    for line in running.stderr:
        said.append(line)
        for name, words in (("until download", "First use of"), ("until conversion", "Converting ")):
            if line.startswith(words):
                found[name] = time.perf_counter() - began
    if running.wait():
        raise SystemExit(f"{' '.join(command)} failed: {''.join(said)[-500:]}")
    return time.perf_counter() - began, found


def tell(name: str, whole: float, parts: dict[str, float]) -> None:
    """One row."""
    seconds = {part: round(value, 1) for part, value in parts.items()}
    print(json.dumps({"stage": name, "seconds": round(whole, 1)} | seconds), flush=True)


if __name__ == "__main__":
    main()
