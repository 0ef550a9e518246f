"""Curating a capture written by hand: the funnel, the splits, and what happens where too little is left."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
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

DOCS = Path(__file__).resolve().parents[2] / "docs" / "curation.md"
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
    assert sizes["train"] + sizes["validation"] == pytest.approx(0.8 * 220, abs=3)
    assert sizes["calibration"] == pytest.approx(sizes["test"], abs=3)
    assert {entry.path for entry in manifest.files} == {f"{name}.parquet" for name in (*SPLITS, "dropped")}
    assert "dropped 14: empty 2, truncated 3, contract 4, duplicate 5" in capsys.readouterr().out


def test_what_is_dropped_is_kept_whole_with_its_reason(run: Run, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe({"curation.filters": {"uncertainty": {"min_confidence": 0.2}}})
    rows = [row(i, review(i)) for i in range(60)]
    unsure = {**row(100, review(100)), "token_logprobs": [-1.0, -1.5]}
    rows += [row(300, f" {review(3)}"), row(500, review(500), finish_reason="length"), unsure]
    capture(run, recipe, rows)
    curate(recipe, run)
    table = read_table(run.storage.read("dataset/dropped.parquet"), name="dropped")
    assert table.schema.names == [*RECORD_SCHEMA.names, "reason", "detail"]
    found = table.to_pylist()
    assert [(one["id"], one.pop("reason"), one.pop("detail")) for one in found] == [
        ("id-300", "duplicate", "id-3"),
        ("id-500", "truncated", ""),
        ("id-100", "uncertainty", "0.0821"),
    ]
    assert found == to_table(rows[60:]).to_pylist(), "signal and all"
    (tmp_path / "dropped.parquet").write_bytes(run.storage.read("dataset/dropped.parquet"))
    (query,) = re.findall(r"```sql\n(.+?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    told = duckdb.sql(query.replace("RUN/dataset", str(tmp_path))).fetchall()
    assert ("duplicate", "id-3", 1, " negative") in told
    assert len(told) == 3


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
    assert sizes["test"] == pytest.approx(0.1 * 221, abs=3), "the others make up for it"


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


def counts_of(run: Run) -> dict[str, int | float]:
    manifest = run.manifest("dataset")
    assert manifest is not None
    return manifest.counts


def test_filters_count_in_the_order_of_the_funnel(run: Run, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def keep(record):\n"
        "    number = record['id'].removeprefix('id-')\n"
        "    return {'20': 'too old', '21': False, '22': 'made up'}.get(number, True)\n"
    )
    filters = {
        "python": f"{tmp_path}/own.py:keep",
        "patterns": {
            "w31": {"regex": r"\bw31x0\b", "look_in": "prompt"},
            "a": {"regex": "w4[01]x0", "look_in": "prompt"},
        },
        "pii": {"look_in": "prompt"},
        "profanity": {"look_in": "prompt"},
    }
    recipe = make_recipe({"curation.filters": filters})
    rows = [row(i, review(i)) for i in range(100)]
    rows += [row(200, "mail me at jane@example.com"), row(201, "this damn film"), row(202, review(5)), row(203, "")]
    rows[50] = row(50, review(50), " neutral")
    capture(run, recipe, rows)
    curate(recipe, run)
    dropped = {name: n for name, n in counts_of(run).items() if name.startswith("dropped_")}
    assert list(dropped.items()) == [
        ("dropped_contract", 1),
        ("dropped_profanity", 1),
        ("dropped_pii", 1),
        ("dropped_patterns: a", 2),
        ("dropped_patterns: w31", 1),
        ("dropped_python", 1),
        ("dropped_python: made up", 1),
        ("dropped_python: too old", 1),
        ("dropped_duplicate", 1),
    ]
    assert sum(table.num_rows for table in dataset(run).values()) == 104 - 10


def test_what_is_held_out_may_stay_like_the_traffic(run: Run, make_recipe: MakeRecipe) -> None:
    unsure = range(0, 200, 4)
    rows = [
        {
            **row(i, review(i), " positive" if i % 3 else " negative"),
            "token_logprobs": [-3.0 if i in unsure else -0.1] * 2,
        }
        for i in range(200)
    ]

    def curated(**changes: Any) -> dict[str, set[str]]:
        recipe = make_recipe({"curation.filters.uncertainty": {}, **{f"curation.{k}": v for k, v in changes.items()}})
        capture(run, recipe, rows)
        curate(recipe, run)
        return {split: set(table["id"].to_pylist()) for split, table in dataset(run).items()}

    named = {f"id-{i}" for i in unsure}
    assert not named & set().union(*curated().values())
    assert counts_of(run)["dropped_uncertainty"] == 50

    splits = curated(filter_held_out=False)
    for split in ("train", "validation"):
        assert not named & splits[split]
    for split in ("calibration", "test"):
        assert len(named & splits[split]) == pytest.approx(len(splits[split]) / 4, abs=4)
        assert named & splits[split]
    held_out = len(named & (splits["calibration"] | splits["test"]))
    assert counts_of(run)["dropped_uncertainty"] == 50 - held_out
    with pytest.raises(UserError, match=r"0 of 200 records are left .*; 200 may be held out alone"):
        curated(filter_held_out=False, filters={"uncertainty": {"min_confidence": 0.99}})


def test_near_duplicates_can_be_dropped(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"curation.duplicates": "drop"})
    rows = [row(i, review(i)) for i in range(60)]
    rows += [row(200 + i, review(i) + " more") for i in range(20)]
    capture(run, recipe, rows)
    curate(recipe, run)
    counts = counts_of(run)
    assert (counts["dropped_near_duplicate"], counts["near_duplicates"]) == (20, 20)
    assert {one for table in dataset(run).values() for one in table["id"].to_pylist()} == {f"id-{i}" for i in range(60)}
    dropped = read_table(run.storage.read("dataset/dropped.parquet"), name="dropped")
    assert dropped["detail"].to_pylist() == [f"id-{i}" for i in range(20)]


def test_semantic_duplicates_stand_on_one_side(
    run: Run, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(texts: list[str]) -> np.ndarray:
        """Vectors that depend on the first word's number modulo 70 alone."""
        vectors = np.random.default_rng(0).normal(size=(70, 384))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors[[int(text.split("x")[0][1:]) % 70 for text in texts]].astype(np.float32)

    monkeypatch.setattr("stillhouse.embeddings.embed", embed)
    rows = [row(i, review(i)) for i in range(140)]
    recipe = make_recipe({"curation.semantic_similarity": 0.9})
    capture(run, recipe, rows)
    curate(recipe, run)
    assert (counts_of(run)["near_duplicates"], counts_of(run)["semantic_duplicates"]) == (0, 70)
    split_of = {one: split for split, table in dataset(run).items() for one in table["id"].to_pylist()}
    assert len(split_of) == 140
    assert all(split_of[f"id-{i}"] == split_of[f"id-{i + 70}"] for i in range(70))

    recipe = make_recipe({"curation.semantic_similarity": 0.9, "curation.duplicates": "drop"})
    curate(recipe, run)
    assert counts_of(run)["dropped_semantic_duplicate"] == 70


def test_a_leak_fails_the_job_and_leaves_the_dataset_alone(
    run: Run, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe()
    capture(run, recipe, [row(i, review(i % 60) + (" more" if i >= 60 else "")) for i in range(120)])
    curate(recipe, run)
    before = {key: run.storage.read(key) for key in run.storage.list("dataset")}
    # As if the groups were wrong.
    monkeypatch.setattr("stillhouse.curation.groups.near_duplicate_groups", lambda texts, **_: list(range(len(texts))))
    with pytest.raises(UserError, match=r"the splits leak: the record 'id-\d+' in .* near-duplicates, which share 91%"):
        curate(recipe, run)
    assert {key: run.storage.read(key) for key in run.storage.list("dataset")} == before


def test_what_the_teacher_was_tuned_on_does_not_leak(
    run: Run, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe({"teacher.tune": {"records": 20}})
    capture(run, recipe, [row(i, review(i)) for i in range(60)])
    tuned = [row(100 + i, review(i) + " more") for i in range(60)]
    for split, chosen in (("train", tuned[:50]), ("validation", tuned[50:])):
        run.storage.write(f"teacher/data/{split}.parquet", write_table(to_table(chosen), {}))
    run.commit("teacher", recipe=recipe, inputs={}, began=time.monotonic())
    monkeypatch.setattr("stillhouse.curation.groups.near_duplicate_groups", lambda texts, **_: list(range(len(texts))))
    with pytest.raises(UserError, match=r"the record 'id-1\d\d' in train and the record 'id-\d+' in"):
        curate(recipe, run)


def test_one_answer_alone_is_nothing_to_learn(run: Run, make_recipe: MakeRecipe) -> None:
    capture(run, make_recipe(), [row(i, review(i), " positive") for i in range(60)])
    with pytest.raises(UserError, match="all 60 records that are left have the answer 'positive', so there is nothing"):
        curate(make_recipe(), run)
    text = make_recipe({"task.kind": "text", "task.choices": []})
    capture(run, text, [row(i, review(i), " positive") for i in range(60)])
    curate(text, run)


def test_a_split_that_lacks_an_answer_is_told(
    run: Run, make_recipe: MakeRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    capture(run, make_recipe(), [row(i, review(i), " negative" if i < 2 else " positive") for i in range(100)])
    curate(make_recipe(), run)
    told = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(told) in (2, 3)
    assert all(line.endswith("has no record of the answer 'negative'") for line in told)


def test_disagreeing_completions_are_dropped_with_their_record(run: Run, make_recipe: MakeRecipe) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    recipe = make_recipe(
        {
            "task.kind": "json",
            "task.choices": [],
            "task.json_schema": schema,
            "task.sampling": {"temperature": 1},
            "capture.n": 3,
            "curation.filters.consistency": {},
        }
    )
    answers = [
        ['{"x": 1}', '{"x":1}', '{"x": 2}'],
        ['{"x": 1}', '{"x": 2}', '{"x": 3}'],
        ['{"x": 1}', '{"x": 2}', "no"],
    ]
    rows = [
        {**row(i, review(i), answers[i][sample] if i < 3 else '{"x": 0}'), "sample": sample}
        for i in range(80)
        for sample in range(3)
    ]
    capture(run, recipe, rows)
    curate(recipe, run)
    counts = counts_of(run)
    assert (counts["dropped_contract"], counts["dropped_consistency"]) == (1, 5)
    left = {one for table in dataset(run).values() for one in table["id"].to_pylist()}
    assert left == {f"id-{i}" for i in range(80)} - {"id-1", "id-2"}


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
    dropped = read_table(run.storage.read("dataset/dropped.parquet"), name="dropped").to_pylist()
    assert {one["id"]: one["reason"] for one in dropped} == dict.fromkeys(gone, "rejected")

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
