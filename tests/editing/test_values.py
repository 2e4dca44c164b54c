"""Values and keys in a batch against one at a time and plain forward passes; moments against their definition."""

import itertools
import json
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from editing.contexts import contexts
from editing.requests import RequestPrompts, check, essence_prompt, known, request, target_prompts
from editing.solve import corpus, moments, values
from editing.solve.shrinkage import shrunk
from editing.solve.values import Descent, find_keys, find_values
from factscope.data.fact import Fact
from factscope.data.load import load_facts
from factscope.data.request import requests_of
from factscope.data.shipped import documents
from factscope.errors import EditError, FactError, PromptError
from factscope.model.forward.batched import logits_at
from factscope.model.forward.generate import sample
from factscope.model.forward.subject import buckets
from factscope.model.hooks import Patch, patched, record
from factscope.model.prompts import start_ids, token_ids
from factscope.model.sites import Site
from factscope.model.weights import fingerprint
from factscope.statistics import ngram_entropy
from helpers.models import TOY

FACTS = requests_of(
    (
        Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"),
        Fact("b", "home", "Quux", "The home of {} is the city", "Rome", "Paris town"),
        Fact("c", "home", "Ze", "{} is", "Bern", "York"),
    )
)
CONTEXTS = ("{}", "I said. {}")
PROMPTS = RequestPrompts(FACTS, CONTEXTS)
KINDS = ("gpt2", "llama", "neox", "gemma3")
GENTLE = Descent(steps=4, learning_rate=0.05, clamp=100.0)


def plain_loss(model, fact, layer, delta, config, place):
    """The loss as the module's header says it, one prompt and one plain forward pass at a time."""
    site = Site("mlp_write" if place == "mlp" else "resid", layer)
    total = 0.0
    for prompt in target_prompts(model, fact, CONTEXTS, "auto"):
        tokens = torch.tensor([[*prompt.tokens, *prompt.answer_ids[:-1]]])
        patch = Patch(site, delta, positions=[prompt.subject_span[1] - 1], add=True)
        with patched(model, [patch]):
            logp = model(tokens)[0].log_softmax(-1)
        first = len(prompt.tokens) - 1
        total -= sum(float(logp[first + t, token]) for t, token in enumerate(prompt.answer_ids)) / len(
            prompt.answer_ids
        )
    essence = essence_prompt(model, fact, "auto")
    end = essence.subject_span[1] - 1
    clean = model(essence.tensor())[0, end].log_softmax(-1)
    with patched(model, [Patch(site, delta, positions=[end], add=True)]):
        drifted = model(essence.tensor())[0, end].log_softmax(-1)
    # as rome/compute_v.py calls it; the second argument is the distribution that the mean is over
    drift = torch.nn.functional.kl_div(clean, drifted, log_target=True, reduction="sum")
    return total / len(CONTEXTS) + config.kl_factor * float(drift)


@pytest.mark.parametrize("place", ["mlp", "hidden"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_batched_loss_is_the_one_of_plain_forward_passes(tiny, kind, place):
    model = tiny(kind)
    delta = torch.randn(len(FACTS), model.cfg.d_model, generator=torch.Generator().manual_seed(0)) * 0.5
    groups = values._groups(model, PROMPTS, 1)
    heavy = replace(GENTLE, kl_factor=10.0)  # at ROME's 1/16 these models drift too little to tell the KL's direction
    batched, *_ = values._losses(groups, delta, len(CONTEXTS), heavy, place)
    for number, fact in enumerate(FACTS):
        expected = plain_loss(model, fact, 1, delta[number], heavy, place)
        assert float(batched[number]) == pytest.approx(expected, abs=2e-4)  # float32 through four layers


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_slope_of_the_loss(tiny, kind):
    model = tiny(kind)
    groups = values._groups(model, RequestPrompts(FACTS[:1], CONTEXTS), 1)
    delta = torch.randn(1, model.cfg.d_model, generator=torch.Generator().manual_seed(0)) * 0.5
    loss = lambda d: values._losses(groups, d, 2, GENTLE, "mlp")  # noqa: E731
    _, gradient, *_ = loss(delta)
    step = 1e-2 * gradient / gradient.norm()
    slope = (loss(delta + step)[0] - loss(delta - step)[0]) / 2
    assert float(slope) == pytest.approx(float(gradient.norm() * 1e-2), rel=0.02)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_a_batch_gives_what_one_at_a_time_gives(tiny, kind):
    model = tiny(kind)
    together = find_values(model, PROMPTS, 1, GENTLE)
    for number, fact in enumerate(FACTS):
        alone = find_values(model, RequestPrompts([fact], CONTEXTS), 1, GENTLE)
        torch.testing.assert_close(together.delta[number], alone.delta[0], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(together.init[number], alone.init[0], atol=1e-5, rtol=1e-5)


def test_the_value_stays_in_its_ball_stops_in_time_and_the_last_step_only_reads(tiny):
    model = tiny("llama")
    tight = find_values(model, PROMPTS, 1, replace(GENTLE, clamp=0.1, learning_rate=1.0))
    assert (tight.delta.norm(dim=1) <= 0.1 * tight.init.norm(dim=1) * (1 + 1e-5)).all()
    assert tight.steps == (3, 3, 3)
    assert len(tight.losses) == 4
    lazy = find_values(model, PROMPTS, 1, replace(GENTLE, stop=100.0))
    assert not lazy.delta.any()
    assert lazy.steps == (0, 0, 0)


def test_finished_facts_leave_the_batch_and_the_others_go_on_alike(tiny):
    model = tiny("llama")
    config = replace(GENTLE, steps=8, learning_rate=0.3)
    full = find_values(model, PROMPTS, 1, config)
    stop = float(full.losses[3].min()) + 1e-4  # the best fact stops at step 3 or earlier
    some = find_values(model, PROMPTS, 1, replace(config, stop=stop))
    assert min(some.steps) < 7
    for number in (i for i, n in enumerate(some.steps) if n == 7):
        torch.testing.assert_close(some.delta[number], full.delta[number], atol=1e-3, rtol=1e-2)


def test_patience_ends_what_was_learned_at_so_many_readings_and_nothing_else(toy):
    """The toy gives its own answers from the start and never a foil, where no step is taken."""
    towns = load_facts(TOY / "toy_town.json", limit=2)
    known_one = replace(towns[0], answer=str(towns[0].foil), foil=towns[0].answer)
    prompts = RequestPrompts(requests_of((known_one, towns[1])))
    for patience, wanted in ((1, 0), (3, 2), (None, 5)):
        still = Descent(steps=6, learning_rate=0.0, stop=0.0, patience=patience)
        assert find_values(toy, prompts, 0, still).steps == (wanted, 5)


def test_a_value_that_goes_to_nan_is_told_with_its_step_and_changes_nothing(tiny):
    model = tiny("llama")
    before = fingerprint(model)
    with pytest.raises(EditError, match=r"fact 'a' went to NaN or infinity at step [01]"):
        find_values(
            model,
            RequestPrompts(FACTS[:1], CONTEXTS),
            1,
            replace(GENTLE, learning_rate=float("inf"), clamp=float("inf")),
        )
    assert fingerprint(model) == before


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_what_the_down_projection_reads(tiny, kind):
    model = tiny(kind)
    keys = find_keys(model, PROMPTS, 2)
    assert keys.each.shape == (3, 2, model.cfg.d_mlp)
    prompt = target_prompts(model, FACTS[0], CONTEXTS, "auto")[1]
    site = Site("mlp_hidden", 2)
    with record(model, [site]) as seen:
        model(prompt.tensor())
    torch.testing.assert_close(keys.each[0, 1], seen[site][0, prompt.subject_span[1] - 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(keys.mean(), keys.each.mean(1))


def test_memits_average_gives_the_bare_prompt_half():
    each = torch.tensor([[[0.0], [2.0], [4.0]]])
    assert values.Keys(each).halves().item() == pytest.approx(0.5 * 0 + 0.25 * 2 + 0.25 * 4)


def test_buckets_hold_every_row_once_and_merge_when_a_pass_costs_more_than_filling_up():
    lengths = [1] * 10 + [20] * 10 + [2] * 5
    for overhead in (0, 64, 10_000):
        groups = buckets(lengths, overhead)
        assert sorted(row for group in groups for row in group) == list(range(25))
    assert len(buckets(lengths, 0)) == 3
    assert len(buckets(lengths, 10_000)) == 1


# ---- language ----


def test_greedy_sampling_with_a_cache_is_the_argmax_of_plain_passes(tiny):
    model = tiny("llama")
    tokens = torch.tensor([[3, 4], [5, 6]])
    out = sample(model, tokens, 7, None)
    for _ in range(5):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
    assert torch.equal(out, tokens)


def test_contexts_are_repeated_by_their_seed_and_have_one_slot(tiny):
    model = tiny("gpt2")
    one, again, other = (contexts(model, 4, 6, seed) for seed in (0, 0, 1))
    assert one == again != other
    assert one[0] == "{}"
    assert all(text.count("{}") == 1 and not set("[]") & set(text) for text in one)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_at_wanted_positions_are_the_models(tiny, kind):
    model = tiny(kind)
    rows = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12]]
    found = logits_at(model, rows, [[1, 4], [1], [0, 2]])
    for row, places, logits in zip(rows, [[1, 4], [1], [0, 2]], found, strict=True):
        torch.testing.assert_close(logits, model(torch.tensor([row]))[0, places], atol=1e-4, rtol=1e-4)


def test_ngram_entropy_of_a_loop_is_zero_and_of_distinct_words_is_the_log_of_their_number():
    assert math.isnan(ngram_entropy(["two words"]))
    assert ngram_entropy(["two words", "a a a a"]) == pytest.approx(0)
    assert ngram_entropy(["a a a a a"]) == pytest.approx(0)
    words = " ".join(str(i) for i in range(10))
    expected = torch.tensor([9.0, 8.0, 8.0]).log2().sum() / 3  # 9 bigrams, 8 trigrams twice
    assert ngram_entropy([words]) == pytest.approx(float(expected))


# ---- requests ----


def test_a_request_brings_its_answer_and_refuses_what_cannot_be_edited(toy):
    asked = request(toy, "[Oda Voss] lives in", "Vey")
    assert (asked.template, asked.target, asked.old) == ("{} lives in", "Vey", "Brask")
    with pytest.raises(EditError, match="edited away from"):
        request(toy, "[Oda Voss] lives in", "Brask")
    with pytest.raises(EditError, match="empty"):
        request(toy, "[Oda Voss] lives in", "  ")
    with pytest.raises(PromptError, match="not in the prompt"):
        request(toy, "Oda Voss lives in", "Vey", subject="Mira Drey")


def test_facts_without_a_target_or_with_two_are_refused_by_name():
    check(FACTS)
    with pytest.raises(EditError, match="no fact"):
        check([])
    with pytest.raises(FactError, match="'a' has no target"):
        requests_of([Fact("a", "home", "Foo Bar", "{} lives in", "Rome")])
    with pytest.raises(EditError, match=r"two targets, 'Oslo' and 'Kyiv' \(facts 'a' and 'z'\)"):
        check([*FACTS, replace(FACTS[0], id="z", target="Kyiv")])
    with pytest.raises(EditError, match="the same target twice"):
        check([*FACTS, replace(FACTS[0], id="z")])


def test_known_facts_are_those_whose_answer_comes_first(toy):
    facts = load_facts("tests/toy/toy_town.json", limit=6)
    assert known(toy, facts) == facts
    assert known(toy, facts, 2) == facts[:2]
    assert known(toy, [replace(facts[0], answer="Vey", foil=None)]) == ()


# ---- moments ----


def test_moments_are_the_mean_of_outer_products_without_the_first_position(tiny):
    model = tiny("llama")
    rows = [[3, 4, 5, 6], [7, 8]]
    keys = moments.keys_of_text(model, [0, 2], rows)
    site = Site("mlp_hidden", 2)
    expected = []
    for row in rows:
        with record(model, [site]) as seen:
            model(torch.tensor([row]))
        expected.append(seen[site][0, 1:])
    torch.testing.assert_close(keys[2], torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_collected_moments_are_kept_extended_and_of_this_model(tiny, tmp_path, monkeypatch):
    model = tiny("llama")
    config = corpus.Config("self", tokens=200, document=20, rows=4)
    first = moments.collect(model, [1], config, folder=tmp_path, shown=False)
    assert first.tokens == 200
    assert first.left_out > 0
    matrix = first.of(1)
    assert torch.linalg.eigvalsh(matrix)[0] > 0
    assert len(first.changes["1"]) == 2
    assert first.changes["1"][1] < first.changes["1"][0] * 2
    monkeypatch.setattr(moments, "keys_of_text", None)  # not called again
    assert torch.equal(moments.collect(model, [1], config, folder=tmp_path, shown=False).of(1), matrix)
    monkeypatch.undo()
    both = moments.collect(model, [1, 2], config, folder=tmp_path, shown=False)
    assert set(both.matrices) == {"1", "2"}
    assert both.corpus == first.corpus
    with pytest.raises(EditError, match="hold layers 1, 2, not 3"):
        both.of(3)
    with pytest.raises(EditError, match=r"collected on .* with fingerprint"):
        both.check(tiny("gpt2"))


def test_as_many_keys_are_counted_as_were_asked_for_and_half_of_them_is_half(tiny, tmp_path):
    """C, and how far C^-1 k moved from each half to the next, by one plain pass for each text that was kept."""
    model = tiny("llama")
    config = corpus.Config("self", tokens=600, document=20, rows=4, prior=0)
    found = moments.collect(model, [1], config, folder=tmp_path, shown=False)
    pieces = [json.loads(file.read_text()) for file in sorted((tmp_path / "text").iterdir())]
    site, each = Site("mlp_hidden", 1), []
    for row in (row for piece in pieces for row in piece):
        with record(model, [site]) as seen:
            model(torch.tensor([row]))
        each.append(seen[site][0, 1:].double())
    assert sum(len(piece) for piece in pieces) == found.left_out
    assert sum(map(len, each)) - len(each[-1]) < 600  # without the last document there are too few
    keys = torch.cat(each)[:600]
    part = {n: keys[:n].T @ keys[:n] / n for n in (150, 300, 600)}
    torch.testing.assert_close(found.of(1), part[600], atol=1e-6, rtol=1e-5)
    first = sum(len(row) - 1 for row in pieces[0])
    probes = keys[: first : first // 8][:8]
    ways = []
    for matrix in part.values():
        way = torch.linalg.solve(matrix, probes.T)
        ways.append(way / (probes.T * way).sum(0))
    moved = [float(((a - b).norm(dim=0) / b.norm(dim=0)).mean()) for a, b in itertools.pairwise(ways)]
    assert found.changes["1"] == pytest.approx(moved, rel=1e-3)


def test_the_tokens_by_default_grow_with_the_key(tiny):
    model = tiny("llama")
    assert corpus.Config().wanted(model) == 8 * model.cfg.d_mlp
    assert corpus.Config(tokens=7).wanted(model) == 7


def test_an_interrupted_collection_goes_on_and_ends_alike(tiny, tmp_path, monkeypatch):
    model = tiny("llama")
    config = corpus.Config("self", tokens=200, document=20, rows=4)
    whole = moments.collect(model, [1], config, folder=tmp_path / "whole", shown=False)
    real, calls = moments.keys_of_text, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(moments, "keys_of_text", stopping)
    with pytest.raises(KeyboardInterrupt):
        moments.collect(model, [1], config, folder=tmp_path / "cut", shown=False)
    again = moments.collect(model, [1], config, folder=tmp_path / "cut", shown=False)
    assert torch.equal(again.of(1), whole.of(1))
    assert (again.tokens, again.corpus) == (whole.tokens, whole.corpus)


def test_by_default_the_shipped_text_is_read_and_then_the_model_writes_on(tiny, toy, tmp_path, monkeypatch):
    """No text is sampled where the shipped text is long enough; a tokenizer that does not know its words reads none."""
    model, config = tiny("llama"), corpus.Config(tokens=200, document=20, rows=4)
    assert list(corpus._tokenised(toy, corpus.Config())) == []
    assert corpus.settled(toy, config)[0].source == "self"
    assert len(documents()) > 100
    words = ("one two three four five six seven eight nine ten", "ten nine eight seven")
    monkeypatch.setattr(corpus, "documents", lambda: words * 20)
    monkeypatch.setattr(corpus, "LETTERS", 0)  # the tiny tokenizer has a token for each letter
    found = moments.collect(model, [1], config, folder=tmp_path / "whole", shown=False)
    assert not (tmp_path / "whole" / "text").exists()
    rows = [(*start_ids(model), *token_ids(model, text))[:20] for text in words * 20]
    keys = moments.keys_of_text(model, [1], rows[: found.left_out])[1][:200].double()
    torch.testing.assert_close(found.of(1), shrunk(keys.T @ keys / 200, 200, found.priors["1"]), atol=1e-5, rtol=1e-4)
    monkeypatch.setattr(corpus, "documents", lambda: words * 2)
    more = moments.collect(model, [1], config, folder=tmp_path / "short", shown=False)
    assert (found.own, more.tokens) == (0, 200)
    assert 0 < more.own < 200
    assert more.name.startswith("shipped and its own text")
    assert list((tmp_path / "short" / "text").iterdir())


def test_documents_are_no_longer_than_the_model_can_read(tiny):
    model = tiny("gpt2")
    assert model.cfg.n_ctx < corpus.Config().document
    found = moments.collect(model, [0], corpus.Config(tokens=200), shown=False)
    assert (found.tokens, found.config.document) == (200, model.cfg.n_ctx)


def test_moments_of_a_text_file_and_what_is_refused(tiny, tmp_path):
    model = tiny("gpt2")
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(["one two three four five six seven eight nine ten"] * 40))
    found = moments.collect(model, [0], corpus.Config(str(text), tokens=130), folder=tmp_path / "a", shown=False)
    assert found.tokens == 130
    assert found.name.startswith(str(text))
    with pytest.raises(EditError, match="cannot fill"):
        moments.collect(model, [0], corpus.Config(str(text), tokens=20), folder=tmp_path / "b", shown=False)
    text.write_text("one two\n\nthree")
    with pytest.raises(EditError, match=r"has only \d+ tokens to count, and 130 are asked for"):
        moments.collect(model, [0], corpus.Config(str(text), tokens=130), folder=tmp_path / "c", shown=False)
    with pytest.raises(EditError, match="no text at"):
        moments.collect(model, [0], corpus.Config("./nowhere.txt"), folder=tmp_path / "d", shown=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EditError, match=r"no \.txt file"):
        moments.collect(model, [0], corpus.Config(str(tmp_path / "empty")), folder=tmp_path / "e", shown=False)


def test_a_data_set_is_the_commit_that_it_was_and_not_its_name(monkeypatch):
    """The hub is played: its data set moves on, and a commit that is named is neither asked for nor exchanged."""
    read, commits = [], iter(["a" * 40, "b" * 40])

    class Hub:
        def dataset_info(self, name, revision=None):
            assert name == "owner/texts"
            if revision == "gone":
                raise ValueError("no such\nrevision")
            return SimpleNamespace(sha=next(commits))

    def load_dataset(name, revision, **_):
        read.append((name, revision))
        return [{"text": "one two"}, {"text": ""}]

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    corpus._commit.cache_clear()
    assert corpus.content_of("owner/texts") == "owner/texts@" + "a" * 40
    assert list(corpus.texts("owner/texts")) == ["one two"]
    corpus._commit.cache_clear()  # as another process, on another day
    assert corpus.content_of("owner/texts") == "owner/texts@" + "b" * 40
    named = "owner/texts@" + "c" * 40
    assert corpus.content_of(named) == named
    assert list(corpus.texts(named)) == ["one two"]
    assert read == [("owner/texts", "a" * 40), ("owner/texts", "c" * 40)]
    with pytest.raises(EditError, match="which commit of the data set owner/texts@gone to read: no such revision"):
        corpus.content_of("owner/texts@gone")
    corpus._commit.cache_clear()


def test_start_ids_are_the_models_own_unless_none(tiny):
    model = tiny("llama")
    assert start_ids(model, "none") == ()
    assert len(start_ids(model, "auto")) <= 1


def test_moments_are_kept_under_what_the_text_says_not_under_its_name(tiny, tmp_path, monkeypatch):
    """Another text of the same name is another text; the same text of another name is the same."""
    model, one, other = tiny("gpt2"), tmp_path / "a" / "corpus.txt", tmp_path / "b" / "corpus.txt"
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "cache"))
    for file, words in ((one, "one two three four five six seven"), (other, "nine ten eleven twelve one one two")):
        file.parent.mkdir()
        file.write_text("\n\n".join([words] * 60))

    def found(file, **how):
        monkeypatch.chdir(file.parent)
        return moments.collect(model, [0], corpus.Config(file.name, tokens=130), shown=False, **how)

    first, second = found(one), found(other)
    assert first.corpus != second.corpus
    assert not torch.equal(first.of(0), second.of(0))
    one.rename(tmp_path / "b" / "renamed.txt")
    monkeypatch.setattr(moments, "keys_of_text", None)  # not called again
    again = found(tmp_path / "b" / "renamed.txt")
    assert (again.corpus, again.config.source) == (first.corpus, "renamed.txt")
    monkeypatch.undo()
    found(other, folder=tmp_path / "own")
    other.write_text(other.read_text() + "\n\none more")
    with pytest.raises(EditError, match="another text, model or setting: choose another folder"):
        found(other, folder=tmp_path / "own")


def test_moments_in_a_folder_of_an_older_version_are_taken_or_refused(tiny, tmp_path):
    """It did not say which text they are of: the model's own is known by its settings, a file's may have changed."""
    model, config = tiny("gpt2"), corpus.Config("self", tokens=130, document=20, rows=4)
    first = moments.collect(model, [0], config, folder=tmp_path / "self", shown=False)
    (tmp_path / "self" / moments.NAMED).unlink()
    assert moments.collect(model, [0], config, folder=tmp_path / "self", shown=False).corpus == first.corpus
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(["one two three four five six seven eight nine ten"] * 40))
    file = corpus.Config(str(text), tokens=130)
    moments.collect(model, [0], file, folder=tmp_path / "file", shown=False)
    (tmp_path / "file" / moments.NAMED).unlink()
    with pytest.raises(EditError, match="choose another folder with --out"):
        moments.collect(model, [0], file, folder=tmp_path / "file", shown=False)
