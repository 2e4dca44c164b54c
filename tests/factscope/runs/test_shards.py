"""Shards: dealt out, merged to the journal of one process, and named where they do not belong together."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from circuits.mib.track import TrackOptions, ranked
from factscope.data.load import load_facts
from factscope.errors import StoreError, UserError
from factscope.runs.journal import Journal
from factscope.runs.shards import Shard, merge
from helpers.models import TOY
from studies.commands import app
from tracing.average import average, trace_each
from tracing.causal import Config
from tracing.sweep import Sweep, enough

CONFIG = Config(sites=("mlp",), samples=1)


@pytest.fixture(scope="module")
def swept(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that ends at the third known fact of five, as a whole and as two shards."""
    facts = [*load_facts("country_capital", limit=1), *load_facts(TOY / "toy_town.json", limit=4)]
    folder, sweep = tmp_path_factory.mktemp("swept"), Sweep(known=True, wanted=3)
    average(toy, facts, CONFIG, sweep, journal=folder / "whole" / "j", shown=False)
    for number in (1, 2):
        own = replace(sweep, shard=Shard(number, 2))
        trace_each(toy, facts, CONFIG, own, journal=folder / str(number) / "j", shown=False)
        with pytest.raises(UserError, match=f"shard {number} of 2 of the facts has no average"):
            average(toy, facts, CONFIG, own, journal=folder / str(number) / "j", shown=False)
    return folder


def _parts(folder: Path, *numbers: int) -> list[Path]:
    return [folder / str(number) / "j" for number in numbers]


def test_merged_shards_are_the_journal_of_one_process_to_the_byte(swept: Path, tmp_path: Path) -> None:
    assert merge(_parts(swept, 2, 1), tmp_path / "j", enough) == []
    assert (tmp_path / "j").read_bytes() == (swept / "whole" / "j").read_bytes()
    merge(_parts(swept, 1, 2), tmp_path / "j", enough)  # again: nothing is left to be done
    assert (tmp_path / "j").read_bytes() == (swept / "whole" / "j").read_bytes()


def test_shards_that_are_missing_foreign_doubled_or_unfinished_are_named(swept: Path, tmp_path: Path) -> None:
    into = tmp_path / "j"
    with pytest.raises(StoreError, match="shard 2 of 2 is missing"):
        merge(_parts(swept, 1), into, enough)
    with pytest.raises(StoreError, match="are both shard 1 of 2"):
        merge(_parts(swept, 1, 1), into, enough)
    with pytest.raises(StoreError, match="holds no shard of any work"):
        merge([swept / "whole" / "j"], into, enough)
    work = {"what": "a"}
    for name, own, lines in (("a", {"what": "b"}, 1), ("b", work, 0), ("c", work, 1)):
        with Journal(tmp_path / name / "j", own | Shard(1 + (name == "c"), 2).said(2)) as log:
            for line in range(lines):
                log.add({"line": line})
    with pytest.raises(StoreError, match=r"c and .*a are shards of different work \(what: \"b\", not \"a\"\)"):
        merge([tmp_path / "a" / "j", tmp_path / "c" / "j"], into, enough)
    with pytest.raises(StoreError, match=r"shard 1 of 2 in .* is not finished \(0 of 1 pieces are done\)"):
        merge([tmp_path / "b" / "j", tmp_path / "c" / "j"], into, enough)
    assert not into.exists()


def test_shards_of_other_tables_are_told_apart_by_what_was_dealt_out(toy: Any, tmp_path: Path) -> None:
    """The journal of a track takes up any methods, so that they alone do not make it other work; the shards' do."""
    for number, methods in ((1, ("eap", "random")), (2, ("eap", "relp"))):
        how = TrackOptions(("chain",), methods, train=2, validation=2)
        ranked(toy, how, folder=tmp_path / str(number), shown=False, shard=Shard(number, 2))
    with pytest.raises(StoreError, match="are shards of different work"):
        merge([tmp_path / one / "journal.jsonl" for one in "12"], tmp_path / "j", enough)


def test_items_are_dealt_out_in_turn_and_every_shard_has_some() -> None:
    assert [Shard(n, 3).part(range(7)) for n in (1, 2, 3)] == [[0, 3, 6], [1, 4], [2, 5]]
    for text in ("2", "3/2", "0/2", "a/b"):
        with pytest.raises(UserError, match="shard"):
            Shard.read(text)
    for number in (1, 3):
        with pytest.raises(
            UserError, match=f"shard {number} of 3 cannot be: the work has 2 pieces, .* at most 2 shards"
        ):
            Shard(number, 3).part(range(2))
    with pytest.raises(UserError, match="shard 1 of 3 cannot be: the work is one piece; leave --shard out"):
        Shard(1, 3).part(range(1))


def timeless(file: Path) -> str:
    """A file without the time that its lines took and the checksums of it."""
    return re.sub(r'"(seconds": [0-9.e-]+|check": "\w+)', "", file.read_text(encoding="utf-8"))


def test_merged_commands_give_the_result_of_one(run_command: Any, toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("relations")
    folder.mkdir()
    for name in ("toy_town.json", "toy_trade.json"):
        shutil.copy(TOY / name, folder)
    monkeypatch.setattr(app, "loader", lambda *_: lambda: toy)
    small = ("--facts", TOY / "toy_town.json", "--limit", "3", "--sites", "mlp", "--samples", "1")
    bench = ("edit", "bench", TOY / "toy_town.json", "--methods", "ft-m,ice", "--set", "ft-m.steps=2", "--limit", "11")
    track = ("circuit", "mib", "--tasks", "chain", "--methods", "eap,relp,random", "--train", "2", "--validation", "2")
    quick = (
        "--edges",
        "20",
        "--ablation",
        "zero",
        "--no-split-qkv",
        "--limit",
        "2",
        "--held-out",
        "2",
        "--random",
        "1",
    )
    table = ("circuit", "table", "--facts", folder, "--method", "eap", *quick)
    for line in (("trace", *small), (*bench, "--protocol", "easyedit", "--moments", "identity"), track, table):
        whole = Path("whole", line[1])
        assert run_command(*line, "--out", whole).exit_code == 0
        for shard in ("1/2", "2/2"):
            ended = run_command(*line, "--shard", shard)
            assert (ended.exit_code, "is done, in runs/" in ended.stdout) == (0, True), ended.stderr
        parts = sorted(Path("runs").glob("*of2"))
        ended = run_command("factscope", "merge", *parts)
        assert ended.exit_code == 0, ended.stderr
        merged = parts[0].with_name(parts[0].name.removesuffix("-1of2"))
        assert (merged / "result.json").is_file()
        name = "rows.csv" if line[0] == "edit" else "journal.jsonl"
        assert timeless(merged / name) == timeless(whole / name)
        Path("runs").rename(f"done {line[1]}")
    said = run_command("factscope", "merge", whole, "--out", "x")
    assert (said.exit_code, "holds no shard of any work" in said.stderr) == (2, True)
