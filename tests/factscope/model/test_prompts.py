"""Text becomes tokens in one place: spans by characters, answers by suffix, guesses said aloud."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from factscope.data.fact import Fact
from factscope.data.joining import between
from factscope.errors import PromptError, TokenMismatch
from factscope.model.bridge import info
from factscope.model.prompts import (
    PromptPair,
    make_prompt,
    prompt_of,
    start_ids,
    swap_subject,
    token_ids,
    tokenized,
    with_answer,
)
from tracing.causal import Config as TraceConfig
from tracing.causal import trace


def spelled(prompt: Any) -> str:
    return "".join(prompt.labels[i] for i in prompt.subject_positions).strip()


@pytest.mark.parametrize("text", ["[Mira Voss] lives in", "In Brask [Mira Voss] lives in", "über [Mira Voss] lives in"])
def test_brackets_mark_the_subject_and_vanish(toy: Any, text: str) -> None:
    prompt = make_prompt(toy, text)
    assert prompt.text == text.replace("[", "").replace("]", "")
    assert (prompt.subject, prompt.subject_from) == ("Mira Voss", "brackets")
    assert spelled(prompt) == "Mira Voss"
    assert prompt.marked == text


def test_a_notebook_shows_what_was_taken_for_subject_and_answer_in_a_line(toy: Any) -> None:
    bare = make_prompt(toy, "[Mira Voss] lives in", start="none")
    where = "'[Mira Voss] lives in' (subject from: brackets)"
    assert repr(bare) == f"Prompt: {where}, no answer; {len(bare.tokens)} tokens, no start token"
    said = repr(make_prompt(toy, "Where Mira Voss lives is", answer="Brask", foil="Vey"))
    assert said.startswith("Prompt: 'Where [Mira Voss] lives is' (subject from: guess")
    assert "), answer ' Brask' (from: flag), foil ' Vey'; " in said
    several = make_prompt(toy, "[Mira Voss] lives in", answer="Xanadu")
    assert repr(several).endswith(f"begun by <|endoftext|>; {several.notes[0]}")


def test_the_tokens_are_those_of_the_whole_text_after_the_start_token(toy: Any) -> None:
    prompt = make_prompt(toy, "[Mira Voss] lives in")
    assert prompt.tokens == (0, *toy.tokenizer("Mira Voss lives in", add_special_tokens=False)["input_ids"])
    assert (prompt.start_token, prompt.n_start) == ("<|endoftext|>", 1)
    bare = make_prompt(toy, "[Mira Voss] lives in", start="none")
    assert bare.tokens == prompt.tokens[1:]
    assert bare.subject_span == tuple(i - 1 for i in prompt.subject_span)


def test_a_marked_subject_that_occurs_twice_is_the_marked_one(toy: Any) -> None:
    prompt = make_prompt(toy, "Mira likes [Mira] in")
    assert prompt.subject_characters == (11, 15)
    assert spelled(prompt) == "Mira"
    assert prompt.subject_span[0] > 2
    pair = swap_subject(toy, prompt, "Ilse")
    assert pair.corrupt.text == "Mira likes Ilse in"


def test_subject_by_flag_shipped_fact_and_guess_say_how_they_were_found(toy: Any) -> None:
    assert make_prompt(toy, "The sea is in Vey", subject="sea").subject_from == "flag"
    assert make_prompt(toy, "The Eiffel Tower is located in the city of").subject_from == "fact"
    guess = make_prompt(toy, "yesterday Zorbo Quux went to")
    assert guess.subject == "Zorbo Quux"
    assert guess.subject_from.startswith("guess")


def test_the_answer_is_the_suffix_of_the_whole_text(toy: Any) -> None:
    prompt = make_prompt(toy, "[Mira Voss] lives in", answer="Brask")
    whole = toy.tokenizer("Mira Voss lives in Brask", add_special_tokens=False)["input_ids"]
    assert (*prompt.tokens[1:], *prompt.answer_ids) == tuple(whole)
    assert prompt.answer == " Brask"
    assert with_answer(toy, prompt, " Brask", "flag").answer_ids == prompt.answer_ids  # its own space is not doubled


def test_an_answer_of_several_tokens_is_said(toy: Any) -> None:
    prompt = make_prompt(toy, "[Mira Voss] lives in", answer="Xanadu")
    assert len(prompt.answer_ids) > 1
    assert "traced by its first" in prompt.notes[0]


def test_roles_cover_every_token_and_the_answer_follows_the_last(toy: Any) -> None:
    roles = make_prompt(toy, "In Vey [Mira Hallin Voss] lives in").roles()
    assert roles == (
        "start token",
        *["before subject"] * roles.count("before subject"),
        "first subject",
        "middle subject",
        "last subject",
        "first after",
        "last token",
    )
    assert make_prompt(toy, "[Mira] lives in").roles()[1:] == ("last subject", "first after", "last token")


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, "empty"),
        ("   ", {}, "empty"),
        ("Mira lives in", {"subject": "Tomas"}, "not in the prompt"),
        ("Mira lives in", {"subject": "Mirra"}, "did you mean 'Mira'"),
        ("Mira and Mira live in", {"subject": "Mira"}, "2 times.*brackets"),
        ("[Mira] and [Oda] live in", {}, "marks 2"),
        ("the town is", {}, "brackets"),
        ("[Mira] lives in", {"answer": " "}, "answer is empty"),
        ("[Mira] lives in", {"start": "<nope>"}, "not a token of this model"),
        ("[Mira] lives in" + " in" * 80, {}, "64 at most"),
    ],
)
def test_a_prompt_that_cannot_be_traced_is_refused_in_words(toy: Any, text: str, options: Any, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        make_prompt(toy, text, **options)


def test_a_foil_that_begins_like_the_answer_is_refused(toy: Any) -> None:
    with pytest.raises(TokenMismatch, match="same token"):
        make_prompt(toy, "[Mira Voss] lives in", answer="Brask", foil="Brask now")


def test_a_trailing_space_is_taken_off_and_said(toy: Any) -> None:
    prompt = make_prompt(toy, "[Mira Voss] lives in ")
    assert prompt.text.endswith("in")
    assert "space" in prompt.notes[0]


@pytest.mark.parametrize(
    ("text", "answer", "space"),
    [
        ("Mira Voss lives in", "Brask", " "),
        ('Mira Voss says "', "Brask", ""),  # an opening quote
        ('Mira Voss says "no"', "and", " "),  # a closing one
        ("the bakers'", "guild", " "),  # an apostrophe
        ("Mira Voss lives (in", "Brask", " "),
        ("Mira Voss (", "Brask", ""),
        ("a semi-", "final", ""),  # a hyphen inside a word
        ("a final -", "Brask", " "),  # a dash between words
        ("either/", "or", ""),
        ("It costs $", "5", ""),
        ("中国的首都是", "北京", ""),  # a script without spaces
        ("The capital of China is", "北京", " "),
        ("日本の首都は「", "東京", ""),
        ("Mira Voss is here", ".", ""),
        ("a framework called", ".NET", " "),
    ],
)
def test_a_space_stands_before_an_answer_where_one_belongs(text: str, answer: str, space: str) -> None:
    assert between(text, answer) == space


@pytest.mark.parametrize("text", ['[Mira Voss] says "', "[Mira Voss] ("])
def test_an_answer_after_a_quote_is_what_the_text_goes_on_with(toy: Any, text: str) -> None:
    """Its tokens are those of the text as a person writes it; a space of the answer's own is kept."""
    prompt = make_prompt(toy, text, answer="Brask")
    whole = toy.tokenizer(prompt.text + "Brask", add_special_tokens=False)["input_ids"]
    assert prompt.tokens[1:] + prompt.answer_ids == tuple(whole)
    assert prompt.answer == "Brask"
    assert "without a space" in " ".join(prompt.notes)
    assert tokenized(toy, prompt.text, "Brask")[1] == prompt.answer_ids
    spaced = make_prompt(toy, text, answer=" Brask")
    assert spaced.answer == " Brask"
    assert spaced.answer_ids != prompt.answer_ids


def test_a_start_token_that_the_text_brings_is_noticed(toy: Any) -> None:
    once = make_prompt(toy, "<|endoftext|>[Mira Voss] lives in", start="none")
    assert (once.tokens[0], once.notes) == (0, ())
    twice = make_prompt(toy, "<|endoftext|>[Mira Voss] lives in")
    assert twice.tokens == (0, *once.tokens)
    assert "stands at the beginning twice" in twice.notes[0]


def test_a_line_break_at_the_end_is_called_what_it_is(toy: Any) -> None:
    assert "line break" in make_prompt(toy, "[Mira Voss] lives in\n").notes[0]


def test_text_that_is_no_text_is_refused(toy: Any) -> None:
    with pytest.raises(PromptError, match="characters that no text has"):
        make_prompt(toy, "[Mira Voss] lives in \udce9")


def test_pairs_must_align(toy: Any) -> None:
    prompt = make_prompt(toy, "[Mira Voss] lives in")
    assert swap_subject(toy, prompt, "Oda Senn").corrupt.tokens[3:] == prompt.tokens[3:]
    with pytest.raises(TokenMismatch, match="equal length"):
        swap_subject(toy, prompt, "Ilse")
    other = make_prompt(toy, "[Mira Voss] speaks in")
    with pytest.raises(TokenMismatch, match="outside the subject"):
        PromptPair(prompt, other)
    with pytest.raises(TokenMismatch, match="place"):
        PromptPair(prompt, replace(prompt, subject_span=(0, 2)))


def test_a_facts_subject_is_where_its_template_puts_it(toy: Any) -> None:
    fact = Fact(id="x/1", relation="x", subject="in", template="in in {} in", answer="Vey", foil="Vey now")
    prompt = prompt_of(toy, fact)
    assert prompt.subject_characters == (6, 8)
    assert prompt.foil is None  # it begins like the answer, which a note says
    assert "same token" in prompt.notes[-1]


class WithUnknown:
    """A tokenizer that has a token for what it does not know, as BERT's and Llama's have."""

    bos_token = "<s>"
    _ids: ClassVar = {"<unk>": 0, "<s>": 1}

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        return [self._ids.get(token, 0) for token in tokens]

    def convert_ids_to_tokens(self, number: int) -> str:
        return {number: token for token, number in self._ids.items()}[number]


def test_one_function_gives_the_start_token_and_checks_it(toy: Any) -> None:
    """A prompt and a bare row begin alike, and a token that the tokenizer does not have is never its unknown token."""
    for start in ("auto", "none", "<|endoftext|>"):
        prompt = make_prompt(toy, "[Mira Voss] lives in", start=start)
        assert start_ids(toy, start) == prompt.tokens[: prompt.n_start]
    with pytest.raises(PromptError, match="'<nope>' is not a token of this model"):
        start_ids(toy, "<nope>")
    other = SimpleNamespace(tokenizer=WithUnknown(), factscope=info(toy), embed=toy.embed)
    assert start_ids(other, "<s>") == (1,)
    with pytest.raises(PromptError, match="'<nope>' is not a token of this model"):
        start_ids(other, "<nope>")


@pytest.mark.parametrize("text", ["Oda Voss lives in", "The [town] of", " Oda Voss lives in "])
def test_a_prompt_without_a_subject_has_the_tokens_of_one_that_is_all_subject(toy: Any, text: str) -> None:
    whole = make_prompt(toy, text, subject=text.strip(), answer="Vey")
    assert tokenized(toy, text, "Vey") == (whole.tokens, whole.answer_ids)
    assert tokenized(toy, text) == (whole.tokens, ())


@pytest.mark.parametrize(
    ("text", "answer", "said"), [(" ", "Vey", "the prompt is empty"), ("Oda", " ", "answer is empty")]
)
def test_a_prompt_without_a_subject_is_refused_as_others_are(toy: Any, text: str, answer: str, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        tokenized(toy, text, answer)


# ---- tokenizers and models of different size ----


def grown(folder: Path, rows: int, winner: int | None = None) -> Any:
    """The toy with so many more rows than its tokenizer has tokens; `winner` is what it says to "Oda Voss lives in"."""
    from safetensors.torch import load_file, save_file

    from factscope.model.load import load
    from helpers.architectures import plain
    from helpers.models import TOY

    shutil.copytree(TOY, folder)
    weights = load_file(folder / "model.safetensors")
    table = torch.cat([weights["model.embed_tokens.weight"], torch.zeros(rows, 48)])
    head = table.clone()
    if winner is not None:
        head[winner] = 5 * plain(TOY).model(torch.tensor([[0, *TOKENIZED]])).last_hidden_state[0, -1].detach()
    weights |= {"model.embed_tokens.weight": table, "lm_head.weight": head}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    changed = {"vocab_size": len(table), "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config | changed))
    return load(str(folder), device="cpu")


TOKENIZED = (279, 332, 328, 271)  # "Oda Voss lives in"


def test_rows_that_no_token_reaches_change_nothing_and_are_no_answer(toy: Any, tmp_path: Path) -> None:
    prompt = make_prompt(toy, "[Oda Voss] lives in")
    padded = grown(tmp_path / "padded", 16)
    torch.testing.assert_close(padded(prompt.tensor())[..., :416], toy(prompt.tensor()))
    wrong = grown(tmp_path / "wrong", 16, winner=425)
    assert int(wrong(prompt.tensor())[0, -1].argmax()) == 425
    with pytest.raises(PromptError, match=r"token 425, which its tokenizer does not have.*--answer"):
        trace(wrong, prompt, TraceConfig(samples=1))
    assert make_prompt(wrong, "[Oda Voss] lives in", answer="Brask").answer_ids


def test_a_token_that_the_model_was_never_given_is_named(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import copy

    tokenizer = copy.deepcopy(toy.tokenizer)
    tokenizer.add_tokens(["Zwolle"])
    monkeypatch.setattr(toy, "_tokenizer", tokenizer)
    for text, answer, start in (
        ("[Zwolle] lies in", "Brask", "auto"),
        ("[Oda Voss] lives in", "Zwolle", "auto"),
        ("[Oda Voss] lives in", "Brask", "Zwolle"),
    ):
        with pytest.raises(PromptError, match=r"'Zwolle' \(number 416\) that the model, of 416 tokens"):
            make_prompt(toy, text, answer=answer, start=start)
    with pytest.raises(PromptError, match="Zwolle"):
        token_ids(toy, "of Zwolle")


def test_start_ids_are_the_models_own_unless_none(tiny):
    model = tiny("llama")
    assert start_ids(model, "none") == ()
    assert len(start_ids(model, "auto")) <= 1
