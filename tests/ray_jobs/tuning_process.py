"""`train` in processes that may be killed: RECIPE RUN PID; started again until one ends by itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ray_jobs.train.openai_student import train_openai
from stillhouse.recipe_file import load_recipe
from stillhouse.run import Run

MOST = 6


def main(recipe: str, run: str, pid_file: str) -> None:
    """Say of each process in turn whether it was killed."""
    told = []
    for _ in range(MOST):
        # Forked before anything has started a thread, so that the libraries are loaded but once.
        child = os.fork()
        if child == 0:
            Path(pid_file).write_text(str(os.getpid()))
            train_openai(load_recipe(recipe), Run.open(run))
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        told.append("killed" if os.WIFSIGNALED(status) else "ended")
        if told[-1] == "ended":
            break
    print(*told, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
