"""Texts on the page. Whatever comes from a record goes through here, as text and never as HTML."""

from __future__ import annotations

import json

from nicegui.elements.mixins.text_element import TextElement

from stillhouse.recipe import Task


def said(tag: str, text: str, classes: str = "") -> TextElement:
    """An element that holds a text alone."""
    element = TextElement(tag=tag, text=text)
    return element.classes(classes) if classes else element


def readable(task: Task, completion: str) -> str:
    """A completion as it is looked at: JSON over several lines, and else without the space around it."""
    if task.kind == "json":
        try:
            return json.dumps(json.loads(completion), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
    return completion.strip()


def percent(share: float) -> str:
    """A share as a percentage; what would round to nothing or to all says so."""
    if 0 < share < 0.001:
        return "below 0.1%"
    if 0.999 < share < 1:
        return "above 99.9%"
    return f"{share:.1%}"
