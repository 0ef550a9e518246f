"""A review that goes on: its sample, what was said of it, who sees what next, and where it stands."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from functools import cached_property
from threading import Lock

from pydantic import BaseModel, ConfigDict, Field

from stillhouse.errors import UserError
from stillhouse.metrics import Estimate
from stillhouse.recipe import Recipe
from stillhouse.review.agreement import Agreement, agreements
from stillhouse.review.estimate import least_upper_end, teacher_error
from stillhouse.review.journal import Journal
from stillhouse.review.judgement import Judgement, Verdict, judgement, standing
from stillhouse.review.outcome import Outcome, outcome
from stillhouse.review.sample import Item, Sample, dataset_tables, draw, made_from
from stillhouse.run import Run


class Standing(BaseModel):
    """Where a review stands."""

    model_config = ConfigDict(frozen=True)

    records: int = Field(description="Of the dataset, before any judgement.")
    sample: int = Field(description="Records that are to be judged.")
    judged: int = Field(description="Of these, by anyone.")
    reviewers: dict[str, int] = Field(description="Records of the sample that each reviewer has judged.")
    verdicts: dict[str, int] = Field(description="What the majority says: accept, correct, reject or disputed.")
    error: Estimate | None = Field(description="Of the teacher, over all records; None before the first judgement.")
    max_error: float | None = Field(description="The recipe's bound on the upper end of that interval.")
    problem: str | None = Field(description="Why the bound is not held yet; None where it is, or there is none.")
    agreement: list[Agreement]
    disputed: list[str] = Field(description="Ids of records on which the reviewers are divided.")


class ReviewState:
    """A run's review; several threads may use it.

    Attributes:
        said: of each judged item of the sample, by its id, the judgement of each reviewer.
    """

    def __init__(self, recipe: Recipe, run: Run) -> None:
        """Raises `UserError`: there is no dataset, or the sample cannot be drawn."""
        self.recipe, self.run = recipe, run
        self.sample = current_sample(recipe, run)
        self._journal = Journal(run)
        self._lock = Lock()
        self.said: dict[str, dict[str, Judgement]] = {}
        self._count()

    def refresh(self) -> None:
        """Take in what was judged elsewhere meanwhile."""
        with self._lock:
            self._journal.refresh()
            self._count()

    def judge(self, item: Item, reviewer: str, verdict: Verdict | None, correction: str | None = None) -> None:
        """Keep a judgement; None takes back the one before.

        Raises:
            UserError: the task does not allow the correction, or the judgement cannot be kept.
        """
        self.append([judgement(self.recipe, item, reviewer, verdict, correction)])

    def append(self, new: list[Judgement]) -> None:
        """Keep judgements, all of them or none. Raises `StorageError`."""
        with self._lock:
            self._journal.append(new)
            self._count()

    def _count(self) -> None:
        items = self.sample.by_id
        everything = standing(self._journal.all())
        self.said = {
            identity: said
            for (identity, content), said in everything.items()
            if identity in items and items[identity].content == content
        }

    def outcome(self, item: Item) -> Outcome | None:
        """What is said of an item by the majority; None where nothing is."""
        return outcome(self.recipe.task, self.said[item.id].values()) if item.id in self.said else None

    def next_item(self, reviewer: str) -> Item | None:
        """What a reviewer should see: first what everybody sees, then what others are divided on, then what nobody has
        judged, in an order of the reviewer's own; None where nothing is left to do."""
        own = [item for item in self.sample.items if reviewer not in self.said.get(item.id, {})]
        shared = {item.id for item in self.overlap()}
        for item in own:
            if item.id in shared:
                return item
        for item in own:
            if (found := self.outcome(item)) is not None and found.verdict == "disputed":
                return item
        unseen = [item for item in own if item.id not in self.said]
        return min(unseen, key=lambda item: _turn(reviewer, item.id), default=None)

    def overlap(self) -> tuple[Item, ...]:
        """The part of the sample that every reviewer sees."""
        return self.sample.items[: math.ceil(self.recipe.review.overlap * len(self.sample.items))]

    def standing(self) -> Standing:
        """Where the review stands."""
        items = self.sample.by_id
        found = {identity: outcome(self.recipe.task, said.values()) for identity, said in self.said.items()}
        error = teacher_error(
            self.sample.strata, [(items[identity].stratum, each.error) for identity, each in found.items()]
        )
        return Standing(
            records=self.sample.population,
            sample=len(self.sample.items),
            judged=len(self.said),
            reviewers=dict(sorted(Counter(name for said in self.said.values() for name in said).items())),
            verdicts=dict(Counter(each.verdict for each in found.values())),
            error=error,
            max_error=self.recipe.review.max_error,
            problem=self._problem(error),
            agreement=agreements(self.said.values()),
            disputed=[item.id for item in self.sample.items if (of := found.get(item.id)) and of.verdict == "disputed"],
        )

    @cached_property
    def _best(self) -> float:
        return least_upper_end(self.sample.strata)

    def _problem(self, error: Estimate | None) -> str | None:
        """Why training may not start yet."""
        section, sample, judged = self.recipe.review, len(self.sample.items), len(self.said)
        if section.max_error is None:
            return None
        wanted = math.ceil(section.min_judged * sample - 1e-9)
        if self._best > section.max_error:
            return (
                f"`review.max_error` is {section.max_error:.1%}, and {sample} records show {self._best:.1%} at the"
                " least, even if none is wrong: raise `review.share`"
            )
        if error is None or judged < wanted:
            return f"`review.max_error` asks for {wanted} judged records, and there are {judged}"
        if error.high > section.max_error:
            return (
                f"the teacher's error is estimated at {error.value:.1%} (95%: {error.low:.1%} to {error.high:.1%}) from"
                f" {judged} judged records, and `review.max_error` is {section.max_error:.1%}"
            )
        return None


def current_sample(recipe: Recipe, run: Run) -> Sample:
    """The sample of the run's dataset: the one that was drawn, or one that is drawn now, if the dataset is another.

    Raises:
        UserError: there is no dataset, or it has judgements in it already, so that no sample can be drawn from it.
    """
    manifest = run.finished("dataset", "curate")
    named = made_from(manifest.inputs, recipe)
    sample = Sample.load(run)
    if sample is not None and sample.made_from == named:
        return sample
    if "review" in manifest.inputs:
        raise UserError(
            f"the sample must be drawn again, since `review.share` has changed, and {run.uri}/dataset has judgements in"
            " it already: run `stillhouse curate` first, which draws it from all records"
        )
    sample = draw(dataset_tables(run), recipe, named=named)
    sample.save(run)
    return sample


def _turn(reviewer: str, identity: str) -> bytes:
    """Its own for each reviewer, so that two at work together seldom take the same record."""
    return hashlib.blake2b(f"{reviewer}\0{identity}".encode(), digest_size=8).digest()
