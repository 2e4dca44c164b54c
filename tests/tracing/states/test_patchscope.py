"""Patchscopes: a state in its own place changes nothing, and any other does what a hook on plain transformers does."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import factscope as fs
from factscope.data.load import load_facts
from factscope.errors import PromptError, UserError
from factscope.model.prompts import make_prompt, prompt_of
from factscope.plots.page import page_html
from helpers.models import TOY
from helpers.results import check_result
from tracing.pages.patchscope import page
from tracing.states.clean import CleanRun
from tracing.states.patchscope import PatchscopeConfig, patchscope

PROMPT, TARGET = "In Vey [Mira Hallin] lives in", "[Oda] lives in Vey and"
SHAPES = ("gpt2", "llama", "neox", "gemma3")


def plain_states(model: Any, tokens: Any) -> torch.Tensor:
    """Every state of one row, from plain transformers: what enters the first block, then what each block leaves."""
    seen: list[torch.Tensor] = []
    blocks = [block.original_component for block in model.blocks]
    hooks = [blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))]
    hooks += [one.register_forward_hook(lambda *io: seen.append((io[2][0] if isinstance(io[2], tuple) else io[2])[0]))
              for one in blocks]  # fmt: skip
    with torch.no_grad():
        model.original_model(tokens)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen)


def plain_patched(model: Any, tokens: Any, state: int, position: int, value: torch.Tensor) -> torch.Tensor:
    """Logits at the last position of plain transformers, whose one state is written over by a hook."""
    first = model.blocks[0].original_component

    def before(_: Any, given: Any) -> Any:
        changed = given[0].clone()
        changed[0, position] = value
        return (changed, *given[1:])

    def after(_: Any, __: Any, out: Any) -> Any:
        changed = (out[0] if isinstance(out, tuple) else out).clone()
        changed[0, position] = value
        return (changed, *out[1:]) if isinstance(out, tuple) else changed

    block = model.blocks[state - 1].original_component
    hook = block.register_forward_hook(after) if state else first.register_forward_pre_hook(before)
    with torch.no_grad():
        logits: torch.Tensor = model.original_model(tokens).logits[0, -1]
    hook.remove()
    return logits


@pytest.mark.parametrize("name", SHAPES)
def test_every_cell_is_what_a_hook_on_plain_transformers_gives(tiny: Any, name: str) -> None:
    model = tiny(name)
    prompt = make_prompt(model, PROMPT, answer="Brask")
    found = patchscope(model, prompt, PatchscopeConfig(target=TARGET, tokens=1))
    states = plain_states(model, prompt.tensor())[:, prompt.subject_span[1] - 1]
    spot, answer = found.target.subject_span[1] - 1, prompt.answer_ids[0]
    for source in range(5):
        for into in range(5):
            logits = plain_patched(model, found.target.tensor(), into, spot, states[source])
            logs = torch.log_softmax(logits, -1)
            torch.testing.assert_close(found.log_probability[source, into], logs[answer], atol=1e-4, rtol=0)
            assert int(found.rank[source, into]) == 1 + int((logits > logits[answer]).sum())
    with torch.no_grad():
        own = torch.log_softmax(model.original_model(found.target.tensor()).logits[0, -1], -1)
    assert found.unpatched == pytest.approx(float(own[answer]), abs=1e-4)


def test_a_state_in_its_own_place_changes_nothing(toy: Any) -> None:
    """The same prompt, token and layer: every cell of the diagonal is the plain run, and so is its text."""
    fact = load_facts(TOY / "toy_town.json")[0]
    prompt = prompt_of(toy, fact)
    found = patchscope(toy, prompt, PatchscopeConfig(target=fact.template.replace("{}", f"[{fact.subject}]"), tokens=4))
    for state in range(5):
        assert float(found.log_probability[state, state]) == pytest.approx(found.unpatched, abs=1e-4)
        assert found.texts[state] == found.unpatched_text
    assert found.unpatched_rank == 1
    assert fact.answer in found.unpatched_text


def test_another_subjects_state_says_its_answer(toy: Any) -> None:
    """The toy reads a town from its subject's last token: what goes there decides what is said."""
    facts = load_facts(TOY / "toy_town.json")
    one = facts[0]
    other = next(fact for fact in facts if fact.answer != one.answer)
    target = one.template.replace("{}", f"[{one.subject}]")
    found = patchscope(toy, prompt_of(toy, other), PatchscopeConfig(target=target, tokens=2), others=[one.subject])
    assert int(found.rank[:, :].min()) == 1
    assert any(other.answer in text for text in found.texts)
    assert one.answer in found.unpatched_text
    gain = found.chosen - found.null[0]
    assert float(gain.max()) > 1  # its own state says more of its answer than the state of the target's own subject


def test_texts_are_what_the_whole_model_says_step_by_step(toy: Any) -> None:
    """The slow way: no cache, the hook on in every step."""
    prompt = prompt_of(toy, load_facts(TOY / "toy_town.json")[0])
    found = patchscope(toy, prompt, PatchscopeConfig(target="[Oda] lives in", tokens=3, into=1))
    states = plain_states(toy, prompt.tensor())[:, prompt.subject_span[1] - 1]
    spot = found.target.subject_span[1] - 1
    for source, text in enumerate(found.texts):
        row, said = found.target.tensor(), []
        for _ in range(3):
            said.append(int(plain_patched(toy, row, 2, spot, states[source]).argmax()))
            row = torch.cat([row, torch.tensor([[said[-1]]])], 1)
        assert toy.tokenizer.decode(said, skip_special_tokens=True).startswith(text)
        assert text or said[0] == toy.tokenizer.eos_token_id
    assert found.into == (2,) * 5


def test_a_null_is_another_state_of_equal_length(toy: Any) -> None:
    facts = load_facts(TOY / "toy_town.json")
    prompt, other = prompt_of(toy, facts[0]), prompt_of(toy, facts[1])
    found = patchscope(toy, prompt, PatchscopeConfig(target="[Oda] lives in", tokens=1), others=[facts[1].subject])
    assert found.others == (facts[1].subject,)
    own = CleanRun.of(toy, prompt.tokens).states[:, prompt.subject_span[1] - 1]
    theirs = CleanRun.of(toy, other.tokens).states[:, other.subject_span[1] - 1]
    two = replace(found, others=("A", "B"), null=found.null.repeat(2, 1))
    none = replace(found, others=(), null=found.null[:0])
    for result, band, columns in ((none, False, 5), (found, False, 6), (two, True, 6)):  # of one subject there is none
        table: Any = page(result).sections[1].specs[0]
        curve: Any = page(result).sections[2].specs[0]
        assert ("band holds" in curve.note, len(table.columns)) == (band, columns)
    scaled = theirs[3] * own[3].norm() / theirs[3].norm()
    logits = plain_patched(toy, found.target.tensor(), 3, found.target.subject_span[1] - 1, scaled)
    assert float(found.null[0, 3]) == pytest.approx(float(logits.log_softmax(-1)[prompt.answer_ids[0]]), abs=1e-4)


def test_the_result_goes_out_and_comes_back(toy: Any, tmp_path: Path) -> None:
    fact = load_facts(TOY / "toy_town.json")[0]
    config = PatchscopeConfig(target="[Oda Voss] lives in", tokens=2)
    found = patchscope(toy, prompt_of(toy, fact), config)
    check_result(found, tmp_path, "PatchscopeResult")
    assert any("no shipped fact" in note for note in found.notes)
    assert any("tokens; the last" in note for note in found.notes)
    assert len(found.to_frame()) == 25
    assert "ghandeharioun2024patchscopes" in fs.cite(found)
    hostile = replace(found, texts=("<script>alert(1)</script>", *found.texts[1:]))
    assert "<script>alert(1)" not in page_html(fs.page(hostile))
    assert math.isfinite(found.unpatched)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"target": "a sentence"}, PromptError, "has no [placeholder]"),
        ({"position": "verb"}, UserError, "there is no position 'verb'"),
        ({"tokens": 0}, UserError, "tokens must be 1 or more"),
        ({"into": 4}, UserError, "there is no layer 4 to write into; the model has 0 to 3"),
    ],
)
def test_a_mistake_is_one_sentence(toy: Any, change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as seen:
        patchscope(toy, make_prompt(toy, "[Oda Voss] lives in"), PatchscopeConfig(**change))
    assert words in str(seen.value)
