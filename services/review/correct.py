"""The dialog in which a reviewer gives the right answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import events, ui

from services.review.words import readable, said
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.review.judgement import checked_correction
from stillhouse.review.sample import Item

_LONGEST_LIST = 10
"""Choices that are seen at once; more can be scrolled to."""


class Correction:
    """A list for choices, and an editor for JSON and texts.

    Enter saves a choice, Ctrl-Enter what is written; Escape closes it.
    """

    def __init__(self, recipe: Recipe, save: Callable[[str], Awaitable[None]]) -> None:
        """`save` gets a correction that the task allows."""
        self._recipe, self._save = recipe, save
        self._item: Item | None = None
        self._text = ""
        self._dialog = ui.dialog()
        with self._dialog, ui.card().classes("correction"):
            said("h2", "The right answer")
            self._field = ui.element("div").classes("field")
            self._told = said("p", "", "problem").props('role="alert"')
            with ui.element("div").classes("row"):
                ui.button("Save", on_click=self._finish, color=None).props("unelevated no-caps").classes("accept")
                ui.button("Cancel", on_click=self._dialog.close).props("flat no-caps")

    @property
    def is_open(self) -> bool:
        """Whether keys belong to it."""
        return bool(self._dialog.value)

    def open(self, item: Item, text: str | None) -> None:
        """Begin with `text`, or with the teacher's answer."""
        self._item = item
        self._told.set_text("")
        self._field.clear()
        with self._field:
            if self._recipe.task.kind == "choices":
                self._choices(item, text)
            else:
                self._editor(readable(self._recipe.task, item.completion if text is None else text))
        self._dialog.open()

    def _choices(self, item: Item, text: str | None) -> None:
        choices = [choice.strip() for choice in self._recipe.task.choices]
        teachers = item.completion.strip()
        offered = [choice for choice in choices if choice != teachers]
        self._text = text if text in offered else offered[0]
        # The browser's own list: keys, type-ahead and screen readers work as everywhere.
        size = min(max(2, len(offered)), _LONGEST_LIST)
        chooser = ui.element("select").props(f'size={size} autofocus aria-label="The right answer"')
        with chooser:
            for choice in offered:
                option = said("option", choice)
                option.props["value"] = choice
                option.props["selected"] = choice == self._text
        chooser.on("change", self._chosen, js_handler="(event) => emit(event.target.value)")
        chooser.on("keydown.enter", self._finish)
        chooser.on("dblclick", self._finish)

    def _chosen(self, event: events.GenericEventArguments) -> None:
        self._text = str(event.args)

    def _editor(self, text: str) -> None:
        self._text = text

        def written(event: events.ValueChangeEventArguments) -> None:
            self._text = event.value or ""

        label = "JSON" if self._recipe.task.kind == "json" else "Text"
        editor = ui.textarea(label, value=text, on_change=written)
        editor.props("outlined autofocus autogrow spellcheck=false dir=auto").classes(
            f"editor {self._recipe.task.kind}"
        )
        editor.on("keydown.ctrl.enter", self._finish)
        editor.on("keydown.meta.enter", self._finish)
        said("p", "Ctrl-Enter saves, Escape closes.", "small")

    async def _finish(self) -> None:
        if self._item is None or not self.is_open:
            return
        try:
            checked_correction(self._recipe, self._item, self._text)
        except UserError as error:
            self._told.set_text(str(error))
            return
        self._dialog.close()
        await self._save(self._text)
