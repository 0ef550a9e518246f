"""Where the records go that stay: enough of them, to splits, and of what is held out no more than is measured."""

from __future__ import annotations

from collections.abc import Collection

from stillhouse.curation.groups import Groups
from stillhouse.curation.rows import Drop
from stillhouse.curation.selection import Selection
from stillhouse.curation.splits import SPLITS, assign_splits, require_every_split
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe

_PROMISED = ("calibration", "test")
"""The splits that must be like the traffic."""


def require_enough(recipe: Recipe, selection: Selection) -> None:
    """See that there is something to learn: enough records, and more than one answer among choices.

    Raises:
        UserError: there is not.
    """
    rows, minimum = selection.rows, recipe.curation.min_records
    left = [rows[i] for i in selection.kept() if i not in selection.spared]
    distinct, of = len({row.id for row in left}), len({row.id for row in rows})
    if distinct < minimum:
        told = listed(selection.reasons()) or "none dropped"
        if selection.spared:
            told += f"; {len(selection.spared)} may be held out alone"
        raise UserError(
            f"{distinct} of {of} records are left after filtering ({told}), and at least {minimum} are needed: add"
            " data, or look at the task's prompt and choices"
        )
    answers = {row.answer for row in left}
    if recipe.task.kind == "choices" and len(answers) == 1:
        raise UserError(
            f"all {distinct} records that are left have the answer {answers.pop()!r}, so there is nothing to learn:"
            " look at the task's prompt and choices, or add data with other answers"
        )


def place(recipe: Recipe, selection: Selection, groups: Groups, *, train_only: Collection[str]) -> None:
    """Give every row that stays a split, and drop what its split has no use for.

    That is what was spared to be held out and is not; and of what is held out all completions of a record but the first
    sample of its first teacher, since what is measured on several would count the record several times.

    Args:
        train_only: records that the teacher was tuned on, whose groups are never held out.

    Raises:
        UserError: a split would be empty.
    """
    rows, kept = selection.rows, selection.kept()
    stratified = recipe.task.kind == "choices"
    assigned = assign_splits(
        [groups.all[rows[i].id] for i in kept],
        [rows[i].answer or "" if stratified else "" for i in kept],
        shares={split: getattr(recipe.curation, split) for split in SPLITS if split != "train"},
        seed=recipe.seed,
        train_only={groups.all[record] for record in train_only},
    )
    measured: set[str] = set()
    for i, split in zip(kept, assigned, strict=True):
        record = rows[i].id
        selection.splits[i] = split
        if i in selection.spared and split not in _PROMISED:
            selection.drops[i] = selection.spared[i]
        elif split != "train" and (rows[i].sample != 0 or record in measured):
            selection.drops[i] = Drop("extra", split)
        elif split != "train":
            measured.add(record)
    require_every_split({selection.splits[i] for i in selection.kept()})


def listed(counts: dict[str, int]) -> str:
    """Counts in a sentence."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())
