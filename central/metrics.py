"""Central's Prometheus metrics: all of them, with every value that a label can have.

docs/metrics.md is written from these definitions. Routes are labelled by template, statements by
their names in `central/sql`; ids are no labels.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

from central import problems
from kit.http import problems as common_problems
from kit.http.metrics import LAG_BUCKETS_S, OTHER, Definitions, Gauge, RequestMetrics
from kit.http.problems import slugs_in

STATEMENT_BUCKETS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10)
"""To the role's statement timeout. Few: there is a histogram for each statement."""
WAIT_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
"""From a statement on loopback (0.2 ms) to the role's statement timeout."""
ENTRY_BUCKETS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)

OPERATIONS = (
    "update_execution",
    "put_port_result",
    "set_port_result_bytes",
    "put_console",
    "set_console_bytes",
    "delete_uris",
    "put_operator_costs",
    "unknown",
)
CLOSE_REASONS = (
    "lease-lapsed",
    "superseded-boot",
    "unit-terminated",
    "abandoned-create",
    "unit-gone",
    "stale",
)
LOST_REASONS = (
    "closed",
    "ended",
    "bound-elsewhere",
    "binding-revoked",
    "execution-not-found",
    "not-bound",
)
TASKS = ("auditor", "certificate", "closer", "database-watch", "loop-lag", "page-history", "purger")
CREDENTIAL_RESULTS = {
    "token": ("accepted", "cached", "token-invalid", "token-expired", "role-not-allowed"),
    "assertion": ("accepted", "assertion-missing", "assertion-invalid"),
    "workload": ("accepted", "workload-missing", "workload-invalid"),
    "certificate": ("accepted", "certificate-mismatch"),
}


class Metrics:
    """All metrics of one replica."""

    def __init__(
        self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.registry = registry
        self.clock = clock
        define = Definitions(registry)
        define.process()
        slugs = sorted(slugs_in(problems, common_problems))
        self.requests = RequestMetrics(define, "central", slugs, clock=clock)
        self._define_callers(define)
        self._define_database(define)
        self._define_batches(define, slugs)
        self._define_jobs(define)
        self.build_info = define.gauge(
            "central_build_info",
            "1, with the versions of the code and of the protocol to sidecars.",
            version=(),
            wire=(),
        )
        self.loop_lag = define.histogram(
            "central_event_loop_lag_seconds",
            "How late the event loop ran a timer, once a second.",
            LAG_BUCKETS_S,
        ).labels()

    def _define_callers(self, define: Definitions) -> None:
        self._credentials = define.counter(
            "central_credentials_total",
            "Verified credentials, by kind and result: the problem's type, if refused.",
            kind=(),
            result=(),
        )
        for kind, results in CREDENTIAL_RESULTS.items():
            for result in (*results, OTHER):
                self._credentials.add(kind, result)
        self._jwks_fetches = define.counter(
            "central_jwks_fetches_total",
            "Fetches of key sets, by key set and outcome.",
            keys=("users", "workloads"),
            outcome=("fetched", "failed"),
        )
        self._rate_limited = define.counter(
            "central_rate_limited_calls_total",
            "Calls refused by a rate limit, by its subject and by what it counts.",
            who=("user", "source", "new_sources"),
            what=("calls", "concurrent_calls", "bytes", "bindings"),
        )
        self._dropped_connections = define.counter(
            "central_connections_dropped_total",
            "Callers' connections that were dropped at the limit, by reason.",
            reason=("refused", "evicted"),
        )
        self.connections = define.gauge("central_connections", "Connections of callers.").labels()
        self.buffered_body_bytes = define.gauge(
            "central_buffered_body_bytes", "Bytes of large request bodies in memory."
        ).labels()

    def _define_database(self, define: Definitions) -> None:
        self.statement_seconds = define.histogram(
            "central_statement_seconds",
            "Duration of an SQL statement. What `lock_*` take is a wait for locks.",
            STATEMENT_BUCKETS_S,
            statement=(),
        )
        self._transactions = define.counter(
            "central_transactions_total",
            "Transactions by outcome (a retried one is rolled back and counted twice).",
            outcome=("committed", "rolled_back", "retried"),
        )
        self.transaction_seconds = define.histogram(
            "central_transaction_seconds",
            "Duration of a transaction of several statements, with the wait for its connection.",
            WAIT_BUCKETS_S,
        ).labels()
        self.pool_wait_seconds = define.histogram(
            "central_pool_wait_seconds",
            "Wait for a connection to the database.",
            WAIT_BUCKETS_S,
        ).labels()
        self.database_connections: dict[str, Gauge] = {}
        connections = define.gauge(
            "central_database_connections",
            "Connections to the database, by state.",
            state=("open", "in_use"),
        )
        for state in ("open", "in_use"):
            self.database_connections[state] = connections.labels(state)
        self._database_errors = define.counter(
            "central_database_errors_total",
            "Failures of the database: of a whole call, or of one row, which was isolated.",
            reason=("unavailable", "unprepared", "isolated"),
        )

    def _define_batches(self, define: Definitions, slugs: Iterable[str]) -> None:
        self._batches = define.counter(
            "central_batches_total",
            "Batches by outcome.",
            outcome=("applied", "applied_at_once", "repeated", "withdrawn", "out_of_step"),
        )
        self._batch_entries = define.histogram(
            "central_batch_entries", "Entries per batch.", ENTRY_BUCKETS
        ).labels()
        self.entries = define.counter(
            "central_entries_total",
            "Entries of batches and single-call writes, by operation and outcome.",
            op=OPERATIONS,
            outcome=("applied", "refused", "deferred"),
        )
        self._refusals = define.counter(
            "central_refusals_total", "Refused entries, by the problem's type.", slug=slugs
        )
        self.unrecorded_refusals = define.counter(
            "central_unrecorded_refusals_total",
            "Failures to record refusals.",
        ).labels()

    def _define_jobs(self, define: Definitions) -> None:
        self._renewed_leases = define.counter(
            "central_renewed_leases_total", "Leases renewed."
        ).labels()
        self._lost_leases = define.counter(
            "central_lost_leases_total",
            "Leases that were not renewed because their source no longer holds them, by reason.",
            reason=LOST_REASONS,
        )
        self.uninterrupted = define.gauge(
            "central_uninterrupted_seconds",
            "For how long renewals have been served, by any replica; 0 while unknown.",
        ).labels()
        self._closed = define.counter(
            "central_closed_executions_total",
            "Executions that central closed as FAILED, by reason.",
            reason=CLOSE_REASONS,
        )
        self.closer_passes = define.counter(
            "central_closer_passes_total",
            "Passes of the orphan closer, by outcome.",
            outcome=("idle", "closed", "withheld", "locked", "failed"),
        )
        self.orphans_withheld = define.gauge(
            "central_orphans_withheld",
            "Lapsed leases that are not closed because too many lapsed at once.",
        ).labels()
        self.orphans_unclosable = define.gauge(
            "central_unclosable_orphans",
            "Lapsed leases whose executions the database fails to close; the log names them.",
        ).labels()
        self._purged = define.counter(
            "central_purged_rows_total",
            "Rows deleted at the end of their retention, by kind.",
            kind=(
                *("bindings", "boots", "cursors", "idempotency_keys", "refusals"),
                "source_certificates",
            ),
        )
        self._task_restarts = define.counter(
            "central_task_restarts_total",
            "Restarts of background tasks after an unforeseen error, by task.",
            task=TASKS,
        )

    @contextmanager
    def statement(self, name: str) -> Iterator[None]:
        """Times one statement; `name` is its block in `central/sql`."""
        started_at = self.clock()
        try:
            yield
        finally:
            self.statement_seconds.labels(name).observe(self.clock() - started_at)

    def transactions(self, outcome: str) -> None:
        self._transactions.labels(outcome).inc()

    def database_error(self, reason: str) -> None:
        self._database_errors.labels(reason).inc()

    def credential(self, kind: str, result: str) -> None:
        """`kind`: token, assertion, workload, certificate; `result` accepted, cached or a slug."""
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
        self.entries.labels(op, outcome).inc()

    def purged(self, kind: str, row_count: int) -> None:
        self._purged.labels(kind).inc(row_count)

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
