"""What it costs and when that pays: tokens and prices, the payback, a run's ledger, and quality against cost."""

from stillhouse.cost.payback import AtCoverage, Payback, payback
from stillhouse.cost.tokens import Costs, TokenPrices, Tokens, cascade_cost, cost_per_million, costs, unpriced

__all__ = [
    "AtCoverage",
    "Costs",
    "Payback",
    "TokenPrices",
    "Tokens",
    "cascade_cost",
    "cost_per_million",
    "costs",
    "payback",
    "unpriced",
]
