"""`teacher.tune`: which gold answers the teacher is fine-tuned on, and how that is a training like the student's."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable

from stillhouse.curation.duplicates import near_duplicate_groups
from stillhouse.data import Record, Records
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe, Student, StudentInit, Training, Tune

DATA = "data"
"""The folder of RUN/teacher that holds the records it was tuned on."""

SPLITS = ("train", "validation")


def section_of(recipe: Recipe) -> Tune:
    """The recipe's `teacher.tune`. Raises `UserError` where there is none."""
    if recipe.teacher.tune is None:
        raise UserError("the recipe has no `teacher.tune`, so its teacher is asked as it is")
    return recipe.teacher.tune


def choose(recipe: Recipe) -> dict[str, list[Record]]:
    """The records to tune on, by split.

    They have the smallest hashes of seed and id, so that their order in the data does not matter, and a few more or
    fewer rows change few of them. As many as `teacher.tune.records` are in memory. Near-duplicates stand on one side.

    Raises:
        UserError: the data cannot be used, or has too few gold answers.
    """
    section, records, labelled = section_of(recipe), Records(recipe), 0
    # The largest of the kept hashes is on top; the index tells equal ones apart.
    kept: list[tuple[int, int, Record]] = []
    for record in records:
        if record.gold is None:
            continue
        labelled += 1
        item = (-_order(recipe.seed, record.id), -record.index, record)
        if len(kept) < section.records:
            heapq.heappush(kept, item)
        else:
            heapq.heappushpop(kept, item)
    require_enough(recipe, labelled=labelled, records=len(records))
    chosen = [record for *_, record in sorted(kept, reverse=True)]
    return _split(chosen, recipe)


def require_enough(recipe: Recipe, *, labelled: int, records: int) -> None:
    """See that there are gold answers enough to tune on, and records enough beside them to hold out.

    Raises:
        UserError: there are not.
    """
    wanted, curation = section_of(recipe).records, recipe.curation
    if labelled < wanted:
        raise UserError(
            f"teacher.tune.records: {wanted} gold answers are to be tuned on, and {labelled} of {records} records have"
            " one: lower it, or label more"
        )
    most = int((1 - curation.validation - curation.calibration - curation.test) * records + 1e-6)
    if wanted > most:
        raise UserError(
            f"teacher.tune.records: what the teacher is tuned on cannot be held out, and of {records} records no more"
            f" than {most} are for training: lower it, or add data, which needs no labels"
        )


def as_student(recipe: Recipe) -> Recipe:
    """The recipe whose student is the teacher, to be trained on the tokens of gold answers alone."""
    section = section_of(recipe)
    settings = {name: getattr(section, name) for name in Training.model_fields}
    student = Student(
        **settings,
        init=StudentInit(kind="pretrained", model=recipe.teacher.model),
        kd_weight=0,
        ce_weight=1,
        tracking=recipe.student.tracking,
    )
    return recipe.model_copy(update={"student": student})


def _split(chosen: list[Record], recipe: Recipe) -> dict[str, list[Record]]:
    """Whole groups of near-duplicates, in the records' order, go to validation until it has its share."""
    texts = [text_of(record.fields.values()) for record in chosen]
    groups = near_duplicate_groups(texts, similarity=recipe.curation.near_duplicate_similarity, seed=recipe.seed)
    wanted = max(1, round(section_of(recipe).validation * len(chosen)))
    held_out: set[int] = set()
    # A group that is too large for what is left goes to train.
    for group, size in Counter(groups).items():
        if size <= wanted:
            held_out.add(group)
            wanted -= size
    found: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for record, group in zip(chosen, groups, strict=True):
        found["validation" if group in held_out else "train"].append(record)
    for split in SPLITS:
        if not found[split]:
            raise UserError(f"teacher.tune.records: too few distinct records to tune on: none is left for {split}")
    return found


def text_of(fields: Iterable[str]) -> str:
    """A record's text, as near-duplicates are looked for."""
    return "\n".join(fields)


def _order(seed: int, identity: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{identity}".encode(), digest_size=8).digest())
