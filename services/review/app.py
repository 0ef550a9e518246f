"""The review's web server: one review, and a page for everyone who takes part.

`python -m services.review --run URI`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from nicegui import Event, app, run, ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

from services.command import is_loopback, require_free, tell
from services.review.page import ReviewPage
from services.review.welcome import welcome
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import load_recipe
from stillhouse.review.judgement import checked_name
from stillhouse.review.state import ReviewState
from stillhouse.run import Run

_REFRESH_S = 15.0
"""How often the run is asked for what was judged elsewhere, in seconds."""

_STYLE = Path(__file__).with_name("review.css")

_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><circle cx="12" cy="12" r="11" fill="#0b6e69"/>'
    '<path d="M6.5 12.5l3.5 3.5 7.5-8" fill="none" stroke="#fff" stroke-width="2.5"/></svg>'
)


def serve(recipe: Recipe, reviewed: Run, *, reviewer: str | None, host: str, port: int, show: bool) -> None:
    """Serve the review of a run, until SIGINT or SIGTERM.

    Args:
        reviewer: who judges, where the address does not say it; None: the page asks.
        show: open a browser.

    Raises:
        UserError: there is no dataset to review, a bad name, or the port is taken.
    """
    reviewer = None if reviewer is None else checked_name(reviewer)
    require_free(host, port)
    state = ReviewState(recipe, reviewed)
    changed = Event[[]]()
    ui.add_css(_STYLE, shared=True)

    @ui.page("/", title=f"Review of {recipe.name}", language="en-US")
    def page(reviewer: str = reviewer or "") -> None:
        try:
            name = checked_name(reviewer)
        except UserError as error:
            welcome(state, str(error) if reviewer else "")
            return
        ReviewPage(state, name, changed).build()

    async def refresh() -> None:
        try:
            await run.io_bound(state.refresh)
        except UserError as error:
            tell(f"what others judged cannot be read: {error}", command="review")
        changed.emit()

    app.timer(_REFRESH_S, refresh)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    app.on_startup(
        lambda: tell(f"{address} (Ctrl-C ends it; what was judged is kept in {reviewed.uri})", command="review")
    )
    if is_loopback(host):
        # Else a page of another site could reach this one by a name of its own that points here.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", host])
    else:
        tell(f"anyone who reaches {host}:{port} can judge: it takes no keys", command="review")
    logging.getLogger("nicegui").setLevel(logging.ERROR)
    ui.run(
        host=host,
        port=port,
        show=show,
        reload=False,
        dark=None,
        favicon=_ICON,
        tailwind=False,
        show_welcome_message=False,
    )


def command(words: Sequence[str] | None) -> None:
    """`python -m services.review`. Raises as `serve`."""
    parser = argparse.ArgumentParser(prog="python -m services.review", description="Judge a run's sample on a page.")
    parser.add_argument("--run", required=True, help="a run with a dataset: a folder, or s3://bucket/prefix")
    parser.add_argument("--recipe", help="its recipe (default: the one that it was begun with)")
    parser.add_argument("--reviewer", help="who judges (default: the page asks)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8080, help="port")
    parser.add_argument("--no-open", action="store_true", help="do not open a browser")
    given = parser.parse_args(words)
    reviewed = Run.open(given.run)
    recipe = load_recipe(given.recipe) if given.recipe else reviewed.recipe()
    serve(recipe, reviewed, reviewer=given.reviewer, host=given.host, port=given.port, show=not given.no_open)
