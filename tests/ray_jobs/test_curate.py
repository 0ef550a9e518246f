"""Curating a capture written by hand: the funnel, the splits, and what happens where too little is left."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from ray_jobs.curate import curate
from stillhouse import lineage
from stillhouse.curation.splits import SPLITS
from stillhouse.data import REVIEWER, Record
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.review.state import ReviewState
from stillhouse.run import Run
from stillhouse.signal.schema import (
    RECORD_SCHEMA,
    Completion,
    PartDescription,
    description_of,
    failed_row,
    read_table,
    to_row,
    to_table,
    write_part,
    write_table,
)
from stillhouse.signal.sparse import SparseSignal

MakeRecipe = Callable[..., Recipe]
Row = dict[str, Any]

DESCRIPTION = PartDescription("inputs", "teacher", "tokens", "template", "vllm 0", "topk", 2, "float32")


def row(i: int, text: str, completion: str = "", finish_reason: str = "stop") -> Row:
    completion = completion or (" positive" if i % 2 else " negative")
    tokens = [] if completion == "nothing" else [5, 0]
    said = "" if completion == "nothing" else completion
    signal = SparseSignal.of([[5, 6], [0]][: len(tokens)], [[-0.5, -1.0], [0.0]][: len(tokens)])
    answered = Completion([1, i], said, tokens, finish_reason, [-0.5] * len(tokens), signal)
    return to_row(Record(f"id-{i}", i, {"text": text}, "positive"), answered)


def review(i: int) -> str:
    return " ".join(f"w{i}x{j}" for j in range(12))


def capture(run: Run, recipe: Recipe, rows: list[Row], part_size: int = 100) -> None:
    run.clear("capture")
    for part, start in enumerate(range(0, len(rows), part_size)):
        data = write_part(rows[start : start + part_size], DESCRIPTION)
        run.storage.write(f"capture/parts/part-{part:05d}.parquet", data)
    run.commit("capture", recipe=recipe, inputs={}, began=time.monotonic())


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    return Run.open(request.getfixturevalue("s3")() if request.param == "s3" else str(tmp_path / "run"))


def dataset(run: Run) -> dict[str, pyarrow.Table]:
    return {split: read_table(run.storage.read(f"dataset/{split}.parquet"), name=split) for split in SPLITS}


def test_the_funnel_and_the_splits(run: Run, make_recipe: MakeRecipe, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = make_recipe()
    rows = [row(i, review(i)) for i in range(200)]
    rows += [row(200 + i, review(i) + " more") for i in range(20)]  # near-duplicates: kept, in one group
    rows += [row(300 + i, f"  {review(i).upper()}") for i in range(5)]
    rows += [row(400 + i, review(400 + i), " neutral") for i in range(4)]
    rows += [row(500 + i, review(500 + i), finish_reason="length") for i in range(3)]
    rows += [row(600 + i, review(600 + i), "nothing") for i in range(2)]
    capture(run, recipe, rows)
    curate(recipe, run)

    manifest = run.manifest("dataset")
    assert manifest is not None
    sizes = {split: table.num_rows for split, table in dataset(run).items()}
    assert manifest.counts == {
        "captured": 234,
        "dropped_duplicate": 5,
        "dropped_contract": 4,
        "dropped_truncated": 3,
        "dropped_empty": 2,
        "near_duplicates": 20,
        **sizes,
    }
    assert sum(sizes.values()) == 220
    assert sizes["test"] == pytest.approx(0.15 * 220, abs=3)
    assert {entry.path for entry in manifest.files} == {*(f"{split}.parquet" for split in SPLITS), "dropped.jsonl"}
    dropped = [json.loads(line) for line in run.storage.read("dataset/dropped.jsonl").decode().splitlines()]
    assert len(dropped) == 14
    assert {"id": "id-300", "reason": "duplicate"} in dropped
    assert "dropped 14" in capsys.readouterr().out


def test_records_come_through_whole_and_a_group_stands_on_one_side(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    rows = [row(i, review(i % 100) + (" more" if i >= 100 else "")) for i in range(200)]
    capture(run, recipe, rows)
    curate(recipe, run)
    seen: dict[int, str] = {}
    found: dict[str, Row] = {}
    for split, table in dataset(run).items():
        assert table.schema.names == [*RECORD_SCHEMA.names, "answer", "group"]
        assert description_of(table) == {"split": split, "recipe": "tiny", "capture": asdict(DESCRIPTION)}
        for record in table.to_pylist():
            assert seen.setdefault(record.pop("group"), split) == split
            assert record.pop("answer") == record["completion"].strip()
            found[record["id"]] = record
    assert len(seen) == 100
    assert found == {one["id"]: one for one in to_table(rows).to_pylist()}


def test_a_record_may_have_several_completions(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    rows = [{**row(i, review(i)), "sample": sample} for i in range(100) for sample in range(3)]
    rows[0] = row(0, review(0), finish_reason="length")  # its later samples may teach, but not be held out
    rows.append({**row(5, review(5)), "teacher": "other"})
    rows.append(failed_row(Record("id-900", 900, {"text": review(900)}, "positive"), "timed out"))
    rows.append(row(901, review(1)))  # another record with the same text is a duplicate
    capture(run, recipe, rows)
    curate(recipe, run)

    tables = {split: table.to_pylist() for split, table in dataset(run).items()}
    held_out = [one for split in SPLITS if split != "train" for one in tables[split]]
    assert all(one["sample"] == 0 and one["teacher"] == "teacher" for one in held_out)
    assert len({one["id"] for one in held_out}) == len(held_out)
    trained = Counter(one["id"] for one in tables["train"])
    assert set(trained.values()) <= {2, 3, 4}
    assert sum(count == 3 for count in trained.values()) > 40
    assert not set(trained) & {one["id"] for one in held_out}
    manifest = run.manifest("dataset")
    assert manifest is not None
    counts = dict(manifest.counts)
    assert (counts["captured"], counts["dropped_failed"], counts["dropped_duplicate"]) == (303, 1, 1)
    assert counts["dropped_truncated"] == 1
    assert counts["near_duplicates"] == 0
    left = counts["captured"] - sum(n for name, n in counts.items() if name.startswith("dropped_"))
    assert left == sum(map(len, tables.values())), "the funnel adds up"


def test_what_the_teacher_was_tuned_on_is_never_held_out(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"teacher.tune": {"records": 20}})
    rows = [row(i, review(i)) for i in range(200)]
    rows += [row(200 + i, review(i) + " more") for i in range(20)]  # near-duplicates of what was tuned on
    # The tuned one is dropped, and stands behind a duplicate and a near-duplicate that stay.
    rows += [row(300, review(300)), row(301, review(300) + " more"), row(302, f" {review(300)} ")]
    rows[3] = row(3, review(3), finish_reason="length")
    capture(run, recipe, rows)
    with pytest.raises(UserError, match="has no finished teacher: run `stillhouse tune` first"):
        curate(recipe, run)
    for split, chosen in (("train", rows[:18]), ("validation", [rows[18], rows[19], rows[222]])):
        run.storage.write(f"teacher/data/{split}.parquet", write_table(to_table(chosen), {}))
    run.commit("teacher", recipe=recipe, inputs={}, began=time.monotonic())
    curate(recipe, run)

    tables = {split: set(table["id"].to_pylist()) for split, table in dataset(run).items()}
    seen = {f"id-{i}" for i in (*range(20), *range(200, 220), 300, 301)} - {"id-3"}
    assert seen <= tables["train"]
    manifest = run.manifest("dataset")
    assert manifest is not None
    assert manifest.counts["tuned_on"] == len(seen) == 41
    sizes = {split: len(ids) for split, ids in tables.items()}
    assert sizes["test"] == pytest.approx(0.15 * 221, abs=3), "the others make up for it"


def test_the_same_capture_makes_the_same_dataset(run: Run, make_recipe: MakeRecipe) -> None:
    rows = [row(i, review(i)) for i in range(100)]

    def made(part_size: int, **changes: Any) -> str:
        recipe = make_recipe(changes)
        capture(run, recipe, rows, part_size)
        curate(recipe, run)
        manifest = run.manifest("dataset")
        assert manifest is not None
        return manifest.content_hash()

    first = made(100)
    assert made(100) == first
    assert made(30) == first
    assert made(100, seed=1) != first


def test_too_few_records_leave_the_finished_dataset_alone(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    capture(run, recipe, [row(i, review(i)) for i in range(60)])
    curate(recipe, run)
    before = {key: run.storage.read(key) for key in run.storage.list("dataset")}

    rows = [row(i, review(i)) for i in range(49)]
    rows += [row(100 + i, review(i), finish_reason="length") for i in range(6)]
    capture(run, recipe, rows)
    with pytest.raises(UserError) as caught:
        curate(recipe, run)
    assert str(caught.value) == (
        "49 of 55 records are left after filtering (truncated 6), and at least 50 are needed:"
        " add data, or look at the task's prompt and choices"
    )
    assert {key: run.storage.read(key) for key in run.storage.list("dataset")} == before


def test_fifty_records_are_enough(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    capture(run, recipe, [row(i, review(i)) for i in range(50)])
    curate(recipe, run)
    assert all(table.num_rows for table in dataset(run).values())


def test_fifty_times_nearly_the_same_is_not_enough(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    capture(run, recipe, [row(i, review(0) + f" {i}") for i in range(60)])
    with pytest.raises(UserError, match="too few distinct records to split: none is left for"):
        curate(recipe, run)
    assert run.storage.list("dataset") == []


def test_without_a_finished_capture(run: Run, make_recipe: MakeRecipe) -> None:
    run.storage.write("capture/parts/part-00000.parquet", write_part([row(0, "x")], DESCRIPTION))
    with pytest.raises(UserError, match="has no finished capture: run `stillhouse capture` first"):
        curate(make_recipe(), run)


def test_a_damaged_part_is_named(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    capture(run, recipe, [row(i, review(i)) for i in range(60)])
    run.storage.write("capture/parts/part-00000.parquet", b"PAR1 and no more")
    with pytest.raises(UserError, match=r"capture/parts/part-00000\.parquet is damaged .*: remove it"):
        curate(recipe, run)


def test_leftovers_of_an_older_dataset_go(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    run.storage.write("dataset/old.parquet", b"x")
    capture(run, recipe, [row(i, review(i)) for i in range(60)])
    curate(recipe, run)
    assert not run.storage.exists("dataset/old.parquet")


def test_what_people_judged_is_in_the_dataset_that_is_made_next(
    run: Run, make_recipe: MakeRecipe, make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    make_tokenizer("positive negative").save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "config.json").write_text('{"model_type": "llama"}')

    def recipe_of(**changes: Any) -> Recipe:
        return make_recipe({"teacher.model": str(tmp_path / "teacher"), "review.share": 0.5, **changes})

    def statuses() -> str:
        return run.status("dataset", lineage.inputs("dataset", recipe, run)).state

    recipe = recipe_of()
    capture(run, recipe, [row(i, review(i)) for i in range(120)])
    curate(recipe, run)
    before = {split: set(table["id"].to_pylist()) for split, table in dataset(run).items()}
    assert statuses() == "done"

    first = ReviewState(recipe, run)
    said = [item for item in first.sample.items if item.completion == " negative"]
    where = {item.id: split for split, ids in before.items() for item in said if item.id in ids}
    trained = [item for item in said if where[item.id] == "train"]
    tested = [item for item in said if where[item.id] == "test"]
    for item, verdict in ((trained[0], "reject"), (tested[0], "reject")):
        first.judge(item, "ada", verdict)  # type: ignore[arg-type]
    for item in (trained[1], tested[1]):
        first.judge(item, "ada", "correct", "positive")
    first.judge(trained[2], "ada", "accept")
    error = first.standing().error
    assert statuses() == "stale"

    curate(recipe, run)
    assert statuses() == "done"
    tables = {split: table.to_pylist() for split, table in dataset(run).items()}
    after = {split: {one["id"] for one in rows} for split, rows in tables.items()}
    gone = {trained[0].id, tested[0].id}
    assert after == {split: ids - gone for split, ids in before.items()}, "no other record moves"
    records = {one["id"]: one for rows in tables.values() for one in rows}
    learnt, measured = records[trained[1].id], records[tested[1].id]
    assert (learnt["completion"], learnt["gold"], learnt["teacher"]) == (" positive", "positive", REVIEWER)
    assert (learnt["completion_token_ids"], learnt["top_ids"]) == ([2, 0], None)
    assert (measured["completion"], measured["answer"], measured["gold"]) == (" negative", "negative", "positive")
    manifest = run.manifest("dataset")
    assert manifest is not None
    assert (manifest.counts["dropped_rejected"], manifest.counts["corrected"]) == (2, 1)
    assert {"id": trained[0].id, "reason": "rejected"} in [
        json.loads(line) for line in run.storage.read("dataset/dropped.jsonl").decode().splitlines()
    ]

    # The error is still that of the teacher, and the sample the same.
    again = ReviewState(recipe, run)
    assert again.sample == first.sample
    assert again.standing().error == error
    # Another share needs the records that are gone: curation draws from all of them.
    recipe = recipe_of(**{"review.share": 0.6})
    with pytest.raises(UserError, match="run `stillhouse curate` first"):
        ReviewState(recipe, run)
    curate(recipe, run)
    wider = ReviewState(recipe, run)
    assert wider.sample.population == 120
    assert len(wider.sample.items) == pytest.approx(72, abs=4)
    assert {trained[1].id, tested[1].id} <= set(wider.said)

    recipe = recipe_of(**{"review.share": 1.0})
    curate(recipe, run)
    every = ReviewState(recipe, run)
    for item in every.sample.items:
        every.judge(item, "ada", "reject")
    with pytest.raises(UserError, match="the review rejects every record of the calibration split"):
        curate(recipe, run)
