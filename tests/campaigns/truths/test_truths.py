"""Wirings are what they say, and one circuit and its edit are found; `make campaign` plants twenty."""

from campaigns.truths.campaign import fell, one
from campaigns.truths.circuits import HEADS, LAYERS, alive, edges, found, wiring


def test_every_drawn_wiring_reaches_from_the_embedding_to_the_logits() -> None:
    for seed in range(70):
        wired = wiring(seed)
        assert alive(wired) == wired
        assert any(writer == "embed" for writers in wired.values() for writer in writers)
        for reader, writers in wired.items():
            place = LAYERS * 10 if reader == "logits" else int(reader[1]) * 10 + (5 if reader[0] == "m" else 0)
            below = [0 if one == "embed" else int(one[1]) * 10 + (5 if one[0] == "m" else 1) for one in writers]
            assert max(below) < place or (reader[0] == "a" and max(below) < place + 1), (seed, reader)
    assert len({str(wiring(seed)) for seed in range(20)}) == 20
    assert HEADS == 4


def test_nodes_off_the_path_are_left_out() -> None:
    wired = {"m0": ["embed"], "a1.h0": ["m0"], "a1.h1": ["m0"], "m2": ["a2.h0"], "logits": ["a1.h0", "m2"]}
    assert alive(wired) == {"m0": ["embed"], "a1.h0": ["m0"], "logits": ["a1.h0"]}
    assert edges(alive(wired)) == {"embed->m0", "m0->a1.h0.v", "a1.h0->logits"}


def test_a_planted_circuit_and_a_planted_edit_are_found_and_a_miss_falls() -> None:
    rows = one(2, scorers=False)  # its edit silences a head
    assert not [row for row in rows if fell(row)], rows
    by = {row.method: row for row in rows}
    assert set(by["causal tracing"].planted) == set(wiring(2)) - {"logits"}
    assert set(by["acdc"].planted) == edges(wiring(2))
    assert any(change.startswith("-") for change in by["circuit diff"].planted)
    assert fell(found(2, "acdc", {"embed->m0"}, set()))
    assert fell(found(2, "acdc", {"embed->m0"}, {"embed->m0", "m0->logits"}))
    assert not fell(found(2, "eap", {"embed->m0"}, set()))
