"""`python -m services.review --run URI`."""

from services.command import run_command
from services.review.app import command

if __name__ == "__main__":
    run_command(command, "the review")
