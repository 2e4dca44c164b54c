"""`factscope upload`: a run or an edit on the Hugging Face Hub, or as the folder that would go there."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from studies.commands.app import tell
from studies.commands.command import command
from studies.commands.options import Options, argument, option


@dataclass(frozen=True, kw_only=True)
class UploadOptions(Options):
    """Which run, and where to."""

    run: Annotated[Path, argument("A run folder, or that of a saved edit.")]
    repo: Annotated[str, argument("Repository of the Hub, as owner/name.")]
    public: Annotated[bool, option("Let everybody see it; else it is private.", "--public")] = False
    dry_run: Annotated[Path | None, option("Write what would be uploaded into this new folder, and end.")] = None


@command(
    "factscope upload",
    UploadOptions,
    "factscope upload runs/one me/eiffel-rome --dry-run hub",
    "factscope upload runs/one me/eiffel-rome",
)
def upload(options: UploadOptions) -> None:
    """Upload a run or an edit to the Hugging Face Hub, as JSON and safetensors with a card; private unless --public."""
    from factscope.results import hub
    from factscope.results.trackers import numbers_of
    from studies.saved import saved_run

    hub.check_name(options.repo)
    numbers = numbers_of(saved_run(options.run)[0])
    if options.dry_run is not None:
        folder = hub.prepare(options.run, options.dry_run, options.repo, numbers)
        tell(f"Nothing is uploaded; {options.repo} would hold what is in {folder}")
        return
    with tempfile.TemporaryDirectory() as place:
        folder = hub.prepare(options.run, Path(place) / "run", options.repo, numbers)
        tell(f"Uploaded: {hub.upload(folder, options.repo, private=not options.public)}")
