"""Profane words in English texts: better-profanity's list, with a faster look-up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_SAME = str.maketrans("@*4o0il1uve3$57", "aaaaaaaaaaaasst")
"""Makes every spelling that better-profanity holds for the same (`sh1t`, `sh*t`) one word; some others as well."""


class ProfaneWords:
    """Finds words and phrases of better-profanity's list in any of the spellings that it knows.

    Args:
        words: words and phrases beside that list.
        allow: words of that list that are not looked for, in none of their spellings.
    """

    def __init__(self, *, words: Sequence[str] = (), allow: Sequence[str] = ()) -> None:
        from better_profanity import Profanity

        known = [str(word) for word in Profanity().CENSOR_WORDSET]
        # The list has some words in several spellings. Of no words the censor would make its own list.
        allowed = _Words(Profanity([word.strip() for word in allow]).CENSOR_WORDSET if allow else ())
        self._censor = Profanity([word for word in (*known, *map(str.strip, words)) if word.lower() not in allowed])
        self._words = _Words(self._censor.CENSOR_WORDSET)
        self._censor.CENSOR_WORDSET = self._words

    def found(self, text: str) -> list[str]:
        """The profane words in the text, in lower case as they are written, in the text's order."""
        self._words.found.clear()
        self._censor.contains_profanity(text)
        return list(self._words.found)


class _Words:
    """Spellings to compare words with. The censor looks up every word and phrase of a text in its whole list; here only
    in those of them that look the same."""

    def __init__(self, spellings: Iterable[Any]) -> None:
        self.found: list[str] = []
        self._alike: dict[str, list[Any]] = defaultdict(list)
        for spelling in spellings:
            self._alike[str(spelling).translate(_SAME)].append(spelling)

    def __contains__(self, word: str) -> bool:
        if any(spelling == word for spelling in self._alike.get(word.translate(_SAME), ())):
            self.found.append(word)
            return True
        return False

    def __iter__(self) -> Iterator[Any]:
        return (spelling for alike in self._alike.values() for spelling in alike)

    def __len__(self) -> int:
        return sum(map(len, self._alike.values()))
