"""What the documentation takes from elsewhere in the repository, and how its links find it.

`benchmarks/README.md`, `CONTRIBUTING.md` and `CHANGELOG.md` become pages. A link that leaves docs/ goes to such a page
if there is one, and else stays as text: the site knows no other place to send the reader to. Links are written as they
lead within the repository, so that they lead there on a code host, too. A page of the navigation that is not written
yet is left out, and one that the navigation forgets is put under "More". The table of the face is made from the one in
`factscope/__init__.py`, with the first line of each docstring.
"""

import ast
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
BORROWED = {
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
FACE = "<!-- face -->"
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Prune the navigation to what is there, and add what it forgets."""
    docs = Path(config["docs_dir"])
    there = {str(file.relative_to(docs)) for file in docs.rglob("*.md")} | set(BORROWED.values())
    named: set[str] = set()
    config["nav"] = _pruned(config["nav"], there, named)
    if forgotten := sorted(there - named):
        config["nav"].append({"More": forgotten})
    return config


def on_files(files: Any, config: Any) -> Any:
    """The borrowed pages."""
    for source, page in BORROWED.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave docs/: to the borrowed page, or plain words."""
    borrowed = {name: source for source, name in BORROWED.items()}
    here = Path(borrowed.get(page.file.src_path, f"docs/{page.file.src_path}")).parent
    up = "../" * (len(Path(page.file.src_path).parts) - 1)
    if FACE in markdown:
        markdown = markdown.replace(FACE, _face())

    def settled(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        resolved = str(((ROOT / here / target).resolve()).relative_to(ROOT))
        if resolved in BORROWED:
            return f"[{words}]({up}{BORROWED[resolved]}{anchor})"
        if resolved.startswith("docs/"):
            inside = Path(resolved).relative_to("docs")
            return f"[{words}]({up}{inside}{anchor})"
        return f"{words} (`{resolved}`)"

    return LINK.sub(settled, markdown)


def _face() -> str:
    """The names of `import factscope` as a table, each with a link to where it is described."""
    sys.path.insert(0, str(ROOT))
    import factscope

    rows = ["| name | |", "| --- | --- |"]
    for name, place in factscope._PLACES.items():
        module, _, inside = place.partition(":")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        found = next((node for node in tree.body if getattr(node, "name", "") == inside), None)
        words = (ast.get_docstring(found) or "").partition("\n")[0] if found is not None else ""
        rows.append(f"| [`fs.{name}`][{module}.{inside}] | {words} |")
    return "\n".join(rows)


def _pruned(items: list[Any], there: set[str], named: set[str]) -> list[Any]:
    kept: list[Any] = []
    for item in items:
        if isinstance(item, str):
            if item in there:
                named.add(item)
                kept.append(item)
            continue
        (title, inside), *_ = item.items()
        if isinstance(inside, list):
            inside = _pruned(inside, there, named)
        elif inside in there:
            named.add(inside)
        else:
            inside = None
        if inside:
            kept.append({title: inside})
    return kept
