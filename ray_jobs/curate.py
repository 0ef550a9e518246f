"""Curate a capture: filter, deduplicate, and split into train, validation, calibration and test.

`python -m ray_jobs.curate --recipe PATH --run URI`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow

from ray_jobs.entry import main
from ray_jobs.progress import say
from stillhouse import lineage, tuning
from stillhouse.curation.duplicates import near_duplicate_groups, normalised
from stillhouse.curation.filters import reason_to_drop
from stillhouse.curation.splits import SPLITS, assign_splits
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.review.apply import reviewed
from stillhouse.run import Run
from stillhouse.signal.schema import description_of, read_table, write_table
from stillhouse.task import answer


def curate(recipe: Recipe, run: Run) -> None:
    """Make RUN/dataset.

    Raises:
        UserError: too few records are left, or a split would be empty.
    """
    began = time.monotonic()
    run.finished("capture", "capture")
    inputs = lineage.inputs("dataset", recipe, run)
    say("curate", f"reads {run.uri}/capture, writes {run.uri}/dataset")
    parts = [key for key in run.storage.list("capture/parts") if key.endswith(".parquet")]
    tables = [read_table(run.storage.read(key), name=key) for key in parts]
    captured = description_of(tables[0]) if tables else {}
    table = pyarrow.concat_tables([one.replace_schema_metadata() for one in tables])

    counts: Counter[str] = Counter(captured=table.num_rows)
    dropped: list[dict[str, str]] = []
    kept: list[int] = []
    first: dict[str, str] = {}
    columns = ("id", "sample", "fields", "completion", "completion_token_ids", "finish_reason", "error")
    rows = table.select(columns).to_pylist()
    texts = [tuning.text_of(json.loads(row["fields"]).values()) for row in rows]
    for i, row in enumerate(rows):
        reason = reason_to_drop(recipe.task, row)
        # A record may have several completions: those are no duplicates of each other.
        if reason is None and first.setdefault(normalised(texts[i]), row["id"]) != row["id"]:
            reason = "duplicate"
        if reason is None:
            kept.append(i)
        else:
            counts[f"dropped_{reason}"] += 1
            dropped.append({"id": row["id"], "reason": reason})
    minimum = recipe.curation.min_records
    distinct, of = len({rows[i]["id"] for i in kept}), len({row["id"] for row in rows})
    if distinct < minimum:
        funnel = ", ".join(f"{name.removeprefix('dropped_')} {n}" for name, n in counts.items() if name != "captured")
        raise UserError(
            f"{distinct} of {of} records are left after filtering ({funnel or 'none dropped'}), and at"
            f" least {minimum} are needed: add data, or look at the task's prompt and choices"
        )

    # Those that the teacher was tuned on join in, since some of them may not be among the kept.
    tuned_on = _tuned_on(recipe, run)
    groups = near_duplicate_groups(
        [*(texts[i] for i in kept), *tuned_on],
        similarity=recipe.curation.near_duplicate_similarity,
        seed=recipe.seed,
    )
    train_only = set(groups[len(kept) :])
    groups = groups[: len(kept)]
    answers = [answer(recipe.task, rows[i]["completion"]) or "" for i in kept]
    strata = answers if recipe.task.kind == "choices" else [""] * len(kept)
    shares = {split: getattr(recipe.curation, split) for split in SPLITS if split != "train"}
    splits = assign_splits(groups, strata, shares=shares, seed=recipe.seed, train_only=train_only)
    if tuned_on:
        counts["tuned_on"] = sum(group in train_only for group in groups)
    counts["near_duplicates"] = distinct - len(set(groups))
    held_out = _one_each([rows[i] for i in kept])
    for place, i in enumerate(kept):
        if splits[place] != "train" and place not in held_out:
            splits[place] = ""
            counts["dropped_extra"] += 1
            dropped.append({"id": rows[i]["id"], "reason": "extra"})

    run.clear("dataset")
    dataset = (
        table.take(kept)
        .append_column("answer", pyarrow.array(answers, pyarrow.string()))
        .append_column("group", pyarrow.array(groups, pyarrow.int64()))
    )
    judged = reviewed(recipe, run, inputs, dataset, splits)
    counts.update(judged.counts)
    dropped += [{"id": identity, "reason": "rejected"} for identity in judged.rejected]
    for split in SPLITS:
        chosen = judged.dataset.filter(pyarrow.array([name == split for name in judged.splits]))
        counts[split] = chosen.num_rows
        description = {"split": split, "recipe": recipe.name, "capture": captured}
        run.storage.write(f"dataset/{split}.parquet", write_table(chosen, description))
    lines = "".join(json.dumps(row) + "\n" for row in dropped)
    run.storage.write("dataset/dropped.jsonl", lines.encode())
    run.commit("dataset", recipe=recipe, inputs=inputs, counts=counts, began=began)
    say("curate", ", ".join(f"{split} {counts[split]}" for split in SPLITS) + f"; dropped {len(dropped)}")


def _tuned_on(recipe: Recipe, run: Run) -> list[str]:
    """The texts of the records that the teacher was tuned on."""
    if recipe.teacher.tune is None:
        return []
    run.finished("teacher", "tune")
    texts = []
    for split in tuning.SPLITS:
        key = f"teacher/{tuning.DATA}/{split}.parquet"
        column = read_table(run.storage.read(key), name=key)["fields"]
        texts += [tuning.text_of(json.loads(fields).values()) for fields in column.to_pylist()]
    return texts


def _one_each(rows: Sequence[Mapping[str, Any]]) -> set[int]:
    """Places of the completions that may be held out: the first sample of each record, from its first teacher.

    What is measured on several completions of a record would count it several times.
    """
    first: dict[str, int] = {}
    for place, row in enumerate(rows):
        if row["sample"] == 0:
            first.setdefault(row["id"], place)
    return set(first.values())


if __name__ == "__main__":
    main("curate", curate)
