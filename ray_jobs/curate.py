"""Curate a capture: filter, deduplicate, and split into train, validation, calibration and test.

`python -m ray_jobs.curate --recipe PATH --run URI`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow

from ray_jobs.entry import main
from ray_jobs.progress import say
from stillhouse import lineage, tuning
from stillhouse.curation.filters import filter_rows
from stillhouse.curation.groups import (
    Groups,
    drop_exact_duplicates,
    drop_group_duplicates,
    duplicates,
    group_records,
)
from stillhouse.curation.leaks import Placed, require_no_leak
from stillhouse.curation.placement import listed, place, require_enough
from stillhouse.curation.rows import rows_of
from stillhouse.curation.selection import Selection
from stillhouse.curation.splits import SPLITS, lacking_answers
from stillhouse.recipe import Recipe
from stillhouse.review.apply import reviewed
from stillhouse.run import Run
from stillhouse.signal.schema import description_of, read_table, write_table


def curate(recipe: Recipe, run: Run) -> None:
    """Make RUN/dataset.

    Raises:
        UserError: a filter cannot judge the records, too few are left, they all have one answer, a split would be
            empty, or two splits would share a duplicate.
    """
    began = time.monotonic()
    run.finished("capture", "capture")
    inputs = lineage.inputs("dataset", recipe, run)
    say("curate", f"reads {run.uri}/capture, writes {run.uri}/dataset")
    table, description = _captured(run)
    tuned_on = _tuned_on(recipe, run)

    rows = rows_of(recipe.task, table)
    selection = Selection(rows, filter_rows(recipe, rows))
    if not recipe.curation.filter_held_out:
        selection.spare()

    drop_exact_duplicates(selection)
    # What the teacher was tuned on joins in, since some of it may not be among the kept.
    groups = group_records({**selection.texts(), **tuned_on}, recipe.curation, seed=recipe.seed)
    found = duplicates(selection, groups)
    if recipe.curation.duplicates == "drop":
        drop_group_duplicates(selection, groups)
    require_enough(recipe, selection)

    place(recipe, selection, groups, train_only=tuned_on.keys())
    if tuned_on:
        found["tuned_on"] = _joined_to(tuned_on, selection, groups)

    _require_no_leak(recipe, selection, groups, tuned_on)
    _tell_lacking_answers(recipe, selection)

    judged = reviewed(recipe, run, inputs, _described(table, selection, groups), selection.placed())
    selection.reject(judged.splits)
    if judged.corrected:
        found["corrected"] = judged.corrected

    run.clear("dataset")
    sizes = _write(recipe, run, table, judged.dataset, description, selection)
    reasons = selection.reasons()
    counts = {"captured": len(rows), **{f"dropped_{reason}": n for reason, n in reasons.items()}, **found, **sizes}
    run.commit("dataset", recipe=recipe, inputs=inputs, counts=counts, began=began)
    told = f": {listed(reasons)}" if reasons else ""
    say("curate", f"{listed(sizes)}; dropped {sum(reasons.values())}{told}")


def _captured(run: Run) -> tuple[pyarrow.Table, dict[str, Any]]:
    """All captured rows, and what the first part says of itself."""
    parts = [key for key in run.storage.list("capture/parts") if key.endswith(".parquet")]
    tables = [read_table(run.storage.read(key), name=key) for key in parts]
    description = description_of(tables[0]) if tables else {}
    return pyarrow.concat_tables([one.replace_schema_metadata() for one in tables]), description


def _tuned_on(recipe: Recipe, run: Run) -> dict[str, str]:
    """The records that the teacher was tuned on, with their texts."""
    if recipe.teacher.tune is None:
        return {}
    run.finished("teacher", "tune")
    texts: dict[str, str] = {}
    for split in tuning.SPLITS:
        key = f"teacher/{tuning.DATA}/{split}.parquet"
        for row in read_table(run.storage.read(key), name=key).select(["id", "fields"]).to_pylist():
            texts[row["id"]] = tuning.text_of(json.loads(row["fields"]).values())
    return texts


def _joined_to(tuned_on: Mapping[str, str], selection: Selection, groups: Groups) -> int:
    """Rows that the teacher was tuned on, or on a duplicate of."""
    seen = {groups.all[record] for record in tuned_on}
    return sum(groups.all[selection.rows[i].id] in seen for i in selection.kept())


def _require_no_leak(recipe: Recipe, selection: Selection, groups: Groups, tuned_on: Mapping[str, str]) -> None:
    rows = selection.rows
    stay = (Placed(rows[i].id, selection.splits[i], rows[i].text) for i in selection.kept())
    seen = (Placed(record, "train", text) for record, text in tuned_on.items())
    placed = list(dict.fromkeys([*stay, *seen]))
    require_no_leak(
        placed,
        similarity=recipe.curation.near_duplicate_similarity,
        vectors=None if groups.vectors is None else np.stack([groups.vectors[one.id] for one in placed]),
        semantic_similarity=recipe.curation.semantic_similarity,
    )


def _tell_lacking_answers(recipe: Recipe, selection: Selection) -> None:
    if recipe.task.kind != "choices":
        return
    kept = selection.kept()
    answers = [selection.rows[i].answer or "" for i in kept]
    for split, lacking in lacking_answers(answers, [selection.splits[i] for i in kept]).items():
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        say("curate", f"warning: {split} has no record of the answer {', '.join(map(repr, lacking[:5]))}{more}")


def _described(table: pyarrow.Table, selection: Selection, groups: Groups) -> pyarrow.Table:
    """The captured rows with the answer and the group of each."""
    answers = pyarrow.array([row.answer for row in selection.rows], pyarrow.string())
    numbers = pyarrow.array([groups.all.get(row.id) for row in selection.rows], pyarrow.int64())
    return table.append_column("answer", answers).append_column("group", numbers)


def _write(
    recipe: Recipe,
    run: Run,
    table: pyarrow.Table,
    dataset: pyarrow.Table,
    captured: dict[str, Any],
    selection: Selection,
) -> dict[str, int]:
    """Write every split, and what was dropped, as it was captured, with its reason; one of them is copied at a time.

    Returns:
        The sizes of the splits.
    """

    def write(name: str, whole: pyarrow.Table, chosen: list[bool]) -> None:
        about = {"split": name, "recipe": recipe.name, "capture": captured}
        run.storage.write(f"dataset/{name}.parquet", write_table(whole.filter(pyarrow.array(chosen)), about))

    placed, drops = selection.placed(), selection.drops
    for name in SPLITS:
        write(name, dataset, [split == name for split in placed])
    reasons = pyarrow.array([drop and drop.reason for drop in drops], pyarrow.string())
    details = pyarrow.array([drop and drop.detail for drop in drops], pyarrow.string())
    why = table.append_column("reason", reasons).append_column("detail", details)
    write("dropped", why, [drop is not None for drop in drops])
    return {name: placed.count(name) for name in SPLITS}


if __name__ == "__main__":
    main("curate", curate)
