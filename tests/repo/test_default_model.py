"""The real default model, end to end, on as little as shows that it works."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from editing.compute import compute
from editing.edit import Edit
from editing.evaluation.evaluate import evaluate
from editing.method import method, method_names
from editing.requests import request
from factscope.model.bridge import info
from factscope.model.forward.partial import Frame
from factscope.model.prompts import make_prompt
from factscope.model.source import download as fetch
from factscope.model.weights import fingerprint
from factscope.settings import written
from tracing import causal
from tracing.causal import Config, Runs

pytestmark = pytest.mark.default_model
EIFFEL = "The Eiffel Tower is located in the city of"


def test_it_is_the_model_that_it_says_and_begins_documents_as_it_was_trained(smollm2: Any) -> None:
    assert (smollm2.cfg.n_layers, smollm2.cfg.n_heads, smollm2.cfg.n_key_value_heads) == (30, 9, 3)
    assert info(smollm2).start_token == "<|endoftext|>"
    prompt = make_prompt(smollm2, EIFFEL, answer="Paris")
    assert prompt.tokens[0] == 0
    assert prompt.labels[1:5] == ("The", " E", "iffel", " Tower")
    assert prompt.subject_span == (1, 5)
    with torch.no_grad():
        assert int(smollm2(prompt.tensor())[0, -1].argmax()) == prompt.answer_ids[0]


def test_a_token_that_spills_over_the_subject_is_said(smollm2: Any) -> None:
    prompt = make_prompt(smollm2, "The [Eiff]el Tower is in")
    assert any("shares a token" in note for note in prompt.notes)


def test_the_fast_engine_gives_the_reference_numbers_on_cells_of_every_kind(smollm2: Any) -> None:
    config = Config(sites=("resid", "mlp", "attn", "head", "severed_mlp"), samples=2)
    with torch.no_grad():
        runs = Runs.of(smollm2, make_prompt(smollm2, EIFFEL, answer="Paris"), config, None)
        for kind, layer, position in (("resid", 12, 3), ("mlp", 2, 3), ("attn", 20, 10), ("severed_mlp", 4, 4)):
            cell = causal._cells(runs, kind, config, position)[layer]
            (_, fast), (_, slow) = (next(engine(runs, [cell], config)) for engine in (causal._fast, causal._reference))
            torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)  # float32, thirty layers


def test_a_frame_reproduces_thirty_layers(smollm2: Any) -> None:
    Frame.of(smollm2, make_prompt(smollm2, EIFFEL).tensor())  # raises unless it does


@pytest.mark.parametrize("name", method_names())
def test_the_settings_that_are_listed_are_those_of_the_default_model(smollm2: Any, name: str) -> None:
    """What `edit methods` prints without a model is what `edit apply` would take with this one."""
    assert written(method(name).Config()) == written(method(name).config_for(smollm2))


@pytest.mark.usefixtures("smollm2")
def test_the_command_traces_the_default_prompt(run_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And needs no network: after the first use the folder is kept, and pip is not asked again."""
    monkeypatch.setattr(fetch, "_downloaded", lambda *_: pytest.fail("downloaded again"))
    ended = run_command("trace", EIFFEL, "--samples", "1", "--sites", "attn", "--json", "--device", "cpu")
    assert ended.exit_code == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["answer"] == " Paris"
    assert said["clean_probability"] > 10 * said["corrupted_probability"]
    best = said["strongest"]["attn"][0]
    assert best["token"] == " of"
    assert best["layer"] >= 15, "attention acts late, at the last token (Meng et al. 2022, Fig. 1)"
    assert Path(said["page"]).stat().st_size > 1e6


def test_swapped_subjects_of_a_shipped_relation_do_what_noise_does(smollm2: Any) -> None:
    prompt = make_prompt(smollm2, "The capital of France is", answer="Paris")
    config = Config(sites=("attn",), corruption="swap", samples=3, metric="logit_difference", window=6)
    result = causal.trace(smollm2, prompt, config)
    assert len(result.swapped) == 3
    assert result.total_effect > 1
    (_, position), effect, _ = result.grid("attn").strongest(1)[0]
    assert position == len(prompt.tokens) - 1
    assert effect > 0.3 * result.total_effect


def test_one_rome_edit_of_the_default_model_end_to_end(smollm2: Any, tmp_path: Path) -> None:
    """The identity stands in for moments, so that nothing is sampled but six contexts: Paris becomes Rome, and back."""
    asked = request(smollm2, "[The Eiffel Tower] is located in the city of", "Rome")
    config = method("rome").config_for(smollm2)
    edit = compute("rome", smollm2, [asked], config, shown=False)
    report = evaluate(smollm2, [edit], shown=False)
    row = report.rows[0]
    assert row.after is not None
    assert (row.before.top, row.after.top) == (" Paris", " Rome")
    assert math.exp(-row.after.nll) > 0.8
    again = Edit.load(edit.save(tmp_path))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 50_000
    with again.applied(smollm2):
        assert fingerprint(smollm2) != edit.base
    assert fingerprint(smollm2) == edit.base
