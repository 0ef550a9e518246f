"""Who judges: the first page, where the address names nobody."""

from __future__ import annotations

from urllib.parse import quote

from nicegui import ui

from services.review.words import said
from stillhouse.errors import UserError
from stillhouse.review.judgement import LONGEST_NAME, checked_name
from stillhouse.review.state import ReviewState


def welcome(state: ReviewState, problem: str) -> None:
    """Ask for the reviewer's name, and go on with it; `problem` is what was wrong with the one in the address."""
    with ui.element("main").classes("welcome"):
        said("h1", f"Review of {state.recipe.name}")
        count = len(state.sample.items)
        said("p", f"{count:,} of {state.sample.population:,} answers of the teacher are to be judged.")
        name = ui.input("Your name").props(f"outlined autofocus maxlength={LONGEST_NAME}").classes("name")

        def go_on(chosen: str) -> None:
            try:
                ui.navigate.to(f"/?reviewer={quote(checked_name(chosen), safe='')}")
            except UserError as error:
                told.set_text(str(error))

        name.on("keydown.enter", lambda: go_on(name.value or ""))
        told = said("p", problem, "problem").props('role="alert"')
        ui.button("Begin", on_click=lambda: go_on(name.value or ""), color=None).props("unelevated no-caps").classes(
            "accept"
        )
        known = list(state.standing().reviewers)
        if known:
            said("p", "Or go on as")
            with ui.element("div").classes("names"):
                for each in known:
                    ui.button(each, on_click=lambda each=each: go_on(each)).props("outline no-caps")
