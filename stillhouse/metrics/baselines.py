"""What any student has to beat on a `choices` task: the commonest answer, and a linear model on counted words."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.metrics.answers import majority
from stillhouse.metrics.words import words

_MOST_WORDS = 50_000
"""Words and pairs of words that are looked at; more cost memory for every class."""


def majority_answers(train_labels: Sequence[str | None], test_texts: Sequence[str]) -> list[str]:
    """The train split's commonest label for every test text.

    Of equally common labels the first in alphabetical order; None is no label. Raises ValueError when there is none.
    """
    found = majority(train_labels)
    if found is None:
        raise ValueError("No training record has a label, so there is no commonest one.")
    return [found[0]] * len(test_texts)


def tfidf_answers(
    train_texts: Sequence[str], train_labels: Sequence[str | None], test_texts: Sequence[str]
) -> list[str]:
    """Answers of a logistic regression on TF-IDF of words and pairs of words, trained on the train split.

    It is trained on what the student was: the labels are the teacher's answers, or gold. Without a parameter to choose,
    and without chance: scikit-learn's defaults, with sublinear term frequencies. Records whose label is None are left
    out. Raises ValueError when the lengths differ, or no record with a label has a word.
    """
    pairs = zip(train_texts, train_labels, strict=True)
    known = [(text, label) for text, label in pairs if label is not None]
    labels = [label for _, label in known]
    if not any(words(text) for text, _ in known):
        raise ValueError("No training record has both a label and a word, so there is nothing to learn from.")
    if not test_texts or len(set(labels)) == 1:
        return [labels[0]] * len(test_texts)
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    # `words` splits in every script; the vectorizer's own pattern drops words of one letter.
    vectorizer = TfidfVectorizer(
        tokenizer=words,
        token_pattern=None,
        lowercase=False,
        ngram_range=(1, 2),
        sublinear_tf=True,
        max_features=_MOST_WORDS,
    )
    model = make_pipeline(vectorizer, LogisticRegression(max_iter=1000))
    model.fit([text for text, _ in known], labels)
    return [str(label) for label in model.predict(list(test_texts))]
