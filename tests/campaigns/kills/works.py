"""The long work that is killed: a command for each kind of journal, on the toy, small enough for a hundred kills."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.models import TOY

TOWN = TOY / "toy_town.json"
OUT = "runs/run"
ON = ("--model", TOY, "--device", "cpu", "--out", OUT, "--light")
STEPS = ("--set", "steps=3", "--layer", "0")
SWEEP = ("trace", "--facts", TOWN, "--samples", "1", "--sites", "mlp", *ON)


@dataclass(frozen=True)
class Work:
    """A command, and the files that it needs in its folder: name -> the file that is copied there."""

    name: str
    arguments: tuple[Any, ...]
    files: tuple[Path, ...] = ()
    share: int = 1  # how often it is killed, beside the others
    processes: bool = False  # it starts others, whose files are not watched
    later: bool = False  # others may write where it writes: what is left half written there goes a day later
    again: str = ""  # what is said where it is done already, and so is refused

    def put(self, inside: Path) -> None:
        """Lay out its files."""
        for file in self.files:
            (inside / "facts").mkdir(exist_ok=True)
            (inside / "facts" / file.name).write_bytes(file.read_bytes())


TOYS = tuple(TOY / f"toy_{name}.json" for name in ("town", "trade", "tongue"))
WORKS = (
    Work("trace sweep", (*SWEEP, "--limit", "4"), share=6),
    Work("flow sweep", ("trace", "flow", "--facts", TOWN, "--limit", "4", *ON), share=6),
    Work("relation", ("trace", "relation", "--facts", TOWN, "--set", "choice=3", "--set",
                      "demonstrations=false", *ON), share=2),
    Work(
        "exact ACDC",
        ("circuit", "find", "[Oda Voss] lives in", "--method", "acdc", "--no-split-qkv", "--threshold", "0.1", *ON),
        share=1,
    ),
    Work(
        "edit sequence",
        ("edit", "sequence", "--facts", TOWN, "--limit", "4", "--every", "2", "--method", "ft-m", *STEPS,
         "--unrelated", "none", *ON),
        share=1,
    ),
    Work(
        "edit bench",
        ("edit", "bench", TOWN, "--methods", "ft-m,ice", "--limit", "3", "--moments", "identity", "--set",
         "ft_m.steps=2", *ON),
        share=5,
    ),
    Work(
        "edit train",
        ("edit", "train", "mend", "--facts", "facts", "--set", "steps=4", "--set", "every=1", "--set", "rank=4",
         "--set", "standard=16", "--set", "layers=0,1", *ON),
        files=TOYS,
        share=2,
    ),
    Work("edit moments", ("edit", "moments", "--layer", "0", "--tokens", "2000", *ON[:6], "--json"), share=3,
         later=True),
    Work(
        "survey",
        ("edit", "survey", TOWN, "--methods", "ft-m", "--limit", "2", "--edits", "2", "--tasks", "repeat", "--set",
         "ft_m.steps=2", "--moments", "identity", *ON),
    ),
    Work("edit apply --stack", ("edit", "apply", "[Oda Voss] lives in", "--target", "Vey", "--method", "ft-m", *STEPS,
                                "--stack", *ON), share=2,
         again="holds a saved edit already"),
    Work("two workers of Ray", (*SWEEP, "--limit", "4", "--workers", "2"), processes=True),
)  # fmt: skip
