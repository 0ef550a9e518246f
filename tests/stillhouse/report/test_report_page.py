"""The page as a browser shows it: on a desk, in the dark, on a phone and on paper."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_made import made

from stillhouse.report import render_html

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to show the page")

VIEWS = {"light": (1100, "light"), "dark": (1100, "dark"), "phone": (390, "light"), "small": (360, "dark")}

# Of every text that is shown: its colour against the nearest opaque background behind it (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const part = c => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4 };
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const low = [];
  for (const element of document.querySelectorAll('p, td, th, dt, dd, li, h1, h2, h3, h4, figcaption, mark, span')) {
    if (!element.textContent.trim() || !element.getClientRects().length) continue;
    let behind = element, back = [];
    for (; behind; behind = behind.parentElement) {
      back = rgb(getComputedStyle(behind).backgroundColor);
      if (back.length === 3) break;
      back = [];
    }
    if (!back.length) continue;
    const ink = rgb(getComputedStyle(element).color).slice(0, 3);
    const [high, deep] = [light(ink), light(back)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (deep + 0.05);
    if (ratio < 4.5) low.push(`${element.tagName} ${element.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return low;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("kind", ["choices", "json", "text"])
def test_the_page_is_shown_as_it_should(browser: Any, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"{kind}.html"
    path.write_text(render_html(made(kind)), encoding="utf-8")
    for view, (width, scheme) in VIEWS.items():
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.goto(path.as_uri())
        page.screenshot(path=tmp_path / f"{kind}-{view}.png", full_page=True)
        assert asked == [path.as_uri()]
        assert said == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        assert page.evaluate(CONTRAST) == [], view
        levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
        assert levels[0] == 1
        assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.querySelector('title'))")
        page.close()
    paper = browser.new_page()
    paper.goto(path.as_uri())
    paper.pdf(path=tmp_path / f"{kind}.pdf", format="A4")
    assert (tmp_path / f"{kind}.pdf").read_bytes().startswith(b"%PDF")
    paper.emulate_media(media="print", color_scheme="dark")
    assert paper.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    paper.close()


def test_without_its_pictures_the_page_says_the_same() -> None:
    """Every curve's marks are in a table too."""
    report = made()
    html = render_html(report)
    without = html
    while "<svg" in without:
        before, _, rest = without.partition("<svg")
        without = before + rest.partition("</svg>")[2]
    for series in report.reliability:
        for found in series.bins:
            assert f"<td>{found.accuracy.n}</td>" in without
    assert report.cost_curve is not None
    assert f"{100 * report.cost_curve.chosen.coverage:.1f}% (chosen)" in without
    assert f"{report.cost_curve.chosen.cost:,.2f}" in without
