"""A length of time, as it is read."""

_UNITS = (("year", 365.25), ("month", 365.25 / 12), ("day", 1.0), ("hour", 1 / 24), ("minute", 1 / 1440))
"""In days, the longest first."""


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def span(days: float) -> str:
    """`18 hours`, `12 days`, `5.2 months`: as many digits as such a forecast deserves."""
    for name, length in _UNITS:
        count = days / length
        # From two of a unit on, so that 36 hours are not 1.5 days; whole ones from ten on.
        if count >= 2:
            told = f"{count:,.0f}" if count >= 10 or f"{count:.1f}".endswith(".0") else f"{count:.1f}"
            return f"{told} {name}s"
    return "a minute" if days else "at once"
