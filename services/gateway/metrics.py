"""What the gateway counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest

# From a small student's answer on a GPU to a large teacher's on a CPU, in seconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The counters of one gateway replica, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "stillhouse_requests",
            "Requests by route (`none`: nobody answered) and HTTP status.",
            ["route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "stillhouse_request_seconds",
            "Time to the whole answer, by route.",
            ["route"],
            buckets=_BUCKETS,
            registry=self._registry,
        )

    def answered(self, route: str, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route=route, status="200").inc()
        self._seconds.labels(route=route).observe(seconds)

    def refused(self, status: int) -> None:
        """Count a request that got an error."""
        self._requests.labels(route="none", status=str(status)).inc()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)
