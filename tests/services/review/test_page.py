"""The page in a real browser: keys, reviewers, hostile records, its looks, and no request that leaves the machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from reviews_made import JSON_TASK, TEXT_TASK, MakeRecipe, made, record, sentiments

from stillhouse.recipe import Recipe
from stillhouse.review.state import ReviewState
from stillhouse.run import Run

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine to look at the page with"),
]

ROOT = Path(__file__).resolve().parents[3]
SHOTS = os.environ.get("STILLHOUSE_SCREENSHOTS")
"""A folder that the pictures of the page are kept in, to be looked at."""

READ_MS = 400
"""Nobody judges sooner than that, and the page takes no key for it."""

EVIL = '<img src=x onerror="window.evil=1"> <script>window.evil=1</script> {{ 7 * 7 }} `${1}` </script> \\u003cb\\u003e'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def served(run: Run, *words: str) -> Iterator[str]:
    """The page of a run, served by its own command; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # NiceGUI takes a process for a test of its own by this name.
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    command = [sys.executable, "-m", "stillhouse.cli", "review", run.uri, "--port", str(port), "--no-open", *words]
    address = f"http://127.0.0.1:{port}/"
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            until = time.monotonic() + 120
            while True:
                assert process.poll() is None, "the page's server ended"
                try:
                    urllib.request.urlopen(address)
                    break
                except OSError:
                    assert time.monotonic() < until
                    time.sleep(0.2)
            yield address
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 130
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class Reviewer:
    """A person in a browser of its own; collects what goes wrong and what is asked for."""

    def __init__(self, browser: Any, address: str, name: str | None, **options: Any) -> None:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
        self.page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.asked: set[str] = set()
        self.problems: list[str] = []
        self.page.on("request", lambda request: self.asked.add(request.url))
        self.page.on("websocket", lambda socket: self.asked.add(socket.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda told: told.type == "error" and self.problems.append(told.text))
        self.page.goto(address if name is None else f"{address}?reviewer={name}")

    def record(self) -> str:
        return str(self.page.locator(".fact .value").first.inner_text())

    def press(self, key: str) -> None:
        """A key, once the record was there long enough to be read."""
        self.page.wait_for_timeout(READ_MS)
        self.page.keyboard.press(key)

    def judge(self, key: str) -> str:
        """Judge the shown record, and wait for the next one; which it was."""
        before = self.record()
        self.press(key)
        self.expect_next(before)
        return before

    def expect_next(self, before: str) -> None:
        self.page.wait_for_function(
            "before => { const at = document.querySelector('.fact .value'); return !at || at.innerText !== before }",
            arg=before,
        )

    def expect(self, text: str | re.Pattern[str], where: str = "body") -> None:
        playwright.expect(self.page.locator(where).first).to_contain_text(text, timeout=60_000)

    def shot(self, name: str) -> None:
        if SHOTS:
            self.page.wait_for_timeout(600)
            self.page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def run_of(tmp_path: Path, recipe: Recipe, rows: list[dict[str, Any]]) -> Run:
    return made(Run.open(str(tmp_path / "run")), recipe, rows)


def kept(run: Run, recipe: Recipe) -> dict[str, dict[str, tuple[str | None, str | None]]]:
    said = ReviewState(recipe, run).said
    return {
        identity: {name: (each.verdict, each.correction) for name, each in reviewers.items()}
        for identity, reviewers in said.items()
    }


def test_two_reviewers_by_keyboard(browser: Any, tmp_path: Path, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"review.share": 0.1, "review.max_error": 0.3, "review.overlap": 0.5})
    run = run_of(tmp_path, recipe, sentiments(200))
    with served(run) as address:
        ada = Reviewer(browser, address, None)
        ada.expect("20 of 200 answers of the teacher are to be judged")
        ada.shot("welcome")
        ada.page.get_by_label("Your name").fill("\u202e")
        ada.page.keyboard.press("Enter")
        ada.expect("a reviewer's name has 1 to 64 printable characters")
        ada.page.get_by_label("Your name").fill("Ada Lovelace")
        ada.page.keyboard.press("Enter")
        ada.expect("0 of 20 judged, 0 by you")
        ada.expect("nothing is judged yet")

        first = ada.judge("a")
        ada.expect("1 of 20 judged, 1 by you")
        ada.expect(re.compile(r"0\.0% \(95%: 0\.0% to \d"), ".error")
        second = ada.judge("r")
        third = ada.record()
        ada.press("c")
        ada.page.get_by_label("The right answer").wait_for()
        ada.page.keyboard.press("Escape")
        ada.page.get_by_label("The right answer").wait_for(state="hidden")
        assert ada.record() == third
        ada.press("c")
        ada.page.get_by_label("The right answer").wait_for()
        ada.shot("correct")
        ada.page.wait_for_timeout(READ_MS)
        ada.page.keyboard.press("Enter")
        ada.expect_next(third)
        ada.expect("3 of 20 judged, 3 by you")
        right = {"positive": "negative", "negative": "positive"}
        label = {item.id: item.label for item in ReviewState(recipe, run).sample.items}
        assert kept(run, recipe) == {
            first: {"Ada Lovelace": ("accept", None)},
            second: {"Ada Lovelace": ("reject", None)},
            third: {"Ada Lovelace": ("correct", right[label[third]])},
        }

        # Back, another verdict there, and the last one taken back.
        ada.press("ArrowLeft")
        ada.expect(f"corrected to {right[label[third]]}", ".facts")
        ada.press("ArrowLeft")
        ada.expect("rejected", ".facts")
        assert ada.record() == second
        ada.judge("a")
        ada.press("ArrowRight")
        ada.page.wait_for_function("!document.querySelector('.fact.verdict')")
        ada.press("u")
        ada.expect("2 of 20 judged, 2 by you")
        assert ada.record() == third
        assert kept(run, recipe) == {
            first: {"Ada Lovelace": ("accept", None)},
            second: {"Ada Lovelace": ("accept", None)},
        }
        # Keys of the browser are not ours, nor is a key that comes before anybody can have read.
        ada.press("Control+r")
        ada.expect("2 of 20 judged")
        ada.press("Control+a")
        ada.page.keyboard.press("Shift+?")
        ada.expect("take the last judgement back", ".q-dialog")
        ada.press("r")
        ada.page.keyboard.press("Escape")
        ada.page.locator(".q-dialog").wait_for(state="hidden")
        ada.expect("2 of 20 judged")
        gold = ada.page.get_by_role("button", name="Show the gold answer")
        assert ada.page.locator("pre.gold").count() == 0
        gold.wait_for()
        ada.press("g")
        ada.page.locator("pre.gold").wait_for()

        ben = Reviewer(browser, address, "Ben")
        ben.expect("2 of 20 judged, 0 by you")
        assert ben.record() == first, "both begin with what everybody sees"
        ben.judge("r")
        ada.expect("Disputed", "aside")  # told to the other page at once
        ada.expect("Ada Lovelace – Ben kappa", "aside")
        ben.judge("a")
        ada.expect("kappa 0.00 (50% alike of 2)")
        ada.page.get_by_role("button", name=first, exact=True).click()
        ada.expect("accepted", ".facts")
        assert ada.record() == first
        ada.expect("Ada Lovelace: accept, Ben: reject", "aside")
        ada.shot("disputed")
        ada.press("r")
        ada.page.locator("aside", has_text="Disputed").wait_for(state="detached")

        ada.page.get_by_role("button", name="Accept (A)").click()
        for reviewer in (ada, ben):
            assert reviewer.problems == []
            assert {urlsplit(url).hostname for url in reviewer.asked if not url.startswith("data:")} == {"127.0.0.1"}

    # Stopped and gone on with, the whole of it.
    with served(run, "--reviewer", "Cleo") as address:
        cleo = Reviewer(browser, address, None)
        for _ in range(60):  # a key that comes too early does nothing
            cleo.expect(re.compile(r"of 20 judged"))
            if cleo.page.get_by_role("heading", name="Nothing is left for you to judge").count():
                break
            cleo.judge("a")
        cleo.expect("Nothing is left for you to judge")
        cleo.expect("20 of 20 judged", "aside")
        cleo.shot("done")
        cleo.press("ArrowLeft")
        cleo.expect("accepted", ".facts")
        ada = Reviewer(browser, address, "Ada%20Lovelace")
        ada.expect(re.compile(r"20 of 20 judged, \d+ by you"))


def test_hostile_texts_stay_texts(browser: Any, tmp_path: Path, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({**TEXT_TASK, "review.share": 1.0})
    rows = [{**record(i, f" {EVIL}", gold=EVIL, text=f"{EVIL} {i}"), "id": f"{EVIL}-{i}"} for i in range(60)]
    run = run_of(tmp_path, recipe, rows)
    with served(run) as address:
        ada = Reviewer(browser, address, "%3Cimg src=x onerror=window.evil=1%3E")
        ada.expect(EVIL, "pre.completion")
        ada.expect(f"Review: {EVIL}", "pre.prompt")
        assert EVIL in ada.record()
        ada.press("g")
        ada.expect(EVIL, "pre.gold")
        ada.press("c")
        editor = ada.page.get_by_label("Text")
        editor.wait_for()
        assert editor.input_value() == EVIL
        editor.fill(f"{EVIL} corrected")
        ada.page.wait_for_timeout(READ_MS)
        before = ada.record()
        ada.page.keyboard.press("Control+Enter")
        ada.expect_next(before)
        ada.press("ArrowLeft")
        ada.expect(f"corrected to {EVIL} corrected", ".facts")
        ben = Reviewer(browser, address, "Ben")
        ben.judge("a")
        ada.expect("Disputed", "aside")
        for reviewer in (ada, ben):
            assert reviewer.page.evaluate("window.evil") is None
            assert reviewer.page.locator("img").count() == 0
            assert reviewer.problems == []


def test_json_is_corrected_in_an_editor_and_looks_well_everywhere(
    browser: Any, tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    chat = {
        "task.prompt": None,
        "task.messages": [
            {"role": "system", "content": "Take the person's name and age from the text, as JSON."},
            {"role": "user", "content": "{text}"},
        ],
    }
    recipe = make_recipe({**JSON_TASK, **chat, "review.share": 0.15, "review.max_error": 0.3})
    texts = [f"My neighbour Ann, who turned {20 + i} last week, moved here from Ghent." for i in range(80)]
    rows = [record(i, f'{{"name": "Ann", "age": {20 + i}}}', text=text) for i, text in enumerate(texts)]
    run = run_of(tmp_path, recipe, rows)
    with served(run) as address:
        ada = Reviewer(browser, address, "Ada")
        ada.expect('{\n  "name": "Ann",', "pre.completion")
        before = ada.record()
        ada.press("c")
        editor = ada.page.get_by_label("JSON")
        editor.wait_for()
        editor.fill('{"age": 3}')
        ada.page.keyboard.press("Control+Enter")
        ada.expect("'name' is a required property")
        ada.shot("invalid")
        assert kept(run, recipe) == {}
        editor.fill('{"name": "Bo", "age": 3}')
        ada.page.keyboard.press("Control+Enter")
        ada.expect_next(before)
        assert kept(run, recipe) == {before: {"Ada": ("correct", '{"name": "Bo", "age": 3}')}}

        looks: list[tuple[str, dict[str, Any]]] = [
            ("light", {}),
            ("dark", {"color_scheme": "dark"}),
            ("phone", {"viewport": {"width": 390, "height": 844}}),
            ("phone-dark", {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}),
        ]
        for name, options in looks:
            looker = Reviewer(browser, address, "Ben", **options)
            looker.expect('"name": "Ann"', "pre.completion")
            if name == "light":
                looker.judge("a")
                looker.judge("r")
            looker.shot(name)
            page = looker.page
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, "nothing is cut off at the side"
            accept = page.get_by_role("button", name="Accept (A)")
            box, height = accept.bounding_box(), page.viewport_size["height"]
            assert box["y"] + box["height"] <= height, "the keys are in sight, however long the record"
            for _ in range(12):
                page.keyboard.press("Tab")
                if page.evaluate("document.activeElement.innerText").startswith("Accept"):
                    break
            assert "0px 0px 0px 5px" in page.evaluate("getComputedStyle(document.activeElement).boxShadow")
            for where in (
                "pre.completion",
                ".small",
                ".q-btn.accept",
                ".q-btn.correct",
                ".q-btn.reject",
                ".q-btn.help",
            ):
                assert contrast(page, where) >= 4.5, (name, where)
            assert looker.problems == []


CONTRAST = """element => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let behind = element;
  while (behind && (numbers(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
  const ground = behind ? numbers(getComputedStyle(behind).backgroundColor) : [255, 255, 255];
  const pair = [light(numbers(getComputedStyle(element).color)), light(ground)].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
}"""
"""The contrast of an element's text, by WCAG 2."""


def contrast(page: Any, where: str) -> float:
    return float(page.locator(where).first.evaluate(CONTRAST))


def test_a_site_elsewhere_cannot_reach_the_page_by_a_name_of_its_own(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    run = run_of(tmp_path, recipe, sentiments(60))
    with served(run) as address:
        request = urllib.request.Request(address, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request)
        port = urlsplit(address).port
        second = subprocess.run(
            [sys.executable, "-m", "services.review", "--run", run.uri, "--port", str(port), "--no-open"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert second.returncode == 2
        assert f"cannot listen on 127.0.0.1:{port}" in second.stderr
        assert "Traceback" not in second.stderr
