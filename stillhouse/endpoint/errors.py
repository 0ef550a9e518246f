"""What becomes of one request that an endpoint does not answer."""

from __future__ import annotations


class Refused(Exception):
    """The endpoint will not answer this request, however often it is asked; one sentence."""


class Unanswered(Refused):
    """The endpoint did not answer this request in as many attempts as the recipe allows."""


class Rejected(Refused):
    """The endpoint finds the request itself wrong; `too_long`: its prompt."""

    def __init__(self, sentence: str, *, too_long: bool = False) -> None:
        super().__init__(sentence)
        self.too_long = too_long


class Unsupported(Refused):
    """The endpoint does not take a parameter of the request."""

    def __init__(self, sentence: str, parameter: str) -> None:
        super().__init__(sentence)
        self.parameter = parameter
