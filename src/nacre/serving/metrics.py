"""What a server counts, in the form that Prometheus reads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class ServerMetrics:
    """Counters of one server.

    Attributes:
        requests: By path and status.
        seconds: From a request's arrival to its answer, by path.
        batches: Questions of a batch.
        version: 1 for the version that answers.
        waiting: Questions in the line.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        self.requests = Counter("nacre_requests", "Requests", ["path", "status"], registry=own)
        self.seconds = Histogram(
            "nacre_request_seconds", "Seconds of a request", ["path"], buckets=SECONDS, registry=own
        )
        sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256)
        self.batches = Histogram("nacre_batch_questions", "Questions answered at once", buckets=sizes, registry=own)
        self.busy = Counter("nacre_busy_seconds", "Seconds spent answering", registry=own)
        self.version = Gauge("nacre_version_info", "The version that answers", ["version"], registry=own)
        self.waiting = Gauge("nacre_waiting_questions", "Questions in the line", registry=own)

    def batch(self, count: int, seconds: float) -> None:
        """Count a batch of questions."""
        self.batches.observe(count)
        self.busy.inc(seconds)

    def text(self, version: str, waiting: int) -> bytes:
        """All of them.

        Args:
            version: That answers now.
            waiting: How many questions are in the line now.
        """
        self.version.clear()
        self.version.labels(version).set(1)
        self.waiting.set(waiting)
        return generate_latest(self._registry)
