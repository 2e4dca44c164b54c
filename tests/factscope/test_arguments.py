"""What a call of `import factscope` is given: a mistake is one sentence that names the argument, before any work."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import pytest

import factscope as fs
from factscope.arguments import _check, checked, hints
from factscope.errors import ArgumentError, ModelError

_fs: Any = fs  # a type checker sees these mistakes too
CALLS = [name for name in fs.__all__ if inspect.isfunction(getattr(fs, name))]
ANYTHING = {  # arguments that a call itself looks at
    ("load_model", "spec"), ("load_model", "tokenizer"), ("save", "result"), ("write_page", "result"),
    ("page", "result"), ("pictures", "result"), ("cite", "result"), ("log", "result"),
}  # fmt: skip


def refuse(_: Any) -> None:
    raise ArgumentError("no model")


@pytest.mark.parametrize("name", CALLS)
def test_every_argument_of_every_call_is_looked_at(name: str) -> None:
    """No annotation is lost, and none takes a thing that nobody has heard of."""
    call = inspect.unwrap(getattr(fs, name))
    for argument, one in inspect.signature(call).parameters.items():
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) or (name, argument) in ANYTHING:
            continue
        with pytest.raises(ArgumentError, match=argument if argument != "model" else "no model|model"):
            _check(f"fs.{name}: {argument}", object(), hints(call)[argument], {"Bridge": refuse})
        if one.default is not one.empty:
            _check(argument, one.default, hints(call)[argument], {})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, p: _fs.generate(m, p, edits=["x"]), r"fs.generate: edits\[0\] is a str, 'x', where an Edit"),
        (lambda m, p: _fs.generate(m, p, edits="x"), "edits is a str, 'x', where a list of Edit is needed: fs.edit"),
        (lambda m, p: _fs.generate(m, p, tokens="5"), "tokens is a str, '5', where a whole number is needed"),
        (lambda m, _: _fs.lens(m, 3), r"fs.lens: prompt is an int, 3, .* needed: fs.prompt\(model, text\)"),
        (lambda m, p: _fs.lens(m, p, norm="none at all"), "norm is a str, 'none at all', where 'per-state' or"),
        (lambda m, p: _fs.about_prompt(m, p), "text is a Prompt, where a text is needed: give its text"),
        (lambda m, p: _fs.find_circuit(m, p, _fs.EAPIG), "method is the class EAPIG, not called"),
        (lambda m, p: _fs.find_circuit(m, p, "eap-ig"), "method is a str, 'eap-ig', where a Method is needed"),
        (lambda m, p: _fs.edit(m, p, "rome"), "requests is a Prompt, where an EditRequest or a Fact or a list of"),
        (lambda m, _: _fs.edit(m, "The sea is in", "rome"), r"a list of EditRequest or Fact is needed: fs.request"),
        (lambda m, p: _fs.request(m, p, 3), "target is an int, 3, where a text is needed"),
        (lambda m, p: _fs.evaluate(m, _fs.request(m, p, "Vey")), "edits is an EditRequest, where a list of Edit"),
        (lambda m, p: _fs.average(m, [p], journal="j"), r"facts\[0\] is a Prompt, where a Fact is needed"),
        (lambda m, p: _fs.prompt(m, p), "text is a Prompt, where a text is needed: give its text"),
        (lambda *_: _fs.cite(3), "type int is no result"),
        (lambda *_: _fs.log(3, "wandb"), "type int is no result"),
        (lambda m, _: _fs.trace(m), r"missing a required argument: 'prompt'; it is called as fs.trace\(model, prompt"),
        (lambda m, p: _fs.trace(m, p, samples=3), "unexpected keyword argument 'samples'; it is called as"),
        (lambda m, p: _fs.trace(p, m), "a Prompt is not ready to be asked"),
        (lambda _, p: _fs.trace("smollm2", p), "a str is not ready to be asked: give it to fs.load_model"),
        (lambda m, _: _fs.trace(m, "the sea is in"), "no subject could be guessed"),
        (lambda m, _: _fs.trace(m, ""), "the prompt is empty"),
        (lambda *_: _fs.load(3), "folder is an int, 3, where a text or a Path is needed"),
        (lambda *_: _fs.load("no/such/folder"), "no/such/folder"),
        (lambda *_: _fs.save(3, "x"), "int"),
        (lambda *_: _fs.page(3), "int"),
        (lambda *_: _fs.protocol("no such"), "no such"),
        (lambda *_: _fs.load_facts("no_such_relation"), "no_such_relation"),
        (lambda m, p: _fs.edit(m, _fs.request(m, p, "Vey"), "rme"), "rme"),
        (lambda m, p: _fs.edit(m, _fs.request(m, p, "Vey"), "ft_m", settings={"stps": 3}), "stps"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(toy: Any, call: Callable[..., Any], words: str) -> None:
    prompt = fs.prompt(toy, "[Oda Voss] lives in", answer="Brask")
    with pytest.raises(fs.UserError, match=words) as told:
        call(toy, prompt)
    assert "\n" not in str(told.value)


def test_a_text_is_traced_as_the_prompt_that_it_makes(toy: Any) -> None:
    few = fs.TraceConfig(samples=1, sites=("mlp",))
    text = fs.trace(toy, "[Oda Voss] lives in", few)
    prompt = fs.trace(toy, fs.prompt(toy, "[Oda Voss] lives in"), few)
    assert text.grid("mlp").effect.equal(prompt.grid("mlp").effect)


def test_what_an_annotation_allows_goes_through() -> None:
    def call(
        a: Sequence[int | str] = (), *, b: Literal["x", 2] = 2, c: Mapping[str, Any] | None = None, d: float = 1
    ) -> tuple[Any, ...]:
        """Its own words."""
        return tuple(a), b, c, d

    same: Any = checked(call, "call", {})
    assert same([1, "y"], b="x", c={}, d=0.5) == ((1, "y"), "x", {}, 0.5)
    assert same(iter([3])) == ((3,), 2, None, 1)
    assert (same.__doc__, inspect.signature(same)) == (call.__doc__, inspect.signature(call))
    for wrong in ({"a": "y"}, {"a": [1.5]}, {"b": "y"}, {"b": 2.5}, {"c": 3}, {"d": "1"}, {"d": True}, {"a": {1: 2}}):
        with pytest.raises(TypeError, match=f"call: {next(iter(wrong))}"):
            same(**wrong)


def test_a_model_is_refused_in_its_own_sentence(toy: Any) -> None:
    def call(model: "fs.Prompt", more: Iterable[int] = ()) -> None: ...

    def gone(_: Any) -> None:
        raise ModelError("gone")

    with pytest.raises(ModelError, match="gone"):
        checked(call, "call", {"Prompt": gone})(toy)
