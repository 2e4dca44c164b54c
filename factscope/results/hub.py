"""A run or an edit on the Hugging Face Hub: the files of its folder, which are JSON and safetensors, and a card.

`prepare` writes what would be uploaded into a folder and asks no network, so that it can be looked at first. What goes
up is what a run folder is made of and nothing else that may lie in it. An edit is a model repository, whose card names
the base model; any other result is a data set.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from factscope.errors import StoreError, UserError
from factscope.files import write_text_atomically
from factscope.runs import store
from factscope.runs.kinds import named

FILES = frozenset({store.JSON, store.TENSORS, "page.html", "config.yaml"})
EDITS = frozenset({"Edit", "Trained"})
FACTS, NUMBERS = 50, 60  # named on a card; the others are in the JSON
NAME = re.compile(r"[a-z0-9][\w.-]*/[a-z0-9][\w.-]*", re.ASCII | re.IGNORECASE)
REVISION = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*", re.ASCII)
PREFIX = "hub:"  # before owner/name, where a folder is asked for


def prepare(
    run: str | Path, folder: str | Path, repo: str, numbers: Mapping[str, float] = MappingProxyType({})
) -> Path:
    """Write the files of a run, and a card that says what they are, into `folder`, which must be new or empty.

    `numbers` stand on the card, as `factscope.results.trackers.numbers_of` gives them. Raises StoreError for what is no
    run folder, and UserError for a folder that holds something or a bad name.
    """
    run, folder, header = Path(run), Path(folder), _header(Path(run))
    check_name(repo)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not empty; give a new folder")
    for file in sorted(run.rglob("*")):
        if file.name in FILES and file.is_file() and not file.is_symlink():
            place = folder / file.relative_to(run)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
    write_text_atomically(folder / "README.md", card(header, repo, numbers))
    return folder


def check_name(repo: str) -> str:
    """The name of a repository; UserError for what cannot be one."""
    if not NAME.fullmatch(repo) or ".." in repo or "--" in repo:
        raise UserError(f"{repo!r} is no repository of the Hub: write owner/name")
    return repo


def _check_revision(revision: str | None) -> None:
    """UserError for what is no branch, tag or commit: the cache makes a path of it."""
    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
        raise UserError(f"{revision!r} is no revision of a repository: write a branch, a tag or a commit")


def local(place: str | Path) -> Path:
    """The folder that is meant: a path as it is, `hub:owner/name` or `hub:owner/name@revision` downloaded first.

    Raises UserError for a bad name, and StoreError where the Hub has no such run or cannot be reached.
    """
    text = Path(place).as_posix()
    if not text.startswith(PREFIX):
        return Path(place)
    repo, _, revision = text.removeprefix(PREFIX).partition("@")
    return download(repo, revision or None)


def upload(prepared: str | Path, repo: str, private: bool = True) -> str:
    """Upload a folder that `prepare` wrote, with the login of huggingface_hub; gives the address.

    Raises StoreError where the Hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    kind, api = kind_of(_header(Path(prepared))), HfApi()
    try:
        api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        said = api.upload_folder(
            repo_id=repo, repo_type=kind, folder_path=str(prepared), commit_message="A run of Factscope"
        )
    except Exception as trouble:  # the network, the login and the Hub each raise their own
        why = " ".join(str(trouble).split())[:200]
        raise StoreError(
            f"{repo} could not be uploaded ({why}); `hf auth login` gives a login that may write"
        ) from None
    return str(getattr(said, "repo_url", None) or said)


def download(repo: str, revision: str | None = None) -> Path:
    """The folder of a run that was uploaded, which `fs.load` reads.

    Raises UserError for a bad name or revision, StoreError where there is no such run, or the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    check_name(repo)
    _check_revision(revision)
    why = ""
    for kind in ("model", "dataset"):
        try:
            patterns = sorted({*FILES, *(f"*/{name}" for name in FILES)})
            folder = Path(snapshot_download(repo, repo_type=kind, revision=revision, allow_patterns=patterns))
        except (RepositoryNotFoundError, RevisionNotFoundError):
            continue
        except Exception as trouble:  # as above
            why = " ".join(str(trouble).split())[:200]
            continue
        if any(folder.rglob(store.JSON)):
            return folder
    if why:
        raise StoreError(f"{repo} cannot be had from the Hub ({why}); once it was downloaded, no network is needed")
    raise StoreError(f"there is no run of Factscope in {repo} on the Hub that your login may read")


def kind_of(header: Mapping[str, Any]) -> str:
    """The kind of repository that a result belongs into: "model" or "dataset"."""
    return "model" if header["kind"] in EDITS else "dataset"


def card(header: Mapping[str, Any], repo: str, numbers: Mapping[str, float] = MappingProxyType({})) -> str:
    """What a person who finds the repository must know: model, facts, numbers' origin, and how to load it."""
    body, edit = header["result"], header["kind"] in EDITS
    inside = (one["run"] for one in body.values() if isinstance(one, dict) and one.get("run"))
    ran: Mapping[str, Any] = body.get("run") or next(inside, {})
    source = str(ran.get("source") or body.get("model") or "")
    tags = ["factscope", "interpretability", *(["knowledge-editing"] if edit else [])]
    front: dict[str, Any] = {"library_name": "factscope", "tags": tags}
    if edit and source.count("/") == 1 and not source.startswith((".", "/")):
        front["base_model"] = source
    asked = [one for one in body.get("requests", ()) if isinstance(one, dict)]
    facts = [f"- {_plain(one.get('prompt'))} **{_plain(one.get('target'))}**" for one in asked[:FACTS]]
    facts += [f"- and {len(asked) - FACTS} more, in {store.JSON}"] if len(asked) > FACTS else []
    said = {key: ran[key] for key in ("model", "source", "fingerprint", "seed", "command", "started") if key in ran}
    use = "with result.applied(model):  # the edit's own model\n    ..." if edit else "result.to_frame()"
    warning = "\nIt makes a model say things that may be false. Do not take them for facts.\n" if edit else ""
    lines = [f"{key}: {json.dumps(value)}" for key, value in front.items()]
    provenance = json.dumps(said, indent=1, ensure_ascii=False).replace("```", "'''")
    return "\n".join(
        [
            *("---", *lines, "---", "", f"# {repo.partition('/')[2]}", ""),
            *(f"This is {named(header['kind'])} of Factscope.", warning),
            *(["## Facts", "", *facts, ""] if facts else []),
            *(["## Numbers", "", *_table(numbers), ""] if numbers else []),
            *("## Provenance", "", "```json", provenance, "```", ""),
            *("## Load", "", "```python", "import factscope as fs", ""),
            *(f"result = fs.load(fs.download({repo!r}))", use, "```", ""),
        ]
    )


def _table(numbers: Mapping[str, float]) -> list[str]:
    """Numbers by name as a table, to four digits; those that were not measured are left out."""
    told = [(name, value) for name, value in numbers.items() if value == value]
    rows = [f"| {_plain(name)} | {value:.4g} |" for name, value in told[:NUMBERS]]
    more = ["", f"And {len(told) - NUMBERS} more, in {store.JSON}."] if len(told) > NUMBERS else []
    return ["| number | value |", "| --- | --- |", *rows, *more]


def _plain(text: Any) -> str:
    """A text that Markdown and HTML leave as it is."""
    kept = " ".join(str(text or "").split())
    return "".join(f"&#{ord(sign)};" if sign in "<>&*_`[]#|\\" else sign for sign in kept)


def _header(folder: Path) -> Mapping[str, Any]:
    return store.header(folder)
