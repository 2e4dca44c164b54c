"""A guessed subject is what a reader would call it: names first, things next, and never a verb that is shipped."""

import pytest

from factscope.data.shipped import relations
from factscope.data.subjects import guess_subject, subject_in
from factscope.errors import PromptError


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("Everyone likes France because", "France"),
        ("In the shade of the Eiffel Tower stands", "the Eiffel Tower"),
        ("Eiffel Tower is in", "Eiffel Tower"),
        ("Is it hot in Spain or in France?", "France"),  # shipped names, then the longest
        ("The Last Supper and The Scream", "The Last Supper"),
        ("Dr. Martin Luther King gave a speech in", "Dr. Martin Luther King"),  # Martin Luther is shipped
        ("Vegetarians do not eat", "Vegetarians"),
        ("I think that Berlin is the capital of", "Berlin"),
        ("London is big and", "London"),
        ("In 1969, Apollo 11 landed on the", "Apollo 11"),
        ("Isaac Newton's laws describe", "Isaac Newton"),
        ("On Monday, Peter went to", "Peter"),
        ("In The Hague, the", "The Hague"),
        ("According to NASA, the moon is", "NASA"),
        ("Shakespeare wrote the play Romeo and", "Shakespeare"),
        ("The Who played in", "The Who"),
        ("Its Majesty, the U.S. Army", "U.S. Army"),
        ("the dog is happy and the cat is", "dog"),
        ("the speed of light is about", "light"),
        ("the plural of 'eat' is", "eat"),
        ("another word for happy is", "happy"),
    ],
)
def test_what_a_sentence_is_about(text: str, subject: str) -> None:
    found, (begin, end), how = subject_in(text)
    assert (found[begin:end], how.split(":")[0]) == (subject, "guess")


@pytest.mark.parametrize(
    "text",
    [
        "My children like to eat",
        "Most people eat breakfast in the",
        "When the weather is hot, people drink",
        "In winter, the days are short and the nights are",
        "She ran to the store to buy",
        "Yesterday we went to see the old",
        "Nobody knows when the strong man will begin to",
        "The",
        "I",
        "frances likes hotels and",  # whole words only
    ],
)
def test_where_no_subject_is_likely_none_is_guessed(text: str) -> None:
    with pytest.raises(PromptError, match=r"no subject could be guessed in .*\[brackets\]"):
        guess_subject(text)


def test_no_shipped_verb_is_guessed_where_it_is_one() -> None:
    for entry in relations()["verb_past_tense"].entries:
        with pytest.raises(PromptError):
            guess_subject(f"some people {entry.subject} it and")
