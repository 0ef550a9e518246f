"""What differs within two answers, the drift baseline, speed, and where curves lie."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_made import LABELS, drawn, letters, made

from stillhouse.cost.curve import cost_curve
from stillhouse.metrics.reliability import reliability
from stillhouse.recipe import Prices
from stillhouse.report import Report, render_html
from stillhouse.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, cost_chart, reliability_chart
from stillhouse.report.disagreements import LONGEST, marked, worst
from stillhouse.report.drift import MOST_EMBEDDED, drift_baseline
from stillhouse.report.side_by_side import cosine_of
from stillhouse.report.speed import beside_teacher, speed
from stillhouse.signal.schema import write_table
from stillhouse.timed import Timed


def test_what_differs_is_marked_word_by_word() -> None:
    ours, theirs = marked("The film is good, really.", "The film was good.", "text")
    assert [piece.text for piece in ours if piece.differs] == ["is", ", really"]
    assert [piece.text for piece in theirs if piece.differs] == ["was"]
    ours, theirs = marked('{"a":1,"b":[2]}', '{"a":1,"b":[3]}', "json")
    assert "".join(piece.text for piece in ours) == '{\n  "a": 1,\n  "b": [\n    2\n  ]\n}'
    assert [piece.text for piece in theirs if piece.differs] == ["3"]
    assert marked(None, "x", "text") == ([], [("x", True)])
    long = "word " * 2000
    assert "".join(piece.text for piece in marked(long, long, "text")[0]) == f"{long[:LONGEST]}… (cut)"


@settings(max_examples=60, deadline=None)
@given(st.text("ab ,\n", max_size=30), st.text("ab ,\n", max_size=30))
def test_no_piece_is_lost(first: str, second: str) -> None:
    for side, text in zip(marked(first, second, "text"), (first, second), strict=True):
        assert "".join(piece.text for piece in side) == text
    same = [[piece.text for piece in side if not piece.differs] for side in marked(first, second, "text")]
    assert "".join(same[0]) == "".join(same[1])


def test_the_worst_texts_are_the_least_alike() -> None:
    predictions = drawn("text", 200)
    cosine = cosine_of(letters, [[answer for p in predictions for answer in (p.teacher, p.student)]])
    cases = worst(predictions, np.ones(200, dtype=bool), cosine=cosine)
    assert len(cases) == 20
    known = [case.similarity for case in cases if case.student is not None]
    assert known == sorted(known)  # type: ignore[type-var]
    assert all(case.student != case.teacher for case in cases)


def test_the_drift_baseline_can_be_compared_with() -> None:
    predictions = drawn("choices", 1200)
    baseline, table = drift_baseline(predictions, 0.7, labels=LABELS, embed=letters, seed=3)
    confidence = np.array([p.confidence for p in predictions])
    assert baseline.confidence.values == pytest.approx(np.quantile(confidence, baseline.confidence.at))
    assert baseline.fallback_rate.value == pytest.approx((confidence < 0.7).mean())
    assert baseline.answers is not None
    assert sum(baseline.answers.values()) + baseline.outside_contract.value == pytest.approx(1)
    assert table.num_rows == MOST_EMBEDDED
    stored = pyarrow.parquet.read_table(io.BytesIO(write_table(table, {})))
    texts = {p.id: p.text for p in predictions}
    vectors = np.array(stored["embedding"].to_pylist(), dtype=np.float64)
    expected = letters([texts[record] for record in stored["id"].to_pylist()])
    assert vectors == pytest.approx(expected, abs=1e-3)
    assert baseline.embedded is not None
    assert baseline.embedded.mean == pytest.approx(expected.mean(axis=0), abs=1e-5)
    assert 0 <= baseline.embedded.distance.values[0] <= baseline.embedded.distance.values[-1] <= 2
    again, _ = drift_baseline(predictions, 0.7, labels=LABELS, embed=letters, seed=3)
    assert again == baseline


def test_without_embeddings_or_a_threshold_there_is_a_baseline_too() -> None:
    baseline, table = drift_baseline(drawn("json", 30), None, labels=[], embed=None, seed=0)
    assert (baseline.fallback_rate.value, baseline.answers, baseline.embedded) == (1, None, None)
    assert table["embedding"].null_count == table["answer"].null_count == 30


def test_speed_is_of_the_requests_that_were_timed() -> None:
    requests = [Timed(seconds, 4) for seconds in (0.1, 0.2, 0.3)]
    found = speed("here", requests, at_once=1, batch=Timed(2.0, 100), records=50)
    assert found is not None
    assert (found.p50_s, found.p95_s) == pytest.approx((0.2, 0.29))
    assert (found.tokens_per_s, found.batch_tokens_per_s, found.batch_records_per_s) == pytest.approx((20, 50, 25))
    together = speed("there", requests, at_once=8)
    assert together is not None
    assert (together.tokens_per_s, together.batch_tokens_per_s) == (None, None)
    assert speed("here", [], at_once=1) is None
    beside = beside_teacher(found, Timed(4.0, 100))
    assert beside is not None
    assert (beside.teacher_tokens, beside.teacher_tokens_per_s, beside.tokens_per_s) == (100, 25, found.tokens_per_s)
    assert beside_teacher(found, None) == found
    assert beside_teacher(None, Timed(4.0, 100)) is None


def test_the_teachers_speed_is_told_as_captured_in_batch_or_as_not_measured() -> None:
    report = made()
    row = "Tokens written a second by the teacher, as captured in batch</th><td>"
    html = render_html(report)
    assert f"{row}200.0<" in html
    assert "4,000 tokens in the capture’s last start" in html
    # A report of before says nothing of it.
    older = json.loads(report.to_json())
    for name in ("teacher_tokens", "teacher_tokens_per_s"):
        del older["speed"][name]
    assert f"{row}not measured<" in render_html(Report.model_validate(older))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_bins_hold_every_record_once(records: list[tuple[float, bool]]) -> None:
    confidence, correct = np.array([c for c, _ in records]), np.array([r for _, r in records])
    bins = reliability(confidence, correct)
    assert sum(found.accuracy.n for found in bins) == len(records)
    assert sum(found.accuracy.value * found.accuracy.n for found in bins) == pytest.approx(correct.sum())
    for found in bins:
        inside = (confidence >= found.low) & ((confidence < found.high) | (found.high == 1))
        assert found.accuracy.n == inside.sum()
        assert found.confidence == pytest.approx(confidence[inside].mean())
    for bar in reliability_chart(bins).bars:
        assert LEFT <= bar.at[0] <= WIDTH - RIGHT
        assert TOP <= bar.high_y <= bar.at[1] <= bar.low_y <= HEIGHT - BOTTOM
        assert TOP < bar.top <= HEIGHT - BOTTOM


@pytest.mark.parametrize("threshold", [None, 0.0, 0.6, 1.0])
@pytest.mark.parametrize("prices", [{"teacher_input": 10}, {"teacher_output": 0.01, "student_input": 4000}])
def test_the_cost_chart_stays_inside_its_frame(threshold: float | None, prices: dict[str, float]) -> None:
    curve = cost_curve(drawn("choices", 200), against="gold", threshold=threshold, prices=Prices(**prices))
    drawn_chart = cost_chart(curve)
    points = [tuple(map(float, point.split(","))) for point in f"{drawn_chart.line} {drawn_chart.band}".split()]
    for x, y in [*points, drawn_chart.chosen, drawn_chart.teacher, drawn_chart.student]:
        assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
        assert TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1
    assert drawn_chart.chosen in [tuple(map(float, point.split(","))) for point in drawn_chart.line.split()]
    assert 3 <= len(drawn_chart.y_ticks) <= 8
    assert 3 <= len(drawn_chart.x_ticks) <= 7


def test_a_report_of_every_kind_survives_json() -> None:
    for kind in ("choices", "json", "text"):
        report = made(kind)
        assert type(report).model_validate_json(report.to_json()) == report
