"""Profane words, held against better-profanity's own look-up."""

from __future__ import annotations

import random

import pytest
from better_profanity import Profanity

from stillhouse.profanity import ProfaneWords

PLAIN = Profanity()
LIST = sorted(str(word) for word in PLAIN.CENSOR_WORDSET)


def spelled(word: str, draw: random.Random) -> str:
    """A word in one of the spellings that the library holds for the same."""
    return "".join(draw.choice(PLAIN.CHARS_MAPPING.get(letter, (letter,))) for letter in word.lower())


def test_the_same_texts_are_profane() -> None:
    draw = random.Random(0)
    found = ProfaneWords()
    told = []
    for _ in range(60):
        words = draw.choices(["film", "a", "class", "Hello", "x1", "assess"], k=draw.randrange(5))
        if draw.random() < 0.6:
            words.insert(draw.randrange(len(words) + 1), spelled(draw.choice(LIST), draw))
        text = draw.choice([" ", "-", ", "]).join(words)
        told.append(bool(found.found(text)))
        assert told[-1] == PLAIN.contains_profanity(text), text
    assert len(set(told)) == 2


def test_every_word_of_the_list_is_found_in_every_spelling() -> None:
    draw, found = random.Random(1), ProfaneWords()
    for word in LIST:
        assert spelled(word, draw) in found._words, word


@pytest.mark.parametrize(
    ("text", "words"),
    [("This sh1t is BAD shit", ["sh1t", "shit"]), ("Scunthorpe is a class of its own", []), ("", []), ("ass", ["ass"])],
)
def test_the_words_are_told(text: str, words: list[str]) -> None:
    assert ProfaneWords().found(text) == words


def test_words_of_ones_own_and_words_that_may_be_said() -> None:
    own = ProfaneWords(words=["Frobnicate", "one two three four five six seven"], allow=["God", " hell "])
    assert own.found("god knows what the hell") == []
    assert own.found("frobn1cate it") == ["frobn1cate"]
    assert own.found("say one two three four five six seven")
    assert own.found("shit") == ["shit"]
