"""The sidecar's Prometheus metrics: all of them, with every value that a label can have.

docs/metrics.md is written from these definitions. Values that are kept elsewhere (`read`) are
connected where the sidecar is put together (`lifecycle`).
"""

from itertools import product

from prometheus_client import CollectorRegistry

from kit.http import problems as common_problems
from kit.http.metrics import LAG_BUCKETS_S, OTHER, Definitions, RequestMetrics
from kit.http.problems import slugs_in
from sidecar import problems

CALL_BUCKETS_S = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 10)
"""To central, which times out after ten seconds. Few: there is a histogram for each call."""
SYNC_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10, 60)
"""Of what waits for the volume, from a fast disk to one that hangs."""
DELIVERY_BUCKETS_S = (0.005, 0.01, 0.025, 0.1, 0.5, 1, 2.5, 10, 30, 60, 300, 900, 1800, 3600)
"""Of what waits for central, which may be away for long."""
ENTRY_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

PRIORITIES = ("terminal", "status", "uri", "normal")
"""In the order of `spool.entry.Priority`."""
OPERATIONS = (
    "update_execution",
    "put_port_result",
    "set_port_result_bytes",
    "put_console",
    "set_console_bytes",
    "delete_uris",
    "put_operator_costs",
)
CALLS = (
    "abandon",
    "batch",
    "bind",
    "bindings",
    "bookmark",
    "boot",
    "clear",
    "create",
    "delete",
    "execution",
    "expired",
    "export-plan",
    "health",
    "latest",
    "list",
    "operator-costs",
    "renewal",
    "run-token",
    "succession",
    "token",
    "uris",
    "version",
    "withdrawal",
)
CACHED_READS = ("console", "execution", "latest", "operator-costs", "result-uri", "uris")
CACHE_RESULTS = (
    ("hit", ""),
    ("pending", ""),
    ("miss", "not-cached"),
    ("miss", "no-grant"),
    ("miss", "incomplete"),
    ("miss", "expired"),
    ("stale", "unavailable"),
    ("stale", "slow"),
    ("stale", "rate-limited"),
)
"""What a read got, and why not a hit."""
LOST_REASONS = (
    "closed",
    "ended",
    "bound-elsewhere",
    "binding-revoked",
    "execution-not-found",
    "not-bound",
    "unclaimed",
    "unit-gone",
)
REFUSALS = (
    "binding-revoked",
    "console-not-found",
    "execution-not-found",
    "invalid-request",
    "late",
    "not-bound",
    "not-the-runner",
    "port-result-not-found",
    "skipped-by-operator",
    "status-conflict",
    "unknown-operation",
    "unstorable",
    "uri-conflict",
    "uri-mismatch",
    "user-demoted",
    "value-out-of-range",
    "warehouse-unsupported",
    "write-corrupted",
    "wrong-computing-unit",
)
"""The problems with which a write can end: central's, and the spool's own."""
TASKS = (
    "central-probe",
    "credentials",
    "delivery",
    "key-rotation",
    "lease-renewer",
    "loop-lag",
    "maintenance",
    "orphaned-creates",
    "page-history",
    "run-tokens",
)


class Metrics:
    """All metrics of one sidecar, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        define = Definitions(self.registry)
        define.process()
        self._define_api(define)
        self._define_cache(define)
        self._define_writes(define)
        self._define_spool(define)
        self._define_delivery(define)
        self._define_upstream(define)
        self._define_leases(define)
        self.build_info = define.gauge(
            "sidecar_build_info",
            "1, with the versions of the code, of the protocol to central and of the spool's file.",
            version=(),
            wire=(),
            spool_format=(),
        )
        self.task_restarts = define.counter(
            "sidecar_task_restarts_total",
            "Restarts of background tasks after an unforeseen error, by task.",
            task=TASKS,
        )
        self.loop_lag = define.histogram(
            "sidecar_event_loop_lag_seconds",
            "How late the event loop ran a timer, once a second.",
            LAG_BUCKETS_S,
        ).labels()

    def _define_api(self, define: Definitions) -> None:
        slugs = slugs_in(problems, common_problems)
        self.requests = RequestMetrics(define, "sidecar", slugs)
        self.rate_limited = define.counter(
            "sidecar_rate_limited_calls_total",
            "Calls refused by a rate or concurrency limit, by limit.",
            limit=("calls", "writes", "bytes", "share"),
        )
        self.dropped_connections = define.counter(
            "sidecar_connections_dropped_total",
            "Connections to the local API dropped by the connection limit, by reason.",
            reason=("refused", "evicted", "wrong-uid"),
        )
        self.connections = define.gauge(
            "sidecar_connections", "Connections to the local API."
        ).labels()
        self.buffered_body_bytes = define.gauge(
            "sidecar_buffered_body_bytes", "Bytes of large request bodies in memory."
        ).labels()
        self.long_polls = define.gauge(
            "sidecar_long_polls", "Reads that wait for a result to appear."
        ).labels()

    def _define_cache(self, define: Definitions) -> None:
        self.cache_requests = define.counter(
            "sidecar_cache_requests_total",
            "Reads of cached resources, by result, and by the reason why it is no hit.",
            resource=(),
            result=(),
            reason=(),
        )
        for resource, (result, reason) in product(CACHED_READS, CACHE_RESULTS):
            self.cache_requests.add(resource, result, reason)
        self.cache_evictions = define.counter(
            "sidecar_cache_evictions_total", "Values evicted from the cache for room."
        ).labels()
        self.cache_bytes = define.gauge(
            "sidecar_cache_bytes", "Bytes of the cached resources."
        ).labels()

    def _define_writes(self, define: Definitions) -> None:
        self.writes = define.counter(
            "sidecar_writes_total",
            "Writes by operation and state: durable, then committed or refused.",
            op=OPERATIONS,
            state=("durable", "committed", "refused"),
        )
        self.refused_writes = define.counter(
            "sidecar_refused_writes_total",
            "Writes that ended refused, by the problem's type.",
            slug=[*REFUSALS, OTHER],
        )
        self.acknowledgement = define.histogram(
            "sidecar_acknowledgement_seconds",
            "From a valid write to durable in the spool.",
            SYNC_BUCKETS_S,
        ).labels()

    def _define_spool(self, define: Definitions) -> None:
        self.spool_entries = define.gauge(
            "sidecar_spool_entries", "Writes not yet settled, by priority.", priority=PRIORITIES
        )
        self.spool_oldest_age = define.gauge(
            "sidecar_spool_oldest_entry_age_seconds",
            "Age of the oldest write not yet settled, by priority; 0 without one.",
            priority=PRIORITIES,
        )
        self.spool_bytes = define.gauge(
            "sidecar_spool_bytes", "Bytes of the writes not yet settled."
        ).labels()
        self.spool_used_ratio = define.gauge(
            "sidecar_spool_used_ratio",
            "What waits, as a share of what may: bytes or entries, whichever is more.",
        ).labels()
        self.spool_full = define.gauge(
            "sidecar_spool_full", "1 while ordinary writes are refused for room."
        ).labels()
        self.spool_unavailable = define.gauge(
            "sidecar_spool_unavailable", "1 while the spool's volume cannot be used, or is full."
        ).labels()
        self.spool_sync = define.histogram(
            "sidecar_spool_sync_seconds", "Duration of a synced commit.", SYNC_BUCKETS_S
        ).labels()
        self.quarantined_entries = define.counter(
            "sidecar_spool_quarantined_entries_total", "Entries found corrupted or unreadable."
        ).labels()
        self.spool_epochs = define.counter(
            "sidecar_spool_epochs_total",
            "New epochs: what was unsettled is delivered at least once.",
        ).labels()
        self.skipped_writes = define.gauge(
            "sidecar_spool_skipped_writes",
            "Writes skipped by operators, as far as the spool keeps settled ones.",
        ).labels()

    def _define_delivery(self, define: Definitions) -> None:
        self.batches = define.counter(
            "sidecar_batches_total",
            "Batches sent, by outcome.",
            outcome=(
                "delivered",
                "unavailable",
                "rate-limited",
                "too-large",
                "withdrawn",
                "out-of-step",
                "parked",
            ),
        )
        self.forgotten_batches = define.counter(
            "sidecar_forgotten_batches_total",
            "Batches answered by central that its cursor no longer has; their writes may be lost.",
        ).labels()
        self.batch_entries = define.histogram(
            "sidecar_batch_entries", "Entries in each delivered batch.", ENTRY_BUCKETS
        ).labels()
        self.commit_latency = define.histogram(
            "sidecar_delivery_seconds",
            "From durable in the spool to committed at central, of each batch's first entry.",
            DELIVERY_BUCKETS_S,
        ).labels()
        self.listener_failures = define.counter(
            "sidecar_settlement_listener_failures_total",
            "Settled batches that could not be applied to the caches, which were discarded.",
        ).labels()
        self.delivery_parked = define.gauge(
            "sidecar_delivery_parked",
            "1 while central refuses whole batches: delivery is parked and nothing is dropped.",
        ).labels()

    def _define_upstream(self, define: Definitions) -> None:
        self.upstream_requests = define.counter(
            "sidecar_upstream_requests_total",
            "Calls to central, by call and outcome.",
            call=CALLS,
            outcome=("ok", "problem", "unavailable", "unreachable", "circuit-open", "not-sent"),
        )
        self.upstream_seconds = define.histogram(
            "sidecar_upstream_request_seconds",
            "Durations of calls to central that got a response, by call.",
            CALL_BUCKETS_S,
            call=CALLS,
        )
        self.upstream_retries = define.counter(
            "sidecar_upstream_retries_total", "Calls to central that were sent a second time."
        ).labels()
        self.circuits_opened = define.counter(
            "sidecar_opened_circuits_total",
            "Times that a user's calls to central were stopped after failures in a row.",
        ).labels()
        self.central_reachable = define.gauge(
            "sidecar_central_reachable",
            "1 while central is reachable, by the sidecar's own probe alone.",
        ).labels()
        self.central_probe_age = define.gauge(
            "sidecar_central_probe_age_seconds", "Since the last probe of central has ended."
        ).labels()
        self.key_rotations = define.counter(
            "sidecar_key_rotations_total",
            "Attempts to replace the source key: rotated, failed, or refused by central.",
            outcome=("rotated", "failed", "refused"),
        )
        self.source_key_age = define.gauge(
            "sidecar_source_key_age_seconds", "Since the source key was made."
        ).labels()
        self.clock_offset = define.gauge(
            "sidecar_clock_offset_seconds", "Central's clock minus the sidecar's; 0 up to 2 s."
        ).labels()

    def _define_leases(self, define: Definitions) -> None:
        self.leases = define.gauge("sidecar_leases", "Runs whose leases are renewed.").labels()
        self.lease_renewals = define.counter(
            "sidecar_lease_renewals_total",
            "Rounds of lease renewals, by outcome.",
            outcome=("renewed", "unavailable", "refused", "unit-down"),
        )
        self.renewal_age = define.gauge(
            "sidecar_renewal_age_seconds",
            "Since the last renewal; 0 while there is nothing to renew.",
        ).labels()
        self.lost_leases = define.counter(
            "sidecar_lost_leases_total",
            "Leases that are no longer renewed, by reason.",
            reason=[*LOST_REASONS, OTHER],
        )
        self.computing_unit_up = define.gauge(
            "sidecar_computing_unit_up",
            "1 while the computing unit passes its health check, or has none.",
        ).labels()
        self.computing_unit_up.set(1)

    def connection_dropped(self, reason: str) -> None:
        """`reason`: `refused`, `evicted` or `wrong-uid`."""
        self.dropped_connections.labels(reason).inc()

    def restarts(self, task: str, more: int) -> None:
        self.task_restarts.labels(task).inc(more)
