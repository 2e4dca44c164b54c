"""`edit merge`: edits that were computed apart made one edit, from which each can be taken out exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import new_folder
from studies.commands.app import tell_result
from studies.commands.command import command, run_folder
from studies.commands.edit.saved.stack import model_of
from studies.commands.options import RunOptions, Runs, SavedModelOptions, argument, option


@dataclass(frozen=True, kw_only=True)
class MergeOptions(SavedModelOptions, RunOptions):
    """Which edits, and which of them not."""

    edit: Annotated[
        tuple[Path, ...], argument("Saved edits of the unedited model, or merges of such.", metavar="EDITS")
    ]
    without: Annotated[tuple[Path, ...], option("Leave this saved edit out of the merge.")] = ()
    share: Annotated[float | None, option("The ridge, as a share of the keys' mean eigenvalue.")] = None
    runs: Runs = Path("runs")


@command(
    "edit merge",
    MergeOptions,
    "edit merge runs/20261121-140000-edit-rome runs/20261121-140500-edit-berlin --out runs/both",
    "edit merge runs/both --without runs/20261121-140000-edit-rome --out runs/one",
)
def merge(options: MergeOptions) -> None:
    """Make one edit of edits that were computed apart, each honoured on its own prompts (SimIE); score and save it."""
    from studies import edit as recipe

    gone = {edit.digest for folder in options.without for edit in recipe.load_edits(folder)}
    parts = _parts([edit for folder in options.edit for edit in recipe.load_edits(folder)], options.runs)
    if absent := gone - {edit.digest for edit in parts}:
        raise UserError(f"edit {sorted(absent)[0][:12]} is not in the merge, so it cannot be left out")
    parts = [edit for edit in parts if edit.digest not in gone]
    if not parts:
        raise UserError("no edit is left to merge")
    with run_folder("edit merge", options, new_folder("merge", options.edit[0].name, options.runs)) as folder:
        from editing.merge.simie import Config, simie

        config = Config() if options.share is None else Config(options.share)
        model = model_of(parts, options)
        one = simie(model, parts, config)
        scores = recipe.score(model, [one], start=one.start_token, seed=options.seed)
        page = recipe.save(folder, [one], scores, options.light)
    said = {"edits": [one.name], "merged": [edit.name for edit in parts], "folder": str(folder)}
    tell_result(scores, page, options, f"Edit {one.name}, {len(parts)} merged, in {folder}", **said)


def _parts(edits: Sequence[Any], runs: Path) -> list[Any]:
    """The edits, and in the place of a merge those that it was made of: given too, or in the folder of runs."""
    from editing.merge.simie import merged_digests

    given = {edit.digest: edit for edit in edits}
    wanted = {digest for edit in edits for digest in merged_digests(edit)} - set(given)
    known = given | (_saved(wanted, runs) if wanted else {})
    found: dict[str, Any] = {}
    for edit in edits:
        for digest in merged_digests(edit) or (edit.digest,):
            if digest not in known:
                raise UserError(f"edit {digest[:12]}, of which {edit.name} was made, is not in {runs}: give it as well")
            found[digest] = known[digest]
    return list(found.values())


def _saved(wanted: set[str], runs: Path) -> dict[str, Any]:
    """The saved edits with these digests."""
    from editing.edit import Edit
    from factscope.errors import StoreError
    from factscope.runs import store

    found = {}
    for path in sorted(runs.glob("**/" + store.JSON)):
        try:
            document = store.header(path.parent)
        except StoreError:
            continue
        body = document["result"]
        if document["kind"] == "Edit" and isinstance(body, dict) and (digest := str(body.get("digest"))) in wanted:
            found[digest] = Edit.load(path.parent)
    return found
