"""What each step of a run has cost so far: measured tokens, hours and workers, with the recipe's prices put on them.

Hours are the wall time in the step's manifest, which is that of its last start: what a start before a kill took is not
in them. Tokens that an endpoint billed are counted whole, through all kills and earlier recipes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from stillhouse.cost.billing import Attempt, pages
from stillhouse.recipe import Engine, Prices, Recipe
from stillhouse.run import Manifest, Run
from stillhouse.teachers import sections

_UNITS = {"tokens": 1e6, "hours": 1.0, "sum": 1.0}
"""What a price is for: a million tokens, an hour, all of it."""


class Item(BaseModel):
    """A quantity and its price."""

    # Amounts are written and computed again when read, so that they are no unknown keys.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    what: str = Field(description="What was counted.")
    quantity: float | None = Field(ge=0, description="How much of it; None: nobody counted.")
    unit: Literal["tokens", "hours", "sum"] = Field(description="`sum`: an amount that the recipe states.")
    key: str = Field(description="The recipe's key of the price.")
    price: float | None = Field(ge=0, description="Of a million tokens or an hour; None where it is not given.")

    @computed_field(description="In the recipe's currency; None: not known.")  # type: ignore[prop-decorator]
    @property
    def amount(self) -> float | None:
        if self.quantity == 0:
            return 0.0
        return None if self.quantity is None or self.price is None else self.quantity * self.price / _UNITS[self.unit]


class Entry(BaseModel):
    """What one step has cost."""

    # Amounts are written and computed again when read, so that they are no unknown keys.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    step: Literal["tuning", "capture", "review", "training", "evaluation", "training and evaluation"]
    items: tuple[Item, ...] = Field(description="What the amount is made of.")
    note: str = Field(default="", description="What a reader must know about the quantities.")

    @computed_field(description="The items' sum; None as soon as one of them is not known.")  # type: ignore[prop-decorator]
    @property
    def amount(self) -> float | None:
        amounts = [item.amount for item in self.items]
        return None if None in amounts else sum(amount for amount in amounts if amount is not None)

    @property
    def missing(self) -> tuple[str, ...]:
        """Keys of the prices that are not given."""
        return tuple(dict.fromkeys(item.key for item in self.items if item.amount is None and item.price is None))


def entries(recipe: Recipe, run: Run, review_minutes: float | None) -> Iterator[Entry]:
    """What the run's steps have cost, in order; one that was not made has no entry.

    Args:
        review_minutes: what people spent on reviewing; None where nobody did.

    Raises:
        UserError: a manifest or the account of the capture is damaged.
    """
    prices = recipe.prices
    if recipe.teacher.tune is not None and (manifest := run.manifest("teacher")):
        workers, note = _workers(manifest, recipe.teacher.tune.most_workers)
        yield Entry(step="tuning", items=(_hours(prices, manifest, recipe.teacher.tune.device, workers),), note=note)
    if captured := _capture(recipe, run):
        yield captured
    if review_minutes is not None:
        hours = review_minutes / 60
        item = Item(
            what="reviewers", quantity=hours, unit="hours", key="prices.reviewer_hour", price=prices.reviewer_hour
        )
        yield Entry(step="review", items=(item,))
    student, evaluation = run.manifest("student"), run.manifest("evaluation")
    if prices.training is not None and student is not None:
        flat = Item(what="as stated", quantity=1, unit="sum", key="prices.training", price=prices.training)
        yield Entry(step="training and evaluation", items=(flat,))
        return
    if student is not None:
        yield _training(recipe, student)
    if evaluation is not None:
        yield _evaluation(recipe, run, evaluation)


def _capture(recipe: Recipe, run: Run) -> Entry | None:
    attempts = [attempt for _, page in pages(run) for attempt in page.attempts]
    items, notes = list(_billed(recipe.prices, attempts)), []
    if any(attempt.billed is None for attempt in attempts):
        notes.append("requests that were cut off count as they may have been billed at worst")
    weights = [section for section in sections(recipe) if section.url is None]
    manifest = run.manifest("capture")
    if weights and manifest is not None:
        prices = recipe.prices
        by_token = (prices.teacher_input, prices.teacher_output) != (None, None)
        # Where an endpoint answered too, the token prices are its.
        if by_token and len(weights) == len(sections(recipe)):
            items += _read_and_written(recipe, manifest)
            if len(weights) > 1:
                notes.append(f"tokens of the answers that were kept, of {len(weights)} teachers")
        else:
            engines, note = _engines(recipe, manifest)
            largest = max((section.engine for section in weights), key=_gpus)
            items.append(_hours(prices, manifest, largest.device, engines * max(1, _gpus(largest))))
            notes += [note] if note else []
    return Entry(step="capture", items=tuple(items), note="; ".join(notes)) if items else None


def _billed(prices: Prices, attempts: list[Attempt]) -> Iterator[Item]:
    """Two items for each kind of price that endpoints were asked at."""
    for batch in (False, True):
        of_kind = [attempt.tokens for attempt in attempts if attempt.batch == batch]
        if not of_kind:
            continue
        factor = 1 - prices.batch_discount if batch else 1.0
        billed = " billed by batches" if batch else " billed"
        yield from _teacher_tokens(
            prices,
            {f"prompt tokens{billed}": sum(tokens.prompt for tokens in of_kind)},
            {f"completion tokens{billed}": sum(tokens.completion for tokens in of_kind)},
            factor,
        )


def _read_and_written(recipe: Recipe, manifest: Manifest) -> Iterator[Item]:
    # A prompt is read once, however many completions are drawn from it; a completion that is scored is read too.
    read = {"prompt tokens": manifest.counts["prompt_tokens"] / recipe.capture.n}
    completions = {"completion tokens": manifest.counts["completion_tokens"]}
    if recipe.capture.completions == "teacher":
        yield from _teacher_tokens(recipe.prices, read, completions)
    else:
        yield from _teacher_tokens(recipe.prices, {**read, "scored tokens": completions["completion tokens"]}, {})


def _teacher_tokens(
    prices: Prices, read: dict[str, float], written: dict[str, float], factor: float = 1.0
) -> Iterator[Item]:
    for name, price, quantities in (
        ("teacher_input", prices.teacher_input, read),
        ("teacher_output", prices.teacher_output, written),
    ):
        for what, quantity in quantities.items():
            paid = None if price is None else price * factor
            yield Item(what=what, quantity=quantity, unit="tokens", key=f"prices.{name}", price=paid)


def _training(recipe: Recipe, manifest: Manifest) -> Entry:
    student, prices = recipe.student, recipe.prices
    if student.openai is not None:
        tokens = manifest.counts.get("trained_tokens")
        item = Item(
            what="tokens trained on, as the API counts them",
            quantity=tokens,
            unit="tokens",
            key="prices.trained_tokens",
            price=prices.trained_tokens,
        )
        note = (
            "" if tokens is not None else "the API did not tell how many tokens it trained on: state `prices.training`"
        )
        return Entry(step="training", items=(item,), note=note)
    workers, note = _workers(manifest, student.most_workers)
    return Entry(step="training", items=(_hours(prices, manifest, student.device, workers),), note=note)


def _evaluation(recipe: Recipe, run: Run, manifest: Manifest) -> Entry:
    prices = recipe.prices
    if recipe.student.openai is None:
        engine = recipe.student.engine
        return Entry(step="evaluation", items=(_hours(prices, manifest, engine.device, max(1, _gpus(engine))),))
    from stillhouse.signal.schema import read_table  # pyarrow is slow to import

    key = "evaluation/predictions.parquet"
    table = read_table(run.storage.read(key), name=key)
    counted = {name: sum(table[f"student_{name}_tokens"].to_pylist()) for name in ("prompt", "completion")}
    priced = (("prompt", "input", prices.student_input), ("completion", "output", prices.student_output))
    items = tuple(
        Item(
            what=f"{name} tokens of the student",
            quantity=counted[name],
            unit="tokens",
            key=f"prices.student_{side}",
            price=price,
        )
        for name, side, price in priced
    )
    return Entry(step="evaluation", items=items)


def _hours(prices: Prices, manifest: Manifest, device: str, count: float) -> Item:
    """Wall time of a step on so many GPUs, or on so many engines or workers without one."""
    hours = manifest.seconds / 3600 * count
    if device == "cuda":
        gpus = "1 GPU" if count == 1 else f"{count:g} GPUs"
        return Item(what=gpus, quantity=hours, unit="hours", key="prices.gpu_hour", price=prices.gpu_hour)
    workers = "1 worker on a CPU" if count == 1 else f"{count:g} workers on CPUs"
    return Item(what=workers, quantity=hours, unit="hours", key="prices.cpu_hour", price=prices.cpu_hour)


def _workers(manifest: Manifest, most: int) -> tuple[float, str]:
    counted = manifest.counts.get("workers")
    return (counted, "") if counted is not None else (most, "the largest number of workers that the recipe allows")


def _engines(recipe: Recipe, manifest: Manifest) -> tuple[int, str]:
    """How many engines may have worked side by side: no more than there are parts."""
    records = manifest.counts.get("records", 0) + manifest.counts.get("failed", 0)
    parts = max(1, math.ceil(records / recipe.capture.part_size))
    least, most = (min(limit, parts) for limit in (recipe.capture.engines.min, recipe.capture.engines.max))
    return most, "" if least == most else f"counts {most} engines all the time, and there were {least} to {most}"


def _gpus(engine: Engine) -> int:
    """GPUs of one engine; 0 on a CPU."""
    return 0 if engine.device == "cpu" else engine.tensor_parallel_size * engine.pipeline_parallel_size
