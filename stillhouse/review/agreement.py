"""How far reviewers agree: Cohen's kappa for every pair of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

from pydantic import BaseModel, ConfigDict, Field

from stillhouse.review.judgement import VERDICTS, Judgement


class Agreement(BaseModel):
    """Two reviewers on the completions that both judged."""

    model_config = ConfigDict(frozen=True)

    first: str
    second: str
    n: int = Field(gt=0, description="Completions that both judged.")
    same: float = Field(ge=0, le=1, description="Share with the same verdict.")
    kappa: float | None = Field(
        ge=-1, le=1, description="Cohen's kappa; None where both gave one and the same verdict throughout."
    )


def agreements(judged: Iterable[Mapping[str, Judgement]]) -> list[Agreement]:
    """Every pair that has a completion in common, in the order of their names.

    Cohen's kappa (Cohen 1960, doi:10.1177/001316446002000104) over accept, correct and reject. It compares the
    agreement with what chance would give, and is 0/0 where chance alone gives all of it.

    Args:
        judged: of each completion, the judgement of each reviewer.
    """
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for reviewers in judged:
        for first, second in combinations(sorted(reviewers), 2):
            verdicts = (str(reviewers[first].verdict), str(reviewers[second].verdict))
            pairs.setdefault((first, second), []).append(verdicts)
    return [_agreement(first, second, said) for (first, second), said in sorted(pairs.items())]


def _agreement(first: str, second: str, said: list[tuple[str, str]]) -> Agreement:
    from sklearn.metrics import cohen_kappa_score

    ours, theirs = zip(*said, strict=True)
    constant = len({*ours, *theirs}) == 1
    kappa = None if constant else float(cohen_kappa_score(ours, theirs, labels=VERDICTS))
    same = sum(one == other for one, other in said) / len(said)
    return Agreement(first=first, second=second, n=len(said), same=same, kappa=kappa)
