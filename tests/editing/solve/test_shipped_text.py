"""The text that ships with us can be made anew: the same seed gives the same documents, those of plain sampling."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import shipped_text
from editing.contexts import OPENINGS
from factscope.data.shipped import documents
from factscope.model.prompts import start_ids, token_ids

ROWS, LENGTH = 3, 7


def sampled(model: Any, first: Sequence[int], seed: int) -> list[str]:
    """The slow way: the whole model reads all tokens again for each next one, and stops where a document ends."""
    generator, rows = torch.Generator().manual_seed(seed), torch.tensor([list(first)] * ROWS)
    while rows.shape[1] < LENGTH:
        chances = model.original_model(input_ids=rows, use_cache=False).logits[:, -1].float().softmax(-1)
        rows = torch.cat([rows, torch.multinomial(chances, 1, generator=generator)], 1)
    ends = {model.tokenizer.eos_token_id, *start_ids(model)}
    begun = len(first) if tuple(first) == start_ids(model) else 0
    texts = []
    for row in rows.tolist():
        stop = next((at for at in range(len(first), LENGTH) if row[at] in ends), LENGTH)
        texts += [model.tokenizer.decode(row[begun:stop])] if stop > 1 else []
    return texts


def test_a_small_text_is_made_again_to_the_letter_and_by_plain_sampling(
    toy: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(shipped_text, "PIECES", (("auto", 2), ("none", 1)))
    made = list(shipped_text.documents(toy, tmp_path / "a", ROWS, LENGTH))
    with torch.no_grad():
        plain = sampled(toy, start_ids(toy), 0) + sampled(toy, start_ids(toy), 1)
        plain += sampled(toy, token_ids(toy, OPENINGS[0]), 0)
    assert made == plain
    assert made == list(shipped_text.documents(toy, tmp_path / "b", ROWS, LENGTH))
    assert made != list(shipped_text.documents(toy, tmp_path / "c", ROWS, LENGTH, seed=1))


def test_the_file_holds_what_was_written_and_the_shipped_one_is_of_its_form(toy: Any) -> None:
    there = list(documents())
    text = shipped_text.file_of(toy, there)
    assert json.loads(text)["documents"] == there
    file = Path(shipped_text.__file__).parents[1] / "factscope" / "data" / "text" / "written.json"
    assert text.partition('"documents"')[2] == file.read_text(encoding="utf-8").partition('"documents"')[2]
    assert len(there) == shipped_text.DOCUMENTS
    assert [one for one in there if not shipped_text.fit(one)] == []


@pytest.mark.parametrize("part", ["a@b.c", "see http://x", "www.x", "call 555-123 4567", "Killing", "a drug"])
def test_addresses_numbers_of_telephones_and_words_that_hurt_are_left_out(part: str) -> None:
    words = "The cave is as deep as a house is high, and nobody "
    assert shipped_text.fit(words * 2)
    assert not shipped_text.fit(words * 2 + part)
    assert not shipped_text.fit(words[:20])
