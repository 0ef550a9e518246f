"""The two ways a command ends badly: the user's mistake and ours."""

USER_ERROR_EXIT_CODE = 2
"""Exit status of every command for a mistake that the user can mend."""


class UserError(Exception):
    """A user's mistake, told in one sentence that says what is wrong, where, and what to do."""


class StorageError(UserError):
    """The run's storage refused, is full, or cannot be reached."""
