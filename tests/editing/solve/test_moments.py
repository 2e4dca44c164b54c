"""Second moments against their definition; collected, kept, extended and taken up; the texts that they are of."""

import itertools
import json
import sys
from types import SimpleNamespace

import pytest
import torch

from editing.solve import corpus, moments
from editing.solve.shrinkage import shrunk
from factscope.data.shipped import documents
from factscope.errors import EditError
from factscope.model.hooks import record
from factscope.model.prompts import start_ids, token_ids
from factscope.model.sites import Site


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


def test_moments_stay_in_the_cache_whatever_a_models_files_call_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path))
    for name in ("owner/name", "SmolLM2-135M", "/elsewhere/x", "../../x", "..", "a/../../../../x"):
        monkeypatch.setattr(moments, "info", lambda _, name=name: SimpleNamespace(name=name))
        assert moments._kept(tiny("llama"), "0" * 64).resolve().is_relative_to(tmp_path.resolve()), name


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
