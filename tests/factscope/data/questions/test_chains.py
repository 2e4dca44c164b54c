"""Chains follow from two relations or from MQuAKE's records, and their answers differ."""

import json
from collections import Counter
from pathlib import Path

import pytest

from factscope.data.questions.chains import Chain, mquake_chains, shipped_chains
from factscope.data.shipped import relations
from factscope.errors import FactError, UserError
from helpers.models import TOY
from helpers.records import MQUAKE


def test_answers_of_a_chain_differ() -> None:
    assert Chain("x", (), "q", "", ("yen", "Japanese yen"), ("euro",), ("Japan",)).distinct
    assert not Chain("x", (), "q", "", ("Asia",), ("asia",), ("China",)).distinct
    assert not Chain("x", (), "q", "", ("Kuwait",), ("Riyadh",), ("kuwait",)).distinct


def test_shipped_chains_follow_from_two_relations() -> None:
    ours, chains = relations(), shipped_chains(("landmark_country",))
    assert len(chains) > 100
    assert len({chain.id for chain in chains}) == len(chains)
    for chain in chains:
        (request,) = chain.requests
        second = {entry.subject: entry.answer for entry in ours[chain.id.rsplit("/", 1)[1]].entries}
        assert (second[str(request.old)], second[request.target]) == (chain.old[0], chain.new[0])
        assert chain.edited == (request.target,)
        assert request.subject.removeprefix("The ") in chain.question
        assert request.subject.removeprefix("The ") not in chain.bare
    assert "The capital of the country where the Eiffel Tower stands is" in {chain.question for chain in chains}
    assert [chain.id for chain in shipped_chains(("landmark_country",), seed=1)] != [chain.id for chain in chains]
    assert Counter(chain.id for chain in shipped_chains(("landmark_country",), seed=1)) == Counter(
        chain.id for chain in chains
    )
    with pytest.raises(UserError, match="'country_capital' cannot be the first hop"):
        shipped_chains(("country_capital",))


def test_chains_of_mquake(tmp_path: Path) -> None:
    file = tmp_path / "mquake.json"
    last = json.loads(json.dumps(MQUAKE)) | {"case_id": 5, "new_answer": "norway"}  # the last answer is the edited one
    file.write_text(json.dumps([MQUAKE, last]))
    (chain,) = mquake_chains(file)
    assert chain.id == "mquake/4"
    assert (chain.new, chain.old, chain.edited) == (("Oslo", "Kristiania"), ("Lisbon", "Lisboa"), ("Norway",))
    assert chain.question == "Where is the capital of Ann Bo's country?"
    assert chain.bare == "Where is the capital of country?"
    file.write_text(json.dumps([last]))
    with pytest.raises(FactError, match="every chain's last answer is itself edited"):
        mquake_chains(file)
    with pytest.raises(FactError, match="chains are read from MQuAKE's files"):
        mquake_chains(TOY / "toy_town.json")
