"""The page of one reviewer: a completion with its prompt, and the keys that judge it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nicegui import Event, events, run, ui

from services.review.board import Board
from services.review.correct import Correction
from services.review.words import percent, readable, said
from stillhouse.errors import UserError
from stillhouse.review.judgement import Judgement, Verdict
from stillhouse.review.sample import Item
from stillhouse.review.state import ReviewState
from stillhouse.task import chat_messages

_UNREAD_S = 0.25
"""Nobody has read a record in that time: a key that comes sooner was meant for the one before."""

_KEYS = {
    "A": "accept the answer",
    "C": "correct it",
    "R": "reject it",
    "U": "take the last judgement back",
    "←  →": "go back and forth among what you have judged",
    "G": "show the gold answer, where there is one",
    "?": "these keys",
}

_DONE = {"accept": "accepted", "correct": "corrected", "reject": "rejected"}


class ReviewPage:
    """One reviewer in one tab of a browser."""

    def __init__(self, state: ReviewState, reviewer: str, changed: Event[[]]) -> None:
        """`changed` tells all pages that something was judged."""
        self._state, self._reviewer, self._changed = state, reviewer, changed
        own = [(judged[reviewer].at, identity) for identity, judged in state.said.items() if reviewer in judged]
        self._trail = [identity for _, identity in sorted(own)]
        self._place = len(self._trail)  # in the trail; at its end something new is shown
        self._item: Item | None = None
        self._shown_at = 0.0
        self._gold = False
        self._busy = False

    def build(self) -> None:
        """Make the page's elements."""
        # First, so that no page begins as one that has nothing left.
        self._choose()
        self._board = Board(self._state, self._reviewer, self._go_to)
        with ui.element("header"):
            said("h1", f"Review of {self._state.recipe.name}")
            said("span", self._reviewer, "reviewer").props("dir=auto")
            ui.link("not you?", "/?reviewer=").classes("small")
            ui.button("Keys (?)", on_click=self._help).props("flat dense no-caps").classes("help")
        with ui.element("div").classes("columns"):
            with ui.element("main"):
                self._record()
            with ui.element("aside").props('aria-label="Where the review stands"'):
                self._board.build()
        self._bar()
        self._correction = Correction(self._state.recipe, self._corrected)
        with ui.dialog() as self._keys, ui.card():
            said("h2", "Keys")
            with ui.element("dl"):
                for key, meaning in _KEYS.items():
                    with said("dt", ""):
                        said("kbd", key)
                    said("dd", meaning)
            ui.button("Close", on_click=self._keys.close).props("flat no-caps")
        ui.keyboard(self._key, repeating=False, ignore=["input", "select", "textarea"])
        self._changed.subscribe(self._board.build.refresh)

    @ui.refreshable_method
    def _record(self) -> None:
        item = self._item
        if item is None:
            with ui.element("section").classes("done"):
                said("h2", "Nothing is left for you to judge")
                said("p", "Thank you. You can go back with ← and change what you said, or close this page.")
            return
        task = self._state.recipe.task
        with ui.element("div").classes("facts"):
            self._fact("Record", item.id)
            if item.label:
                self._fact("Class", item.label)
            told = "not told" if item.confidence is None else percent(item.confidence)
            self._fact("Teacher’s confidence", told)
            own = self._own()
            if own is not None:
                corrected = f" to {own.correction}" if own.correction is not None else ""
                self._fact("You", f"{_DONE[str(own.verdict)]}{corrected}", f"verdict {own.verdict}")
        with ui.element("section"):
            said("h2", "Prompt")
            prompt = item.prompt(task)
            if prompt.text is not None:
                said("pre", prompt.text, "prompt").props("dir=auto")
            else:
                for message in chat_messages(prompt):
                    said("h3", str(message["role"]))
                    said("pre", str(message["content"]), "prompt").props("dir=auto")
        with ui.element("section").props('aria-live="polite"'):
            said("h2", "The teacher’s answer")
            said("pre", readable(task, item.completion), f"completion {task.kind}").props("dir=auto")
        if item.gold is not None:
            with ui.element("section"):
                if self._gold:
                    said("h2", "Gold answer")
                    said("pre", readable(task, item.gold), f"gold {task.kind}").props("dir=auto")
                else:
                    ui.button("Show the gold answer (G)", on_click=self._reveal).props("flat dense no-caps")

    def _fact(self, name: str, text: str, classes: str = "") -> None:
        with ui.element("div").classes(f"fact {classes}"):
            said("span", name, "small")
            said("span", text, "value").props("dir=auto")

    def _bar(self) -> None:
        with ui.element("nav").props('aria-label="Judge"'):
            _button("Accept (A)", lambda: self._judge("accept"), "accept", "a")
            _button("Correct (C)", self._correct, "correct", "c")
            _button("Reject (R)", lambda: self._judge("reject"), "reject", "r")
            _button("← Back", lambda: self._step(-1), "plain", "ArrowLeft")
            _button("Undo (U)", self._undo, "plain", "u")

    async def _key(self, event: events.KeyEventArguments) -> None:
        held = event.modifiers
        if (
            not event.action.keydown
            or held.ctrl
            or held.alt
            or held.meta
            or self._correction.is_open
            or self._keys.value
        ):
            return
        key = event.key.name
        if key == "?":
            self._help()
        elif key == "ArrowLeft":
            self._step(-1)
        elif key == "ArrowRight":
            self._step(1)
        elif (letter := key.lower()) == "a":
            await self._judge("accept")
        elif letter == "r":
            await self._judge("reject")
        elif letter == "c":
            self._correct()
        elif letter == "u":
            await self._undo()
        elif letter == "g":
            self._reveal()

    async def _judge(self, verdict: Verdict, correction: str | None = None) -> None:
        item = self._item
        if item is None or self._busy or time.monotonic() - self._shown_at < _UNREAD_S:
            return
        if await self._keep(item, verdict, correction):
            if self._place == len(self._trail):
                self._trail.append(item.id)
            self._place += 1
            self._show()

    async def _corrected(self, text: str) -> None:
        await self._judge("correct", text)

    async def _undo(self) -> None:
        """Take back what was said of the shown record, or of the last one."""
        place = self._place if self._own() is not None else self._place - 1
        if self._busy or not 0 <= place < len(self._trail):
            return
        item = self._state.sample.by_id[self._trail[place]]
        if await self._keep(item, None, None):
            del self._trail[place]
            self._place = len(self._trail)
            self._show(item)
            ui.notify("taken back", position="top")

    async def _keep(self, item: Item, verdict: Verdict | None, correction: str | None) -> bool:
        self._busy = True
        try:
            await run.io_bound(self._state.judge, item, self._reviewer, verdict, correction)
        except UserError as error:
            ui.notify(str(error), type="negative", position="top", timeout=10_000, close_button=True)
            return False
        finally:
            self._busy = False
        self._changed.emit()
        return True

    def _correct(self) -> None:
        if self._item is not None and time.monotonic() - self._shown_at >= _UNREAD_S:
            own = self._own()
            self._correction.open(self._item, None if own is None else own.correction)

    def _step(self, by: int) -> None:
        place = self._place + by
        if 0 <= place <= len(self._trail) and not self._busy:
            self._place = place
            self._show()

    def _go_to(self, identity: str) -> None:
        """Show a record that is asked for by its id."""
        item = self._state.sample.by_id[identity]
        self._place = self._trail.index(identity) if identity in self._trail else len(self._trail)
        self._show(item)

    def _show(self, item: Item | None = None) -> None:
        self._choose(item)
        self._record.refresh()

    def _choose(self, item: Item | None = None) -> None:
        """Turn to `item`, or to what stands at the reviewer's place: something new, at the end of the trail."""
        if item is None and self._place < len(self._trail):
            item = self._state.sample.by_id[self._trail[self._place]]
        self._item = item or self._state.next_item(self._reviewer)
        self._gold = False
        self._shown_at = time.monotonic()

    def _own(self) -> Judgement | None:
        """What this reviewer said of the shown record."""
        return None if self._item is None else self._state.said.get(self._item.id, {}).get(self._reviewer)

    def _reveal(self) -> None:
        self._gold = True
        self._record.refresh()

    def _help(self) -> None:
        self._keys.open()


def _button(text: str, pressed: Callable[[], Any], classes: str, key: str) -> None:
    ui.button(text, on_click=pressed, color=None).props(f"unelevated no-caps aria-keyshortcuts={key}").classes(classes)
