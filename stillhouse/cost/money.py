"""Amounts of money, as they are read."""


def money(amount: float) -> str:
    """1234.5 → 1,234.50; 0.01234 → 0.0123."""
    return format(amount, digits(amount))


def digits(amount: float) -> str:
    """The format of an amount: cents, and three digits of what is less than one."""
    return ",.2f" if abs(amount) >= 1 or amount == 0 else "#.3g"
