"""Nothing that a user, a record or a model wrote becomes markup, in any kind of report."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report_made import drawn, made, recipe_of

from stillhouse.judge.judgement import tally
from stillhouse.report import Report, render_html
from stillhouse.report.disagreements import worst

EVIL = "</style></title><script>alert('x')</script>\"'&<img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes.update(name for name, _ in attrs)


def evil(kind: str) -> Report:
    """A report whose every text is an attack."""
    report = made(kind, recipe=recipe_of(kind, teacher={"model": EVIL}))
    said = json.dumps({EVIL: [EVIL, 1]}) if kind == "json" else f"so {EVIL} it is"
    other = json.dumps({EVIL: [EVIL, 2]}) if kind == "json" else f"so {EVIL} it was"
    case = replace(drawn(kind, 1)[0], id=EVIL, text=EVIL, gold=said, teacher=said, student=other)
    judged = tally(EVIL, ["win", "loss"], same=1, swayed=1, unparsable=1, unanswered=1, seed=0)
    speed = report.speed.model_copy(update={"where": EVIL}) if report.speed else None
    changes = {
        "run": EVIL, "warnings": [EVIL], "alarms": [EVIL], "notes": [EVIL], "funnel": {EVIL: 1},
        "judgement": judged, "speed": speed, "disagreements": worst([case], [True]),  # type: ignore[arg-type]
    }  # fmt: skip
    return report.model_copy(update=changes)


@pytest.mark.parametrize("kind", ["choices", "json", "text"])
def test_nothing_becomes_markup(kind: str) -> None:
    html = render_html(evil(kind))
    tags = Tags(html)
    assert not {"script", "img", "link", "iframe"} & tags.found
    assert not {name for name in tags.attributes if name.startswith("on") or name in ("src", "href")}
    assert html.count("&lt;script&gt;") >= 12
    assert html.count("<style>") == html.count("</style>") == 1
    if kind != "choices":
        assert "<mark>" in html
