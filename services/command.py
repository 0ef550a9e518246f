"""What every command has in common that listens on this machine: its port, its lines, and how it ends."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from stillhouse.errors import USER_ERROR_EXIT_CODE, UserError
from stillhouse.interrupt import interruptible


def require_free(host: str, port: int) -> None:
    """Raises `UserError` where nobody can listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot listen on {host}:{port} ({reason}): choose another with --host and --port") from error


def tell(text: str, *, command: str = "serve") -> None:
    """One line about what is served."""
    print(f"[{command}] {text}", flush=True)


def run_command(command: Callable[[Sequence[str] | None], None], what: str) -> NoReturn:
    """Run a serving command as a process: a user's mistake is one sentence and exit status 2.

    Args:
        command: takes the words of the command line; None: this process's own.
        what: what did not start, where it does not.
    """
    with interruptible():
        try:
            command(None)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(USER_ERROR_EXIT_CODE)
        except RuntimeError as error:
            print(f"error: {what} did not start: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)
    sys.exit(0)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    return host == "localhost" or host == "::1" or host.startswith("127.")
