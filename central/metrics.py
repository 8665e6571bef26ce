"""Prometheus metrics. The registry is passed in; label values come from closed sets.

Routes are labelled by template, statements by their names in `central/sql`; ids are no labels.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From a statement on loopback (0.2 ms) to the role's statement timeout (10 s).
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
ENTRIES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)


class Metrics:
    def __init__(
        self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.registry = registry
        self._clock = clock
        self._requests = Counter(
            "central_requests_total",
            "Requests by route template and status.",
            ["route", "method", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "central_request_seconds",
            "Time from a request's head to its response.",
            ["route", "method"],
            buckets=SECONDS,
            registry=registry,
        )
        self._statement_seconds = Histogram(
            "central_statement_seconds",
            "Duration of an SQL statement; of a read including the wait for a connection.",
            ["statement"],
            buckets=SECONDS,
            registry=registry,
        )
        self._transactions = Counter(
            "central_transactions_total",
            "Transactions by outcome (a retried one is rolled back and counted twice).",
            ["outcome"],
            registry=registry,
        )
        self._database_errors = Counter(
            "central_database_errors_total",
            "Calls that failed with database-unavailable, by reason.",
            ["reason"],
            registry=registry,
        )
        self._credentials = Counter(
            "central_credentials_total",
            "Verified credentials, by kind and result.",
            ["kind", "result"],
            registry=registry,
        )
        self._jwks_fetches = Counter(
            "central_jwks_fetches_total",
            "Fetches of key sets, by key set and outcome.",
            ["keys", "outcome"],
            registry=registry,
        )
        self._rate_limited = Counter(
            "central_rate_limited_calls_total",
            "Calls refused by a rate limit, by its subject and by what it counts.",
            ["who", "what"],
            registry=registry,
        )
        self._batches = Counter(
            "central_batches_total",
            "Batches by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._batch_entries = Histogram(
            "central_batch_entries", "Entries per batch.", buckets=ENTRIES, registry=registry
        )
        self._entries = Counter(
            "central_entries_total",
            "Entries of batches and single-call writes, by operation and outcome.",
            ["op", "outcome"],
            registry=registry,
        )
        self._refusals = Counter(
            "central_refusals_total",
            "Refused entries, by the problem's slug.",
            ["slug"],
            registry=registry,
        )
        self.unrecorded_refusals = Counter(
            "central_unrecorded_refusals_total",
            "Failures to record refusals.",
            registry=registry,
        )

        self._closed = Counter(
            "central_closed_executions_total",
            "Executions that central closed as FAILED, by reason.",
            ["reason"],
            registry=registry,
        )
        self.closer_passes = Counter(
            "central_closer_passes_total",
            "Passes of the orphan closer, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self.orphans_withheld = Gauge(
            "central_orphans_withheld",
            "Lapsed leases that are not closed because too many lapsed at once.",
            registry=registry,
        )
        self.orphans_unclosable = Gauge(
            "central_unclosable_orphans",
            "Lapsed leases whose executions the database fails to close; the log names them.",
            registry=registry,
        )
        self.uninterrupted = Gauge(
            "central_uninterrupted_seconds",
            "For how long renewals have been served, by any replica; 0 while unknown.",
            registry=registry,
        )
        self._task_restarts = Counter(
            "central_task_restarts_total",
            "Restarts of background tasks after an unforeseen error, by task.",
            ["task"],
            registry=registry,
        )
        self._purged = Counter(
            "central_purged_rows_total",
            "Rows deleted at the end of their retention, by kind.",
            ["kind"],
            registry=registry,
        )
        self._renewed_leases = Counter(
            "central_renewed_leases_total", "Leases renewed.", registry=registry
        )
        self._lost_leases = Counter(
            "central_lost_leases_total",
            "Leases that were not renewed because their source no longer holds them, by reason.",
            ["reason"],
            registry=registry,
        )

        self._dropped_connections = Counter(
            "central_connections_dropped_total",
            "Callers' connections that were dropped at the limit, by reason.",
            ["reason"],
            registry=registry,
        )

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route, method).observe(seconds)

    @contextmanager
    def statement(self, name: str) -> Iterator[None]:
        """Times one statement; `name` is its block in `central/sql`."""
        started_at = self._clock()
        try:
            yield
        finally:
            self._statement_seconds.labels(name).observe(self._clock() - started_at)

    def transactions(self, outcome: str) -> None:
        self._transactions.labels(outcome).inc()

    def database_error(self, reason: str) -> None:
        self._database_errors.labels(reason).inc()

    def credential(self, kind: str, result: str) -> None:
        """`kind` is token, assertion or workload; `result` accepted, cached or a slug."""
        self._credentials.labels(kind, result).inc()

    def rate_limited(self, who: str, what: str) -> None:
        """`who`: user, source, new_sources; `what`: calls, concurrent_calls, bytes, bindings."""
        self._rate_limited.labels(who, what).inc()

    def jwks_fetch(self, keys: str, outcome: str) -> None:
        """`keys` is users or workloads, `outcome` fetched or failed."""
        self._jwks_fetches.labels(keys, outcome).inc()

    def batch(self, outcome: str, entries: int) -> None:
        """`outcome` is applied, applied_at_once (in one statement), repeated, withdrawn or
        out_of_step."""
        self._batches.labels(outcome).inc()
        self._batch_entries.observe(entries)

    def entry(self, op: str, outcome: str) -> None:
        """`op` from the closed set of operations ("unknown" for any other)."""
        self._entries.labels(op, outcome).inc()

    def purged(self, kind: str, row_count: int) -> None:
        self._purged.labels(kind).inc(row_count)

    def init_labels(self, closings: Iterable[str] = (), losses: Iterable[str] = ()) -> None:
        """Exports the labels at zero, so that `increase` sees the first count."""
        for reason in closings:
            self._closed.labels(reason)
        for reason in losses:
            self._lost_leases.labels(reason)

    def restarts(self, task: str, more: int) -> None:
        self._task_restarts.labels(task).inc(more)

    def closed(self, reason: str) -> None:
        self._closed.labels(reason).inc()

    def renewals(self, renewed_count: int, lost_reasons: Iterable[str]) -> None:
        self._renewed_leases.inc(renewed_count)
        for reason in lost_reasons:
            self._lost_leases.labels(reason).inc()

    def refusal(self, slug: str) -> None:
        self._refusals.labels(slug).inc()

    def dropped_connection(self, reason: str) -> None:
        """`reason` is refused or evicted."""
        self._dropped_connections.labels(reason).inc()

    def watch_callers(
        self, connections: Callable[[], float], body_bytes: Callable[[], float]
    ) -> None:
        """Exports callers' usage: connections, and large bodies in memory."""
        for name, description, read in (
            ("central_connections", "Connections of callers.", connections),
            ("central_buffered_body_bytes", "Bytes of large bodies in memory.", body_bytes),
        ):
            Gauge(name, description, registry=self.registry).set_function(read)

    def watch_connections(self, connections: Callable[[], tuple[int, int]]) -> None:
        """Exports the pool's connections; `connections` returns (open, in use)."""
        gauge = Gauge(
            "central_database_connections",
            "Connections to the database by state.",
            ["state"],
            registry=self.registry,
        )
        gauge.labels("open").set_function(lambda: connections()[0])
        gauge.labels("in_use").set_function(lambda: connections()[1])
