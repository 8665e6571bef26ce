"""The sidecar's Prometheus metrics. Label values come from closed sets, never from ids."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

# From a loopback cache hit to a call that waits for central's timeout.
_LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


LOST_REASONS = frozenset(
    {
        "closed",
        "ended",
        "bound-elsewhere",
        "binding-revoked",
        "execution-not-found",
        "not-bound",
        "unclaimed",
        "unit-gone",
    }
)


class Metrics:
    """All metrics of one sidecar, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.http_requests = Counter(
            "sidecar_http_requests_total",
            "Requests to the local API by route template, method and status.",
            ["route", "method", "status"],
            registry=registry,
        )
        self.cache_requests = Counter(
            "sidecar_cache_requests_total",
            "Reads of cached resources, by cache status.",
            ["resource", "result"],
            registry=registry,
        )
        self.cache_evictions = Counter(
            "sidecar_cache_evictions_total",
            "Values evicted from the cache, by reason.",
            ["reason"],
            registry=registry,
        )
        self.writes = Counter(
            "sidecar_writes_total",
            "Writes by operation and state: durable, then committed or refused.",
            ["op", "state"],
            registry=registry,
        )
        self.refused_writes = Counter(
            "sidecar_refused_writes_total",
            "Writes that central refused, by problem type.",
            ["type"],
            registry=registry,
        )
        self.batches = Counter(
            "sidecar_batches_total",
            "Batches sent, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self.forgotten_batches = Counter(
            "sidecar_forgotten_batches_total",
            "Batches answered by central that its cursor no longer has; their writes may be lost.",
            registry=registry,
        )
        self.batch_entries = Histogram(
            "sidecar_batch_entries",
            "Entries in each delivered batch.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
            registry=registry,
        )
        self.commit_latency = Histogram(
            "sidecar_delivery_seconds",
            "From durable in the spool to committed at central, of each batch's first entry.",
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.rate_limited = Counter(
            "sidecar_rate_limited_calls_total",
            "Calls refused by a rate or concurrency limit, by limit.",
            ["limit"],
            registry=registry,
        )
        self._dropped_connections = Counter(
            "sidecar_connections_dropped_total",
            "Connections to the local API dropped by the connection limit, by reason.",
            ["reason"],
            registry=registry,
        )
        self.upstream_requests = Counter(
            "sidecar_upstream_requests_total",
            "Calls to central, by call and outcome.",
            ["call", "outcome"],
            registry=registry,
        )
        self.listener_failures = Counter(
            "sidecar_settlement_listener_failures_total",
            "Settled batches that could not be applied to the caches, which were discarded.",
            registry=registry,
        )
        self._task_restarts = Counter(
            "sidecar_task_restarts_total",
            "Restarts of background tasks after an unforeseen error, by task.",
            ["task"],
            registry=registry,
        )
        self.delivery_parked = Gauge(
            "sidecar_delivery_parked",
            "1 while central refuses whole batches: delivery is parked and nothing is dropped.",
            registry=registry,
        )

        self.key_rotations = Counter(
            "sidecar_key_rotations_total",
            "Attempts to replace the source key: rotated, failed, or refused by central.",
            ["outcome"],
            registry=registry,
        )
        self.lease_renewals = Counter(
            "sidecar_lease_renewals_total",
            "Rounds of lease renewals, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._lost_leases = Counter(
            "sidecar_lost_leases_total",
            "Leases that are no longer renewed, by reason.",
            ["reason"],
            registry=registry,
        )
        self.computing_unit_up = Gauge(
            "sidecar_computing_unit_up",
            "1 while the computing unit passes its health check, or has none.",
            registry=registry,
        )
        self.computing_unit_up.set(1)

    def connection_dropped(self, reason: str) -> None:
        """`reason`: `refused`, `evicted` or `wrong-uid`."""
        self._dropped_connections.labels(reason).inc()

    def restarts(self, task: str, more: int) -> None:
        self._task_restarts.labels(task).inc(more)

    def lease_lost(self, reason: str) -> None:
        known = reason if reason in LOST_REASONS else "other"  # of a newer central
        self._lost_leases.labels(known).inc()

    def register_counter(self, name: str, description: str, read: Callable[[], int]) -> None:
        """A counter that is kept elsewhere: its value is read at each scrape."""
        self.registry.register(_ReadAtScrape(name, description, read))

    def register_gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """A gauge whose value is read at each scrape."""
        Gauge(name, description, registry=self.registry).set_function(read)


class _ReadAtScrape(Collector):
    def __init__(self, name: str, description: str, read: Callable[[], int]) -> None:
        self._name = name
        self._description = description
        self._read = read

    def collect(self) -> Iterable[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._description, value=self._read())
