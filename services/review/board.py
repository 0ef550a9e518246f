"""Where the review stands, beside what is judged: progress, the teacher's error, agreement, what is disputed."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from services.review.words import said
from stillhouse.review.show import told_agreement, told_error
from stillhouse.review.state import ReviewState, Standing

_MOST_DISPUTED = 20


class Board:
    """The part of the page that changes with everyone's judgements."""

    def __init__(self, state: ReviewState, reviewer: str, open_item: Callable[[str], None]) -> None:
        self._state, self._reviewer, self._open = state, reviewer, open_item

    @ui.refreshable_method
    def build(self) -> None:
        """Made anew whenever something was judged."""
        standing = self._state.standing()
        own = standing.reviewers.get(self._reviewer, 0)
        with _section("Progress"):
            said("p", f"{standing.judged:,} of {standing.sample:,} judged, {own:,} by you")
            told = f"{standing.judged} of {standing.sample} judged"
            ui.element("progress").props(f'value={standing.judged} max={standing.sample} aria-label="{told}"')
        with _section("The teacher’s error"):
            said("p", told_error(standing.error), "error")
            if standing.max_error is not None:
                self._bound(standing)
        if standing.agreement:
            with _section("Agreement"), ui.element("ul"):
                for pair in standing.agreement:
                    with ui.element("li"):
                        said("strong", f"{pair.first} – {pair.second}").props("dir=auto")
                        said("span", f" {told_agreement(pair)}")
        if standing.disputed:
            self._disputed(standing)

    def _bound(self, standing: Standing) -> None:
        if standing.problem is None:
            said("p", f"The bound of {standing.max_error:.1%} holds: training may start.", "held")
        else:
            said("p", f"Not yet: {standing.problem}.", "open")

    def _disputed(self, standing: Standing) -> None:
        """Records on which the reviewers are divided; what others say, only once this one has judged."""
        with _section("Disputed"):
            said("p", "Each counts as an error until more than half agree.", "small")
            with ui.element("ul"):
                for identity in standing.disputed[:_MOST_DISPUTED]:
                    verdicts = self._state.said[identity]
                    with ui.element("li"):
                        ui.button(identity, on_click=lambda identity=identity: self._open(identity)).props(
                            "flat dense no-caps"
                        )
                        if self._reviewer in verdicts:
                            told = ", ".join(f"{name}: {each.verdict}" for name, each in sorted(verdicts.items()))
                            said("span", told).props("dir=auto")
                        else:
                            said("span", "not judged by you")
            if (more := len(standing.disputed) - _MOST_DISPUTED) > 0:
                said("p", f"and {more} more", "small")


def _section(title: str) -> ui.element:
    section = ui.element("section")
    with section:
        said("h2", title)
    return section
