"""What a judge preferred, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from stillhouse.metrics.bootstrap import Measured, paired_bootstrap
from stillhouse.metrics.estimate import Estimate, proportion

Preference = Literal["first", "second", "tie"]
Outcome = Literal["win", "tie", "loss"]


class Judgement(BaseModel):
    """The student's answers held against the teacher's, pair by pair, by a judge."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    judge: str = Field(description="The judge's model, and where it was asked.")
    n: int = Field(gt=0, description="Records that were judged; answers that are the same are ties, and not asked of.")
    win: Estimate = Field(description="Share of records where the student's answer is preferred, in both orders.")
    tie: Estimate = Field(description="Share without a preference, or with another one in the other order.")
    loss: Estimate = Field(description="Share of records where the teacher's answer is preferred, in both orders.")
    net: Measured = Field(description="Wins minus losses, as a share of the records, with its bootstrap interval.")
    same: int = Field(ge=0, description="Records whose two answers are the same.")
    swayed: int = Field(ge=0, description="Records where the preference went with the order of the answers.")
    unparsable: int = Field(ge=0, description="Records left out because a reply of the judge was no verdict.")
    unanswered: int = Field(ge=0, description="Records left out because the judge's endpoint refused or failed.")


def outcome(student_first: Preference, student_second: Preference) -> Outcome:
    """One record from its two orders: a preference that does not survive the exchange of places is none.

    Zheng et al. 2023, "Judging LLM-as-a-judge with MT-Bench and Chatbot Arena", arxiv.org/abs/2306.05685, section 3.4.
    """
    if (student_first, student_second) == ("first", "second"):
        return "win"
    if (student_first, student_second) == ("second", "first"):
        return "loss"
    return "tie"


def swayed(student_first: Preference, student_second: Preference) -> bool:
    """Whether the same place was preferred twice."""
    return student_first == student_second != "tie"


def tally(
    judge: str,
    outcomes: Sequence[Outcome],
    *,
    same: int,
    swayed: int,
    unparsable: int,
    unanswered: int,
    seed: int,
) -> Judgement:
    """The shares and their intervals; `outcomes` holds one for each judged record, `same` ties included.

    Raises ValueError when nothing was judged.
    """
    n = len(outcomes)
    value = {"win": 1.0, "tie": 0.0, "loss": -1.0}
    return Judgement(
        judge=judge,
        n=n,
        win=proportion(outcomes.count("win"), n),
        tie=proportion(outcomes.count("tie"), n),
        loss=proportion(outcomes.count("loss"), n),
        net=paired_bootstrap(np.array([value[one] for one in outcomes]), seed=seed),
        same=same,
        swayed=swayed,
        unparsable=unparsable,
        unanswered=unanswered,
    )
