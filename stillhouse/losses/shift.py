"""The shift: which position of the student predicts which completion token."""

from __future__ import annotations


def predicting_positions(prompt_tokens: int, completion_tokens: int) -> range:
    """Positions in `prompt + completion` whose logits predict the completion's tokens, in order.

    Token i of the completion stands at `prompt_tokens + i` and is predicted one position before; the teacher's
    distribution for token i is held against the student's logits there. The first one is predicted by the prompt's
    last token.

    Raises:
        ValueError: the prompt is empty, so that nothing predicts the first token.
    """
    if prompt_tokens < 1:
        raise ValueError("a completion without a prompt has a first token that nothing predicts")
    return range(prompt_tokens - 1, prompt_tokens - 1 + completion_tokens)
