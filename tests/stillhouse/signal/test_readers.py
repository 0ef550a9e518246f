"""Other readers of Parquet get true ids and probabilities, by the words of docs/signal.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest

from stillhouse.data import Record
from stillhouse.signal.schema import (
    Completion,
    Mode,
    PartDescription,
    failed_row,
    read_table,
    signals,
    to_row,
    write_part,
)
from stillhouse.signal.sparse import SparseSignal

DOCS = Path(__file__).parents[3] / "docs" / "signal.md"


def record(i: int) -> Record:
    return Record(f"r{i}", i, {"text": "fine"}, None)


def top() -> SparseSignal:
    return SparseSignal.of([[700, 5, 49_151], [3]], [list(np.log([0.6, 0.25, 0.05])), [-0.001]])


def drawn() -> SparseSignal:
    ids, counts = np.array([9, 4, 2], np.int32), np.array([3, 1, 4])
    return SparseSignal.of_draws(ids, counts, np.array([0, 2, 3]), 4)


def part(folder: Path, mode: Mode) -> Path:
    """A part with two samples of one record, a completion of text alone, and a record that failed."""
    signal = top() if mode == "topk" else drawn()
    told = [Completion([1], " yes", [5, 3], "stop", [-0.5, -0.001], one) for one in (signal, signal, None)]
    rows = [to_row(record(i // 2), one, i % 2) for i, one in enumerate(told)] + [failed_row(record(2), "too long")]
    path = folder / "part-00000.parquet"
    path.write_bytes(write_part(rows, PartDescription("inputs", "t", "", "", "vllm 0", mode, 3, "float32")))
    return path


def expected(path: Path) -> dict[tuple[str, int, int, int], float]:
    """(id, sample, token from 1, token id) → probability, by our own reader."""
    table = read_table(path.read_bytes(), name="part")
    found = {}
    for row, signal in zip(table.to_pylist(), signals(table), strict=True):
        for token in range(0 if signal is None else len(signal)):
            assert signal is not None
            for token_id, logprob in zip(*signal.at(token), strict=True):
                found[row["id"], row["sample"], token + 1, int(token_id)] = float(np.exp(logprob))
    return found


@pytest.mark.parametrize("mode", ["topk", "sampled"])
def test_duckdb_reads_ids_and_probabilities(tmp_path: Path, mode: Mode) -> None:
    path = part(tmp_path, mode)
    (query,) = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)

    rows = duckdb.sql(query.replace("part-00000.parquet", str(path))).fetchall()

    found = {(row[0], row[1], row[2], row[3]): row[4] for row in rows}
    assert len(found) == len(rows) == (8 if mode == "topk" else 6)
    assert found == pytest.approx(expected(path), rel=1e-5)
    first = {key[3]: value for key, value in found.items() if key[:3] == ("r0", 0, 1)}
    truth = {700: 0.6, 5: 0.25, 49_151: 0.05} if mode == "topk" else {9: 0.75, 4: 0.25}
    assert first == pytest.approx(truth, abs=0.005)


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    from ray_jobs.cluster import connected

    with connected():
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize("mode", ["topk", "sampled"])
def test_ray_data_reads_ids_and_probabilities(tmp_path: Path, mode: Mode) -> None:
    import ray.data

    path = part(tmp_path, mode)
    rows = ray.data.read_parquet(str(path)).take_all()
    found = {}
    for row in rows:
        for token, ids in enumerate(row["top_ids"] if row["top_ids"] is not None else [], 1):
            levels = row["top_levels"][token - 1] if mode == "topk" else row["top_counts"][token - 1]
            weights = (np.asarray(levels) + 0.5) ** 4 if mode == "topk" else np.asarray(levels)
            for token_id, weight in zip(ids, weights, strict=True):
                share = row["mass"][token - 1] * weight / weights.sum()
                found[row["id"], row["sample"], token, int(token_id)] = float(share)
    assert found == pytest.approx(expected(path), rel=1e-5)
