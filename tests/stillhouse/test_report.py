"""The report's numbers by hand, its sentences, and an HTML file that is whole, safe and self-contained."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from calibration_made import recipe as text_recipe
from calibration_made import sure, texts
from threadpoolctl import threadpool_limits

from stillhouse.calibration import Calibrated, calibrate
from stillhouse.cost.money import money
from stillhouse.metrics import Prediction
from stillhouse.recipe import Recipe
from stillhouse.report import Lineage, Report, build_report, render_html
from stillhouse.report.chart import HEIGHT, WIDTH, risk_coverage_chart
from stillhouse.report.words import measured, percent

LINEAGE = Lineage(
    created="2026-01-02T03:04:05+00:00",
    seed=7,
    hashes={"student": "a" * 64},
    versions={"stillhouse": "0.1.0"},
    commands=["stillhouse run recipe.yaml"],
)


def make_recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "reviews",
            "task": {"kind": "choices", "prompt": "Review: {text}\nSentiment:", "choices": [" good", " bad"]},
            "data": {"path": "data.jsonl", "label": "label"},
            "teacher": {"model": "big"},
            "evaluation": {"against": "teacher", "alpha": 0.1, "delta": 0.05},
            "prices": {"teacher_input": 10, "teacher_output": 30, "student_input": 1, "student_output": 3},
            **changes,
        }
    )


def calibrated(n: int = 120) -> Calibrated:
    """A threshold of 0.8 from right answers of that confidence or a little more; none from 10."""
    return calibrate([sure(0.801 + i / n / 10) for i in range(n)], make_recipe())


def predict(
    gold: str | None, teacher: str | None, student: str | None, confidence: float, *, id: str = "r"
) -> Prediction:
    return Prediction(
        id=id,
        text=f"text of {id}",
        gold=gold,
        teacher=teacher,
        student=student,
        confidence=confidence,
        teacher_prompt_tokens=100,
        teacher_completion_tokens=10,
        student_prompt_tokens=90,
        student_completion_tokens=5,
    )


# Ten records, eight of them above the threshold of 0.8.
TEN = [
    predict("good", "good", "good", 0.99, id="r0"),
    predict("good", "good", "good", 0.98, id="r1"),
    predict("good", "bad", "good", 0.97, id="r2"),  # the student right where the teacher is wrong
    predict("bad", "bad", "good", 0.96, id="r3"),  # a confident mistake
    predict("bad", "bad", "bad", 0.95, id="r4"),
    predict("bad", "bad", "bad", 0.94, id="r5"),
    predict("good", "good", "good", 0.93, id="r6"),
    predict("good", "good", "good", 0.80, id="r7"),  # just at the threshold
    predict("good", "good", None, 0.79, id="r8"),  # outside the contract
    predict("bad", "bad", "good", 0.60, id="r9"),  # a mistake that the teacher catches
]


def build(predictions: list[Prediction] = TEN, calibration: Calibrated | None = None, **options: Any) -> Report:
    recipe = options.pop("recipe", None) or make_recipe()
    options = {"run": "runs/demo", "funnel": {"captured": 40, "test": 10}, "lineage": LINEAGE, **options}
    return build_report(predictions, calibration or calibrated(), recipe, **options)


def test_the_numbers_by_hand() -> None:
    report = build()
    quality, release = report.quality, report.release
    assert quality.teacher
    assert quality.student
    assert quality.cascade
    assert quality.teacher.value == 0.9  # all but r2
    assert quality.student.value == 0.7  # all but r3, r8, r9
    assert quality.cascade.value == 0.9  # all but r3
    assert quality.agreement.value == 0.6  # all but r2, r3, r8, r9
    assert quality.cascade_agreement.value == 0.8  # all but r2, r3
    assert release.fallback_rate.value == 0.2
    assert release.alone_error
    assert (release.alone_error.value, release.alone_error.n) == (0.25, 8)  # r2 and r3 differ from the teacher
    assert (report.test_n, report.gold_n, report.released) == (10, 10, True)


def test_tokens_and_cost() -> None:
    spending = build().spending
    assert (spending.teacher_tokens.prompt, spending.teacher_tokens.completion) == (100, 10)
    assert (spending.per_million.teacher, spending.per_million.student) == (1300, 105)
    assert spending.per_million.cascade == pytest.approx(105 + 0.2 * 1300)


def test_against_gold_a_better_answer_than_the_teachers_is_right() -> None:
    recipe = make_recipe(evaluation={"against": "gold", "alpha": 0.1, "delta": 0.05})
    release = build(recipe=recipe).release
    assert release.alone_error
    assert release.alone_error.value == 0.125  # r3 only
    assert "are wrong" in release.promise


def test_without_gold_only_agreement_is_told() -> None:
    report = build([replace(p, gold=None) for p in TEN])
    quality = report.quality
    assert (quality.teacher, quality.student, quality.cascade, report.gold_n) == (None, None, None, 0)
    assert "Together they give the teacher’s answer on 80%." in report.summary
    assert report.confusion
    assert report.confusion.reference == "teacher"
    assert "none has a gold answer" in render_html(report)


def test_confusion_has_a_column_for_answers_outside_the_contract() -> None:
    confusion = build().confusion
    assert confusion
    assert (confusion.reference, confusion.labels) == ("gold", ["good", "bad"])
    assert confusion.counts == [[5, 0, 1], [2, 2, 0]]


def test_the_most_confident_disagreements_come_first() -> None:
    cases = build().disagreements
    assert [(case.id, case.alone) for case in cases] == [("r2", True), ("r3", True), ("r8", False), ("r9", False)]
    many = [predict("bad", "bad", "good", 0.9, id=f"r{i}") for i in range(30)]
    assert len(build(many).disagreements) == 20


def test_the_curve_ends_with_everything_accepted() -> None:
    rng = np.random.default_rng(0)
    many = [
        predict("good", "good", "good" if rng.random() < 0.8 else "bad", float(rng.random()), id=str(i))
        for i in range(900)
    ]
    curve = build(many).curve
    errors = sum(p.student != p.teacher for p in many) / 900
    assert len(curve) == 200
    assert (curve[0].coverage, curve[-1].coverage) == (1 / 900, 1.0)
    assert curve[-1].risk.value == pytest.approx(errors)
    for point in curve[::40]:
        accepted = [p for p in many if p.confidence >= point.threshold]
        assert point.coverage == len(accepted) / 900
        assert point.risk.value == pytest.approx(sum(p.student != p.teacher for p in accepted) / len(accepted))


def test_the_summary_tells_a_release() -> None:
    report = build()
    assert report.summary == (
        "The student can answer 80% of the requests alone, and the teacher answers the rest. Together they are "
        "right on 90%, the teacher on its own on 90%. That costs 71.9% less than the teacher alone."
    )
    assert report.release.promise == (
        "Among the answers the student gives alone, at most 10% differ from the teacher’s; "
        "the chance that this promise holds is at least 95%."
    )


def test_the_verdict_tells_a_refusal_and_the_nearest_promise() -> None:
    report = build(calibration=calibrated(10))
    assert report.summary == "The student is not ready to answer alone, so every request goes to the teacher."
    assert "that takes 29 calibration records or more, and there are 10" in report.release.promise
    assert "The nearest that these records would have allowed is 26%" in report.release.promise
    assert (report.released, report.release.fallback_rate.value, report.release.alone_error) == (False, 1.0, None)
    assert report.quality.cascade == report.quality.teacher
    assert "Not released" in render_html(report)


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"predictions": [replace(p, student="bad", teacher="good") for p in TEN]}, "above the promised 10%"),
        ({"recipe": make_recipe(prices={"teacher_input": 1, "student_input": 1})}, "costs no less than the teacher"),
        ({"recipe": make_recipe(prices={})}, "gives no teacher prices"),
        ({}, "only 10 test records"),
        ({"calibration": calibrated(99)}, "only 99 calibration records"),
        ({"calibration": calibrate([sure(0.9)] * 200, make_recipe())}, "All 200 calibration scores are 0.9"),
    ],
)
def test_warnings_are_raised_and_shown(options: dict[str, Any], warning: str) -> None:
    report = build(**options)
    assert any(warning in text for text in report.warnings), report.warnings
    assert warning in render_html(report)


def test_a_good_run_has_no_warnings() -> None:
    good = [predict(a, a, a, 0.9, id=str(i)) for i, a in enumerate(["good", "bad"] * 60)]
    report = build(good)
    assert report.warnings == []
    assert "Warning." not in render_html(report)
    assert "gave the same answer to every test record" in render_html(report)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (predict(" good", "good", "good", 0.9), "gold answer ' good' is none of the choices"),
        (predict("good", "good", "great", 0.9), "student answer 'great'"),
        (predict("good", "good", "good", float("nan")), "NaN or outside"),
    ],
)
def test_records_that_would_falsify_every_number_are_refused(prediction: Prediction, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build([prediction])


def test_no_records_are_refused() -> None:
    with pytest.raises(ValueError, match="no test records"):
        build([])


def test_free_text_tasks_have_no_confusion_and_no_baseline() -> None:
    recipe = make_recipe(
        task={
            "kind": "text",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{text}"}],
        },
        student={"init": {"kind": "pretrained", "model": "small"}},
    )
    report = build(recipe=recipe)
    assert (report.confusion, report.side_by_side.baselines, report.side_by_side.classes) == (None, (), None)
    assert report.task.template == "system: Be brief.\n\nuser: {text}"
    assert report.models.student == "small, distilled"
    assert "Where the student goes wrong" not in render_html(report)


def test_the_report_survives_json() -> None:
    for report in (build(notes=["A note."]), build(calibration=calibrated(10))):
        assert Report.model_validate_json(report.to_json()) == report


def test_the_score_is_told_with_what_it_was_picked_from() -> None:
    rng = np.random.default_rng(0)
    recipe = text_recipe(alpha=0.2, windows=[6, 12])
    with threadpool_limits(1):
        found = calibrate(texts(rng, 900), recipe)
    test = found.rescored(texts(rng, 300))
    release = (report := build(test, found, recipe=recipe)).release
    assert release.selection == found.selection
    assert (release.calibration_error_before, release.calibration_error_after) == (
        found.error_before,
        found.error_after,
    )
    page = " ".join(Page(render_html(report)).text.split())
    assert f"300 more chose the score; thresholds tried from {found.calibration.n_start}" in page
    assert "when the student’s confidence, the " in page
    for candidate in found.selection.candidates:
        assert f"{candidate.name} {candidate.area:.4f}" in page
    assert f"of the sequence probability: {measured(found.error_before)}" in page


def test_windows_tell_whole_answers_errors() -> None:
    rng = np.random.default_rng(1)
    recipe = text_recipe(score="mean_logprob", alpha=0.2, windows=[6])
    found = calibrate(texts(rng, 900), recipe)
    test = found.rescored(texts(rng, 300))
    (window,) = build(test, found, recipe=recipe).release.windows
    threshold = window.calibration.threshold
    assert threshold is not None
    alone = [p for p in test if p.evidence and np.exp(np.mean(p.evidence.token_logprobs[:6])) >= threshold]
    assert window.fallback_rate.value == pytest.approx(1 - len(alone) / 300)
    assert window.alone_error
    assert window.alone_error.value == pytest.approx(np.mean([p.student != p.teacher for p in alone]))
    page = render_html(build(test, found, recipe=recipe))
    assert "Each row is a promise of its own" in page
    assert "Judged by the first tokens" not in render_html(build())


class Page(HTMLParser):
    """What a page is made of: tags, attributes and visible text; unbalanced tags are an error."""

    VOID = frozenset({"meta", "rect", "line", "circle", "polygon", "polyline"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.text += data


@pytest.mark.parametrize("n", [120, 10])
def test_the_page_is_well_formed_and_fetches_nothing(n: int) -> None:
    html = render_html(build(calibration=calibrated(n)))
    page = Page(html)
    assert html.startswith("<!doctype html>")
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not {"src", "href", "srcset", "xlink:href", "onload"} & {name for name, _ in page.attributes}
    assert not re.search(r"url\((?!#)|@import|https?://", html)
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html


def test_the_page_leads_with_the_verdict_and_says_everything_in_text() -> None:
    report = build(notes=["The teacher’s weights are dequantised."])
    text = " ".join(Page(render_html(report)).text.split())
    places = [text.index(said) for said in (report.verdict, report.summary, report.release.promise, "Quality")]
    assert places == sorted(places)
    for said in (
        "May answer alone", "The teacher’s weights are dequantised.", "90.0%", "59.6% to 98.2%", "1,300.00", "365.00",
        "text of r3", "no valid answer", "Went out alone", "Fell back", "captured", "a" * 64,
        "stillhouse run recipe.yaml", "Review: {text}", "runs/demo",
    ):  # fmt: skip
        assert said in text, said


EVIL = "<script>alert('x')</script>\"'&<img src=x onerror=alert(1)>"


def test_everything_a_user_supplies_is_escaped() -> None:
    recipe = make_recipe(
        task={"kind": "choices", "prompt": "{text}" + EVIL.replace("(", "").replace(")", ""), "choices": [EVIL, "bad"]},
        teacher={"model": EVIL},
        prices={"currency": "<b>", "teacher_input": 1},
    )
    evil = replace(predict(EVIL, EVIL, "bad", 0.9, id=EVIL), text=EVIL)
    report = build(
        [evil, replace(evil, student=None)],
        recipe=recipe,
        run=EVIL,
        funnel={EVIL: 3},
        notes=[EVIL],
        lineage=Lineage(created=EVIL, seed=0, hashes={EVIL: EVIL}, versions={EVIL: EVIL}, commands=[EVIL]),
    )
    html = render_html(report)
    page = Page(html)
    assert not {"script", "img", "b"} & set(page.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.text.count(EVIL) >= 15


def test_the_chart_stays_inside_its_frame_and_marks_the_threshold() -> None:
    report = build()
    chart = risk_coverage_chart(report.curve, alpha=0.1, threshold=0.8)
    points = [tuple(map(float, point.split(","))) for point in chart.line.split()]
    assert len(points) == 10
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert len(chart.band.split()) == 20
    # Eight accepted of ten, two of them wrong: on the curve, at the eighth point.
    assert chart.chosen == points[7]
    assert risk_coverage_chart(report.curve, alpha=0.1, threshold=None).chosen is None
    assert risk_coverage_chart(report.curve, alpha=0.1, threshold=0.999).chosen is None


@pytest.mark.parametrize("risk", [0.0, 0.004, 0.05, 0.33, 1.0])
def test_the_chart_has_a_handful_of_ticks_at_any_risk(risk: float) -> None:
    wrong = round(250 * risk)
    many = [predict("good", "good", "bad" if i < wrong else "good", 0.5, id=str(i)) for i in range(250)]
    chart = risk_coverage_chart(build(many).curve, alpha=0.02, threshold=0.5)
    assert 3 <= len(chart.y_ticks) <= 7
    assert chart.y_ticks[-1].at >= 0
    assert chart.y_ticks[-1].value >= max(risk, 0.02)
    assert chart.chosen is not None
    assert 0 <= chart.chosen[1] <= HEIGHT


def test_numbers_in_words() -> None:
    assert [percent(x) for x in (0, 0.07, 0.0123, 0.5, 0.99951, 1)] == ["0%", "7%", "1.2%", "50%", "100%", "100%"]
    assert [measured(x) for x in (0, 0.5, 0.12345)] == ["0.0%", "50.0%", "12.3%"]
    assert [money(x) for x in (0, 0.01234, 1, 1234.5)] == ["0.00", "0.0123", "1.00", "1,234.50"]
