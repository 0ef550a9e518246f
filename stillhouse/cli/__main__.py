"""`python -m stillhouse.cli`: the console script, where it is not installed."""

from stillhouse.cli import main

main()
