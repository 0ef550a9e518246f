"""Two finished runs of one task, side by side."""

from stillhouse.compare.build import compare
from stillhouse.compare.model import Comparison

__all__ = ["Comparison", "compare"]
